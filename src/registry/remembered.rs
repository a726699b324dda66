//! What a registry has said that can never change, because its digest names it: manifests in memory, image configs as
//! files.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use crate::model::{Digest, ImageName};

use super::manifest::{Manifest, digest_of};

/// Manifests in memory; beyond so many all are forgotten.
const MANIFESTS: usize = 2_000;
/// Configs as files; the longest unused beyond so many go.
const CONFIGS: usize = 5_000;
/// What is larger is not kept, bytes. Most have a few thousand.
const LARGEST: usize = 64 << 10;

/// It saves requests, and answers nothing that the registry would answer otherwise: losing it costs time.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    manifests: Mutex<HashMap<(ImageName, Digest), Manifest>>,
    configs: Option<PathBuf>,
}

impl Remembered {
    /// With the folder for configs, if they may be kept.
    pub(super) fn new(configs: Option<PathBuf>) -> Remembered {
        Remembered { configs, ..Remembered::default() }
    }

    pub(super) fn manifest(&self, repository: &ImageName, digest: &Digest) -> Option<Manifest> {
        let manifests = self.manifests.lock().unwrap_or_else(PoisonError::into_inner);
        manifests.get(&(repository.clone(), digest.clone())).cloned()
    }

    pub(super) fn keep_manifest(&self, repository: &ImageName, manifest: &Manifest) {
        let mut manifests = self.manifests.lock().unwrap_or_else(PoisonError::into_inner);
        if manifest.bytes.len() > LARGEST {
            return;
        }
        if manifests.len() >= MANIFESTS {
            manifests.clear();
        }
        manifests.insert((repository.clone(), manifest.digest.clone()), manifest.clone());
    }

    /// The bytes, if they are still what the digest says.
    pub(super) fn config(&self, digest: &Digest) -> Option<Vec<u8>> {
        let path = self.config_path(digest)?;
        let bytes = fs::read(&path).ok().filter(|bytes| digest_of(bytes) == *digest)?;
        let _ = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(bytes)
    }

    /// A disk that is full or read-only keeps none, and that is all.
    pub(super) fn keep_config(&self, digest: &Digest, bytes: &[u8]) {
        let Some(path) = self.config_path(digest).filter(|_| bytes.len() <= LARGEST) else { return };
        let write = |dir: &Path| -> std::io::Result<()> {
            crate::state_dir::create_below(dir)?;
            let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir)?;
            file.write_all(bytes)?;
            file.persist(&path)?;
            Ok(())
        };
        if let Some(dir) = path.parent() {
            let _ = write(dir);
        }
    }

    fn config_path(&self, digest: &Digest) -> Option<PathBuf> {
        // sha256:<hex>, checked by its type; the colon is no part of a file's name everywhere.
        Some(self.configs.as_ref()?.join(digest.as_str().replace(':', "-")))
    }
}

/// Removes the configs that were longest not used, beyond the number that is kept.
pub fn prune_configs(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    if paths.len() <= CONFIGS {
        return;
    }
    let mut aged: Vec<(SystemTime, PathBuf)> = paths
        .into_iter()
        .filter_map(|path| Some((fs::metadata(&path).and_then(|m| m.modified()).ok()?, path)))
        .collect();
    aged.sort();
    // A tenth more than needed, so that not every push has to look at them all.
    let surplus = aged.len().saturating_sub(CONFIGS - CONFIGS / 10);
    for (_, path) in &aged[..surplus] {
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_is_only_what_its_digest_says() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Remembered::new(Some(dir.path().join("configs")));
        let digest = digest_of(b"{}");
        assert_eq!(kept.config(&digest), None);
        kept.keep_config(&digest, b"{}");
        assert_eq!(kept.config(&digest).unwrap(), b"{}");
        fs::write(kept.config_path(&digest).unwrap(), "{ }").unwrap();
        assert_eq!(kept.config(&digest), None);
    }

    #[test]
    fn without_a_folder_and_in_one_that_cannot_be_written_nothing_is_kept_and_nothing_fails() {
        let digest = digest_of(b"{}");
        for dir in [None, Some(PathBuf::from("/proc/none"))] {
            let kept = Remembered::new(dir);
            kept.keep_config(&digest, b"{}");
            assert_eq!(kept.config(&digest), None);
        }
    }

    #[test]
    fn the_configs_that_were_longest_not_used_go() {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..=CONFIGS {
            let file = File::create(dir.path().join(i.to_string())).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(i as u64)).unwrap();
        }
        prune_configs(dir.path());
        assert!(!dir.path().join("0").exists());
        assert!(dir.path().join(CONFIGS.to_string()).exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), CONFIGS - CONFIGS / 10);
    }
}
