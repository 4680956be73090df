//! Clients of every kind that dial while something happens, and what the kernels say when a
//! dialogue of theirs failed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;

use anyhow::{Result, ensure};

use crate::lab::{Lab, Place};
use crate::probe::Pressure;

/// Fresh TCP connections, fresh UDP sockets that name their target, and such that connect to it.
pub const EVERY_KIND: [&str; 3] = ["tcp", "udp", "udp-connected"];

/// What the kernel counts for a network namespace, by protocol.
const COUNTERS: [&str; 2] = ["/proc/thread-self/net/snmp", "/proc/thread-self/net/snmp6"];
/// What the kernel counts of datagrams that came in and found no socket.
const NO_SOCKET: [&str; 2] = ["UdpNoPorts", "Udp6NoPorts"];
/// Datagrams of a load, at most, that the kernel may have lost that way. Linux (seen: 6.18) misses
/// a bound UDP socket when another one of its hash slot, in any namespace, connects during the
/// look-up, and so moves to another slot with the look-up behind it. To see it without Millrace:
/// question and answer with a server on port 8080, while sockets bind port 40848 (8080 + 2^15) and
/// connect, again and again.
const MISSED_MAX: u64 = 1;
/// What it counts of a namespace's devices.
const DEVICES: &str = "/proc/thread-self/net/dev";
/// What it counts of each CPU's queue of packets.
const SOFTNET: &str = "/proc/net/softnet_stat";
/// Parts of the names of counters that tell where a packet was lost.
const TELLING: [&str; 8] = [
    "UdpInDatagrams",
    "UdpOutDatagrams",
    "Udp6InDatagrams",
    "Udp6OutDatagrams",
    "Errors",
    "Discards",
    "NoPorts",
    "NoRoutes",
];

/// Clients that dial without end.
#[derive(Debug, Default)]
pub struct Loads {
    running: Vec<(&'static str, SocketAddr, Pressure)>,
}

impl Loads {
    /// No client.
    pub fn new() -> Self {
        Self::default()
    }

    /// A client of each of these kinds dials `to`.
    pub fn add(&mut self, from: &Place, kinds: &[&'static str], to: SocketAddr) -> Result<()> {
        for kind in kinds {
            self.running.push((kind, to, Pressure::start(from, kind, to)?));
        }
        Ok(())
    }

    /// Stops them; not one dialogue may have failed, but for datagrams that the kernel lost.
    pub fn stop(self, lab: &Lab) -> Result<()> {
        for (kind, to, pressure) in self.running {
            let load = pressure.stop()?;
            ensure!(load.count > 0, "{kind} to {to}: nothing was dialled");
            if load.failed > 0 {
                eprintln!("{kind} to {to}: {load:?}\n{}", what_was_counted(lab));
            }
            let is_udp = kind.starts_with("udp");
            let allowed = if is_udp { missed_by_lookups(lab).min(MISSED_MAX) } else { 0 };
            ensure!(load.failed <= allowed, "{kind} to {to}: {load:?}");
        }
        Ok(())
    }
}

/// Datagrams that were delivered where they should go, and found no socket there.
fn missed_by_lookups(lab: &Lab) -> u64 {
    let counted = lab.places().into_iter().filter_map(|place| place.within(telling).ok());
    counted.flat_map(|counted| NO_SOCKET.map(|name| counted.get(name).copied().unwrap_or(0))).sum()
}

/// What the kernel of each place counted since the lab was built, and what it dropped for all since
/// it is up.
fn what_was_counted(lab: &Lab) -> String {
    let softnet = fs::read_to_string(SOFTNET).unwrap_or_default();
    let mut text = format!("every CPU's queue of packets, dropped: {:?}\n", dropped(&softnet));
    for place in lab.places() {
        let counted = match place.within(telling) {
            Ok(counted) => format!("{counted:?}"),
            Err(error) => format!("{error:#}"),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}: {counted}", place.name());
    }
    text
}

/// The telling counters of this thread's network namespace that are not 0.
fn telling() -> BTreeMap<String, u64> {
    let texts = COUNTERS.map(|path| fs::read_to_string(path).unwrap_or_default());
    let mut counted = parse_pairs(&texts[0]);
    counted.extend(parse_rows(&texts[1]));
    counted.retain(|name, _| TELLING.iter().any(|part| name.contains(part)));
    let devices = fs::read_to_string(DEVICES).unwrap_or_default();
    counted.extend(dropped_by_devices(&devices));
    counted.retain(|_, count| *count > 0);
    counted
}

/// `softnet_stat`: a line for each CPU, whose second number, in hex, is what its queue had no room
/// for.
fn dropped(text: &str) -> Vec<u64> {
    let of_cpu = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    text.lines().filter_map(of_cpu).collect()
}

/// `dev`: a line for each device, with what was dropped on its way in and out.
fn dropped_by_devices(text: &str) -> BTreeMap<String, u64> {
    let of_device = |line: &str| -> Option<[(String, u64); 2]> {
        let (name, counts) = line.trim().split_once(':')?;
        let counts: Vec<u64> = counts.split_whitespace().flat_map(str::parse).collect();
        let (received, sent) = (*counts.get(3)?, *counts.get(11)?);
        Some([(format!("{name} in, dropped"), received), (format!("{name} out, dropped"), sent)])
    };
    text.lines().filter_map(of_device).flatten().collect()
}

/// `snmp`: a line of names, then a line of counts, for each protocol.
fn parse_pairs(text: &str) -> BTreeMap<String, u64> {
    let lines: Vec<&str> = text.lines().collect();
    let pairs = lines.chunks_exact(2).flat_map(|pair| {
        let (names, counts) = (pair[0].split(' '), pair[1].split(' '));
        let protocol = pair[0].split(':').next().unwrap_or_default();
        names.zip(counts).skip(1).map(move |(name, count)| (format!("{protocol}{name}"), count))
    });
    pairs.filter_map(|(name, count)| Some((name, count.parse().ok()?))).collect()
}

/// `snmp6`: a name and a count in each line.
fn parse_rows(text: &str) -> BTreeMap<String, u64> {
    let rows = text.lines().filter_map(|line| line.split_once(char::is_whitespace));
    rows.filter_map(|(name, count)| Some((name.to_owned(), count.trim().parse().ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_as_the_kernel_writes_them() {
        let pairs = parse_pairs("Ip: Forwarding InDiscards\nIp: 1 22\nUdp: NoPorts\nUdp: 3\n");
        let want = [("IpForwarding", 1), ("IpInDiscards", 22), ("UdpNoPorts", 3)];
        assert_eq!(pairs, want.map(|(name, count)| (name.to_owned(), count)).into());
        let rows = parse_rows("Udp6NoPorts  \t 7\nodd\n");
        assert_eq!(rows, [("Udp6NoPorts".to_owned(), 7)].into());
        assert_eq!(dropped("00a0 0000001f 0\n00b0 00000000 0\n"), [31, 0]);
        let device = "Inter-|   Receive\n eth0: 9 8 0 3 0 0 0 0 7 6 0 2 0 0 0 0\n";
        let want = [("eth0 in, dropped", 3), ("eth0 out, dropped", 2)];
        let want = want.map(|(name, count)| (name.to_owned(), count));
        assert_eq!(dropped_by_devices(device), want.into());
    }
}
