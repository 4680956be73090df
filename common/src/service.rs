//! What tools need to read the maps when the agent is dead: names of service ports, and the size of
//! the agent's own report.

use crate::row::Row;

/// Longest Kubernetes namespace (a DNS label, RFC 1123).
pub const NAMESPACE_BYTES: usize = 63;
/// Longest Service name (a DNS label, RFC 1035).
pub const NAME_BYTES: usize = 63;
/// Longest port name (a DNS label, as Services allow).
pub const PORT_NAME_BYTES: usize = 63;

/// Size of the single row of the `report` map: JSON text, zero-padded.
pub const REPORT_BYTES: usize = 65_536;

/// Value of the `services` map: what service id N means. A service is one port of a Kubernetes
/// Service, the unit of load balancing.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ServiceRow {
    /// Lengths of the three names.
    pub lengths: [u8; 3],
    /// IANA protocol number.
    pub protocol: u8,
    /// Port, namespace and name follow as bytes, unused bytes zero.
    pub port_name: [u8; PORT_NAME_BYTES],
    /// Namespace.
    pub namespace: [u8; NAMESPACE_BYTES],
    /// Name of the Service.
    pub name: [u8; NAME_BYTES],
    /// Zero.
    pub pad: [u8; 3],
}

// SAFETY: bytes only.
unsafe impl Row for ServiceRow {}

impl ServiceRow {
    /// The row of a service port, or nothing when a name is longer than Kubernetes allows.
    pub fn new(namespace: &str, name: &str, port_name: &str, protocol: u8) -> Option<Self> {
        let mut row = Self {
            lengths: [
                u8::try_from(namespace.len()).ok()?,
                u8::try_from(name.len()).ok()?,
                u8::try_from(port_name.len()).ok()?,
            ],
            protocol,
            port_name: [0; PORT_NAME_BYTES],
            namespace: [0; NAMESPACE_BYTES],
            name: [0; NAME_BYTES],
            pad: [0; 3],
        };
        row.namespace.get_mut(..namespace.len())?.copy_from_slice(namespace.as_bytes());
        row.name.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        row.port_name.get_mut(..port_name.len())?.copy_from_slice(port_name.as_bytes());
        Some(row)
    }

    /// The namespace; empty if the row is damaged.
    pub fn namespace(&self) -> &str {
        text(&self.namespace, self.lengths[0])
    }
    /// The Service's name; empty if the row is damaged.
    pub fn name(&self) -> &str {
        text(&self.name, self.lengths[1])
    }
    /// The port's name; most often empty.
    pub fn port_name(&self) -> &str {
        text(&self.port_name, self.lengths[2])
    }
}

fn text(bytes: &[u8], length: u8) -> &str {
    bytes.get(..usize::from(length)).and_then(|b| core::str::from_utf8(b).ok()).unwrap_or_default()
}

impl core::fmt::Debug for ServiceRow {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}/{}:{}", self.namespace(), self.name(), self.port_name())
    }
}

const _LAYOUT: () = assert!(size_of::<ServiceRow>() == 196);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_overlong_ones_are_refused() {
        let row = ServiceRow::new("kube-system", "kube-dns", "dns-tcp", 6).unwrap();
        assert_eq!(row.namespace(), "kube-system");
        assert_eq!(row.name(), "kube-dns");
        assert_eq!(row.port_name(), "dns-tcp");
        assert!(ServiceRow::new("ns", &"x".repeat(64), "", 6).is_none());
    }

    extern crate alloc;
    use alloc::string::ToString;
    #[test]
    fn a_damaged_row_reads_as_empty() {
        let mut row = ServiceRow::new("a", "b", "", 6).unwrap();
        row.lengths = [255; 3];
        assert_eq!(row.name().to_string(), "");
    }
}
