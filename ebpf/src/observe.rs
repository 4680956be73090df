//! Debug logging of what is dialled, compiled in only with the feature `bpf-log`.

use millrace_common::address::Address;
use millrace_common::frontend::FrontendKey;
use millrace_common::select::Decision;

use crate::kernel::context::SockAddr;

/// A socket dialled a destination.
#[cfg(feature = "bpf-log")]
#[inline(always)]
pub fn dialled<A: Address>(ctx: &SockAddr, key: &FrontendKey<A>, decision: &Decision<A>) {
    use core::net::Ipv6Addr;
    let from = octets(key.address);
    match decision {
        Decision::Pass => {}
        Decision::Forward(target) => aya_log_ebpf::debug!(
            ctx.inner(),
            "[{:i}]:{} protocol {} to backend {} at [{:i}]:{}",
            Ipv6Addr::from(from),
            key.port.get(),
            key.protocol,
            target.id,
            Ipv6Addr::from(octets(target.address)),
            target.port.get()
        ),
        _ => aya_log_ebpf::debug!(
            ctx.inner(),
            "[{:i}]:{} protocol {} has no backend for this client",
            Ipv6Addr::from(from),
            key.port.get(),
            key.protocol
        ),
    }
}

#[cfg(feature = "bpf-log")]
#[inline(always)]
fn octets<A: Address>(address: A) -> [u8; 16] {
    // SAFETY: sixteen bytes either way, without padding.
    unsafe { core::mem::transmute(address.to_v6()) }
}

/// A socket dialled a destination: not logged in this build.
#[cfg(not(feature = "bpf-log"))]
#[inline(always)]
pub fn dialled<A: Address>(_: &SockAddr, _: &FrontendKey<A>, _: &Decision<A>) {}
