//! The kernel program's own messages, for `--trace-kernel`.

use std::io;

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::DetectorError;

/// Forwards messages of the kernel program to the log, under the target `kernel`.
pub struct Trace {
    logger: AsyncFd<EbpfLogger<Forward>>,
}

/// Hands records on as tracing events.
struct Forward;

impl log::Log for Forward {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        tracing::info!(target: "kernel", "{}", record.args());
    }

    fn flush(&self) {}
}

impl Trace {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, DetectorError> {
        let what = "cannot read the kernel's messages";
        let logger = EbpfLogger::init_with_logger(ebpf, Forward)
            .map_err(|error| DetectorError::Io { what, source: io::Error::other(error) })?;
        // SAFETY: the logger owns its file descriptor, always names the same one, and is
        // dropped after it has been deregistered.
        let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }
            .map_err(|source| DetectorError::Io { what, source: source.into() })?;
        Ok(Self { logger })
    }

    /// Forwards messages for ever.
    ///
    /// # Errors
    ///
    /// If the file descriptor cannot be polled.
    pub async fn run(&mut self) -> io::Result<std::convert::Infallible> {
        loop {
            let mut guard = self.logger.readable_mut().await?;
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    }
}
