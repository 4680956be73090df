//! Who computes the checksums of what leaves a device: on a veth pair the device, which is nobody.

use std::fs;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};

use super::device::{check, interface};
use crate::lab::Place;

/// `SIOCETHTOOL` (linux/sockios.h) and `ETHTOOL_STXCSUM` (linux/ethtool.h).
const SIOCETHTOOL: libc::Ioctl = 0x8946;
const SET_SEND_CHECKSUM: u32 = 0x17;
/// Lines above the devices in `/proc/net/dev`.
const HEADINGS: usize = 2;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// From now on, what leaves by the devices of a place has its checksum before: the kernel computes
/// it, behind the programs of the hooks.
pub fn compute_checksums(place: &Place) -> Result<()> {
    let set = || -> Result<()> {
        let list = fs::read_to_string("/proc/thread-self/net/dev").context("list devices")?;
        let names = list.lines().skip(HEADINGS).filter_map(|line| line.split(':').next());
        let names: Vec<&str> = names.map(str::trim).filter(|name| *name != "lo").collect();
        ensure!(!names.is_empty(), "no devices");
        names.iter().try_for_each(|name| compute(name).with_context(|| (*name).to_owned()))
    };
    place.within(set)?.with_context(|| format!("checksums of {}", place.name()))
}

fn compute(device: &str) -> Result<()> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    check(fd)?;
    // SAFETY: the fd was just opened and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut value = Value { command: SET_SEND_CHECKSUM, data: 0 };
    let mut request = interface(device)?;
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: SIOCETHTOOL reads the name, and the value that the request points to.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) })
}
