//! The Services of a site, the same for every dataplane: so many with one TCP port and the same
//! endpoints, of which the last one is the hot one (it also has UDP), and four more that the
//! measurements need.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use millrace_tests::lab::Family;
use millrace_tests::manifest::{Endpoint, Object as _, Service, Slice};
use serde_json::Value;

/// Port of all Services.
pub const SERVICE_PORT: u16 = 80;
/// Port of all servers.
pub const SERVER_PORT: u16 = 8080;
/// Number of the first Service's address in [`service_cidr`]: an API server gives nobody the
/// first one, and the second one to its own Service.
const FIRST_SERVICE: u32 = 256;
/// Host number of a server pod's first address.
const FIRST_SERVER: u8 = 200;
/// Services besides the many: [`Extra`].
pub const EXTRAS: u32 = 4;
/// Namespace of all of them.
pub const NAMESPACE: &str = "shop";

/// A protocol of Services here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// As rules write it.
    pub const fn lower(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// As objects write it.
    const fn upper(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// Seconds of a day.
const DAY_SECS: u32 = 24 * 3600;
/// The four Services besides the many; their index is that of the last of the many and this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// Its one endpoint is exchanged.
    Changing = 0,
    /// NodePort with `externalTrafficPolicy: Local`.
    LocalPort = 1,
    /// NodePort, its endpoint on the node that is dialled.
    ClusterPort = 2,
    /// NodePort, its endpoint on the other node.
    RemotePort = 3,
}

impl Extra {
    /// Its NodePort.
    pub const fn node_port(self) -> Option<u16> {
        match self {
            Self::Changing => None,
            Self::LocalPort => Some(30_080),
            Self::ClusterPort => Some(30_081),
            Self::RemotePort => Some(30_082),
        }
    }
}

/// What Services a site has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The many.
    pub services: u32,
    /// Endpoints of each of them.
    pub endpoints_each: u8,
    /// IPv6 besides IPv4.
    pub dual: bool,
}

/// A Service as everybody needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number: its name and its addresses.
    pub index: u32,
    /// Its protocols; the port is the same.
    pub protocols: &'static [Protocol],
    /// Endpoints as (node, server of that node).
    pub endpoints: Vec<(u8, u8)>,
    /// NodePort.
    pub node_port: Option<u16>,
    /// `externalTrafficPolicy: Local`.
    pub local: bool,
}

impl Shape {
    /// Address families.
    pub const fn families(&self) -> &'static [Family] {
        if self.dual { &[Family::V4, Family::V6] } else { &[Family::V4] }
    }

    /// The Service that is always dialled.
    pub const fn hot(&self) -> u32 {
        self.services - 1
    }

    /// The number of one of the others.
    pub const fn extra(&self, extra: Extra) -> u32 {
        self.services + extra as u32
    }

    /// Endpoints of all, per family.
    pub fn endpoints(&self) -> u32 {
        self.services * u32::from(self.endpoints_each) + EXTRAS
    }

    /// All Services; the hot one last, where a list is dearest.
    pub fn entries(self) -> impl Iterator<Item = Entry> {
        let extras = [Extra::Changing, Extra::LocalPort, Extra::ClusterPort, Extra::RemotePort];
        let extras = extras.into_iter().map(move |extra| self.extra_entry(extra, 0));
        extras.chain((0..self.services).map(move |index| self.entry(index)))
    }

    fn entry(self, index: u32) -> Entry {
        let both: &[Protocol] = &[Protocol::Tcp, Protocol::Udp];
        Entry {
            index,
            protocols: if index == self.hot() { both } else { &[Protocol::Tcp] },
            endpoints: (0..self.endpoints_each).map(|server| (1, server)).collect(),
            node_port: None,
            local: false,
        }
    }

    /// One of the four, with this server behind it.
    pub fn extra_entry(self, extra: Extra, server: u8) -> Entry {
        let node = if extra == Extra::RemotePort { 2 } else { 1 };
        Entry {
            index: self.extra(extra),
            protocols: match extra {
                Extra::Changing => &[Protocol::Tcp],
                _ => &[Protocol::Tcp, Protocol::Udp],
            },
            endpoints: vec![(node, server)],
            node_port: extra.node_port(),
            local: extra == Extra::LocalPort,
        }
    }
}

impl Entry {
    /// The Service's name.
    pub fn name(&self) -> String {
        format!("bench-{}", self.index)
    }

    /// Its ClusterIP.
    pub fn address(&self, family: Family) -> IpAddr {
        cluster_ip(family, self.index).ip()
    }

    /// Its endpoints' addresses.
    pub fn servers(&self, family: Family) -> impl Iterator<Item = SocketAddr> {
        self.endpoints.iter().map(move |(node, server)| self::server(family, *node, *server))
    }

    /// The Service object.
    pub fn service(&self, families: &[Family]) -> Value {
        let mut service = Service::new(&self.name()).namespace(NAMESPACE);
        for &family in families {
            service = service.cluster_ip(self.address(family));
        }
        for protocol in self.protocols {
            service = service.port(protocol.lower(), protocol.upper(), SERVICE_PORT);
        }
        if let Some(port) = self.node_port {
            service = service.node_port_for_all(port);
        }
        let service = if self.local { service.external_local() } else { service };
        self.created(service.value())
    }

    /// Its slice in one family.
    pub fn slice(&self, family: Family) -> Value {
        let name = format!("{}-{}", self.name(), family.kubernetes().to_lowercase());
        let mut slice = Slice::new(&name, &self.name(), family).namespace(NAMESPACE);
        for protocol in self.protocols {
            slice = slice.port(protocol.lower(), protocol.upper(), SERVER_PORT);
        }
        let endpoint = |(node, server): &(u8, u8)| {
            let address = self::server(family, *node, *server).ip();
            Endpoint::ready(address, &format!("n{node}"))
        };
        self.created(slice.endpoints(self.endpoints.iter().map(endpoint)).value())
    }

    /// With what an API server says of every object: its uid, and when it was created, a second
    /// after the one before.
    fn created(&self, mut object: Value) -> Value {
        let (day, second) = (self.index / DAY_SECS, self.index % DAY_SECS);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let time = format!("2026-01-{:02}T{hour:02}:{minute:02}:{second:02}Z", day + 1);
        object["metadata"]["creationTimestamp"] = time.into();
        object["metadata"]["uid"] = format!("be9c0000-0000-4000-8000-{:012x}", self.index).into();
        object
    }

    /// All its objects.
    pub fn objects(&self, families: &[Family]) -> Vec<Value> {
        let slices = families.iter().map(|&family| self.slice(family));
        std::iter::once(self.service(families)).chain(slices).collect()
    }
}

/// Where Service number `index` is.
pub fn cluster_ip(family: Family, index: u32) -> SocketAddr {
    let first: IpAddr = match family {
        Family::V4 => Ipv4Addr::new(10, 100, 0, 0).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x100, 0, 0, 0, 0, 0, 0).into(),
    };
    nth(SocketAddr::new(first, SERVICE_PORT), FIRST_SERVICE + index)
}

/// The range that all addresses of [`cluster_ip`] are of.
pub const fn service_cidr(family: Family) -> &'static str {
    match family {
        Family::V4 => "10.100.0.0/14",
        Family::V6 => "fd00:100::/108",
    }
}

/// One of a server pod's addresses.
pub fn server(family: Family, node: u8, number: u8) -> SocketAddr {
    let host = FIRST_SERVER + number;
    let address = match family {
        Family::V4 => Ipv4Addr::new(10, 244, node, host).into(),
        Family::V6 => {
            let [node, host] = [node, host].map(u16::from);
            Ipv6Addr::new(0xfd00, 0x244, 0, node, 0, 0, 0, host).into()
        }
    };
    SocketAddr::new(address, SERVER_PORT)
}

/// The address so many after the first, with its port.
pub fn nth(first: SocketAddr, number: u32) -> SocketAddr {
    let address = match first.ip() {
        IpAddr::V4(address) => Ipv4Addr::from(u32::from(address) + number).into(),
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) + u128::from(number)).into(),
    };
    SocketAddr::new(address, first.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { services: 3, endpoints_each: 2, dual: true };

    #[test]
    fn the_hot_service_is_the_last_of_all() {
        let entries: Vec<Entry> = SHAPE.entries().collect();
        assert_eq!(entries.len() as u32, SHAPE.services + EXTRAS);
        let last = entries.last().unwrap();
        assert_eq!(last.index, SHAPE.hot());
        assert_eq!(last.protocols, [Protocol::Tcp, Protocol::Udp]);
        let servers = entries.iter().map(|entry| entry.endpoints.len() as u32);
        assert_eq!(servers.sum::<u32>(), SHAPE.endpoints());
    }

    #[test]
    fn objects_say_the_same_as_the_rules() {
        let entry = SHAPE.extra_entry(Extra::LocalPort, 0);
        let [service, v4, v6] = &entry.objects(SHAPE.families())[..] else { panic!() };
        assert_eq!(service["spec"]["clusterIPs"][0], "10.100.1.4");
        assert_eq!(service["spec"]["clusterIPs"][1], "fd00:100::104");
        assert_eq!(service["spec"]["externalTrafficPolicy"], "Local");
        assert_eq!(service["spec"]["ports"][0]["nodePort"], 30_080);
        assert_eq!(v4["endpoints"][0]["addresses"][0], "10.244.1.200");
        assert_eq!(v6["endpoints"][0]["addresses"][0], "fd00:244:0:1::c8");
        assert_eq!(v4["ports"][0]["port"], SERVER_PORT);
    }

    #[test]
    fn addresses_go_on_over_a_byte() {
        assert_eq!(cluster_ip(Family::V4, 257).to_string(), "10.100.2.1:80");
        assert_eq!(cluster_ip(Family::V6, 65_536).to_string(), "[fd00:100::1:100]:80");
    }
}
