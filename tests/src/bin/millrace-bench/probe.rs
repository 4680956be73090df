//! Connections one after the other while something changes: who answers, and since when.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::clock::monotonic_us;
use crate::server::CLOSE;

/// How long one connection may take before it counts as failed.
const DIAL_TIMEOUT: Duration = Duration::from_millis(300);
/// The same where nothing answers until something has begun to serve: what is asked is when.
const FIRST_DIAL_TIMEOUT: Duration = Duration::from_millis(20);
/// Pause after a refusal, which takes no time.
const REFUSED_PAUSE: Duration = Duration::from_millis(1);
/// How long a change may take until nobody waits for it any more: a real kube-proxy needs seconds.
const CHANGE_TIMEOUT_US: f64 = 60e6;
/// Connections after the first that obeyed: none may go to the old server.
const CONFIRMATIONS: u32 = 20;

/// What connections saw.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Seen {
    /// When the first connection was open that the new server answered, and after which none went
    /// to the old one: microseconds of the monotonic clock, which all processes share.
    pub changed_us: f64,
    /// All connections.
    pub connections: u32,
    /// Those that failed.
    pub failed: u32,
}

/// Dial until another server than `old` answers, and go on answering; `ready` is called as soon as
/// the old one has answered once.
pub fn await_change(
    target: SocketAddr,
    old: u8,
    ready: impl FnOnce() -> Result<()>,
) -> Result<Seen> {
    let begun = monotonic_us()?;
    let mut seen = Seen::default();
    let mut ready = Some(ready);
    let mut obeyed = 0;
    while obeyed <= CONFIRMATIONS {
        let answer = dial(target, DIAL_TIMEOUT);
        let now = monotonic_us()?;
        seen.connections += 1;
        match answer {
            Ok((name, _)) if name == old => {
                obeyed = 0;
                if let Some(ready) = ready.take() {
                    ready()?;
                }
            }
            Ok((name, opened_us)) if ready.is_some() => {
                bail!("server {name} answered, not {old}, {opened_us} us")
            }
            Ok((_, opened_us)) => {
                if obeyed == 0 {
                    seen.changed_us = opened_us;
                }
                obeyed += 1;
            }
            Err(_) => seen.failed += 1,
        }
        if now - begun > CHANGE_TIMEOUT_US {
            bail!("no change within {} s", CHANGE_TIMEOUT_US / 1e6);
        }
    }
    Ok(seen)
}

/// Dial for that long.
pub fn dial_for(target: SocketAddr, time: Duration) -> Seen {
    let begun = std::time::Instant::now();
    let mut seen = Seen::default();
    while begun.elapsed() < time {
        seen.connections += 1;
        seen.failed += u32::from(dial(target, DIAL_TIMEOUT).is_err());
    }
    seen
}

/// Dial for that long, until somebody answers: when the connection was open, in microseconds of the
/// monotonic clock.
pub fn first_answer(target: SocketAddr, time: Duration) -> Option<f64> {
    let begun = std::time::Instant::now();
    while begun.elapsed() < time {
        if let Ok((_, opened_us)) = dial(target, FIRST_DIAL_TIMEOUT) {
            return Some(opened_us);
        }
        std::thread::sleep(REFUSED_PAUSE);
    }
    None
}

/// Who answered, and when the connection was open.
fn dial(target: SocketAddr, timeout: Duration) -> Result<(u8, f64)> {
    let mut stream = TcpStream::connect_timeout(&target, timeout)?;
    let opened = monotonic_us()?;
    stream.set_read_timeout(Some(DIAL_TIMEOUT))?;
    stream.write_all(&[CLOSE])?;
    let mut name = [0];
    stream.read_exact(&mut name)?;
    // The server closes first, which leaves the client's port free.
    let _ = stream.read(&mut [0]);
    Ok((name[0], opened))
}
