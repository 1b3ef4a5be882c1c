//! A root file system as the kernel unpacks it into memory at boot (`newc` cpio,
//! Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! The guest has no disk, so it needs no driver to start, and it cannot change files of the host.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use cpio::newc::{self, Builder, ModeFileType};

enum Entry {
    Folder,
    Link(PathBuf),
    Copy(PathBuf),
    Program(String),
}

/// A tree of files that is put together and then written.
#[derive(Default)]
pub(super) struct Tree {
    entries: BTreeMap<PathBuf, Entry>,
}

impl Tree {
    /// Adds a file, link or folder where the host has it, with the folders and links that lead
    /// there (/bin is a link on most hosts). A file that is missing is not an error: packages list
    /// files that others have diverted.
    pub(super) fn add(&mut self, path: &Path) -> io::Result<()> {
        let Ok(metadata) = path.symlink_metadata() else { return Ok(()) };
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        self.add(parent)?;
        let folder = parent.canonicalize()?;
        let path = folder.join(name);
        if self.entries.contains_key(&path) {
            return Ok(());
        }
        if metadata.is_symlink() {
            let target = fs::read_link(&path)?;
            self.entries.insert(path, Entry::Link(target.clone()));
            self.add(&folder.join(target))?;
        } else if metadata.is_dir() {
            self.entries.insert(path, Entry::Folder);
        } else if metadata.is_file() {
            self.entries.insert(path.clone(), Entry::Copy(path));
        }
        Ok(())
    }

    /// Adds the file `kept` where the host has `path`.
    pub(super) fn add_kept(&mut self, path: &Path, kept: PathBuf) -> io::Result<()> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        self.add(parent)?;
        self.entries.insert(parent.canonicalize()?.join(name), Entry::Copy(kept));
        Ok(())
    }

    /// Adds a folder with all that is in it, as `to` in the guest.
    pub(super) fn add_below(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.folder(to);
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let (path, kind, to) = (entry.path(), entry.file_type()?, to.join(entry.file_name()));
            if kind.is_dir() {
                self.add_below(&path, &to)?;
            } else if kind.is_file() {
                self.entries.insert(to, Entry::Copy(path));
            }
        }
        Ok(())
    }

    /// Adds an empty folder, and those it lies in.
    pub(super) fn folder(&mut self, path: &Path) {
        for folder in path.ancestors().filter(|folder| *folder != Path::new("/")) {
            self.entries.entry(folder.to_owned()).or_insert(Entry::Folder);
        }
    }

    /// Adds an executable file with this text.
    pub(super) fn program(&mut self, path: &Path, text: &str) {
        if let Some(folder) = path.parent() {
            self.folder(folder);
        }
        self.entries.insert(path.to_owned(), Entry::Program(text.to_owned()));
    }

    /// Writes the archive.
    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let file = File::create(path);
        let mut out = BufWriter::with_capacity(
            1 << 20,
            file.with_context(|| format!("cannot make {}", path.display()))?,
        );
        // Folders sort before what lies in them.
        for (name, entry) in &self.entries {
            entry
                .write(name, &mut out)
                .with_context(|| format!("{} into {}", name.display(), path.display()))?;
        }
        newc::trailer(&mut out)?;
        out.flush().with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Entry {
    fn write(&self, name: &Path, out: &mut impl Write) -> anyhow::Result<()> {
        let name = name.to_str().context("a name that is no UTF-8")?.trim_start_matches('/');
        let of = |kind, mode| Builder::new(name).mode(mode).set_mode_file_type(kind);
        match self {
            Self::Folder => {
                of(ModeFileType::Directory, 0o755).write(out, 0).finish()?;
            }
            Self::Link(target) => {
                let target = target.as_os_str().as_bytes();
                append(of(ModeFileType::Symlink, 0o777), target, target.len() as u64, out)?;
            }
            Self::Copy(from) => {
                let file = File::open(from)?;
                let metadata = file.metadata()?;
                let mode = metadata.permissions().mode() & 0o7777;
                append(of(ModeFileType::Regular, mode), file, metadata.len(), out)?;
            }
            Self::Program(text) => {
                let text = text.as_bytes();
                append(of(ModeFileType::Regular, 0o755), text, text.len() as u64, out)?;
            }
        }
        Ok(())
    }
}

fn append(
    entry: Builder,
    mut from: impl io::Read,
    size: u64,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let size = u32::try_from(size).context("a file over 4 GiB")?;
    let mut writer = entry.write(out, size);
    io::copy(&mut from, &mut writer)?;
    writer.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every entry of an archive: name, mode, contents.
    fn read(path: &Path) -> Vec<(String, u32, Vec<u8>)> {
        let mut file = File::open(path).unwrap();
        let mut entries = Vec::new();
        loop {
            let mut reader = newc::Reader::new(file).unwrap();
            let entry = reader.entry().clone();
            if entry.is_trailer() {
                return entries;
            }
            let mut contents = Vec::new();
            io::copy(&mut reader, &mut contents).unwrap();
            entries.push((entry.name().to_owned(), entry.mode(), contents));
            file = reader.finish().unwrap();
        }
    }

    #[test]
    fn links_on_the_way_and_at_the_end_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        fs::write(root.join("usr/bin/nc.real"), "netcat").unwrap();
        std::os::unix::fs::symlink("usr/bin", root.join("bin")).unwrap();
        std::os::unix::fs::symlink("../bin/nc.real", root.join("usr/bin/nc")).unwrap();

        let mut tree = Tree::default();
        tree.add(&root.join("bin/nc")).unwrap();
        tree.add(&root.join("usr/bin/absent")).unwrap();
        tree.program(Path::new("/init"), "#!/bin/sh\n");
        let archive = root.join("archive");
        tree.write(&archive).unwrap();

        let of = |name: &str| {
            let full = root.join(name).to_str().unwrap().trim_start_matches('/').to_owned();
            let found = read(&archive).into_iter().find(|(name, ..)| *name == full);
            found.map(|(_, mode, contents)| (mode & 0o170_000, contents))
        };
        assert_eq!(of("bin"), Some((0o120_000, b"usr/bin".to_vec())));
        assert_eq!(of("usr"), Some((0o040_000, Vec::new())));
        assert_eq!(of("usr/bin/nc"), Some((0o120_000, b"../bin/nc.real".to_vec())));
        assert_eq!(of("usr/bin/nc.real"), Some((0o100_000, b"netcat".to_vec())));
        assert_eq!(of("usr/bin/absent"), None);
        assert!(read(&archive).iter().any(|(name, mode, _)| name == "init" && mode & 0o111 != 0));
    }

    #[test]
    fn a_folder_comes_before_what_lies_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut tree = Tree::default();
        tree.program(Path::new("/a/b/c"), "");
        tree.folder(Path::new("/a/b"));
        let archive = folder.path().join("archive");
        tree.write(&archive).unwrap();
        let names: Vec<_> = read(&archive).into_iter().map(|(name, ..)| name).collect();
        assert_eq!(names, ["a", "a/b", "a/b/c"]);
    }
}
