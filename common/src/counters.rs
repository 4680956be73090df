//! What both paths count: one row of the per-CPU `counters` map per outcome.

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

    // What became of each packet: of these there is exactly one per packet and hook.
    /// Ingress: left as it is: no flow of ours and no frontend.
    IngressPassed = 10,
    /// Ingress: led to a backend.
    IngressToBackend = 11,
    /// Ingress: an answer to a masqueraded flow, led to the client.
    IngressToClient = 12,
    /// Ingress: an ICMP error about one of our flows, translated.
    IngressError = 13,
    /// Ingress: a fragment that followed its first one.
    IngressFragment = 14,
    /// Egress: left as it is.
    EgressPassed = 15,
    /// Egress: made to come from the node.
    EgressMasqueraded = 16,
    /// Egress: an answer, made to come from the frontend.
    EgressFromFrontend = 17,
    /// Egress: an ICMP error about one of our flows, translated.
    EgressError = 18,
    /// Egress: a fragment that followed its first one.
    EgressFragment = 19,
    /// Left as it is: neither IPv4 nor IPv6 (ARP, a VLAN tag, ...).
    PassedNotIp = 20,
    /// Left as it is: headers that are cut off or lie about their lengths.
    PassedMalformed = 21,
    /// Left as it is: more or other IPv6 extension headers than we follow.
    PassedHeaders = 22,
    /// Left as it is: a fragment whose first one was not ours, or was not seen.
    PassedFragment = 23,
    /// Kept until the first fragment comes; then it comes in again, and is counted again.
    FragmentParked = 24,
    /// Answered with a TCP reset or ICMP port unreachable: the frontend has no backend.
    RejectedNoBackend = 25,
    /// Answered likewise: a ClusterIP, but none of its ports.
    RejectedNoPort = 26,
    /// Dropped: Local policy, no backend on this node.
    DroppedPolicy = 27,
    /// Dropped: in a ServiceCIDR, but no ClusterIP.
    DroppedUnallocated = 28,
    /// Dropped: the source is in none of loadBalancerSourceRanges.
    DroppedSource = 29,
    /// Dropped: the device has no address to masquerade with.
    DroppedNoAddress = 30,
    /// Dropped: no free port to masquerade with.
    DroppedNoPort = 31,
    /// Dropped: SCTP whose port would have to change, and its CRC32c with it.
    DroppedSctpPort = 32,
    /// Dropped: a new flow could not be remembered.
    DroppedNoRoom = 33,
    /// Dropped: a slot or backend row is missing or of another service, or the packet could not be
    /// written.
    DroppedBroken = 34,

    // What happened besides.
    /// A new flow.
    FlowOpened = 35,
    /// A flow was answered and moved to the table whose entries are never evicted.
    FlowEstablished = 36,
    /// A flow was answered but stays where it may be evicted: the table is full.
    FlowTableFull = 37,
    /// A flow's client goes to another backend because its own is gone.
    FlowRepicked = 38,
    /// A client port was changed because two flows would have been one.
    PortRemapped = 39,
    /// A port for masquerading was taken, another was tried.
    PortRetried = 40,
    /// An answer was sent by the uplink its request came in by, not the one it was routed to.
    AnswerRedirected = 41,
}

impl Counter {
    /// All of them, in the order of their rows.
    pub const ALL: [Self; 42] = [
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
        Self::IngressPassed,
        Self::IngressToBackend,
        Self::IngressToClient,
        Self::IngressError,
        Self::IngressFragment,
        Self::EgressPassed,
        Self::EgressMasqueraded,
        Self::EgressFromFrontend,
        Self::EgressError,
        Self::EgressFragment,
        Self::PassedNotIp,
        Self::PassedMalformed,
        Self::PassedHeaders,
        Self::PassedFragment,
        Self::FragmentParked,
        Self::RejectedNoBackend,
        Self::RejectedNoPort,
        Self::DroppedPolicy,
        Self::DroppedUnallocated,
        Self::DroppedSource,
        Self::DroppedNoAddress,
        Self::DroppedNoPort,
        Self::DroppedSctpPort,
        Self::DroppedNoRoom,
        Self::DroppedBroken,
        Self::FlowOpened,
        Self::FlowEstablished,
        Self::FlowTableFull,
        Self::FlowRepicked,
        Self::PortRemapped,
        Self::PortRetried,
        Self::AnswerRedirected,
    ];

    /// Whether this is what became of a packet under a hook of the packet path. Added up, these are
    /// all the packets that came.
    pub const fn is_packet_outcome(self) -> bool {
        self as u32 >= Self::IngressPassed as u32 && self as u32 <= Self::DroppedBroken as u32
    }

    /// What it is a count of.
    pub const fn group(self) -> Group {
        if self.is_packet_outcome() {
            Group::Packets
        } else if (self as u32) < Self::IngressPassed as u32 {
            Group::Sockets
        } else {
            Group::Events
        }
    }

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
            Self::IngressPassed => "ingress_passed",
            Self::IngressToBackend => "ingress_to_backend",
            Self::IngressToClient => "ingress_to_client",
            Self::IngressError => "ingress_icmp_error",
            Self::IngressFragment => "ingress_fragment",
            Self::EgressPassed => "egress_passed",
            Self::EgressMasqueraded => "egress_masqueraded",
            Self::EgressFromFrontend => "egress_from_frontend",
            Self::EgressError => "egress_icmp_error",
            Self::EgressFragment => "egress_fragment",
            Self::PassedNotIp => "passed_not_ip",
            Self::PassedMalformed => "passed_malformed",
            Self::PassedHeaders => "passed_headers",
            Self::PassedFragment => "passed_fragment",
            Self::FragmentParked => "fragment_parked",
            Self::RejectedNoBackend => "rejected_no_backend",
            Self::RejectedNoPort => "rejected_no_port",
            Self::DroppedPolicy => "dropped_local_policy",
            Self::DroppedUnallocated => "dropped_unallocated",
            Self::DroppedSource => "dropped_source_range",
            Self::DroppedNoAddress => "dropped_no_masquerade_address",
            Self::DroppedNoPort => "dropped_no_masquerade_port",
            Self::DroppedSctpPort => "dropped_sctp_port",
            Self::DroppedNoRoom => "dropped_no_room",
            Self::DroppedBroken => "dropped_broken",
            Self::FlowOpened => "flow_opened",
            Self::FlowEstablished => "flow_established",
            Self::FlowTableFull => "flow_table_full",
            Self::FlowRepicked => "flow_repicked",
            Self::PortRemapped => "port_remapped",
            Self::PortRetried => "masquerade_port_retried",
            Self::AnswerRedirected => "answer_redirected",
        }
    }
}

/// What a counter counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Group {
    /// Connects and sends of sockets.
    Sockets,
    /// Packets, each once per hook.
    Packets,
    /// What happened to packets and flows besides.
    Events,
}

impl Group {
    /// The name tools show.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sockets => "sockets",
            Self::Packets => "packets",
            Self::Events => "events",
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
