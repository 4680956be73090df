//! CPU clocks and memory of processes: what is compared instead of wall time.

use anyhow::{Context, Result, ensure};

/// CPU time of a process so far, in microseconds.
pub fn cpu_us(process: u32) -> Result<f64> {
    let mut clock = 0;
    // SAFETY: a valid place for the result.
    let error = unsafe { libc::clock_getcpuclockid(process.cast_signed(), &raw mut clock) };
    ensure!(error == 0, "the CPU clock of process {process}: errno {error}");
    read_clock(clock)
}

/// CPU time of this thread so far, in microseconds.
pub fn thread_cpu_us() -> Result<f64> {
    read_clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// The clock that all processes share and nobody sets, in microseconds.
pub fn monotonic_us() -> Result<f64> {
    read_clock(libc::CLOCK_MONOTONIC)
}

fn read_clock(clock: libc::clockid_t) -> Result<f64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place for the result.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    ensure!(result == 0, "read a clock: {}", std::io::Error::last_os_error());
    Ok(time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3)
}

/// A process' memory from /proc/PID/status, in MiB: `VmRSS` now, `VmHWM` at most so far.
pub fn memory_mib(process: u32, field: &str) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status"))
        .with_context(|| format!("the status of process {process}"))?;
    kib(&text, field).with_context(|| format!("no {field} of process {process}"))
}

/// Kernel memory that rules and maps may be in, in MiB: everything the machine has.
pub fn kernel_mib() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    Ok(["Slab", "VmallocUsed", "Percpu"].iter().filter_map(|field| kib(&text, field)).sum())
}

fn kib(text: &str, field: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_by_whole_names() {
        let text = "VmRSSx:\t1 kB\nVmRSS:\t    2048 kB\n";
        assert_eq!(kib(text, "VmRSS"), Some(2.0));
        assert_eq!(kib(text, "VmHWM"), None);
        assert!(memory_mib(std::process::id(), "VmRSS").unwrap() > 0.1);
    }

    #[test]
    fn cpu_clocks_go_on() {
        let before = cpu_us(std::process::id()).unwrap();
        let mut sum = 0_u64;
        while thread_cpu_us().unwrap() < 2000.0 {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(cpu_us(std::process::id()).unwrap() > before, "{sum}");
    }
}
