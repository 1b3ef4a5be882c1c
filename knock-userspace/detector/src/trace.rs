//! The XDP program's own messages, for `--trace-kernel`.

use std::convert::Infallible;
use std::io;

use aya::Ebpf;
use aya_log::EbpfLogger;

use super::DetectorError;
use super::readable::Readable;

/// Forwards messages of the XDP program to the log, under the target `kernel`.
pub struct Trace {
    logger: Readable<EbpfLogger<Forward>>,
}

/// Turns log records into tracing events.
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
        let failed = || DetectorError::io("cannot read the kernel's messages");
        let logger = EbpfLogger::init_with_logger(ebpf, Forward)
            .map_err(|error| failed()(io::Error::other(error)))?;
        Ok(Self { logger: Readable::new(logger).map_err(failed())? })
    }

    /// Forwards messages until the future is dropped.
    ///
    /// # Errors
    ///
    /// If the file descriptor cannot be polled.
    pub async fn run(&mut self) -> io::Result<Infallible> {
        self.logger
            .next(|logger| {
                logger.flush();
                None
            })
            .await
    }
}
