//! Waiting for a condition, with a name and a bound, instead of sleeping.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a change of an endpoint may take to show. kube-proxy's own tests allow 30 s.
pub const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause between two looks at a condition that costs a system call or two.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// By what all time limits are multiplied, from the environment: an emulated machine is slower.
const PATIENCE: &str = "MILLRACE_PATIENCE";

/// Calls `condition` until it holds; after `timeout` fails with `what` and the last reason. The
/// last look begins when the time is over: an earlier one may have seen how things were, and have
/// taken the rest of the time to tell.
///
/// The condition returns `Ok(value)` when it holds, and otherwise an error that says what it saw:
/// that is what a person reads when the wait was in vain.
pub fn until<T>(
    what: &str,
    timeout: Duration,
    mut condition: impl FnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    let timeout = timeout * patience();
    let mut looks = 0_u64;
    loop {
        looks += 1;
        let is_last = start.elapsed() >= timeout;
        match condition() {
            Ok(value) => return Ok(value),
            Err(reason) if is_last => {
                bail!("waited {timeout:?} for {what} ({looks} looks); last seen: {reason:#}")
            }
            Err(_) => std::thread::sleep(POLL_INTERVAL),
        }
    }
}

fn patience() -> u32 {
    std::env::var(PATIENCE).ok().and_then(|factor| factor.parse().ok()).unwrap_or(1)
}

/// Waits for a yes.
pub fn until_true(
    what: &str,
    timeout: Duration,
    mut condition: impl FnMut() -> bool,
) -> Result<()> {
    until(what, timeout, || if condition() { Ok(()) } else { bail!("not yet") })
}
