//! Reads what an operator wrote into a [`Policy`](super::Policy)'s parts. Pure; every error names
//! the flag, what was given, and what to write instead.

use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use thiserror::Error;

use super::{DetectLocal, ExternalIps, NamePattern, NodePortAddresses, Role};

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

fn invalid(flag: &'static str, given: &str, fix: impl Into<String>) -> Invalid {
    let given = if given.is_empty() { "\"\"" } else { given };
    Invalid { flag, given: given.to_owned(), fix: fix.into() }
}

/// An address to listen on: `IP:PORT`, or an IP, which gets the usual port; empty: none.
pub fn bind_address(
    flag: &'static str,
    given: &str,
    port: u16,
) -> Result<Option<SocketAddr>, Invalid> {
    let given = given.trim();
    if given.is_empty() {
        return Ok(None);
    }
    let bare = given.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(given);
    let alone = || bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port));
    match given.parse::<SocketAddr>().or_else(|_| alone()) {
        Ok(address) if address.port() != 0 => Ok(Some(address)),
        _ => {
            let fix = format!(
                "write an address and a port from 1 to 65535, such as 0.0.0.0:{port} or \
                 [::]:{port}, or an empty text for none"
            );
            Err(invalid(flag, given, fix))
        }
    }
}

/// `on` or `off`.
pub fn switch(flag: &'static str, given: &str) -> Result<bool, Invalid> {
    match given {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(invalid(flag, given, "write on or off")),
    }
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

/// What the flags of the local-traffic detector say.
#[derive(Clone, Copy, Debug, Default)]
pub struct DetectLocalFlags<'a> {
    /// `--detect-local-mode`.
    pub mode: Option<&'a str>,
    /// `--cluster-cidr`.
    pub cluster_cidr: Option<&'a str>,
    /// `--pod-bridge-interface`.
    pub bridge: Option<&'a str>,
    /// `--pod-interface-name-prefix`.
    pub name_prefix: Option<&'a str>,
}

/// The local-traffic detector. A value without the mode that uses it is a mistake, and so is a mode
/// without its value.
pub fn detect_local(flags: DetectLocalFlags<'_>) -> Result<DetectLocal, Invalid> {
    let flag = "--detect-local-mode";
    let given = flags.mode.unwrap_or("Attachment");
    let is = |name: &str| given.eq_ignore_ascii_case(name);
    let needs = |value: Option<&str>, what: &str| match value {
        Some(value) if !value.is_empty() => Ok(value.to_owned()),
        _ => Err(invalid(flag, given, format!("give {what} as well"))),
    };
    let (mode, uses) = if is("Attachment") {
        (DetectLocal::Attachment, "")
    } else if is("ClusterCIDR") {
        let cidrs = needs(flags.cluster_cidr, "--cluster-cidr CIDR,...")?;
        (DetectLocal::ClusterCidr(networks("--cluster-cidr", &cidrs)?), "--cluster-cidr")
    } else if is("NodeCIDR") {
        (DetectLocal::NodeCidr, "")
    } else if is("BridgeInterface") {
        let name = needs(flags.bridge, "--pod-bridge-interface NAME")?;
        (DetectLocal::Bridge(name), "--pod-bridge-interface")
    } else if is("InterfaceNamePrefix") {
        let name = needs(flags.name_prefix, "--pod-interface-name-prefix PREFIX")?;
        (DetectLocal::NamePrefix(name), "--pod-interface-name-prefix")
    } else if is("Off") {
        (DetectLocal::Off, "")
    } else {
        let fix = "write Attachment, ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix \
                   or Off";
        return Err(invalid(flag, given, fix));
    };
    for (name, value, its_mode) in [
        ("--cluster-cidr", flags.cluster_cidr, "ClusterCIDR"),
        ("--pod-bridge-interface", flags.bridge, "BridgeInterface"),
        ("--pod-interface-name-prefix", flags.name_prefix, "InterfaceNamePrefix"),
    ] {
        if let Some(value) = value.filter(|_| uses != name) {
            let fix = format!("used only with {flag} {its_mode}, but the mode is {given}");
            return Err(invalid(name, value, fix));
        }
    }
    Ok(mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said<T: std::fmt::Debug>(result: Result<T, Invalid>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn switches_are_on_or_off() {
        assert_eq!(switch("--socket-lb", "on"), Ok(true));
        assert_eq!(switch("--socket-lb", "off"), Ok(false));
        assert_eq!(said(switch("--socket-lb", "yes")), "--socket-lb yes: write on or off");
        assert_eq!(said(switch("--socket-lb", "")), "--socket-lb \"\": write on or off");
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

    #[test]
    fn detectors_need_their_values_and_no_others() {
        let none = DetectLocalFlags::default();
        assert_eq!(detect_local(none), Ok(DetectLocal::Attachment));
        let mode = |mode| DetectLocalFlags { mode: Some(mode), ..none };
        assert_eq!(detect_local(mode("Off")), Ok(DetectLocal::Off));
        assert_eq!(detect_local(mode("nodecidr")), Ok(DetectLocal::NodeCidr));
        let flags = DetectLocalFlags { cluster_cidr: Some("10.0.0.0/8"), ..mode("ClusterCIDR") };
        let expected = DetectLocal::ClusterCidr(vec!["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(detect_local(flags), Ok(expected));
        let flags = DetectLocalFlags { bridge: Some("cni0"), ..mode("BridgeInterface") };
        assert_eq!(detect_local(flags), Ok(DetectLocal::Bridge("cni0".into())));
        let flags = DetectLocalFlags { name_prefix: Some("cali"), ..mode("InterfaceNamePrefix") };
        assert_eq!(detect_local(flags), Ok(DetectLocal::NamePrefix("cali".into())));

        assert!(said(detect_local(mode("ClusterCIDR"))).contains("give --cluster-cidr"));
        assert!(said(detect_local(mode("BridgeInterface"))).contains("--pod-bridge-interface"));
        assert!(said(detect_local(mode("magic"))).contains("write Attachment, ClusterCIDR"));
        let flags = DetectLocalFlags { cluster_cidr: Some("10.0.0.0/8"), ..none };
        let error = "--cluster-cidr 10.0.0.0/8: used only with --detect-local-mode ClusterCIDR, \
                     but the mode is Attachment";
        assert_eq!(said(detect_local(flags)), error);
    }
}
