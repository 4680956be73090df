//! When a flow is over. Pure.

use millrace_common::address::Protocol;
use millrace_common::flow::{
    HALF_OPEN_SECS, TCP_CLOSE_WAIT_SECS, TCP_IDLE_SECS, TCP_OVER_SECS, UDP_IDLE_SECS, seen,
};
use millrace_common::packet::tables::Table;

/// As [`TCP_OVER_SECS`], in seconds, while the tables are nearly full: room for new connections is
/// worth more than late packets of old ones.
pub const OVER_SECS_PRESSED: u32 = 4;
/// Entries whose flow is gone may still be used by whoever is about to write the missing ones;
/// after this long, in seconds, nobody is.
pub const ORPHAN_SECS: u32 = UDP_IDLE_SECS;
/// No entry goes sooner, in seconds, whatever its flow has seen.
pub const SHORTEST_SECS: u32 = OVER_SECS_PRESSED;

/// What an operator may decide, in seconds. None is shorter than [`SHORTEST_SECS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// An established TCP or SCTP flow.
    pub tcp_idle_secs: u32,
    /// A TCP flow that one side has closed.
    pub tcp_close_wait_secs: u32,
    /// A UDP flow that was answered; at most [`UDP_IDLE_SECS`], by which the programs go.
    pub udp_idle_secs: u32,
    /// A UDP flow that was not; at most [`HALF_OPEN_SECS`].
    pub udp_unanswered_secs: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_idle_secs: TCP_IDLE_SECS,
            tcp_close_wait_secs: TCP_CLOSE_WAIT_SECS,
            udp_idle_secs: UDP_IDLE_SECS,
            udp_unanswered_secs: HALF_OPEN_SECS,
        }
    }
}

/// How far a flow has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum State {
    /// Not answered, or its handshake is not complete.
    HalfOpen,
    /// In use.
    Established,
    /// One side has closed it.
    Closing,
    /// Both sides have closed it, or one has aborted it.
    Over,
}

impl State {
    /// Of a flow that stands in `table`; `client` and `backend`: what each of them has sent
    /// ([`seen`]).
    pub const fn of(protocol: u8, table: Table, client: u16, backend: u16) -> Self {
        let has_state = protocol != Protocol::Udp as u8;
        let (either, both) = (client | backend, client & backend);
        if has_state && (either & seen::RST != 0 || both & seen::FIN != 0) {
            return Self::Over;
        }
        match table {
            Table::Established if has_state && either & seen::FIN != 0 => Self::Closing,
            Table::Established => Self::Established,
            // An answered datagram's flow stays here when the other table is full.
            Table::HalfOpen if !has_state && backend & seen::PACKET != 0 => Self::Established,
            Table::HalfOpen => Self::HalfOpen,
        }
    }

    /// How long a flow may be idle, in seconds. `pressed`: the tables are nearly full.
    pub const fn timeout_secs(self, protocol: u8, pressed: bool, timeouts: &Timeouts) -> u32 {
        let is_udp = protocol == Protocol::Udp as u8;
        match self {
            Self::HalfOpen if is_udp => timeouts.udp_unanswered_secs,
            Self::HalfOpen => HALF_OPEN_SECS,
            Self::Established if is_udp => timeouts.udp_idle_secs,
            Self::Established => timeouts.tcp_idle_secs,
            Self::Closing => timeouts.tcp_close_wait_secs,
            Self::Over if pressed => OVER_SECS_PRESSED,
            Self::Over => TCP_OVER_SECS,
        }
    }

    /// The name shown to people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HalfOpen => "half-open",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Over => "over",
        }
    }
}

/// Seconds since; another CPU's clock may be a little ahead.
pub const fn idle_secs(now_secs: u32, last_used_secs: u32) -> u32 {
    now_secs.saturating_sub(last_used_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: u8 = Protocol::Tcp as u8;
    const UDP: u8 = Protocol::Udp as u8;
    const SCTP: u8 = Protocol::Sctp as u8;

    #[test]
    fn timeouts_are_the_operators() {
        let timeouts = Timeouts {
            tcp_idle_secs: 500,
            tcp_close_wait_secs: 400,
            udp_idle_secs: 50,
            udp_unanswered_secs: 40,
        };
        for (protocol, state, secs) in [
            (TCP, State::Established, 500),
            (SCTP, State::Established, 500),
            (TCP, State::Closing, 400),
            (UDP, State::Established, 50),
            (UDP, State::HalfOpen, 40),
            (TCP, State::HalfOpen, HALF_OPEN_SECS),
            (TCP, State::Over, TCP_OVER_SECS),
        ] {
            assert_eq!(state.timeout_secs(protocol, false, &timeouts), secs, "{state:?}");
        }
    }

    #[test]
    fn timeouts_are_those_of_the_contract() {
        use seen::{FIN, PACKET, RST};
        let rows = [
            (TCP, Table::HalfOpen, PACKET, 0, HALF_OPEN_SECS),
            (TCP, Table::HalfOpen, PACKET, PACKET, HALF_OPEN_SECS),
            (TCP, Table::HalfOpen, PACKET, PACKET | RST, TCP_OVER_SECS),
            (TCP, Table::Established, PACKET, PACKET, TCP_IDLE_SECS),
            (TCP, Table::Established, PACKET | FIN, PACKET, TCP_CLOSE_WAIT_SECS),
            (TCP, Table::Established, PACKET, PACKET | FIN, TCP_CLOSE_WAIT_SECS),
            (TCP, Table::Established, PACKET | FIN, PACKET | FIN, TCP_OVER_SECS),
            (TCP, Table::Established, PACKET | RST, PACKET, TCP_OVER_SECS),
            (TCP, Table::Established, PACKET | FIN, PACKET | RST, TCP_OVER_SECS),
            (SCTP, Table::Established, PACKET | FIN, PACKET | FIN, TCP_OVER_SECS),
            (SCTP, Table::Established, PACKET, PACKET, TCP_IDLE_SECS),
            (UDP, Table::HalfOpen, PACKET, 0, HALF_OPEN_SECS),
            (UDP, Table::HalfOpen, PACKET, PACKET, UDP_IDLE_SECS),
            (UDP, Table::Established, PACKET, PACKET, UDP_IDLE_SECS),
        ];
        for (protocol, table, client, backend, secs) in rows {
            let state = State::of(protocol, table, client, backend);
            let row = (protocol, table, client, backend);
            let timeouts = Timeouts::default();
            assert_eq!(state.timeout_secs(protocol, false, &timeouts), secs, "{row:?}");
            assert!(state.timeout_secs(protocol, true, &timeouts) >= SHORTEST_SECS, "{row:?}");
        }
    }
}
