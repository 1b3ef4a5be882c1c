//! Values with a file descriptor that the event loop waits on.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A value that owns a file descriptor.
///
/// # Safety
///
/// As long as the value lives, the descriptor is open and `as_raw_fd` returns this one.
pub(super) unsafe trait OwnsFd: AsRawFd {}

// SAFETY: this is what the type is for.
unsafe impl OwnsFd for OwnedFd {}
// SAFETY: it owns its map, and never replaces the map's descriptor.
unsafe impl OwnsFd for RingBuf<MapData> {}
// SAFETY: it owns its ring buffer, of the type above.
unsafe impl<T> OwnsFd for EbpfLogger<T> {}

/// A value that the event loop can wait for until it is readable.
#[derive(Debug)]
pub(super) struct Readable<T: OwnsFd>(AsyncFd<T>);

impl<T: OwnsFd> Readable<T> {
    /// Registers the value with the event loop.
    ///
    /// # Errors
    ///
    /// If the event loop refuses the file descriptor.
    pub(super) fn new(value: T) -> io::Result<Self> {
        // SAFETY: the value owns its descriptor (`OwnsFd`), and nothing takes it out: `next` lends
        // the value to readers of this crate, none of which puts another in its place. `AsyncFd`
        // deregisters the descriptor before it drops the value.
        let registered = unsafe { AsyncFd::register_with_interest(value, Interest::READABLE) };
        registered.map(Self).map_err(|error| error.into_parts().1)
    }

    /// Waits until there may be something to read. Cancel safe: dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// If the file descriptor cannot be polled.
    pub(super) async fn ready(&mut self) -> io::Result<()> {
        self.0.readable().await.map(drop)
    }

    /// Waits until `read` returns something, and returns that. `read` must have read everything
    /// when it returns `None`. Cancel safe.
    ///
    /// # Errors
    ///
    /// If the file descriptor cannot be polled.
    pub(super) async fn next<R>(
        &mut self,
        mut read: impl FnMut(&mut T) -> Option<R>,
    ) -> io::Result<R> {
        loop {
            let mut guard = self.0.readable_mut().await?;
            if let Some(result) = read(guard.get_inner_mut()) {
                return Ok(result);
            }
            guard.clear_ready();
        }
    }
}

impl Readable<RingBuf<MapData>> {
    /// Hands at most `limit` of the waiting records to `take`. A record leaves the ring buffer
    /// when `take` has returned.
    pub(super) fn take<E>(
        &mut self,
        limit: usize,
        parse: impl Fn(&[u8]) -> Option<E>,
        mut take: impl FnMut(E),
    ) {
        let mut taken = 0;
        // `WouldBlock` makes the descriptor wait for the kernel again.
        let _ = self.0.try_io_mut(Interest::READABLE, |ring| {
            while taken < limit {
                let record = ring.next().ok_or(io::ErrorKind::WouldBlock)?;
                // A record of another size cannot come from this program.
                if let Some(event) = parse(&record) {
                    take(event);
                    taken += 1;
                }
            }
            Ok(())
        });
    }
}
