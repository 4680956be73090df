//! What the socket path counts: one row of the per-CPU `counters` map per outcome.

/// An outcome worth counting. "Not a frontend" is not: that path stays a single look-up.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counter {
    /// A connect or send was translated to a backend.
    Translated = 0,
    /// Refused at once: the frontend has no backend.
    RefusedNoBackend = 1,
    /// Dropped silently: Local policy, no backend on this node.
    DroppedNoLocalBackend = 2,
    /// Left alone: source ranges need the client's address, which a socket does not have yet.
    LeftToPacketPath = 3,
    /// A connected UDP socket was told that its backend is gone.
    StaleUdpRefused = 4,
    /// An unconnected UDP socket moved to another backend because its own is gone.
    UdpRepicked = 5,
    /// Affinity sent a client to the backend it had.
    AffinityHit = 6,
    /// What a socket dialled could not be remembered: it sees the backend's address.
    RecordFailed = 7,
    /// A slot or backend row was missing or belonged to another service: refused, and a bug.
    BrokenRow = 8,
    /// The record of a connected UDP socket went to its socket storage, where the agent cannot see
    /// it.
    UdpRecordHidden = 9,
}

impl Counter {
    /// All of them, in the order of their rows.
    pub const ALL: [Self; 10] = [
        Self::Translated,
        Self::RefusedNoBackend,
        Self::DroppedNoLocalBackend,
        Self::LeftToPacketPath,
        Self::StaleUdpRefused,
        Self::UdpRepicked,
        Self::AffinityHit,
        Self::RecordFailed,
        Self::BrokenRow,
        Self::UdpRecordHidden,
    ];

    /// The name tools show, in metric style.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Translated => "translated",
            Self::RefusedNoBackend => "refused_no_backend",
            Self::DroppedNoLocalBackend => "dropped_no_local_backend",
            Self::LeftToPacketPath => "left_to_packet_path",
            Self::StaleUdpRefused => "stale_udp_refused",
            Self::UdpRepicked => "udp_repicked",
            Self::AffinityHit => "affinity_hit",
            Self::RecordFailed => "record_failed",
            Self::BrokenRow => "broken_row",
            Self::UdpRecordHidden => "udp_record_hidden",
        }
    }
}

/// Rows of the map.
pub const COUNT: u32 = Counter::ALL.len() as u32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_stand_in_the_order_of_their_rows() {
        for (index, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, index);
        }
    }
}
