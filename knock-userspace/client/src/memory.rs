//! The saved time of the last knock of a key. With it the next knock is newer, and a clock that was
//! set back is noticed.

use std::path::PathBuf;
use std::time::Duration;

use etcetera::BaseStrategy as _;
use knock_keys::{KeyLine, WINDOW, write_secret};

pub(super) struct Memory {
    file: Option<PathBuf>,
    last_ns: u64,
    set_back: Option<Duration>,
}

impl Memory {
    pub(super) fn of(line: &KeyLine) -> Self {
        let strategy = etcetera::choose_base_strategy().ok();
        let folder = strategy.map(|s| s.state_dir().unwrap_or_else(|| s.data_dir()));
        let file = folder.map(|folder| folder.join("xknock").join(line.id.to_string()));
        let text = file.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
        let last_ns = text.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        Self { file, last_ns, set_back: None }
    }

    /// Returns the time for the next knock: now, or just after the last knock if the clock was set
    /// back by less than hosts notice.
    pub(super) fn next(&mut self, now_ns: u64) -> u64 {
        let back = Duration::from_nanos(self.last_ns.saturating_sub(now_ns));
        if back >= WINDOW {
            self.set_back = Some(back);
        }
        if self.last_ns >= now_ns && back < WINDOW { self.last_ns + 1 } else { now_ns }
    }

    /// Saves the time of a knock that was sent. An error is ignored, because the client can knock
    /// without it.
    ///
    /// After a clock that was wrong, an earlier time replaces a later one.
    pub(super) fn remember(&mut self, time_ns: u64) {
        self.last_ns = time_ns;
        if let Some(file) = &self.file {
            let _ = write_secret(file, &time_ns.to_string(), true);
        }
    }

    /// Returns how far the clock was behind the time of the last knock, if hosts notice that.
    pub(super) const fn set_back(&self) -> Option<Duration> {
        self.set_back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_knock_is_newer_than_the_last() {
        let mut memory = Memory { file: None, last_ns: 0, set_back: None };
        assert_eq!(memory.next(1 << 60), 1 << 60);
        memory.remember(1 << 60);
        assert_eq!(memory.next(1 << 60), (1 << 60) + 1);
        assert_eq!(memory.next((1 << 60) - 50_000_000_000), (1 << 60) + 1);
        assert_eq!(memory.set_back(), None);
        // A clock that went back far: the host would not take a time so far ahead either.
        let far = (1 << 60) - 3_600_000_000_000;
        assert_eq!(memory.next(far), far);
        assert_eq!(memory.set_back(), Some(Duration::from_secs(3600)));
        memory.remember(far);
        assert_eq!(memory.next(far + 5), far + 5, "what was wrong is forgotten");
    }
}
