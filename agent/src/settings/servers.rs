//! The flags of `millrace run` about what it serves itself: health and metrics.

use clap::Args;

use super::parse::{self, Invalid};
use crate::health::servers::Addresses;

/// kube-proxy's ports.
const HEALTHZ_PORT: u16 = 10256;
const METRICS_PORT: u16 = 10249;

/// Flags about health and metrics, with kube-proxy's names and defaults.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Health and metrics")]
pub struct ServerFlags {
    /// Where /healthz and /livez are served, [::] for both families; empty: nowhere.
    #[arg(long, value_name = "IP[:PORT]", default_value = "0.0.0.0:10256")]
    healthz_bind_address: String,
    /// Where /metrics, /healthz, /proxyMode and /configz are served; empty: nowhere.
    #[arg(long, value_name = "IP[:PORT]", default_value = "127.0.0.1:10249")]
    metrics_bind_address: String,
    /// End if one of them cannot be listened on, instead of trying again.
    #[arg(long)]
    bind_address_hard_fail: bool,
}

impl ServerFlags {
    /// Where to listen.
    pub fn addresses(&self) -> Result<Addresses, Invalid> {
        let (healthz, metrics) = (&self.healthz_bind_address, &self.metrics_bind_address);
        Ok(Addresses {
            healthz: parse::bind_address("--healthz-bind-address", healthz, HEALTHZ_PORT)?,
            metrics: parse::bind_address("--metrics-bind-address", metrics, METRICS_PORT)?,
            hard_fail: self.bind_address_hard_fail,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        flags: ServerFlags,
    }

    fn addresses(arguments: &[&str]) -> Result<Addresses, Invalid> {
        let arguments = std::iter::once(&"millrace").chain(arguments);
        Command::try_parse_from(arguments).unwrap().flags.addresses()
    }

    #[test]
    fn defaults_are_kube_proxys() {
        let found = addresses(&[]).unwrap();
        assert_eq!(found.healthz, Some("0.0.0.0:10256".parse().unwrap()));
        assert_eq!(found.metrics, Some("127.0.0.1:10249".parse().unwrap()));
        assert!(!found.hard_fail);
    }

    #[test]
    fn a_port_is_appended_and_nothing_is_off() {
        for (given, read) in [
            ("", None),
            (" ", None),
            ("127.0.0.1", Some("127.0.0.1:10256")),
            ("127.0.0.1:80", Some("127.0.0.1:80")),
            ("::", Some("[::]:10256")),
            ("[::1]", Some("[::1]:10256")),
            ("[::1]:80", Some("[::1]:80")),
        ] {
            let found = addresses(&[&format!("--healthz-bind-address={given}")]).unwrap();
            assert_eq!(found.healthz, read.map(|text| text.parse().unwrap()), "{given:?}");
        }
        let hard = addresses(&["--metrics-bind-address=", "--bind-address-hard-fail"]).unwrap();
        assert!(hard.metrics.is_none() && hard.hard_fail);
    }

    #[test]
    fn what_is_no_address_is_named() {
        for given in ["localhost:80", "1.2.3.4:0", "1.2.3.4:70000", "10256", "[::1"] {
            let error = addresses(&[&format!("--metrics-bind-address={given}")]).unwrap_err();
            let text = error.to_string();
            let named = format!("--metrics-bind-address {given}: write an address and a port");
            assert!(text.contains(&named), "{text}");
        }
    }
}
