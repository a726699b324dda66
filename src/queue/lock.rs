//! One `serve` per state directory: an advisory lock that the kernel releases when the process ends, even by kill -9.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use super::cannot_use;
use crate::error::Failure;
use crate::state_dir;

const LOCK_FILE: &str = "serve.lock";

/// How long a dead `serve` may still appear to hold the lock: a child that was starting at that moment keeps the file
/// open until it runs its program.
const LET_GO: Duration = Duration::from_secs(3);

/// Whether a `serve` holds this state directory now.
pub fn is_served(dir: &Path) -> bool {
    let Ok(mut file) = File::open(dir.join(LOCK_FILE)) else { return false };
    // The kernel may have reused the process id: the lock decides.
    !is_dead(&holder(&mut file)) && matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

/// The text in the lock file, for messages only: `process 17 on ADDRESS since TIME`.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
    read.map(|_| text).unwrap_or_default()
}

/// Whether the holder has ended.
fn is_dead(holder: &str) -> bool {
    let mut numbers = holder.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty());
    let pid = numbers.next().and_then(|word| word.parse().ok()).and_then(Pid::from_raw);
    pid.is_some_and(|pid| matches!(test_kill_process(pid), Err(Errno::SRCH)))
}

/// Exclusive use of a state directory by `serve`; released on drop and when the process ends.
#[derive(Debug)]
pub struct ServeLock {
    dir: PathBuf,
    file: File,
}

impl ServeLock {
    /// Creates the state directory (0700) if it is missing, and locks it. The error names the holder.
    pub fn acquire(dir: &Path) -> Result<ServeLock, Failure> {
        state_dir::create(dir).map_err(cannot_use(dir))?;
        let path = dir.join(LOCK_FILE);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(cannot_use(&path))?;
        let until = Instant::now() + LET_GO;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(cause)) => return Err(cannot_use(&path)(cause)),
            }
            let holder = holder(&mut file);
            if !is_dead(&holder) || Instant::now() >= until {
                let holder = if holder.is_empty() { "an unknown process" } else { &holder };
                let text = format!("{} is held by another serve: {holder}", dir.display());
                return Err(Failure::environment(text)
                    .hint("stop it first, or give this one a --state-dir of its own"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut lock = ServeLock { dir: dir.to_owned(), file };
        lock.describe("");
        Ok(lock)
    }

    /// Records the address, once it is known (port 0, systemd's socket).
    pub fn listens_on(&mut self, address: &str) {
        self.describe(&format!(" on {address}"));
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Ignores errors, so that `serve` starts on a full disk: the lock works without the text.
    fn describe(&mut self, address: &str) {
        let now = Timestamp::now();
        let since = Timestamp::from_second(now.as_second()).unwrap_or(now);
        let text = format!("process {}{address} since {since}", std::process::id());
        let _ = self.rewrite(&text);
    }

    fn rewrite(&mut self, text: &str) -> io::Result<()> {
        self.file.rewind()?;
        self.file.set_len(0)?;
        self.file.write_all(text.as_bytes())
    }
}
