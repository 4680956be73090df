//! Debug logging from the BPF programs (feature `bpf-log`), through aya-log into our own log.

use anyhow::{Context, Result};
use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Follow the programs' log for as long as the runtime lives.
pub fn start(ebpf: &mut Ebpf) -> Result<()> {
    let logger = EbpfLogger::init(ebpf).context("open the programs' log")?;
    let mut logger =
        AsyncFd::with_interest(logger, Interest::READABLE).context("follow the log")?;
    tokio::spawn(async move {
        while let Ok(mut guard) = logger.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    });
    Ok(())
}
