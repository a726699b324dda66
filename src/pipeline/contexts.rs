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

    /// The folder that is sent, and a copy of the Dockerfile with its ignore file beside it.
    pub(super) fn of(&self, i: usize, source: &Source) -> Result<(PathBuf, PathBuf), Failure> {
        let context = self.write(i, source)?.join(&source.files.path);
        let folder = self.scratch.join(format!("dockerfile-{i}"));
        let copy = folder.join("Dockerfile");
        std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::write(&copy, &source.files.dockerfile.content))
            .and_then(|()| match &source.files.ignore_file {
                Some(file) => std::fs::write(folder.join("Dockerfile.dockerignore"), &file.content),
                None => Ok(()),
            })
            .classify(Kind::Environment, || format!("cannot write {}", copy.display()))?;
        Ok((context, copy))
    }

    /// The working copy that holds an image's context, under its path in the commit.
    fn write(&self, i: usize, source: &Source) -> Result<PathBuf, Failure> {
        let first = self.first_with_the_context_of(i, source);
        let tree = self.scratch.join(format!("tree-{first}"));
        let mut written = self.written[first].lock().unwrap_or_else(PoisonError::into_inner);
        if !*written {
            checkout::write_out(self.site, self.origin, self.mirror, self.commit, &source.files, &tree)?;
            *written = true;
        }
        Ok(tree)
    }

    fn first_with_the_context_of(&self, i: usize, source: &Source) -> usize {
        let same = |image: &Surveyed| {
            image.source.as_ref().is_some_and(|other| other.files.path == source.files.path)
        };
        self.images.iter().position(same).unwrap_or(i)
    }
}
