//! The build contexts of a commit on disk: each is written when the first image needs it, and shared by the others.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::{Classify as _, Failure, Kind};
use crate::git::Mirror;
use crate::model::CommitSha;

use super::survey::{Source, Surveyed};
use super::{Origin, Site, checkout};

pub(super) struct Contexts<'a> {
    site: &'a Site,
    origin: &'a Origin,
    mirror: &'a Mirror<'a>,
    commit: &'a CommitSha,
    images: &'a [Surveyed],
    scratch: &'a Path,
    /// Whether the working copy of an image is there.
    written: Vec<Mutex<bool>>,
}

impl<'a> Contexts<'a> {
    /// None is written yet. They go with `scratch`.
    pub(super) fn new(
        site: &'a Site,
        origin: &'a Origin,
        mirror: &'a Mirror<'a>,
        commit: &'a CommitSha,
        images: &'a [Surveyed],
        scratch: &'a Path,
    ) -> Contexts<'a> {
        let written = images.iter().map(|_| Mutex::new(false)).collect();
        Contexts { site, origin, mirror, commit, images, scratch, written }
    }

    /// Where they are written, and where other files of the build may stand.
    pub(super) fn scratch(&self) -> &Path {
        self.scratch
    }

    /// The folder that is sent, and the Dockerfile: in it, or a copy where it stands outside or is reached through a
    /// link.
    pub(super) fn of(&self, i: usize, source: &Source) -> Result<(PathBuf, PathBuf), Failure> {
        let tree = self.write(i, source)?;
        let spec = &self.images[i].spec;
        let context = if source.context_is_plain { tree.join(spec.context.as_str()) } else { tree.clone() };
        if source.dockerfile_is_plain {
            return Ok((context, tree.join(spec.dockerfile.as_str())));
        }
        let copy = self.scratch.join(format!("Dockerfile-{i}"));
        std::fs::write(&copy, &source.dockerfile)
            .classify(Kind::Environment, || format!("cannot write {}", copy.display()))?;
        Ok((context, copy))
    }

    /// The working copy that holds an image's context, under its path in the commit unless that path is a link.
    fn write(&self, i: usize, source: &Source) -> Result<PathBuf, Failure> {
        let first = self.first_with_the_context_of(i, source);
        let tree = self.scratch.join(format!("tree-{first}"));
        let mut written = self.written[first].lock().unwrap_or_else(PoisonError::into_inner);
        if !*written {
            if source.context_is_plain {
                let folders = [self.images[i].spec.context.as_str().to_owned()];
                checkout::write_out(self.site, self.origin, self.mirror, self.commit, &folders, &tree)?;
            } else {
                self.mirror.check_out(&source.context_tree, &[".".to_owned()], &tree)?;
            }
            *written = true;
        }
        Ok(tree)
    }

    fn first_with_the_context_of(&self, i: usize, source: &Source) -> usize {
        let same = |image: &Surveyed| {
            image.source.as_ref().is_some_and(|other| other.context_is_plain == source.context_is_plain)
                && image.spec.context == self.images[i].spec.context
        };
        self.images.iter().position(same).unwrap_or(i)
    }
}
