//! A watch on the wall clock.

use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::time::{TimeSpec, TimeValLike as _};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::read;

use super::readable::Readable;

/// Reports when the wall clock was set or the host has slept.
///
/// It is a timer that never expires. The kernel cancels it when the wall clock jumps, and a resume
/// counts as a jump (timerfd_create(2), `TFD_TIMER_CANCEL_ON_SET`).
#[derive(Debug)]
pub struct ClockWatch {
    timer: Readable<OwnedFd>,
}

impl ClockWatch {
    /// Begins to watch.
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
        Ok(Self { timer: Readable::new(OwnedFd::from(timer))? })
    }

    /// Waits for the next jump. Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// If the timer fails.
    pub async fn next(&mut self) -> io::Result<()> {
        self.timer.next(|timer| jumped(timer)).await?
    }
}

/// Returns what the timer reports, or `None` if the clock did not jump.
fn jumped(timer: &OwnedFd) -> Option<io::Result<()>> {
    loop {
        match read(timer, &mut [0; 8]) {
            Err(Errno::EAGAIN) => return None,
            Err(Errno::ECANCELED) | Ok(_) => return Some(Ok(())),
            Err(Errno::EINTR) => {}
            Err(errno) => return Some(Err(errno.into())),
        }
    }
}
