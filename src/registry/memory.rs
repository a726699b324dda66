//! A cache of what cannot change, because its digest names it. Lives as long as the client.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::model::{Digest, ImageName};

use super::manifest::Manifest;

/// The cache is emptied when it has more.
const ENTRIES: usize = 2_000;
/// Bytes; larger ones are not cached. Most have a few thousand.
const LARGEST: usize = 64 << 10;

/// Manifests and configs by repository and digest.
#[derive(Debug, Default)]
pub(super) struct Memory {
    manifests: Mutex<HashMap<(ImageName, Digest), Manifest>>,
    configs: Mutex<HashMap<(ImageName, Digest), Vec<u8>>>,
}

impl Memory {
    pub(super) fn manifest(&self, repository: &ImageName, digest: &Digest) -> Option<Manifest> {
        get(&self.manifests, repository, digest)
    }

    pub(super) fn keep_manifest(&self, repository: &ImageName, manifest: &Manifest) {
        put(&self.manifests, repository, &manifest.digest, manifest, manifest.bytes.len());
    }

    pub(super) fn config(&self, repository: &ImageName, digest: &Digest) -> Option<Vec<u8>> {
        get(&self.configs, repository, digest)
    }

    pub(super) fn keep_config(&self, repository: &ImageName, digest: &Digest, bytes: &Vec<u8>) {
        put(&self.configs, repository, digest, bytes, bytes.len());
    }
}

type Entries<T> = Mutex<HashMap<(ImageName, Digest), T>>;

fn get<T: Clone>(entries: &Entries<T>, repository: &ImageName, digest: &Digest) -> Option<T> {
    let entries = entries.lock().unwrap_or_else(PoisonError::into_inner);
    entries.get(&(repository.clone(), digest.clone())).cloned()
}

fn put<T: Clone>(entries: &Entries<T>, repository: &ImageName, digest: &Digest, value: &T, size: usize) {
    if size > LARGEST {
        return;
    }
    let mut entries = entries.lock().unwrap_or_else(PoisonError::into_inner);
    if entries.len() >= ENTRIES {
        entries.clear();
    }
    entries.insert((repository.clone(), digest.clone()), value.clone());
}
