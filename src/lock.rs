//! File locks (flock) that give up when the work should stop.

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cancel::{Cancel, Stop};
use crate::error::{Classify as _, Failure, Kind};

/// How often a lock that somebody holds is tried again.
const RETRY: Duration = Duration::from_millis(15);

/// Waits for the exclusive lock on an open file. It is released when the file is closed.
pub(crate) fn exclusive(file: &File, cancel: &Cancel) -> Result<io::Result<()>, Stop> {
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Ok(())),
            Err(TryLockError::WouldBlock) => cancel.sleep(RETRY)?,
            Err(TryLockError::Error(error)) => return Ok(Err(error)),
        }
    }
}

/// The lock file of `key` under `state_dir/locks`. Lock files are never removed (a lock on a file that was removed locks
/// nobody out), so there are only 256 of a kind: now and then two keys share one, and one of them waits.
///
/// Who takes several of a kind sorts the paths and takes each once.
pub(crate) fn path_of(state_dir: &Path, kind: &str, key: &str) -> PathBuf {
    use sha2::{Digest as _, Sha256};
    let bucket = Sha256::digest(key)[0];
    state_dir.join("locks").join(format!("{kind}-{bucket:02x}"))
}

/// A lock file that `key` shares with nobody: for a lock whose holder makes others leave instead of wait. Only for keys
/// of which there are few.
pub(crate) fn path_of_one(state_dir: &Path, kind: &str, key: &str) -> PathBuf {
    use sha2::{Digest as _, Sha256};
    state_dir.join("locks").join(format!("{kind}-{}", &hex::encode(Sha256::digest(key))[..32]))
}

/// Takes the exclusive locks of all these keys, always in the same order.
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

/// Opens a lock file, with its folder.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    if let Some(parent) = path.parent() {
        crate::state_dir::create_below(parent)?;
    }
    File::options().create(true).truncate(false).write(true).mode(0o600).open(path)
}
