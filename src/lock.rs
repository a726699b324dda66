//! File locks (flock) that can be cancelled.

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::cancel::{Cancel, Stop};
use crate::error::{Classify as _, Failure, Kind};

const RETRY: Duration = Duration::from_millis(15);

/// Waits for an exclusive lock. It is released when the file is closed.
pub(crate) fn exclusive(file: &File, cancel: &Cancel) -> Result<io::Result<()>, Stop> {
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Ok(())),
            Err(TryLockError::WouldBlock) => cancel.sleep(RETRY)?,
            Err(TryLockError::Error(error)) => return Ok(Err(error)),
        }
    }
}

/// The lock file of `key`. Lock files are never removed, because a lock on a removed file excludes no other process. So
/// there are only 256 of a kind, and two keys may share one. To take several of a kind, sort the paths and take each
/// once.
pub(crate) fn path_of(state_dir: &Path, kind: &str, key: &str) -> PathBuf {
    state_dir.join("locks").join(format!("{kind}-{}", &hex::encode(Sha256::digest(key))[..2]))
}

/// A lock file that `key` does not share: for locks that others do not wait for. Only for a small number of keys.
pub(crate) fn path_of_one(state_dir: &Path, kind: &str, key: &str) -> PathBuf {
    state_dir.join("locks").join(format!("{kind}-{}", &hex::encode(Sha256::digest(key))[..32]))
}

/// Takes the locks of all keys, in a fixed order.
pub(crate) fn all(
    state_dir: &Path,
    kind: &str,
    keys: impl Iterator<Item = String>,
    cancel: &Cancel,
) -> Result<Vec<File>, Failure> {
    let paths: BTreeSet<PathBuf> = keys.map(|key| path_of(state_dir, kind, &key)).collect();
    paths
        .into_iter()
        .map(|path| {
            let doing = || format!("cannot lock {}", path.display());
            let file = open(&path).classify(Kind::Environment, doing)?;
            exclusive(&file, cancel)?.classify(Kind::Environment, doing)?;
            Ok(file)
        })
        .collect()
}

pub(crate) fn open(path: &Path) -> io::Result<File> {
    if let Some(parent) = path.parent() {
        crate::state_dir::create_below(parent)?;
    }
    File::options().create(true).truncate(false).write(true).mode(0o600).open(path)
}
