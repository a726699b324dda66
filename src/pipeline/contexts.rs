//! The build contexts of a commit on disk: each is written when the first image needs it, and shared by the others.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::{Classify as _, Failure, Kind};
use crate::git::Mirror;
use crate::manifest::dockerfile::DockerfileStages;
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
    /// None is written yet. They are removed with `scratch`.
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

    /// Where a remote builder writes an image in the OCI layout.
    pub(super) fn layout(&self, i: usize) -> PathBuf {
        self.scratch.join(format!("layout-{i}"))
    }

    /// The context, and the Dockerfile in a folder of its own, with its ignore file beside it and `names` in place of
    /// the references of its local bases.
    pub(super) fn of(
        &self,
        i: usize,
        source: &Source,
        names: &BTreeMap<String, String>,
    ) -> Result<(PathBuf, PathBuf), Failure> {
        let spec = &self.images[i].spec;
        let content = if names.is_empty() {
            source.files.dockerfile.content.clone()
        } else {
            let text = str::from_utf8(&source.files.dockerfile.content).ok();
            let stages = text.and_then(|text| Some((text, DockerfileStages::parse(text, &spec.args).ok()?)));
            let (text, stages) = stages.ok_or_else(|| {
                Failure::bad_input(format!("image `{}`: its Dockerfile is not UTF-8", spec.name))
            })?;
            stages.with_bases(text, names).into_bytes()
        };
        let folder = self.scratch.join(format!("dockerfile-{i}"));
        let dockerfile = folder.join("Dockerfile");
        let write = || {
            fs::create_dir_all(&folder)?;
            fs::write(&dockerfile, content)?;
            // BuildKit reads the ignore file that has the Dockerfile's name before the context's own.
            match &source.files.ignore_file {
                Some(file) => fs::write(folder.join("Dockerfile.dockerignore"), &file.content),
                None => Ok(()),
            }
        };
        write().classify(Kind::Environment, || format!("cannot write to {}", folder.display()))?;
        Ok((self.write(i, source)?.join(&source.files.path), dockerfile))
    }

    /// The working copy that holds an image's context.
    fn write(&self, i: usize, source: &Source) -> Result<PathBuf, Failure> {
        let same = |image: &Surveyed| {
            image.source.as_ref().is_some_and(|other| other.files.path == source.files.path)
        };
        let first = self.images.iter().position(same).unwrap_or(i);
        let tree = self.scratch.join(format!("tree-{first}"));
        let mut written = self.written[first].lock().unwrap_or_else(PoisonError::into_inner);
        if !*written {
            checkout::write_out(self.site, self.origin, self.mirror, self.commit, &source.files, &tree)?;
            *written = true;
        }
        Ok(tree)
    }
}
