//! Keeps receipts in the state directory.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::documents::Receipt;
use crate::error::{Classify as _, Failure, Kind};

/// How many of the newest receipts to keep.
const KEPT: usize = 10_000;

/// Writes a receipt atomically and returns its path.
pub(super) fn keep(state_dir: &Path, receipt: &Receipt) -> Result<PathBuf, Failure> {
    let dir = state_dir.join("receipts");
    let time = receipt.finished.replace(['-', ':'], "");
    let repository = receipt.change.repository.as_str().replace('/', "_");
    let name = format!("{time}-{repository}-{}", receipt.change.commit.short());
    let write = || -> std::io::Result<PathBuf> {
        crate::state_dir::create_below(&dir)?;
        let mut text = serde_json::to_vec_pretty(receipt)?;
        text.push(b'\n');
        let mut file = tempfile::Builder::new().prefix(".receipt-").tempfile_in(&dir)?;
        file.write_all(&text)?;
        file.as_file().sync_all()?;
        // Two pushes of one commit within a second need different names.
        for suffix in 0..1000 {
            let path =
                dir.join(if suffix == 0 { format!("{name}.json") } else { format!("{name}-{suffix}.json") });
            match file.persist_noclobber(&path) {
                Ok(_) => return Ok(path),
                Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => file = error.file,
                Err(error) => return Err(error.error),
            }
        }
        Err(std::io::Error::other("too many receipts of one second"))
    };
    write().classify(Kind::Environment, || {
        format!("the push is done, but its receipt cannot be kept in {}", dir.display())
    })
}

/// Removes the oldest receipts beyond the limit. Their names sort by time.
pub(super) fn prune(state_dir: &Path) {
    let entries = fs::read_dir(state_dir.join("receipts"));
    let mut paths: Vec<PathBuf> = entries.into_iter().flatten().flatten().map(|e| e.path()).collect();
    if paths.len() > KEPT {
        paths.sort();
        for path in &paths[..paths.len() - KEPT] {
            let _ = fs::remove_file(path);
        }
    }
}
