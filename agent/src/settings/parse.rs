//! Reads what an operator wrote into a [`Policy`](super::Policy)'s parts. Pure; every error names
//! the flag, what was given, and what to write instead.

use ipnetwork::IpNetwork;
use thiserror::Error;

use super::{ExternalIps, NamePattern, NodePortAddresses, Role};

/// Names that Linux gives a device have at most this many bytes (IFNAMSIZ less the final zero).
const DEVICE_NAME_BYTES: usize = 15;

/// A flag's value that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{flag} {given}: {fix}")]
pub struct Invalid {
    flag: &'static str,
    given: String,
    fix: String,
}

impl Invalid {
    /// What was given.
    pub fn given(&self) -> &str {
        &self.given
    }
    /// What to write instead.
    pub fn fix(&self) -> &str {
        &self.fix
    }
}

fn invalid(flag: &'static str, given: &str, fix: impl Into<String>) -> Invalid {
    let given = if given.is_empty() { "\"\"" } else { given };
    Invalid { flag, given: given.to_owned(), fix: fix.into() }
}

/// Networks with commas between them; an address alone is a network of its own.
pub fn networks(flag: &'static str, given: &str) -> Result<Vec<IpNetwork>, Invalid> {
    let read = |text: &str| {
        text.parse::<IpNetwork>().map_err(|_| {
            let what = if text.is_empty() { "an empty item" } else { text };
            invalid(flag, given, format!("{what} is no network: write CIDRs such as 10.0.0.0/8"))
        })
    };
    given.split(',').map(str::trim).map(read).collect()
}

/// `--nodeport-addresses`.
pub fn node_port_addresses(given: &str) -> Result<NodePortAddresses, Invalid> {
    match given {
        "primary" => Ok(NodePortAddresses::Primary),
        "all" => Ok(NodePortAddresses::All),
        _ => {
            let networks = networks("--nodeport-addresses", given).map_err(|error| Invalid {
                fix: format!("{}, or primary, or all", error.fix),
                ..error
            })?;
            // As in kube-proxy: a network that holds everything means every address.
            let everything = networks.iter().any(|network| network.prefix() == 0);
            let all = everything && networks.iter().all(|network| network.prefix() == 0);
            Ok(if all { NodePortAddresses::All } else { NodePortAddresses::Networks(networks) })
        }
    }
}

/// `--external-ips`.
pub fn external_ips(given: &str) -> Result<ExternalIps, Invalid> {
    match given {
        "all" => Ok(ExternalIps::All),
        "off" => Ok(ExternalIps::Off),
        _ => {
            let networks = networks("--external-ips", given);
            networks
                .map(ExternalIps::Networks)
                .map_err(|error| Invalid { fix: format!("{}, or all, or off", error.fix), ..error })
        }
    }
}

/// `--masquerade-ports FIRST-LAST`.
pub fn masquerade_ports(given: &str) -> Result<(u16, u16), Invalid> {
    let flag = "--masquerade-ports";
    let bounds = given.split_once('-').map(|(first, last)| (first.trim(), last.trim()));
    let read = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let range = bounds.and_then(|(first, last)| Some((read(first)?, read(last)?)));
    match range {
        Some((first, last)) if first <= last => Ok((first, last)),
        Some(_) => Err(invalid(flag, given, "write the lower port first")),
        None => Err(invalid(flag, given, "write FIRST-LAST, two ports, such as 61000-65535")),
    }
}

/// `--device-role NAME[*]=ROLE`, any number of them.
pub fn device_roles<S: AsRef<str>>(
    given: &[S],
) -> Result<Vec<(NamePattern, Option<Role>)>, Invalid> {
    given.iter().map(|given| device_role(given.as_ref())).collect()
}

fn device_role(given: &str) -> Result<(NamePattern, Option<Role>), Invalid> {
    let flag = "--device-role";
    let shape = "write NAME=ROLE or NAME*=ROLE; roles are pod, uplink, tunnel and off";
    let (name, role) = given.split_once('=').ok_or_else(|| invalid(flag, given, shape))?;
    let beginning = name.strip_suffix('*').unwrap_or(name);
    if name.is_empty() || beginning.contains('*') {
        return Err(invalid(flag, given, shape));
    }
    if beginning.len() > DEVICE_NAME_BYTES {
        let fix = format!("no device has a name of more than {DEVICE_NAME_BYTES} bytes");
        return Err(invalid(flag, given, fix));
    }
    let role = match role {
        "pod" => Some(Role::Pod),
        "uplink" => Some(Role::Uplink),
        "tunnel" => Some(Role::Tunnel),
        "off" => None,
        _ => return Err(invalid(flag, given, shape)),
    };
    Ok((NamePattern(name.to_owned()), role))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said<T: std::fmt::Debug>(result: Result<T, Invalid>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn networks_and_addresses_are_read() {
        let read = networks("--cluster-cidr", "10.0.0.0/8, fd00::/48,192.0.2.1").unwrap();
        let text: Vec<String> = read.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["10.0.0.0/8", "fd00::/48", "192.0.2.1/32"]);
        let error = said(networks("--cluster-cidr", "10.0.0.0/33"));
        assert!(
            error.starts_with("--cluster-cidr 10.0.0.0/33: 10.0.0.0/33 is no network"),
            "{error}"
        );
        assert!(said(networks("--cluster-cidr", "10.0.0.0/8,")).contains("an empty item"));
    }

    #[test]
    fn node_port_addresses_are_words_or_networks() {
        assert_eq!(node_port_addresses("primary"), Ok(NodePortAddresses::Primary));
        assert_eq!(node_port_addresses("all"), Ok(NodePortAddresses::All));
        assert_eq!(node_port_addresses("0.0.0.0/0,::/0"), Ok(NodePortAddresses::All));
        let networks = node_port_addresses("192.0.2.0/24").unwrap();
        assert_eq!(networks, NodePortAddresses::Networks(vec!["192.0.2.0/24".parse().unwrap()]));
        let error = said(node_port_addresses("eth0"));
        assert!(error.starts_with("--nodeport-addresses eth0: "), "{error}");
        assert!(error.ends_with(", or primary, or all"), "{error}");
    }

    #[test]
    fn external_ips_are_words_or_networks() {
        assert_eq!(external_ips("all"), Ok(ExternalIps::All));
        assert_eq!(external_ips("off"), Ok(ExternalIps::Off));
        let networks = external_ips("198.51.100.7").unwrap();
        assert_eq!(networks, ExternalIps::Networks(vec!["198.51.100.7/32".parse().unwrap()]));
        assert!(said(external_ips("none")).ends_with(", or all, or off"));
    }

    #[test]
    fn port_ranges_are_two_ports() {
        assert_eq!(masquerade_ports("61000-65535"), Ok((61_000, 65_535)));
        assert_eq!(masquerade_ports("5000 - 5000"), Ok((5000, 5000)));
        for wrong in ["", "61000", "0-5", "1-70000", "a-b", "61000-65535-1"] {
            let error = said(masquerade_ports(wrong));
            assert!(error.contains("such as 61000-65535"), "{wrong}: {error}");
        }
        assert!(said(masquerade_ports("9-5")).contains("the lower port first"));
    }

    #[test]
    fn device_roles_are_names_and_roles() {
        let roles = device_roles(&["eth0=uplink", "cali*=pod", "wg0=tunnel", "docker0=off"]);
        let pattern = |name: &str| NamePattern(name.to_owned());
        let expected = vec![
            (pattern("eth0"), Some(Role::Uplink)),
            (pattern("cali*"), Some(Role::Pod)),
            (pattern("wg0"), Some(Role::Tunnel)),
            (pattern("docker0"), None),
        ];
        assert_eq!(roles, Ok(expected));
        for wrong in ["eth0", "eth0=", "eth0=router", "=pod", "a*b=pod"] {
            let error = said(device_roles(&[wrong]));
            assert!(error.starts_with(&format!("--device-role {wrong}: write NAME=ROLE")));
        }
        assert!(said(device_roles(&["a-name-that-is-too-long=pod"])).contains("15 bytes"));
    }
}
