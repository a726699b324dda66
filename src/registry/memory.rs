//! A cache of what cannot change, because its digest names it. Lives as long as the client.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::model::ImageName;

use super::manifest::{Content, Manifest};

/// The cache is emptied when it has more.
const ENTRIES: usize = 2_000;
/// Bytes; larger ones are not cached. Most have a few thousand.
const LARGEST: usize = 64 << 10;

/// Manifests, and configs in the form of manifests.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<HashMap<(ImageName, Content), Manifest>>);

impl Memory {
    pub(super) fn get(&self, repository: &ImageName, content: Content) -> Option<Manifest> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(&(repository.clone(), content)).cloned()
    }

    pub(super) fn put(&self, repository: &ImageName, content: Content, value: &Manifest) {
        if value.bytes.len() > LARGEST {
            return;
        }
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= ENTRIES {
            entries.clear();
        }
        entries.insert((repository.clone(), content), value.clone());
    }
}
