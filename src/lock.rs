//! File locks (flock) that give up when the work should stop.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cancel::{Cancel, Stop};

/// How often a lock that somebody holds is tried again.
const RETRY: Duration = Duration::from_millis(15);

/// Waits for the exclusive lock on an open file. It is released when the file is closed.
pub fn exclusive(file: &File, cancel: &Cancel) -> Result<io::Result<()>, Stop> {
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Ok(())),
            Err(TryLockError::WouldBlock) => cancel.sleep(RETRY)?,
            Err(TryLockError::Error(error)) => return Ok(Err(error)),
        }
    }
}

/// The lock file of `key` under `state_dir/locks`. Keys become names by hashing: they may hold any character.
pub fn path_of(state_dir: &Path, key: &str) -> PathBuf {
    use sha2::{Digest as _, Sha256};
    state_dir.join("locks").join(&hex::encode(Sha256::digest(key))[..32])
}

/// Opens a lock file, with its folder. It is never removed: a lock on an unlinked file locks nobody out.
pub fn open(path: &Path) -> io::Result<File> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    File::options().create(true).truncate(false).write(true).open(path)
}
