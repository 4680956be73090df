//! The canary: connections and packets of our own that must come out translated, again and again.
//!
//! Programs that are attached may still not work: somebody's program before ours refuses, a row is
//! wrong, a hook behaves otherwise. So a Service of our own ([`rows`]) is planned like any other,
//! under a name and addresses that no object can have, and used once a second: by sockets of a
//! helper process in the cgroup that is served ([`helper`], driven by [`sockets`]), and by packets
//! run through the programs as they are attached to a device ([`packets`]). [`tally`] keeps the
//! score.

pub mod helper;
pub mod packets;
pub mod rows;
pub mod sockets;
pub mod tally;
#[cfg(test)]
mod tests;

use std::time::Duration;

/// From one check to the next.
pub const CHECK_EVERY: Duration = Duration::from_secs(1);
