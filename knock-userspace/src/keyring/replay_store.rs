//! Persistent replay state: for each key the time of the newest sealed knock, and the newest slot
//! that has opened each of its doors. Without it, old knocks would count again.
//!
//! The store is one file of records that are overwritten in place. Bytes 0..8 are `xknock1\n`,
//! bytes 8..16 the floor, which is the number of every owner without a record. Records of 16 bytes
//! follow: the owner, or 0 if the record is free, and its number. All numbers are little-endian.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"xknock1\n";
const RECORD: usize = 16;
/// The most records that a file may have, which is more than all keys and doors need.
const MOST: usize = 1 << 20;

/// The newest number of each owner, which only grows.
#[derive(Debug)]
pub struct ReplayStore {
    path: PathBuf,
    file: Option<File>,
    floor: u64,
    /// The place of each owner's record, and the number in it.
    records: HashMap<u64, (usize, u64)>,
    /// How many records the file has.
    count: usize,
    /// The places of those that are free.
    free: Vec<usize>,
    unsynced: bool,
}

/// The problem with the file when it was opened.
#[derive(Debug, thiserror::Error)]
pub enum ReplayStoreError {
    /// It is absent.
    #[error("{} is gone", .0.display())]
    Lost(PathBuf),
    /// Its content is not what this program writes.
    #[error("{} is damaged", .0.display())]
    Damaged(PathBuf),
    /// It cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl ReplayStore {
    /// Reads the file at `path`. A file that is lost or damaged is replaced by an empty one with
    /// the floor `lost`, and the problem is returned beside the store.
    pub fn open(path: &Path, lost: u64) -> (Self, Option<ReplayStoreError>) {
        let mut replay_store = Self::unread(path, lost);
        let problem = match replay_store.read() {
            Ok(()) => return (replay_store, None),
            Err(problem) => problem,
        };
        // A file that exists and cannot be read now may be readable later, so it stays.
        if !matches!(problem, ReplayStoreError::Io { .. })
            && let Err(source) = replay_store.create()
        {
            let path = path.to_owned();
            return (replay_store, Some(ReplayStoreError::Io { path, source }));
        }
        (replay_store, Some(problem))
    }

    /// Reads the file at `path`, and does not create it if it is absent.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn read_existing(path: &Path) -> Result<Self, ReplayStoreError> {
        let mut replay_store = Self::unread(path, 0);
        replay_store.read().map(|()| replay_store)
    }

    fn unread(path: &Path, floor: u64) -> Self {
        Self {
            path: path.to_owned(),
            file: None,
            floor,
            records: HashMap::new(),
            count: 0,
            free: Vec::new(),
            unsynced: false,
        }
    }

    /// Creates an empty file with the floor 0, unless the file exists. This is for a host that has
    /// no keys yet, where nothing can have been lost.
    ///
    /// # Errors
    ///
    /// If the file cannot be created.
    pub fn create_if_absent(path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        match created {
            Ok(mut file) => {
                // The file belongs to the agent's user, even if root runs this.
                if let Some(folder) = path.parent() {
                    knock_keys::give_to_owner_of(folder, &file);
                }
                file.write_all(&header(0))?;
                file.sync_all()
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn read(&mut self) -> Result<(), ReplayStoreError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => ReplayStoreError::Lost(self.path.clone()),
            _ => ReplayStoreError::Io { path: self.path.clone(), source },
        };
        let damaged = || ReplayStoreError::Damaged(self.path.clone());
        let file = OpenOptions::new().read(true).write(true).open(&self.path).map_err(failed)?;
        let mut bytes = Vec::new();
        (&file).take((MOST * RECORD) as u64).read_to_end(&mut bytes).map_err(failed)?;
        let (header, records) = bytes.split_first_chunk::<RECORD>().ok_or_else(damaged)?;
        let (magic, floor) = halves(header);
        if magic != u64::from_le_bytes(MAGIC) || records.len() % RECORD != 0 {
            return Err(damaged());
        }
        for (place, record) in records.chunks_exact(RECORD).enumerate() {
            match record.try_into().map(halves) {
                Ok((0, _)) => self.free.push(place),
                Ok((owner, number)) => _ = self.records.insert(owner, (place, number)),
                Err(_) => return Err(damaged()),
            }
        }
        self.count = records.len() / RECORD;
        self.floor = floor;
        self.file = Some(file);
        Ok(())
    }

    fn create(&mut self) -> io::Result<()> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        (self.count, self.records, self.free) = (0, HashMap::new(), Vec::new());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(&self.path)?;
        file.write_all_at(&header(self.floor), 0)?;
        file.sync_all()?;
        self.file = Some(file);
        Ok(())
    }

    /// Returns the number of `owner`, which must not be 0.
    pub fn get(&self, owner: u64) -> u64 {
        self.records.get(&owner).map_or(self.floor, |(_, number)| *number)
    }

    /// Whether `owner` has a record of its own.
    pub fn has_record(&self, owner: u64) -> bool {
        self.records.contains_key(&owner)
    }

    /// Returns the number of every owner without a record.
    pub const fn floor(&self) -> u64 {
        self.floor
    }

    /// Sets the number of `owner`. It is on disk once [`ReplayStore::sync`] has returned. In memory
    /// it counts from now on, even if it cannot be written.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn set(&mut self, owner: u64, number: u64) -> io::Result<()> {
        let place = match self.records.get(&owner) {
            Some((place, _)) => *place,
            None => self.free.pop().unwrap_or_else(|| {
                self.count += 1;
                self.count - 1
            }),
        };
        self.records.insert(owner, (place, number));
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        self.unsynced = true;
        file.write_all_at(&record(owner, number), ((place + 1) * RECORD) as u64)
    }

    /// Raises every number that is lower than `floor`, also of owners without a record.
    ///
    /// # Errors
    ///
    /// If it cannot be written. In memory it counts all the same.
    pub fn raise_floor(&mut self, floor: u64) -> io::Result<()> {
        if floor <= self.floor {
            return Ok(());
        }
        self.floor = floor;
        let lower = self.records.iter_mut().filter(|(_, (_, number))| *number < floor);
        let raised: Vec<_> = lower
            .map(|(owner, (place, number))| {
                *number = floor;
                (*owner, *place)
            })
            .collect();
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        file.write_all_at(&header(floor), 0)?;
        for (owner, place) in raised {
            file.write_all_at(&record(owner, floor), ((place + 1) * RECORD) as u64)?;
        }
        file.sync_data()
    }

    /// Waits until every number that was set is on disk.
    ///
    /// # Errors
    ///
    /// If the system cannot confirm that.
    pub fn sync(&mut self) -> io::Result<()> {
        match &self.file {
            Some(file) if self.unsynced => {
                file.sync_data()?;
                self.unsynced = false;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Frees the records for whose owner and number `keep` returns false.
    pub fn retain(&mut self, keep: impl Fn(u64, u64) -> bool) {
        let needless = self.records.iter().filter(|(owner, (_, number))| !keep(**owner, *number));
        let gone: Vec<_> = needless.map(|(owner, _)| *owner).collect();
        for owner in gone {
            if let Some((place, _)) = self.records.remove(&owner)
                && let Some(file) = &self.file
                && file.write_all_at(&record(0, 0), ((place + 1) * RECORD) as u64).is_ok()
            {
                self.free.push(place);
            }
        }
    }
}

fn header(floor: u64) -> [u8; RECORD] {
    record(u64::from_le_bytes(MAGIC), floor)
}

fn record(owner: u64, number: u64) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..8].copy_from_slice(&owner.to_le_bytes());
    record[8..].copy_from_slice(&number.to_le_bytes());
    record
}

fn halves(record: &[u8; RECORD]) -> (u64, u64) {
    let [a, b, c, d, e, f, g, h, rest @ ..] = *record;
    (u64::from_le_bytes([a, b, c, d, e, f, g, h]), u64::from_le_bytes(rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tempfile::TempDir;

    fn file() -> (TempDir, PathBuf) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("state/newest");
        (folder, path)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_was_set_is_read_again(
            sets in prop::collection::vec((1u64..50, any::<u64>()), 0..80), kept in 0u64..50,
        ) {
            let (_folder, path) = file();
            ReplayStore::create_if_absent(&path).unwrap();
            let (mut replay_store, problem) = ReplayStore::open(&path, 77);
            prop_assert!(problem.is_none());
            for &(owner, number) in &sets {
                replay_store.set(owner, number).unwrap();
            }
            replay_store.retain(|owner, _| owner < kept);
            prop_assert!((kept..50).all(|owner| replay_store.get(owner) == 0));
            for &(owner, number) in sets.iter().filter(|(owner, _)| *owner >= kept) {
                replay_store.set(owner, number).unwrap();
            }
            replay_store.sync().unwrap();
            let length = std::fs::metadata(&path).unwrap().len() as usize;
            prop_assert!(length <= RECORD * 50, "one record each: {length}");
            let (again, problem) = ReplayStore::open(&path, 77);
            prop_assert!(problem.is_none());
            for owner in 1..50 {
                prop_assert_eq!(again.get(owner), replay_store.get(owner));
            }
        }
    }

    #[test]
    fn a_lost_file_leaves_a_floor_that_stays() {
        let (_folder, path) = file();
        let (replay_store, problem) = ReplayStore::open(&path, 77);
        assert!(matches!(problem, Some(ReplayStoreError::Lost(_))));
        assert_eq!(replay_store.get(5), 77);
        let (mut replay_store, problem) = ReplayStore::open(&path, 99);
        assert!(problem.is_none(), "it was made anew");
        assert_eq!(replay_store.get(5), 77);
        replay_store.set(5, 80).unwrap();
        assert_eq!((replay_store.get(5), replay_store.get(6)), (80, 77));
    }

    #[test]
    fn what_is_raised_stays_raised() {
        let (_folder, path) = file();
        let (mut replay_store, _) = ReplayStore::open(&path, 77);
        replay_store.set(5, 80).unwrap();
        replay_store.set(6, 120).unwrap();
        for floor in [100, 90] {
            replay_store.raise_floor(floor).unwrap();
            let (again, problem) = ReplayStore::open(&path, 0);
            assert!(problem.is_none());
            for replay_store in [&replay_store, &again] {
                assert_eq!([5, 6, 7].map(|owner| replay_store.get(owner)), [100, 120, 100]);
            }
        }
    }

    #[test]
    fn a_damaged_file_is_a_lost_one() {
        for damage in [&b""[..], b"xknock1", b"xknock0\n12345678", b"xknock1\n123456789"] {
            let (_folder, path) = file();
            ReplayStore::create_if_absent(&path).unwrap();
            std::fs::write(&path, damage).unwrap();
            let (replay_store, problem) = ReplayStore::open(&path, 77);
            assert!(matches!(problem, Some(ReplayStoreError::Damaged(_))), "{problem:?}");
            assert_eq!(replay_store.get(5), 77);
        }
    }

    #[test]
    fn what_cannot_be_written_counts_all_the_same() {
        let (folder, path) = file();
        std::fs::write(folder.path().join("state"), "no folder").unwrap();
        let (mut replay_store, problem) = ReplayStore::open(&path, 77);
        assert!(matches!(problem, Some(ReplayStoreError::Io { .. })), "{problem:?}");
        assert!(replay_store.set(5, 80).is_err());
        assert_eq!((replay_store.get(5), replay_store.get(6)), (80, 77));
    }
}
