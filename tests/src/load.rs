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

    /// Stops them; not one dialogue may have failed.
    pub fn stop(self, lab: &Lab) -> Result<()> {
        self.stop_allowing(lab, |_, _| 0)
    }

    /// The same, but so many of a kind's dialogues may have failed, of as many as there were.
    pub fn stop_allowing(self, lab: &Lab, may_fail: impl Fn(&str, u64) -> u64) -> Result<()> {
        for (kind, to, pressure) in self.running {
            let load = pressure.stop()?;
            ensure!(load.count > 0, "{kind} to {to}: nothing was dialled");
            if load.failed > 0 {
                eprintln!("{kind} to {to}: {load:?}\n{}", what_was_counted(lab));
            }
            ensure!(load.failed <= may_fail(kind, load.count), "{kind} to {to}: {load:?}");
        }
        Ok(())
    }
}

/// What the kernel of each place counted since the lab was built.
fn what_was_counted(lab: &Lab) -> String {
    let mut text = String::new();
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
    counted.retain(|name, count| *count > 0 && TELLING.iter().any(|part| name.contains(part)));
    counted
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
    }
}
