//! A packet in memory, with the semantics of the kernel's helpers on an skb whose checksums nobody
//! has judged (`CHECKSUM_NONE`), as `BPF_PROG_TEST_RUN` makes it.

use std::cell::RefCell;

use millrace_common::address::{Be16, checksum_add};
use millrace_common::packet::frame::{Checksum, ETHERNET_BYTES, ETHERTYPE_V6, Frame};
use millrace_common::row::Row;

use super::build::ADDRESS;

/// Where an Ethernet header says what it carries.
const ETHERTYPE_OFFSET: usize = 12;
/// Checksum helpers refuse offsets beyond this (`net/core/filter.c`).
const CHECKSUM_OFFSET_MAX: u32 = 0xffff;
/// Bytes of the smallest network headers: `resize` goes no lower.
const HEADER_BYTES_V4: u32 = 20;
/// As above, IPv6.
const HEADER_BYTES_V6: u32 = 40;
/// What `resize` goes up to: `BPF_SKB_MAX_LEN` with pages of 4096 bytes is a little less.
const RESIZE_BYTES_MAX: u32 = 16_384 - 512;
/// Index of the loopback device, always.
const LOOPBACK: u32 = 1;
/// What a UDP checksum that comes out as zero becomes (`CSUM_MANGLED_0`).
const MANGLED_ZERO: u16 = 0xffff;

/// A packet under a hook.
#[derive(Debug)]
pub struct Buffer {
    bytes: RefCell<Vec<u8>>,
    link_bytes: u32,
    ethertype: Be16,
    device: u32,
    is_for_another_host: bool,
}

impl Buffer {
    /// A frame on an Ethernet device.
    pub fn ethernet(bytes: Vec<u8>, device: u32) -> Self {
        Self::new(bytes, device, ETHERNET_BYTES)
    }

    /// A packet on a device without a link layer. It has an ethertype where a frame has it, because
    /// `BPF_PROG_TEST_RUN` takes everything for a frame: see [`super::kernel`].
    pub fn raw(bytes: Vec<u8>, device: u32) -> Self {
        Self::new(bytes, device, 0)
    }

    fn new(bytes: Vec<u8>, device: u32, link_bytes: u32) -> Self {
        let ethertype = match bytes.get(ETHERTYPE_OFFSET..ETHERTYPE_OFFSET + 2) {
            Some(&[high, low]) => Be16::new(u16::from_be_bytes([high, low])),
            _ => Be16::new(0),
        };
        let is_for_another_host = is_for_another_host(&bytes, device);
        Self { bytes: RefCell::new(bytes), link_bytes, ethertype, device, is_for_another_host }
    }

    /// What it has become.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes.into_inner()
    }

    /// A copy of what it is now.
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes.borrow().clone()
    }

    /// Change the checksum at `offset`; false where the kernel would say EFAULT.
    fn change_checksum(&self, offset: u32, change: impl FnOnce(u16) -> u16) -> bool {
        let mut bytes = self.bytes.borrow_mut();
        let start = offset as usize;
        if offset > CHECKSUM_OFFSET_MAX || offset & 1 != 0 {
            return false;
        }
        let Some(place) = bytes.get_mut(start..start + 2) else {
            return false;
        };
        let old = u16::from_ne_bytes([place[0], place[1]]);
        place.copy_from_slice(&change(old).to_ne_bytes());
        true
    }
}

impl Frame for Buffer {
    const SWIFT: bool = true;

    fn len(&self) -> u32 {
        u32::try_from(self.bytes.borrow().len()).unwrap_or(u32::MAX)
    }
    fn link_bytes(&self) -> u32 {
        self.link_bytes
    }
    fn ethertype(&self) -> Be16 {
        self.ethertype
    }
    fn device_index(&self) -> u32 {
        self.device
    }
    fn is_for_another_host(&self) -> bool {
        self.is_for_another_host
    }
    fn load<T: Row>(&self, offset: u32) -> Option<T> {
        let bytes = self.bytes.borrow();
        let start = offset as usize;
        T::from_bytes(bytes.get(start..start.checked_add(size_of::<T>())?)?)
    }
    fn store<T: Row>(&self, offset: u32, value: &T) -> bool {
        let mut bytes = self.bytes.borrow_mut();
        let start = offset as usize;
        match bytes.get_mut(start..start.saturating_add(size_of::<T>())) {
            Some(place) => {
                place.copy_from_slice(value.as_bytes());
                true
            }
            None => false,
        }
    }
    fn update_header_checksum(&self, offset: u32, difference: u32) -> bool {
        self.change_checksum(offset, |old| replace_by_difference(old, difference))
    }
    fn update_checksum(&self, offset: u32, difference: u32, how: Checksum) -> bool {
        // `pseudo` and `v6` matter only to checksums that hardware computes or has computed.
        self.change_checksum(offset, |old| {
            if how.optional && old == 0 {
                return 0;
            }
            match replace_by_difference(old, difference) {
                0 if how.optional => MANGLED_ZERO,
                new => new,
            }
        })
    }
    fn resize(&self, len: u32) -> bool {
        let header = if self.ethertype == ETHERTYPE_V6 { HEADER_BYTES_V6 } else { HEADER_BYTES_V4 };
        if len < self.link_bytes + header || len > RESIZE_BYTES_MAX {
            return false;
        }
        self.bytes.borrow_mut().resize(len as usize, 0);
        true
    }
}

/// As the kernel tells it when a frame comes in (`eth_skb_pkt_type`). Devices have [`ADDRESS`], but
/// loopback none.
fn is_for_another_host(frame: &[u8], device: u32) -> bool {
    let own = if device == LOOPBACK { [0; 6] } else { ADDRESS };
    frame.first_chunk().is_some_and(|to: &[u8; 6]| *to != own && to[0] & 1 == 0)
}

/// `csum_replace_by_diff`.
fn replace_by_difference(old: u16, difference: u32) -> u16 {
    fold(checksum_add(difference, !u32::from(old)))
}

/// `csum_fold`: to sixteen bits, complemented.
fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    let twice = (once & 0xffff) + (once >> 16);
    !(twice as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UDP: Checksum = Checksum { pseudo: true, optional: true, v6: false };
    const TCP: Checksum = Checksum { pseudo: true, optional: false, v6: false };

    #[test]
    fn reads_and_writes_stay_inside() {
        let buffer = Buffer::ethernet(vec![0; 60], 1);
        assert!(buffer.store(56, &0x0102_0304_u32.to_be()));
        assert_eq!(buffer.load::<u32>(56), Some(0x0102_0304_u32.to_be()));
        assert!(!buffer.store(57, &0_u32));
        assert_eq!(buffer.load::<u32>(57), None);
        assert_eq!(buffer.load::<u32>(u32::MAX), None);
    }

    #[test]
    fn no_checksum_stays_none_and_a_zero_is_written_as_ones() {
        let buffer = Buffer::ethernet(vec![0; 60], 1);
        assert!(buffer.update_checksum(40, 0x1234, UDP));
        assert_eq!(buffer.load::<u32>(40), Some(0));
        // ~(~x + x) is 0: what makes the sum come out as zero.
        let buffer = Buffer::ethernet(vec![0x78; 60], 1);
        let old = u32::from(u16::from_ne_bytes([0x78; 2]));
        assert!(buffer.update_checksum(40, old, UDP));
        assert_eq!(buffer.bytes()[40..42], [0xff, 0xff]);
        let buffer = Buffer::ethernet(vec![0x78; 60], 1);
        assert!(buffer.update_checksum(40, old, TCP));
        assert_eq!(buffer.bytes()[40..42], [0, 0]);
    }

    #[test]
    fn checksums_at_odd_or_far_offsets_are_refused() {
        let buffer = Buffer::ethernet(vec![0; 60], 1);
        assert!(!buffer.update_header_checksum(25, 1));
        assert!(!buffer.update_header_checksum(60, 1));
        assert!(!buffer.update_header_checksum(0x1_0000, 1));
    }

    #[test]
    fn a_packet_grows_by_zeroes_and_keeps_its_headers() {
        let mut frame = vec![0xee; 60];
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        let buffer = Buffer::ethernet(frame, 1);
        assert!(!buffer.resize(33));
        assert!(buffer.resize(34) && buffer.resize(36));
        assert_eq!(buffer.bytes()[33..], [0xee, 0, 0]);
    }
}
