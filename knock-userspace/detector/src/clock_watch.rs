//! Hears when the host has slept or its wall clock was set.

use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::time::{TimeSpec, TimeValLike as _};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A timer that never goes off, and that the kernel cancels when the wall clock jumps; a resume
/// counts as such (timerfd_create(2), `TFD_TIMER_CANCEL_ON_SET`).
#[derive(Debug)]
pub struct ClockWatch {
    timer: AsyncFd<OwnedFd>,
}

impl ClockWatch {
    /// Begins to listen.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the timer, or there is no event loop.
    pub fn open() -> io::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_REALTIME, flags)?;
        let never = Expiration::OneShot(TimeSpec::seconds(i64::from(i32::MAX) * 4));
        let absolute =
            TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        timer.set(never, absolute)?;
        // SAFETY: the value owns the file descriptor, always names the same one, and is dropped
        // after it has been deregistered.
        let timer =
            unsafe { AsyncFd::register_with_interest(OwnedFd::from(timer), Interest::READABLE) };
        Ok(Self { timer: timer.map_err(|error| error.into_parts().1)? })
    }

    /// Waits for the next one. Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// If the timer fails.
    pub async fn next(&mut self) -> io::Result<()> {
        loop {
            let mut guard = self.timer.readable().await?;
            let mut count = [0; 8];
            match nix::unistd::read(guard.get_inner(), &mut count) {
                Err(Errno::EAGAIN) => guard.clear_ready(),
                Err(Errno::ECANCELED) | Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
