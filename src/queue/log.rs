//! One log file per job: written line by line up to a limit, and readable while it grows.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::escape::clean;
use crate::redact::scrub;

/// Size limit for one job's log.
pub const LOG_CAP: u64 = 8 << 20;

/// Writes a running job's lines.
pub struct JobLog {
    /// `None` if it cannot be opened: its lines are discarded, because a full disk must not fail a job that could finish.
    file: Option<File>,
    written: Mutex<u64>,
    cap: u64,
}

impl JobLog {
    /// Opens the log of a job for another attempt, and truncates it if it is full.
    pub(super) fn open(path: &Path, cap: u64) -> JobLog {
        let (file, written) = match open(path, cap) {
            Ok((file, written)) => (Some(file), written),
            Err(_) => (None, 0),
        };
        JobLog { file, written: Mutex::new(written), cap }
    }

    /// Writes one line, without secrets and control characters. The line is in the file on return.
    pub fn line(&self, text: &str) {
        let line = format!("{}\n", clean(&scrub(text)));
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut file) = self.file.as_ref().filter(|_| *written < self.cap) else { return };
        let length = line.len() as u64;
        if *written + length <= self.cap {
            // A line that a full disk truncates is lost; later lines may fit again.
            let _ = file.write_all(line.as_bytes());
            *written += length;
        } else {
            let _ = writeln!(file, "[the log ends here: it has reached {} bytes]", self.cap);
            *written = self.cap;
        }
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

/// Passes the log from byte `at` on to `sink`, in chunks, and advances `at`. A log that does not exist yet is empty.
pub(super) fn copy(
    path: &Path,
    at: &mut u64,
    sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    if file.metadata()?.len() < *at {
        *at = 0; // another attempt truncated the log
    }
    file.seek(SeekFrom::Start(*at))?;
    let mut chunk = vec![0; 64 << 10];
    loop {
        let length = file.read(&mut chunk)?;
        if length == 0 {
            return Ok(());
        }
        sink(&chunk[..length])?;
        *at += length as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(dir: &Path) -> String {
        fs::read_to_string(dir.join("logs/1.log")).unwrap()
    }

    #[test]
    fn a_log_stops_at_its_limit_with_one_notice() {
        let dir = tempfile::tempdir().unwrap();
        let log = JobLog::open(&dir.path().join("logs/1.log"), 1000);
        for _ in 0..200 {
            log.line("123456789");
        }
        let text = read(dir.path());
        assert_eq!(text.matches("123456789\n").count(), 100);
        assert!(text.len() < 1000 + 100, "{}", text.len());
        let log = JobLog::open(&dir.path().join("logs/1.log"), 995);
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
        JobLog::open(&dir.path().join("logs/1.log"), LOG_CAP).line("password hunter2-of-a-log!");
        assert_eq!(read(dir.path()), "password ***!\n");
    }

    #[test]
    fn a_log_that_cannot_be_opened_is_not_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("logs"), "in the way").unwrap();
        JobLog::open(&dir.path().join("logs/1.log"), LOG_CAP).line("lost");
    }
}
