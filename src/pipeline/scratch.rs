//! The temporary directory of a build. After a crash, the next build removes it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use tempfile::TempDir;

use crate::error::{Classify as _, Failure, Kind};

const PREFIX: &str = "swanci-";

/// Locked while the directory is in use.
const IN_USE: &str = "in-use.lock";

pub(super) struct Scratch {
    directory: TempDir,
    _in_use: File,
}

impl Scratch {
    pub(super) fn new(temporary: &Path) -> Result<Scratch, Failure> {
        let make = || -> io::Result<Scratch> {
            let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(temporary)?;
            // Renamed once locked, so that no other process finds it unlocked.
            let unnamed = directory.path().join("new.lock");
            let in_use = File::create(&unnamed)?;
            // On a file system without locks, abandoned directories remain.
            if in_use.try_lock().is_ok() {
                fs::rename(unnamed, directory.path().join(IN_USE))?;
            }
            Ok(Scratch { directory, _in_use: in_use })
        };
        make().classify(Kind::Environment, || format!("cannot make a directory in {}", temporary.display()))
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Removes the directories of killed processes.
pub(super) fn remove_abandoned(temporary: &Path) {
    let us = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(temporary).into_iter().flatten().flatten() {
        // Does not open directories of other users or follow links.
        let ours = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes())
            && entry.metadata().is_ok_and(|it| it.is_dir() && it.uid() == us);
        if !ours {
            continue;
        }
        let Ok(in_use) = File::open(entry.path().join(IN_USE)) else { continue };
        if in_use.try_lock().is_ok() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_abandoned_directories_of_swanci_are_removed() {
        let temporary = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(temporary.path()).unwrap();
        let folder = |name: &str, file: &str| {
            let folder = temporary.path().join(name);
            fs::create_dir_all(folder.join("tree-0/deep")).unwrap();
            fs::write(folder.join(file), "").unwrap();
            folder
        };
        let abandoned = folder("swanci-1", IN_USE);
        let stay = [folder("swanci-2", "a person's own"), folder("other-1", IN_USE)];
        let link = temporary.path().join("swanci-3");
        std::os::unix::fs::symlink(&stay[1], &link).unwrap();
        remove_abandoned(temporary.path());
        assert!(!abandoned.exists());
        for stays in [scratch.path(), &stay[0], &stay[1], &link] {
            assert!(stays.exists(), "{} is gone", stays.display());
        }
        let path = scratch.path().to_owned();
        drop(scratch);
        assert!(!path.exists());
    }
}
