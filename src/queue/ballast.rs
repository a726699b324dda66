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
pub(crate) const BALLAST_BYTES: u64 = 8 << 20;

#[derive(Debug)]
pub(crate) struct Ballast {
    path: PathBuf,
    bytes: u64,
    in_place: bool,
}

impl Ballast {
    pub(crate) fn new(path: PathBuf, bytes: u64) -> Ballast {
        Ballast { path, bytes, in_place: false }
    }

    /// Creates the file, unless it exists already.
    pub(crate) fn put(&mut self) -> io::Result<()> {
        if !self.in_place {
            if let Err(error) = self.allocate() {
                // Free the space of the failed attempt.
                let _ = fs::remove_file(&self.path);
                return Err(error);
            }
            self.in_place = true;
        }
        Ok(())
    }

    /// Deletes the file.
    pub(crate) fn release(&mut self) {
        self.in_place = false;
        let _ = fs::remove_file(&self.path);
    }

    fn allocate(&self) -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, self.bytes) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP) => {
                // Not zeros: a compressing filesystem would reserve nothing.
                let mut chunk = vec![0; 64 << 10];
                for _ in 0..self.bytes.div_ceil(64 << 10) {
                    fastrand::fill(&mut chunk);
                    file.write_all(&chunk)?;
                }
                file.sync_data()
            }
            Err(errno) => Err(errno.into()),
        }
    }
}
