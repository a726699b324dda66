//! One `serve` per state directory: an advisory lock that the kernel releases when the process ends, even by kill -9.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

use super::error::QueueError;
use crate::state_dir;

const LOCK_FILE: &str = "serve.lock";

/// How long a dead `serve` may still appear to hold the lock: a child that was starting at that moment keeps the file
/// open until it runs its program.
const LET_GO: Duration = Duration::from_secs(3);

/// The holder of a state directory, for people only: the lock itself is the kernel's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// The address that it listens on, once known.
    pub listen: Option<String>,
    /// When it started: RFC 3339, UTC.
    pub started: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.pid)?;
        if let Some(listen) = &self.listen {
            write!(f, " on {listen}")?;
        }
        write!(f, ", running since {}", self.started)
    }
}

impl Holder {
    fn lives(&self) -> bool {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        pid.is_some_and(|pid| !matches!(test_kill_process(pid), Err(Errno::SRCH)))
    }
}

fn holder_in(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// Whether a `serve` holds this state directory now.
pub fn is_served(dir: &Path) -> bool {
    let Ok(mut file) = File::open(dir.join(LOCK_FILE)) else { return false };
    // The kernel may have reused the process id: the lock decides.
    let lives = holder_in(&mut file).is_some_and(|holder| holder.lives());
    lives && matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

/// Exclusive use of a state directory by `serve`; released on drop and when the process ends.
#[derive(Debug)]
pub struct ServeLock {
    dir: PathBuf,
    file: File,
    holder: Holder,
}

impl ServeLock {
    /// Creates the state directory (0700) if it is missing, and locks it. [`QueueError::Locked`] names the holder.
    pub fn acquire(dir: &Path, listen: Option<&str>, now: Timestamp) -> Result<ServeLock, QueueError> {
        state_dir::create(dir).map_err(QueueError::io(dir))?;
        let path = dir.join(LOCK_FILE);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(QueueError::io(&path))?;
        let until = Instant::now() + LET_GO;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(cause)) => return Err(QueueError::Io { path, cause }),
            }
            let holder = holder_in(&mut file);
            if holder.as_ref().is_none_or(Holder::lives) || Instant::now() >= until {
                return Err(QueueError::Locked { dir: dir.to_owned(), holder });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let started = Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
        let holder = Holder { pid: std::process::id(), listen: listen.map(str::to_owned), started };
        let mut lock = ServeLock { dir: dir.to_owned(), file, holder };
        lock.write();
        Ok(lock)
    }

    /// Records the address, once it is known (port 0, systemd's socket).
    pub fn listens_on(&mut self, listen: &str) {
        self.holder.listen = Some(listen.to_owned());
        self.write();
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Ignores errors, so that `serve` starts on a full disk: the lock works without the text.
    fn write(&mut self) {
        let text = serde_json::to_string(&self.holder).unwrap_or_default();
        let _ = self.rewrite(&text);
    }

    fn rewrite(&mut self, text: &str) -> io::Result<()> {
        self.file.rewind()?;
        self.file.set_len(0)?;
        self.file.write_all(text.as_bytes())
    }
}
