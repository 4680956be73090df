//! The network header: IPv4 (RFC 791) and IPv6 (RFC 8200, with extension headers).

use super::frame::{ETHERTYPE_V4, ETHERTYPE_V6, Frame};
use super::rewrite::Ports;
use super::transport::Packet;
use crate::address::{Address, Be16, V4, V6, checksum_replace};
use crate::counters::Counter;
use crate::flow::{FlowKey, side};
use crate::row::Row;

/// How much of a datagram a packet is.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// All of it.
    Whole = 0,
    /// The first fragment: the transport header is here.
    First,
    /// A later fragment.
    Later,
}

/// IPv4 or IPv6, with their headers.
pub trait Family: Address {
    /// The family's ethertype.
    const ETHERTYPE: Be16;
    /// Offset of the source in the header.
    const SOURCE_OFFSET: u32;
    /// Offset of the destination in the header.
    const DESTINATION_OFFSET: u32;
    /// Offset of the header checksum, if there is one.
    const CHECKSUM_OFFSET: Option<u32>;
    /// IANA number of the family's ICMP.
    const ICMP: u8;
    /// Whether ICMP of this type reports an error and quotes the packet that caused it. (Redirects
    /// do too, but say nothing to a translated sender.)
    fn is_error(icmp_type: u8) -> bool;
    /// Read the header at `offset` into `packet`. `quoted`: it stands in an ICMP error and may be
    /// cut off. An error is the reason to leave the packet alone.
    fn read<F: Frame>(
        frame: &F,
        offset: u32,
        quoted: bool,
        packet: &mut Packet<Self>,
    ) -> Result<(), Counter>;
    /// Put in an address, that makes this difference to the header's checksum, and both ports, in
    /// one step; at [`side::INGRESS`] the address is the destination's. False: nothing was written,
    /// it takes several steps.
    #[inline(always)]
    fn store_ends<F: Frame>(
        _frame: &F,
        _packet: &Packet<Self>,
        _address: &Self,
        _difference: u32,
        _ports: Ports,
    ) -> bool {
        false
    }
}

/// Largest length a header can express, in bytes: what is longer was put together by GRO or is yet
/// to be cut by GSO ("BIG TCP"), and says 0.
const LENGTH_MAX: u32 = 65_535;

#[repr(C)]
#[derive(Clone, Copy)]
struct V4Header {
    version_length: u8,
    service: u8,
    length: Be16,
    id: Be16,
    fragment: Be16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    source: V4,
    destination: V4,
}

// SAFETY: the twenty bytes of RFC 791 section 3.1.
unsafe impl Row for V4Header {}

/// The end of a header without options, and the ports behind it.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct V4Ends {
    checksum: u16,
    source: V4,
    destination: V4,
    ports: Ports,
}

// SAFETY: fourteen bytes, packed.
unsafe impl Row for V4Ends {}

/// Offset of the header checksum.
const V4_CHECKSUM_OFFSET: u32 = 10;
/// "More fragments" in the fragment field.
const V4_MORE: u16 = 0x2000;
/// The offset in the fragment field.
const V4_OFFSET: u16 = 0x1fff;
/// Bytes of an IPv4 header without options.
const V4_BYTES: u32 = 20;

impl Family for V4 {
    const ETHERTYPE: Be16 = ETHERTYPE_V4;
    const SOURCE_OFFSET: u32 = 12;
    const DESTINATION_OFFSET: u32 = 16;
    const CHECKSUM_OFFSET: Option<u32> = Some(V4_CHECKSUM_OFFSET);
    const ICMP: u8 = 1;

    /// Destination unreachable, time exceeded, parameter problem (RFC 792).
    #[inline(always)]
    fn is_error(icmp_type: u8) -> bool {
        matches!(icmp_type, 3 | 11 | 12)
    }

    #[inline(always)]
    fn read<F: Frame>(
        frame: &F,
        offset: u32,
        quoted: bool,
        packet: &mut Packet<Self>,
    ) -> Result<(), Counter> {
        let Some(header) = frame.load_header::<V4Header>(offset) else {
            return Err(Counter::PassedMalformed);
        };
        let header_bytes = u32::from(header.version_length & 0x0f) * 4;
        let mut length = u32::from(header.length.get());
        let room = frame.len().wrapping_sub(offset);
        if length == 0 && room > LENGTH_MAX {
            length = room;
        }
        let is_cut = !quoted && length > room;
        if header.version_length >> 4 != 4
            || header_bytes < V4_BYTES
            || length < header_bytes
            || is_cut
        {
            return Err(Counter::PassedMalformed);
        }
        let fragment = header.fragment.get();
        packet.key.source = header.source;
        packet.key.destination = header.destination;
        packet.key.protocol = header.protocol;
        packet.network = offset;
        packet.transport = offset + header_bytes;
        packet.end = offset + length;
        packet.fragment_id = u32::from(header.id.raw());
        packet.fragment = match (fragment & V4_OFFSET, fragment & V4_MORE) {
            (0, 0) => Part::Whole,
            (0, _) => Part::First,
            _ => Part::Later,
        };
        Ok(())
    }

    #[inline(always)]
    fn store_ends<F: Frame>(
        frame: &F,
        packet: &Packet<Self>,
        address: &Self,
        difference: u32,
        ports: Ports,
    ) -> bool {
        let place = packet.network + V4_CHECKSUM_OFFSET;
        if packet.transport != packet.network + V4_BYTES {
            return false;
        }
        let Some(checksum) = frame.load_header::<u16>(place) else { return false };
        let checksum = checksum_replace(checksum, difference);
        let (source, destination) = match packet.key.side {
            side::INGRESS => (packet.key.source, *address),
            _ => (*address, packet.key.destination),
        };
        frame.store(place, &V4Ends { checksum, source, destination, ports })
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct V6Header {
    begin: V6Begin,
    source: V6,
    destination: V6,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct V6Begin {
    version_class_flow: [u8; 4],
    length: Be16,
    next: u8,
    hops: u8,
}

// SAFETY: the forty bytes of RFC 8200 section 3.
unsafe impl Row for V6Header {}
// SAFETY: the first eight of them.
unsafe impl Row for V6Begin {}

/// Read the header, addresses into their place: where that costs nothing without a copy of it on
/// the stack, which is small.
#[inline(always)]
fn read_v6<F: Frame>(frame: &F, offset: u32, key: &mut FlowKey<V6>) -> Option<V6Begin> {
    if F::SWIFT {
        key.source = frame.load_header(offset + V6::SOURCE_OFFSET)?;
        key.destination = frame.load_header(offset + V6::DESTINATION_OFFSET)?;
        return frame.load_header(offset);
    }
    let V6Header { begin, source, destination } = frame.load_header(offset)?;
    key.source = source;
    key.destination = destination;
    Some(begin)
}

/// Bytes of the IPv6 header.
const V6_BYTES: u32 = 40;
/// Extension headers that are followed, at most.
const V6_EXTENSIONS: u32 = 6;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// The first eight bytes of an extension header; all of one that is a fragment header.
#[repr(C)]
#[derive(Clone, Copy)]
struct Extension {
    next: u8,
    /// In units of eight bytes, without the first; a fragment header has none.
    length: u8,
    /// A fragment header: offset in the upper 13 bits, "more fragments" in the lowest.
    /// A routing header: type, segments left.
    field: [u8; 2],
    id: u32,
}

// SAFETY: eight bytes.
unsafe impl Row for Extension {}

impl Family for V6 {
    const ETHERTYPE: Be16 = ETHERTYPE_V6;
    const SOURCE_OFFSET: u32 = 8;
    const DESTINATION_OFFSET: u32 = 24;
    const CHECKSUM_OFFSET: Option<u32> = None;
    const ICMP: u8 = 58;

    /// Destination unreachable, packet too big, time exceeded, parameter problem (RFC 4443).
    #[inline(always)]
    fn is_error(icmp_type: u8) -> bool {
        matches!(icmp_type, 1..=4)
    }

    #[inline(always)]
    fn read<F: Frame>(
        frame: &F,
        offset: u32,
        quoted: bool,
        packet: &mut Packet<Self>,
    ) -> Result<(), Counter> {
        let Some(header) = read_v6(frame, offset, &mut packet.key) else {
            return Err(Counter::PassedMalformed);
        };
        let mut length = V6_BYTES + u32::from(header.length.get());
        let room = frame.len().wrapping_sub(offset);
        if length == V6_BYTES && room > LENGTH_MAX {
            length = room;
        }
        if header.version_class_flow[0] >> 4 != 6 || (!quoted && length > room) {
            return Err(Counter::PassedMalformed);
        }
        packet.key.protocol = header.next;
        packet.network = offset;
        packet.transport = offset + V6_BYTES;
        packet.end = offset + length;
        packet.fragment = Part::Whole;
        if is_extension(header.next) {
            follow_extensions(frame, packet)?;
        }
        Ok(())
    }
}

#[inline(always)]
const fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS)
}

/// Go past the extension headers, to the transport header or the end of what a later fragment
/// shows.
#[inline(never)]
fn follow_extensions<F: Frame>(frame: &F, packet: &mut Packet<V6>) -> Result<(), Counter> {
    for _ in 0..V6_EXTENSIONS {
        if !is_extension(packet.key.protocol) {
            return Ok(());
        }
        let Some(extension) = frame.load::<Extension>(packet.transport) else {
            return Err(Counter::PassedMalformed);
        };
        let bytes = match packet.key.protocol {
            FRAGMENT => {
                let field = u16::from_be_bytes(extension.field);
                packet.fragment_id = extension.id;
                packet.fragment = match (field & 0xfff8, field & 1) {
                    (0, 0) => Part::Whole,
                    (0, _) => Part::First,
                    _ => Part::Later,
                };
                8
            }
            AUTHENTICATION => (u32::from(extension.length) + 2) * 4,
            // The destination in the header is not the last one.
            ROUTING if extension.field[1] != 0 => return Err(Counter::PassedHeaders),
            _ => (u32::from(extension.length) + 1) * 8,
        };
        packet.key.protocol = extension.next;
        packet.transport += bytes;
        if packet.transport > packet.end {
            return Err(Counter::PassedMalformed);
        }
        if packet.fragment == Part::Later {
            return Ok(());
        }
    }
    if is_extension(packet.key.protocol) { Err(Counter::PassedHeaders) } else { Ok(()) }
}
