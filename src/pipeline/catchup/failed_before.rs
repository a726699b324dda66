//! Commits whose build failed in an earlier catchup: one file each in the state directory, `failed/<repository>-<commit>`.

use std::path::PathBuf;

use crate::error::{Failure, Kind};
use crate::model::{CommitSha, Digest};
use crate::pipeline::{Origin, Site};
use crate::state_dir;

fn path(site: &Site, origin: &Origin, commit: &CommitSha) -> PathBuf {
    let repository = Digest::of(origin.source.as_bytes());
    site.state_dir.join("failed").join(format!("{}-{commit}", &repository.hex()[..24]))
}

/// Why the last build of this commit failed.
pub(super) fn recall(site: &Site, origin: &Origin, commit: &CommitSha) -> Option<String> {
    std::fs::read_to_string(path(site, origin, commit)).ok()
}

/// Records how a build ended. If the file cannot be written, the commit is retried.
pub(super) fn remember(site: &Site, origin: &Origin, commit: &CommitSha, failure: Option<&Failure>) {
    let file = path(site, origin, commit);
    match failure {
        Some(failure) if matches!(failure.kind, Kind::Failed | Kind::BadInput) => {
            let made = state_dir::create_below(&site.state_dir.join("failed"));
            let _ = made.and_then(|()| state_dir::write(&file, &failure.one_line()));
        }
        Some(_) => {}
        None => {
            let _ = std::fs::remove_file(file);
        }
    }
}
