//! One log file per job: written line by line up to a limit, and readable while it grows.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::job::JobId;
use crate::escape::clean;
use crate::redact::scrub;

/// Size limit for one job's log.
pub const LOG_CAP: u64 = 8 << 20;

pub(crate) fn path(dir: &Path, id: JobId) -> PathBuf {
    dir.join("logs").join(format!("{id}.log"))
}

/// Writes a running job's lines. Clones write to the same file.
#[derive(Clone)]
pub struct JobLog(Arc<Mutex<Sink>>);

struct Sink {
    file: Option<File>,
    room: u64,
    cap: u64,
}

impl JobLog {
    /// Opens the log of a job for another attempt, and truncates it if it is full.
    ///
    /// If the log cannot be opened, its lines are discarded: a full disk must not fail a job that could finish.
    pub(crate) fn open(dir: &Path, id: JobId, cap: u64) -> JobLog {
        let path = path(dir, id);
        let (file, written) = match open(&path, cap) {
            Ok((file, written)) => (Some(file), written),
            Err(_) => (None, 0),
        };
        JobLog(Arc::new(Mutex::new(Sink { file, room: cap.saturating_sub(written), cap })))
    }

    /// Writes one line, without secrets and control characters. The line is in the file on return.
    pub fn line(&self, text: &str) {
        let mut line = clean(&scrub(text)).into_owned();
        line.push('\n');
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(&line);
    }
}

fn open(path: &Path, cap: u64) -> io::Result<(File, u64)> {
    if let Some(dir) = path.parent() {
        crate::state_dir::create_below(dir)?;
    }
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let mut written = file.metadata()?.len();
    if written >= cap {
        file.set_len(0)?;
        written = 0;
    }
    Ok((file, written))
}

impl Sink {
    fn write(&mut self, line: &str) {
        let Some(file) = self.file.as_mut().filter(|_| self.room > 0) else { return };
        let length = line.len() as u64;
        if length <= self.room {
            // A line that a full disk truncates is lost; later lines may fit again.
            let _ = file.write_all(line.as_bytes());
            self.room -= length;
        } else {
            let _ = writeln!(file, "[the log ends here: it has reached {} bytes]", self.cap);
            self.room = 0;
        }
    }
}

/// Reads a log that may still grow.
#[derive(Debug)]
pub(crate) struct Follower {
    path: PathBuf,
    file: Option<File>,
    at: u64,
}

impl Follower {
    pub(crate) fn new(path: PathBuf) -> Follower {
        Follower { path, file: None, at: 0 }
    }

    /// Passes what was added since the last call to `sink`, in chunks. A log that does not exist yet is empty.
    pub(crate) fn advance(&mut self, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        if self.file.is_none() {
            match File::open(&self.path) {
                Ok(file) => self.file = Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        if file.metadata()?.len() < self.at {
            self.at = 0; // another attempt truncated the log
        }
        file.seek(SeekFrom::Start(self.at))?;
        let mut piece = vec![0; 64 << 10];
        loop {
            let length = file.read(&mut piece)?;
            if length == 0 {
                return Ok(());
            }
            sink(&piece[..length])?;
            self.at += length as u64;
        }
    }
}

pub(crate) fn remove(dir: &Path, ids: &[JobId]) {
    for id in ids {
        let _ = fs::remove_file(path(dir, *id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dir: &Path) -> String {
        fs::read_to_string(path(dir, JobId(1))).unwrap()
    }

    #[test]
    fn a_log_stops_at_its_limit_with_one_notice() {
        let dir = tempfile::tempdir().unwrap();
        let log = JobLog::open(dir.path(), JobId(1), 1000);
        for _ in 0..200 {
            log.line("123456789");
        }
        let text = read(dir.path());
        assert_eq!(text.matches("123456789\n").count(), 100);
        assert!(text.len() < 1000 + 100, "{}", text.len());
        let log = JobLog::open(dir.path(), JobId(1), 995);
        for _ in 0..200 {
            log.line("123456789");
        }
        let text = read(dir.path());
        assert_eq!(text.matches("123456789\n").count(), 99, "a full log begins anew");
        assert!(text.ends_with("[the log ends here: it has reached 995 bytes]\n"));
        assert_eq!(text.matches("ends here").count(), 1);
    }

    #[test]
    fn a_line_is_redacted_before_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        crate::redact::register(&"hunter2-of-a-log".to_owned().into());
        JobLog::open(dir.path(), JobId(1), LOG_CAP).line("password hunter2-of-a-log!");
        assert_eq!(read(dir.path()), "password ***!\n");
    }

    #[test]
    fn a_log_that_cannot_be_opened_is_not_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("logs"), "in the way").unwrap();
        JobLog::open(dir.path(), JobId(1), LOG_CAP).line("lost");
    }
}
