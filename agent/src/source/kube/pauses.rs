//! How long to wait after a failure.

use std::time::Duration;

use backon::ExponentialBuilder;
use kube::runtime::utils::{Backoff as _, ResetTimerBackoff};
use kube::runtime::watcher::ExponentialBackoff;

use super::failure::Failure;
use super::watch::Timing;

/// Pauses of one follower: each longer than the one before, up to a limit.
pub(super) struct Pauses {
    growing: ResetTimerBackoff<ExponentialBackoff>,
    longest: Duration,
    /// Whether a watch has lasted since a version last expired.
    has_watched: bool,
}

impl Pauses {
    pub fn new(timing: &Timing) -> Self {
        let pauses = ExponentialBuilder::new()
            .with_min_delay(timing.retry_first)
            .with_max_delay(timing.retry_max)
            .with_jitter()
            .without_max_times();
        let growing = ResetTimerBackoff::new(ExponentialBackoff::from(pauses), timing.retry_reset);
        Self { growing, longest: timing.retry_max, has_watched: false }
    }

    /// A watch has lasted.
    pub fn watched(&mut self) {
        self.has_watched = true;
    }

    /// How long to wait after a failure.
    ///
    /// A version that expired while nobody could watch is an outage's last word: the server
    /// answers, and what made the pauses long is over. Not so if it expires again before any watch
    /// has lasted: a server whose lists are older than what it remembers would be asked for one
    /// after the other.
    pub fn after(&mut self, failure: &Failure) -> Duration {
        if failure.is_expired() && std::mem::take(&mut self.has_watched) {
            self.growing.reset();
        }
        self.growing.next().unwrap_or(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    const TIMING: Timing = Timing {
        retry_first: Duration::from_secs(1),
        retry_max: Duration::from_secs(64),
        ..Timing::DEFAULT
    };
    /// With the jitter.
    const FIRST_MAX: Duration = Duration::from_secs(2);

    fn expired() -> Failure {
        Failure::Refused(Box::new(Status { code: 410, ..Status::default() }))
    }

    fn after_an_outage() -> Pauses {
        let mut pauses = Pauses::new(&TIMING);
        pauses.watched();
        for _ in 0..10 {
            pauses.after(&Failure::Silent(Duration::ZERO));
        }
        assert!(pauses.after(&Failure::Silent(Duration::ZERO)) >= TIMING.retry_max);
        pauses
    }

    #[test]
    fn a_server_that_is_back_is_listed_soon() {
        assert!(after_an_outage().after(&expired()) <= FIRST_MAX);
    }

    #[test]
    fn lists_that_expire_at_once_are_made_less_and_less_often() {
        let mut pauses = after_an_outage();
        for _ in 0..10 {
            pauses.after(&expired());
        }
        assert!(pauses.after(&expired()) >= TIMING.retry_max);
        pauses.watched();
        assert!(pauses.after(&expired()) <= FIRST_MAX);
    }
}
