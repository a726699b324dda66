//! Local bases: an image of the same commit stands in the engine under the very name that a `FROM` gives it, while
//! the images on it are built, and the name is put back afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::cancel::Cancel;
use crate::documents::Image;
use crate::error::Failure;
use crate::lock;
use crate::model::Digest;

use super::Site;
use super::survey::Surveyed;

/// A stopped build may still put names back for so long: less than `serve` waits for its jobs.
const PUT_BACK_TIME: Duration = Duration::from_secs(5);

/// The names that local bases have to have, locked: two merges must not give one name to two images.
pub(super) struct LocalBases<'a> {
    site: &'a Site,
    /// References by the image that they mean.
    references: BTreeMap<usize, BTreeSet<String>>,
    /// What a reference named before.
    before: Mutex<BTreeMap<String, Option<Digest>>>,
    _locks: Vec<File>,
}

impl<'a> LocalBases<'a> {
    /// Takes the locks, in one order for everybody.
    pub(super) fn prepare(
        site: &'a Site,
        surveyed: &[Surveyed],
        to_build: &BTreeSet<usize>,
    ) -> Result<LocalBases<'a>, Failure> {
        let mut references: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        for i in to_build {
            for (reference, base) in surveyed[*i].source.iter().flat_map(|s| &s.bases) {
                references.entry(*base).or_default().insert(reference.clone());
            }
        }
        let all = references.values().flatten().cloned();
        let locks = lock::all(&site.state_dir, "base", all, &site.cancel)?;
        Ok(LocalBases { site, references, before: Mutex::default(), _locks: locks })
    }

    /// Gives a base that is ready the names that others know it by. `digest` is there when it stands in the registry.
    pub(super) fn provide(&self, i: usize, image: &Image, digest: Option<&Digest>) -> Result<(), Failure> {
        let Some(references) = self.references.get(&i) else { return Ok(()) };
        let (Some(repository), Some(tag)) = (&image.repository, &image.immutable_tag) else { return Ok(()) };
        let (docker, cancel) = (&self.site.docker, &self.site.cancel.child(Some(self.site.timeout)));
        let stands_as = match digest {
            Some(digest) => {
                let name = format!("{repository}@{digest}");
                docker.pull(&name, cancel)?;
                name
            }
            None => repository.tagged(tag),
        };
        for reference in references {
            let before = docker.image_id(reference, cancel)?;
            self.before.lock().unwrap_or_else(PoisonError::into_inner).insert(reference.clone(), before);
            docker.tag(&stands_as, reference, cancel)?;
        }
        Ok(())
    }
}

impl Drop for LocalBases<'_> {
    /// Puts every name back to what it was, also after a stop. A name that cannot be put back is a warning: the build
    /// is done.
    fn drop(&mut self) {
        let cancel = Cancel::new().child(Some(PUT_BACK_TIME));
        let before = std::mem::take(&mut *self.before.lock().unwrap_or_else(PoisonError::into_inner));
        for (reference, id) in before {
            let put_back = match &id {
                Some(id) => self.site.docker.tag(id.as_str(), &reference, &cancel),
                None => self.site.docker.remove(&[&reference], &cancel),
            };
            if let Err(error) = put_back {
                self.site
                    .progress
                    .warn(&format!("the local name {reference} could not be put back: {error}"));
            }
        }
    }
}
