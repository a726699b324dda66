//! Space that is held back, so that a full disk stops new jobs but not the end of running ones.
//!
//! On a full disk even an UPDATE and a checkpoint fail. The ballast is a file that is given up for them; new jobs are
//! taken only while it is in place, so it comes back before the queue does, unaided.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// Twice the log of changes: room to fold it into the database and to write on.
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

    /// Takes the space, unless it is taken already.
    pub(crate) fn put(&mut self) -> io::Result<()> {
        if !self.in_place {
            if let Err(error) = self.allocate() {
                // What a failed attempt took is needed more elsewhere.
                let _ = fs::remove_file(&self.path);
                return Err(error);
            }
            self.in_place = true;
        }
        Ok(())
    }

    /// Gives the space up.
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
                // Not zeros: a filesystem that compresses would hold nothing back.
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
