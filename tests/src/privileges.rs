//! Programs with fewer privileges than root, as a container's security context leaves them.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Bits of capabilities (linux/capability.h).
pub const CAP_NET_ADMIN: u64 = 1 << 12;
/// To load and use BPF programs and maps.
pub const CAP_BPF: u64 = 1 << 39;
/// To let BPF programs follow pointers.
pub const CAP_PERFMON: u64 = 1 << 38;

/// `_LINUX_CAPABILITY_VERSION_3`: 64 bits, in two halves.
const VERSION_3: u32 = 0x2008_0522;

/// `struct __user_cap_header_struct`; glibc has none.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`.
#[repr(C)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Lets the command run with these capabilities and no way to others: what the runtime of
/// `capabilities: {drop: [ALL], add: [...]}` with `allowPrivilegeEscalation: false` does.
///
/// The user stays root, who owns the files of bpffs but without CAP_DAC_OVERRIDE passes no other
/// owner's.
pub fn limit(command: &mut Command, bits: u64) {
    // SAFETY: the hook runs between fork and exec and only makes system calls on its own stack.
    unsafe { command.pre_exec(move || drop_all_but(bits)) };
}

/// Async-signal-safe.
fn drop_all_but(bits: u64) -> io::Result<()> {
    for bit in 0..u64::BITS {
        let number = libc::c_ulong::from(bit);
        // SAFETY: takes a number; -1 for those the kernel does not know.
        let held = unsafe { libc::prctl(libc::PR_CAPBSET_READ, number) } == 1;
        if held && bits & (1 << bit) == 0 {
            // SAFETY: as above.
            check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number) })?;
        }
    }
    let zero: libc::c_ulong = 0;
    let (clear, one) = (libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 1 as libc::c_ulong);
    // SAFETY: takes numbers only.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, clear, zero, zero, zero) })?;
    // SAFETY: takes numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, one, zero, zero, zero) })?;
    let header = Header { version: VERSION_3, pid: 0 };
    let half = |bits: u64| {
        let bits = (bits & u64::from(u32::MAX)) as u32;
        Half { effective: bits, permitted: bits, inheritable: 0 }
    };
    let halves = [half(bits), half(bits >> 32)];
    // SAFETY: both pointers are to live values of the layout that version 3 has.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, halves.as_ptr()) } as i32)
}

fn check(code: i32) -> io::Result<()> {
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
