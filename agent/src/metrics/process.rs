//! What every process tells, under the names that Go's client gave it. The `prometheus` crate can
//! do this too, but counts CPU time in whole seconds, which an agent that uses little shows in
//! steps.

use std::fs;
use std::sync::OnceLock;

use prometheus::proto::MetricFamily;

use super::family::Family;

/// Where in `/proc/self/stat`, behind the program's name, the start time stands; in clock ticks
/// since the boot.
const START_TIME: usize = 19;
/// Likewise, bytes of virtual memory.
const VIRTUAL_BYTES: usize = 20;
/// Likewise, pages of resident memory.
const RESIDENT_PAGES: usize = 21;

/// The process's metrics. `tasks`: of its async runtime. What cannot be read is left out.
pub(super) fn families(tasks: Option<usize>) -> Vec<MetricFamily> {
    let gauge = |name, help, value: Option<f64>| {
        let mut family = Family::gauge(name, help, &[]);
        value.into_iter().for_each(|value| family.add_f64(&[], value));
        family.finish()
    };
    let stat = Stat::read();
    let field = |index: usize| stat.as_ref().and_then(|stat| stat.field(index));
    let mut cpu =
        Family::counter("process_cpu_seconds_total", "CPU time in user and kernel mode", &[]);
    cpu_seconds().into_iter().for_each(|seconds| cpu.add_f64(&[], seconds));
    let families = [
        cpu.finish(),
        gauge("process_resident_memory_bytes", "Resident memory", field(RESIDENT_PAGES).map(pages)),
        gauge("process_virtual_memory_bytes", "Virtual memory", field(VIRTUAL_BYTES)),
        gauge("process_start_time_seconds", "Start of the process, since the epoch", started()),
        gauge("process_open_fds", "Open file descriptors", open_fds()),
        gauge("process_max_fds", "Most file descriptors it may open", max_fds()),
        gauge(
            "go_goroutines",
            "Tasks of the agent's async runtime, which is what it has in place of goroutines; \
             under the name that kube-proxy's dashboards draw",
            tasks.map(|tasks| tasks as f64),
        ),
    ];
    families.into_iter().flatten().collect()
}

/// `/proc/self/stat`, from behind the program's name, which may have blanks in it.
struct Stat(String);

impl Stat {
    fn read() -> Option<Self> {
        let text = fs::read_to_string("/proc/self/stat").ok()?;
        Some(Self(text.rsplit_once(") ")?.1.to_owned()))
    }

    fn field(&self, index: usize) -> Option<f64> {
        self.0.split_ascii_whitespace().nth(index)?.parse().ok()
    }
}

fn pages(pages: f64) -> f64 {
    // SAFETY: asks for a constant.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages * bytes as f64
}

/// It does not change: worked out once.
fn started() -> Option<f64> {
    static STARTED: OnceLock<Option<f64>> = OnceLock::new();
    *STARTED.get_or_init(|| {
        let since_boot = Stat::read()?.field(START_TIME)?;
        let stat = fs::read_to_string("/proc/stat").ok()?;
        let boot: f64 = stat.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()?;
        // SAFETY: asks for a constant.
        let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        Some(boot + since_boot / ticks as f64)
    })
}

fn cpu_seconds() -> Option<f64> {
    // SAFETY: plain numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: a known target and a live struct.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) } != 0 {
        return None;
    }
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Some(seconds(usage.ru_utime) + seconds(usage.ru_stime))
}

fn open_fds() -> Option<f64> {
    // The one that reads the directory is none that stays.
    fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1) as f64)
}

fn max_fds() -> Option<f64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a known resource and a live struct.
    let asked = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    (asked == 0).then_some(limit.rlim_cur as f64)
}
