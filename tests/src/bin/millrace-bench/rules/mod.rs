//! Rules of the same structure as kube-proxy writes them (1.33 and later), for the same Services.
//! Pure: Services in, the tools' input out. What is left out is what these Services do not have:
//! load balancers, source ranges, affinity, health checks. Names of chains have the same length and
//! as many different letters, but another hash.

pub mod iptables;
pub mod nftables;

use millrace_tests::lab::{Family, address};

use crate::services::{Entry, Protocol};

/// The mark for masquerading.
pub const MARK: &str = "0x4000";

/// 16 letters and digits that go with a text, as kube-proxy has 16 of a SHA-256.
fn hash(text: &str) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut state: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for byte in text.bytes() {
        state = (state ^ u128::from(byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b);
    }
    let letter = |at: u32| char::from(LETTERS[(state >> (48 + at * 5)) as usize & 31]);
    (0..16).map(letter).collect()
}

/// `shop/bench-7:tcp`, as comments name a Service's port.
fn port_name(entry: &Entry, protocol: Protocol) -> String {
    format!("{}/{}:{}", crate::services::NAMESPACE, entry.name(), protocol.lower())
}

/// What is a pod's.
fn cluster_cidr(family: Family) -> &'static str {
    address::cluster_cidr(family)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn hashes_differ() {
        let hashes: BTreeSet<String> =
            (0..10_000).map(|index| super::hash(&format!("shop/bench-{index}"))).collect();
        assert_eq!(hashes.len(), 10_000);
        assert!(hashes.iter().all(|hash| hash.len() == 16));
    }
}
