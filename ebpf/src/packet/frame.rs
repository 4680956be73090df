//! The packet, through the helpers on `__sk_buff`.

use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::generated;
use core::mem::MaybeUninit;
use millrace_common::address::Be16;
use millrace_common::packet::frame::{Checksum, Frame};
use millrace_common::row::Row;

use super::Hook;
use crate::kernel::helpers;

/// `PACKET_OTHERHOST`.
const PACKET_OTHERHOST: u32 = 3;

impl<const SWIFT: bool> Frame for Hook<'_, SWIFT> {
    const SWIFT: bool = SWIFT;

    #[inline(always)]
    fn len(&self) -> u32 {
        self.ctx.len()
    }
    #[inline(always)]
    fn link_bytes(&self) -> u32 {
        self.link_bytes
    }
    #[inline(always)]
    fn forget(&self, number: u32) -> u32 {
        helpers::forget(self.ctx, number)
    }
    #[inline(always)]
    fn ethertype(&self) -> Be16 {
        helpers::ethertype(self.ctx)
    }
    #[inline(always)]
    fn device_index(&self) -> u32 {
        helpers::device(self.ctx)
    }
    #[inline(always)]
    fn is_for_another_host(&self) -> bool {
        helpers::packet_type(self.ctx) == PACKET_OTHERHOST
    }
    #[inline(always)]
    fn load<T: Row>(&self, offset: u32) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the context, and memory of the length that is given.
        let result = unsafe {
            generated::bpf_skb_load_bytes(
                self.ctx.skb.skb.cast(),
                offset,
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
            )
        };
        if result != 0 {
            return None;
        }
        // SAFETY: the helper wrote all of it, and every bit pattern of a row is valid.
        Some(unsafe { value.assume_init() })
    }
    #[inline(always)]
    fn load_header<T: Row>(&self, offset: u32) -> Option<T> {
        if !SWIFT || offset > helpers::DIRECT_BYTES {
            return self.load(offset);
        }
        let mut value = MaybeUninit::<T>::uninit();
        if !helpers::read_packet(self.ctx, offset, &mut value) {
            return None;
        }
        // SAFETY: all of it was written, and every bit pattern of a row is valid.
        Some(unsafe { value.assume_init() })
    }
    #[inline(always)]
    fn store<T: Row>(&self, offset: u32, value: &T) -> bool {
        // SAFETY: the context, and a row of the length that is given.
        let result = unsafe {
            generated::bpf_skb_store_bytes(
                self.ctx.skb.skb,
                offset,
                core::ptr::from_ref(value).cast(),
                size_of::<T>() as u32,
                0,
            )
        };
        result == 0
    }
    #[inline(always)]
    fn update_header_checksum(&self, offset: u32, difference: u32) -> bool {
        let skb = self.ctx.skb.skb;
        // SAFETY: the context and numbers.
        unsafe { generated::bpf_l3_csum_replace(skb, offset, 0, u64::from(difference), 0) == 0 }
    }
    #[inline(always)]
    fn update_checksum(&self, offset: u32, difference: u32, how: Checksum) -> bool {
        let mut flags = 0;
        if how.pseudo {
            flags |= u64::from(BPF_F_PSEUDO_HDR);
        }
        if how.optional {
            flags |= u64::from(BPF_F_MARK_MANGLED_0);
        }
        let skb = self.ctx.skb.skb;
        // SAFETY: the context and numbers.
        let result =
            unsafe { generated::bpf_l4_csum_replace(skb, offset, 0, u64::from(difference), flags) };
        if how.pseudo && how.v6 {
            // The helper takes the difference off the sum that a network card gave for the whole
            // packet, though IPv6 has no header checksum that puts it there (BPF_F_IPV6 of Linux
            // 6.16 would tell it). Put it there.
            // SAFETY: as above.
            unsafe { generated::bpf_csum_update(skb, difference) };
        }
        result == 0
    }
    #[inline(always)]
    fn resize(&self, len: u32) -> bool {
        // SAFETY: the context and a number.
        unsafe { generated::bpf_skb_change_tail(self.ctx.skb.skb, len, 0) == 0 }
    }
}
