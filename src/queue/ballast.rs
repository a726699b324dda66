//! Reserved disk space: a full disk then stops new jobs, but running jobs can still end.
//!
//! On a full disk even an UPDATE and a checkpoint fail. The ballast file is deleted to make space for them; new jobs
//! are accepted only once the file is restored, which happens automatically.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// Twice the size of the write-ahead log: enough to fold it into the database and to keep writing.
const BYTES: usize = 8 << 20;

pub(super) struct Ballast {
    path: PathBuf,
    in_place: bool,
}

impl Ballast {
    pub(super) fn new(path: PathBuf) -> Ballast {
        Ballast { path, in_place: false }
    }

    /// Creates the file, unless it exists already.
    pub(super) fn put(&mut self) -> io::Result<()> {
        if !self.in_place {
            // Free the space of a failed attempt.
            self.allocate().inspect_err(|_| self.release())?;
            self.in_place = true;
        }
        Ok(())
    }

    /// Deletes the file.
    pub(super) fn release(&mut self) {
        self.in_place = false;
        let _ = fs::remove_file(&self.path);
    }

    fn allocate(&self) -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, BYTES as u64) {
            Err(Errno::OPNOTSUPP) => {
                // Not zeros: a compressing filesystem would reserve nothing.
                let mut noise = vec![0; BYTES];
                fastrand::fill(&mut noise);
                file.write_all(&noise)?;
                file.sync_data()
            }
            done => Ok(done?),
        }
    }
}
