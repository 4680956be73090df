//! The lab proves what its packet tests stand on, without an agent: odd packets arrive as they
//! were made, the options about routing and netfilter do what their names say.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use millrace_tests::lab::{
    CniMasquerade, Families, Family, Lab, Place, PodNetwork, ReversePath, address,
};
use millrace_tests::probe::{self, Outcome, Server};
use millrace_tests::wait::{self, CHANGE_TIMEOUT};
use millrace_tests::wire::{ACK, Draft, ICMP, RST, SYN, Seen, Segment, Wire, hardware_address};

const PORT: u16 = 8080;
/// A port nobody's socket has; what comes back to it is not answered by a socket.
const RAW_PORT: u16 = 7;
/// Enough for several windows of segments.
const BULK_BYTES: &str = "1000000";
/// The smallest MTU that IPv6 allows.
const HOP_MTU: u32 = 1280;

/// The address that the server saw the client at.
fn seen_as(client: &Place, to: SocketAddr) -> Result<std::net::IpAddr> {
    let outcome = probe::tcp(client, to, 1)?.remove(0);
    let seen = outcome.seen.map(|seen| seen.ip());
    seen.ok_or_else(|| anyhow::anyhow!("{} to {to}: {outcome:?}", client.name()))
}

fn succeeds(client: &Place, arguments: &[&str]) -> Result<()> {
    let outcomes: Vec<Outcome> = probe::run(client, arguments)?;
    ensure!(!outcomes.is_empty() && outcomes.iter().all(|o| o.ok), "{arguments:?}: {outcomes:?}");
    Ok(())
}

fn setting(place: &Place, path: &str) -> Result<String> {
    let text = place.within(|| fs::read_to_string(format!("/proc/sys/net/{path}")))??;
    Ok(text.trim().to_owned())
}

#[test]
fn odd_packets_arrive_as_they_were_made() -> Result<()> {
    let lab = Lab::builder().pod("n1", "a").build()?;
    let pod = lab.pod("n1", "a");
    let _server = Server::start(pod, "a", &[PORT], &[PORT])?;
    let mut wire = Wire::open(lab.outside(), "eth0")?;
    let mut inside = Wire::open(pod, "eth0")?;
    let node = hardware_address(lab.node("n1"), "eth0")?;
    let padded = [&b"who"[..], &[b' '; 1997]].concat();
    for &family in lab.families() {
        let from = SocketAddr::new(address::outside(family), RAW_PORT);
        let to = SocketAddr::new(pod.address(family), PORT);
        let answered = |wire: &mut Wire| {
            let answer = wire.expect("an answer", |s| s.from() == to && !s.outgoing)?;
            ensure!(answer.payload == format!("a {from}").as_bytes(), "{answer:?}");
            wire.forget()
        };
        let plain = Draft::udp(from, to, &padded).identification(77);
        let odd = match family {
            Family::V4 => Draft::udp(from, to, b"who").options(&[1, 1, 1]),
            Family::V6 => Draft::udp(from, to, b"who").extension_headers(),
        };
        wire.send(node, &odd.packet())?;
        answered(&mut wire)?;
        let mut fragments = plain.fragments(1000);
        fragments.reverse();
        fragments.iter().try_for_each(|fragment| wire.send(node, fragment))?;
        answered(&mut wire)?;
        inside.expect("a last fragment", |s| s.fragment == Some((2000, false)))?;
        let syn = Segment { flags: SYN, sequence: 100, acknowledged: 0 };
        wire.send(node, &Draft::tcp(from, to, syn, b"").packet())?;
        let accepted = wire.expect("a SYN ACK", |s| s.from() == to && s.has(SYN | ACK))?;
        ensure!(accepted.segment.acknowledged == 101, "{accepted:?}");
        let cut = Draft::tcp(from, to, syn, b"").truncated(4);
        wire.send(node, &cut.packet())?;
        inside.expect("the cut segment", |s| s.to() == to && s.segment.flags == 0)?;
    }
    Ok(())
}

#[test]
fn errors_are_read() -> Result<()> {
    let lab = Lab::builder().pod("n1", "a").build()?;
    let pod = lab.pod("n1", "a");
    let mut wire = Wire::open(lab.outside(), "eth0")?;
    let node = hardware_address(lab.node("n1"), "eth0")?;
    for &family in lab.families() {
        let from = SocketAddr::new(address::outside(family), RAW_PORT);
        let to = SocketAddr::new(pod.address(family), PORT);
        wire.send(node, &Draft::udp(from, to, b"who").packet())?;
        let refused = if family == Family::V4 { (3, 3) } else { (1, 4) };
        let error = wire.expect("unreachable", |seen| seen.icmp_kind() == Some(refused))?;
        ensure!(error.sound == Some(true) && error.source == to.ip(), "{error:?}");
        let quoted = error.quoted().map(|quoted| (quoted.from(), quoted.to()));
        ensure!(quoted == Some((from, to)), "{error:?}");
    }
    Ok(())
}

/// In a lab of its own: a flood uses up the ICMP errors that the pod's kernel sends in a while
/// (`icmp_msgs_burst`, for both families).
#[test]
fn floods_are_counted() -> Result<()> {
    const COUNT: u32 = 5000;
    let lab = Lab::builder().pod("n1", "a").build()?;
    let pod = lab.pod("n1", "a");
    let wire = Wire::open(lab.outside(), "eth0")?;
    let node = hardware_address(lab.node("n1"), "eth0")?;
    for &family in lab.families() {
        let to = SocketAddr::new(pod.address(family), PORT);
        let mut inside = Wire::open(pod, "eth0")?;
        wire.flood(node, COUNT, |index| {
            let spoofed = SocketAddr::new(address::external(family, index as u8), RAW_PORT);
            Draft::udp(spoofed, to, b"flood").packet()
        })?;
        wait::until("the flood to arrive", CHANGE_TIMEOUT, || {
            let arrived = inside.seen()?.iter().filter(|seen| seen.payload == b"flood").count();
            ensure!(arrived == COUNT as usize, "{arrived} of {COUNT}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn large_datagrams_and_bulk_come_back_whole() -> Result<()> {
    let lab = Lab::builder().nodes(2).pod("n1", "a").pod("n2", "b").build()?;
    let (client, server) = (lab.pod("n1", "a").as_vm(), lab.pod("n2", "b"));
    let _server = Server::start(server, "b", &[PORT], &[PORT])?;
    for &family in lab.families() {
        let to = SocketAddr::new(server.address(family), PORT).to_string();
        let from = SocketAddr::new(lab.pod("n1", "a").address(family), 4444).to_string();
        for size in ["2000", "8000"] {
            succeeds(&client, &["udp-unconnected", &to, "--echo", size, "--bind", &from])?;
        }
        succeeds(&client, &["connect", &to, "--echo", BULK_BYTES, "--bind", &from])?;
    }
    Ok(())
}

#[test]
fn settings_of_nodes_are_as_chosen() -> Result<()> {
    for (filter, bridged) in ReversePath::ALL.into_iter().zip([Some(true), Some(false), None]) {
        let mut builder = Lab::builder().pod("n1", "a").reverse_path(filter);
        if let Some(on) = bridged {
            builder = builder.bridge_netfilter(on);
        }
        let lab = builder.build()?;
        for device in ["eth0", "cni0", "veth0"] {
            let is = setting(lab.node("n1"), &format!("ipv4/conf/{device}/rp_filter"))?;
            ensure!(is == filter.setting(), "{device}: {is}, not {filter:?}");
        }
        for file in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
            let is = setting(lab.node("n1"), &format!("bridge/{file}"))?;
            ensure!(bridged.is_none_or(|on| is == u8::from(on).to_string()), "{file}: {is}");
        }
    }
    Ok(())
}

#[test]
fn cni_masquerades_what_leaves_the_pod_network() -> Result<()> {
    for masquerade in [CniMasquerade::Outgoing, CniMasquerade::Flannel] {
        let builder = Lab::builder().nodes(2).pod("n1", "a").pod("n2", "b");
        let lab = builder.cni_masquerade(masquerade).build()?;
        let _servers = [
            Server::start(lab.outside(), "outside", &[PORT], &[])?,
            Server::start(lab.pod("n2", "b"), "b", &[PORT], &[])?,
        ];
        let (a, b, n1) = (lab.pod("n1", "a"), lab.pod("n2", "b"), lab.node("n1"));
        for &family in lab.families() {
            let at = |ip| SocketAddr::new(ip, PORT);
            ensure!(seen_as(a, at(address::outside(family)))? == n1.address(family), "outgoing");
            ensure!(seen_as(a, at(b.address(family)))? == a.address(family), "pod to pod");
            let (cidr, via) = (lab.node("n2").pod_cidr(family), n1.address(family));
            lab.outside().ip(&[format!("route replace {cidr} via {via}")])?;
            let stranger = seen_as(lab.outside(), at(b.address(family)))?;
            let masqueraded = masquerade == CniMasquerade::Flannel;
            let wanted = if masqueraded { via } else { address::outside(family) };
            ensure!(stranger == wanted, "{masquerade:?}: {stranger}");
        }
    }
    Ok(())
}

#[test]
fn invalid_packets_are_dropped_and_counted() -> Result<()> {
    let lab = Lab::builder().pod("n1", "a").drop_invalid().build()?;
    let (pod, n1) = (lab.pod("n1", "a"), lab.node("n1"));
    let _server = Server::start(pod, "a", &[PORT], &[])?;
    let wire = Wire::open(lab.outside(), "eth0")?;
    let mut inside = Wire::open(pod, "eth0")?;
    for (dropped, &family) in (0..).zip(lab.families()) {
        ensure!(n1.invalid_packets()? == dropped, "before");
        let from = SocketAddr::new(address::outside(family), RAW_PORT);
        let to = SocketAddr::new(pod.address(family), PORT);
        let stray = Segment { flags: RST, sequence: 1, acknowledged: 0 };
        let packet = Draft::tcp(from, to, stray, b"").packet();
        wire.send(hardware_address(n1, "eth0")?, &packet)?;
        wait::until("the stray RST to be counted", CHANGE_TIMEOUT, || {
            let count = n1.invalid_packets()?;
            ensure!(count == dropped + 1, "{count}");
            Ok(())
        })?;
        inside.expect_none("the stray RST", |seen| seen.has(RST))?;
        seen_as(lab.outside(), to)?;
    }
    Ok(())
}

#[test]
fn pods_of_the_second_uplink_leave_by_it() -> Result<()> {
    for network in [PodNetwork::Bridge, PodNetwork::PointToPoint] {
        let builder = Lab::builder().nodes(2).pods("n1", &["first", "second"]).pod("n2", "b");
        let lab = builder.pod_network(network).second_uplink().build()?;
        lab.leave_by_second_uplink("n1", "second")?;
        let _servers = [
            Server::start(lab.outside(), "outside", &[PORT], &[PORT])?,
            Server::start(lab.pod("n1", "first"), "first", &[PORT], &[PORT])?,
            Server::start(lab.pod("n2", "b"), "b", &[PORT], &[PORT])?,
        ];
        let n1 = lab.node("n1");
        for &family in lab.families() {
            for (pod, leaves_by, not_by) in [("first", "eth0", "eth1"), ("second", "eth1", "eth0")]
            {
                let mut wires = [Wire::open(n1, leaves_by)?, Wire::open(n1, not_by)?];
                let pod = lab.pod("n1", pod);
                for to in [address::outside(family), lab.pod("n2", "b").address(family)] {
                    ensure!(seen_as(pod, SocketAddr::new(to, PORT))? == pod.address(family));
                }
                let own = |seen: &Seen| seen.outgoing && seen.source == pod.address(family);
                wires[0].expect("the pod's packets", own)?;
                wires[1].expect_none("the pod's packets", own)?;
            }
            let local = SocketAddr::new(lab.pod("n1", "first").address(family), PORT);
            seen_as(lab.pod("n1", "second"), local)?;
            let both = [n1.address(family), n1.second_address(family)];
            let _server = Server::start(n1, "n1", &[PORT], &[])?;
            for address in both {
                seen_as(lab.outside(), SocketAddr::new(address, PORT))?;
            }
        }
    }
    Ok(())
}

#[test]
fn the_distant_clients_path_is_narrow() -> Result<()> {
    let builder = Lab::builder().nodes(2).pod("n1", "a").distant_client(HOP_MTU);
    let lab = builder.families(Families::Dual).build()?;
    let pod = lab.pod("n1", "a");
    let _server = Server::start(pod, "a", &[PORT], &[PORT])?;
    for &family in lab.families() {
        let mut ends = [Wire::open(lab.distant(), "eth0")?, Wire::open(pod, "eth0")?];
        let to = SocketAddr::new(pod.address(family), PORT).to_string();
        succeeds(lab.distant(), &["connect", &to, "--echo", BULK_BYTES])?;
        for end in &mut ends {
            end.expect("too big", |seen| match seen.icmp_kind() {
                Some((3, 4)) => seen.protocol == ICMP,
                Some((2, 0)) => seen.protocol != ICMP,
                _ => false,
            })?;
        }
    }
    Ok(())
}
