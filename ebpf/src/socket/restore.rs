//! On the way back: the application is shown the address it dialled.

use millrace_common::address::{Address, Be16, V6};

use super::record;
use crate::kernel::context::SockAddr;

/// These hooks may only allow.
const ALLOW: i32 = 1;

/// Who sent a datagram to an IPv4 socket.
#[inline(always)]
pub fn sender_v4(ctx: &SockAddr) -> i32 {
    show_v4(ctx, sender(ctx, ctx.v4().to_v6()))
}

/// Who sent a datagram to an IPv6 socket.
#[inline(always)]
pub fn sender_v6(ctx: &SockAddr) -> i32 {
    show_v6(ctx, sender(ctx, ctx.v6()))
}

/// Whom an IPv4 socket is connected to.
#[inline(always)]
pub fn peer_v4(ctx: &SockAddr) -> i32 {
    show_v4(ctx, connected(ctx, ctx.v4().to_v6()))
}

/// Whom an IPv6 socket is connected to.
#[inline(always)]
pub fn peer_v6(ctx: &SockAddr) -> i32 {
    show_v6(ctx, connected(ctx, ctx.v6()))
}

/// What the application knows the sender `address` as.
#[inline(always)]
fn sender(ctx: &SockAddr, address: V6) -> Option<(V6, Be16)> {
    match record::dialled_as(ctx.socket(), address, ctx.port()) {
        None => connected(ctx, address),
        dialled => dialled,
    }
}

/// What the application connected to, if the kernel connected it to `address`.
#[inline(always)]
fn connected(ctx: &SockAddr, address: V6) -> Option<(V6, Be16)> {
    let peer = record::connected(ctx.cookie(), ctx.socket())?;
    peer.leads_to(address, ctx.port()).then_some((peer.dialled, peer.dialled_port))
}

#[inline(always)]
fn show_v4(ctx: &SockAddr, dialled: Option<(V6, Be16)>) -> i32 {
    if let Some((address, port)) = dialled
        && let Some(address) = address.unmapped()
    {
        ctx.set_v4(address, port);
    }
    ALLOW
}

#[inline(always)]
fn show_v6(ctx: &SockAddr, dialled: Option<(V6, Be16)>) -> i32 {
    if let Some((address, port)) = dialled {
        ctx.set_v6(address, port);
    }
    ALLOW
}
