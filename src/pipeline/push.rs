//! Pushes what was built: first every image under its immutable tag, then, when all of them are there, the moving
//! tags.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::docker::DockerErrorKind;
use crate::documents::{BuiltDocument, Image, ImageStatus, PushOutcome, Receipt, SCHEMA};
use crate::error::Failure;
use crate::events::{Phase, RunEvent, Step};
use crate::http::retry::Retry;
use crate::manifest::template::is_immutable;
use crate::model::{Change, Digest, ImageRepository, Tag};
use crate::parallel;
use crate::registry::{Manifest, Registry, RegistryError};

use super::compare::{Asked, INPUTS_LABEL, REVISION_LABEL, SOURCE_LABEL, ask};
use super::{Origin, Outcome, Site, housekeeping, now, receipt, worst};

#[derive(Debug, Clone, Default)]
pub(crate) struct PushOptions {
    /// A `sha-` tag that holds another image of the commit is a failure.
    pub strict: bool,
    /// Moving tags may move back.
    pub allow_rollback: bool,
    /// Images of another repository may be overwritten.
    pub take_over: bool,
}

/// Uploads at once; the engine has its own limit on the layers of each.
pub(super) const UPLOADS: usize = 3;

pub(crate) fn push(
    site: &Site,
    built: BuiltDocument,
    options: &PushOptions,
) -> Result<Outcome<Receipt>, Failure> {
    let begun = Instant::now();
    check(site, &built)?;
    let (change, origin) = (built.change.clone(), Origin::of(site, &built.change)?);
    let push = Push::new(site, &origin, &change, options)?;
    if !options.take_over {
        push.check_owner(&built.images)?;
    }
    let images: Vec<&Image> = built.images.iter().filter(|image| needs_push(image)).collect();
    site.events.emit(&RunEvent::Planned { steps: images.len() + 1 });
    let results = parallel::map(UPLOADS, &images, |image| push.image(image, false));
    let pushed: BTreeMap<_, _> = images.iter().map(|image| image.name.clone()).zip(results).collect();
    std::thread::scope(|scope| {
        if pushed.values().all(Result::is_ok) {
            // The engine is idle while the tags move.
            let images = built.images.clone();
            scope.spawn(move || housekeeping::remove_old_images(site, &images));
        }
        push.finish(built, pushed, begun)
    })
}

/// Refuses a document that cannot be pushed, before anything is written.
fn check(site: &Site, built: &BuiltDocument) -> Result<(), Failure> {
    let (address, _) = site.registry_and_client()?;
    if built.schema != SCHEMA {
        let schema = built.schema;
        return Err(Failure::bad_input(format!(
            "the document has schema {schema}; this swanci reads {SCHEMA}"
        )));
    }
    if let Some(Image { name, .. }) = built.images.iter().find(|i| i.status == ImageStatus::Failed) {
        return Err(Failure::failed(format!("the image {name} failed to build, so nothing is pushed")));
    }
    for (i, image) in built.images.iter().enumerate() {
        let at = |problem: &str| {
            Failure::bad_input(format!("the document's images[{i}] ({}) {problem}", image.name))
        };
        if built.images[..i].iter().any(|other| other.name == image.name) {
            return Err(at("has the name of an earlier one"));
        }
        let complete = match image.status {
            ImageStatus::Skipped | ImageStatus::Failed => continue,
            ImageStatus::Planned => return Err(at("was only planned (--dry-run), not built")),
            ImageStatus::Built => image.image_id.is_some(),
            ImageStatus::Unchanged => image.digest.is_some(),
        };
        let Some(repository) = &image.repository else { return Err(at("has no repository")) };
        if !complete || image.immutable_tag.is_none() || image.tags.is_none() {
            return Err(at("lacks its image_id or digest, its immutable_tag or its tags"));
        }
        if image.immutable_tag.as_ref() != Some(&built.change.commit.immutable_tag()) {
            return Err(at("has an immutable_tag that is not the commit's"));
        }
        if image.tags.iter().flatten().any(is_immutable) {
            return Err(at("names a `sha-` tag among its moving tags; those never move"));
        }
        if repository.registry() != Some(address.host()) {
            return Err(at(&format!("was built as {repository}, not for the registry {}", address.host()))
                .hint("give --registry to build too, so that its images get their full names"));
        }
    }
    Ok(())
}

fn needs_push(image: &Image) -> bool {
    matches!(image.status, ImageStatus::Built | ImageStatus::Unchanged)
}

/// The push of one change. Phase 1 of an image finds its digest in the registry, and a remark for the receipt.
pub(super) struct Push<'a> {
    pub(super) site: &'a Site,
    pub(super) client: &'a Registry,
    pub(super) origin: &'a Origin,
    pub(super) change: &'a Change,
    pub(super) options: &'a PushOptions,
}

impl<'a> Push<'a> {
    pub(super) fn new(
        site: &'a Site,
        origin: &'a Origin,
        change: &'a Change,
        options: &'a PushOptions,
    ) -> Result<Push<'a>, Failure> {
        let (_, client) = site.registry_and_client()?;
        Ok(Push { site, client, origin, change, options })
    }

    /// Refuses the push, before anything is written, if an image path belongs to another repository.
    fn check_owner(&self, images: &[Image]) -> Result<(), Failure> {
        let own = self.tag();
        let mut asked: Vec<Asked<'_>> = Vec::new();
        for image in images.iter().filter(|image| needs_push(image)) {
            let Some(repository) = &image.repository else { continue };
            self.origin.check_namespace(self.site, repository)?;
            let moving = image.tags.as_deref().unwrap_or_default();
            asked.push(Asked { repository, own: &own, parent: None, moving });
        }
        self.origin.check_owner(&asked, &ask(self.site, &asked)?)
    }

    /// Phase 1 for one image: afterwards it is in the registry under its immutable tag, and the registry reports its
    /// digest. `just_seen` is explained at [`OnReady`](super::build::OnReady).
    pub(super) fn image(&self, image: &Image, just_seen: bool) -> Result<Image, Failure> {
        let missing = |what: &str| Failure::bad_input(format!("the image {} has {what}", image.name));
        let repository = image.repository.as_ref().ok_or_else(|| missing("no repository"))?;
        let step = self.site.events.begin(Step::Push { image: image.name.clone() });
        let is_built = image.status == ImageStatus::Built;
        let pushed = match (&image.image_id, &image.digest) {
            (Some(id), _) if is_built => {
                self.push_built(image, repository, id, just_seen, &mut |line| step.line(line))
            }
            (_, Some(digest)) => self.tag_unchanged(image, repository, digest, just_seen),
            (_, None) => Err(missing("neither image_id nor digest")),
        };
        match pushed {
            Ok((digest, note)) => {
                step.done(note.as_deref().unwrap_or(if is_built { "pushed" } else { "unchanged, tagged" }));
                Ok(Image { digest: Some(digest), note, ..image.clone() })
            }
            Err(failure) => {
                let failure = failure.context(format!("the push of {} failed", image.name));
                step.failed(&failure.one_line());
                Err(failure)
            }
        }
    }

    /// Phase 2 and the receipt, once phase 1 has a result for every image, by its name.
    pub(super) fn finish(
        &self,
        built: BuiltDocument,
        mut pushed: BTreeMap<String, Result<Image, Failure>>,
        begun: Instant,
    ) -> Result<Outcome<Receipt>, Failure> {
        let BuiltDocument { change, registry, mut images, payload_sha256, started, mut seconds, .. } = built;
        let mut failures: Vec<Failure> = Vec::new();
        for image in images.iter_mut().filter(|image| needs_push(image)) {
            let missing = || Err(Failure::failed(format!("the image {} was not pushed", image.name)));
            match pushed.remove(&image.name).unwrap_or_else(missing) {
                Ok(done) => *image = done,
                Err(failure) => {
                    image.error = Some(failure.one_line());
                    failures.push(failure);
                }
            }
        }
        let failure = match failures.len() {
            0 => self.promote(&mut images).err(),
            1 => failures.pop(),
            count => worst(failures).map(|first| first.context(format!("{count} pushes failed; the first:"))),
        };
        let failure = self.site.cancel.stopped().map(Failure::from).or(failure);
        let took = begun.elapsed();
        self.site.events.emit(&RunEvent::Phase { phase: Phase::Push, took });
        seconds.push = Some(super::seconds(took));
        let receipt = Receipt {
            schema: SCHEMA,
            outcome: if failure.is_none() { PushOutcome::Succeeded } else { PushOutcome::Failed },
            error: failure.as_ref().map(Failure::one_line),
            change,
            registry,
            images,
            payload_sha256,
            started,
            finished: now(),
            seconds,
        };
        let kept = receipt::keep(&self.site.state_dir, &receipt);
        let failure = failure.or(kept.err());
        if failure.is_none() {
            housekeeping::after_push(self.site, &receipt);
        }
        Ok(Outcome { document: receipt, failure })
    }

    fn tag(&self) -> Tag {
        self.change.commit.immutable_tag()
    }

    /// What is already under the immutable tag. `is_same` recognizes this very image. Another image of the commit is kept
    /// and used; anything else is an error.
    fn held(
        &self,
        image: &Image,
        repository: &ImageRepository,
        is_same: impl Fn(&Manifest) -> bool,
    ) -> Result<Option<(Digest, Option<String>)>, Failure> {
        let (path, tag) = (repository.path(), self.tag());
        let in_the_way = |what: &str| {
            let name = repository.tagged(&tag);
            Failure::failed(format!("{name} holds {what}; an immutable tag is never overwritten"))
                .hint("if it is not needed, delete its manifest in the registry, and push again")
        };
        let unreadable = |error: RegistryError, what: &str| {
            if error.is_about_content() { in_the_way(&format!("{what} ({error})")) } else { error.into() }
        };
        let manifest = self.client.get_manifest(path, &tag);
        let manifest =
            manifest.map_err(|error| unreadable(error, "something that is not a readable image"))?;
        let Some(manifest) = manifest else { return Ok(None) };
        if is_same(&manifest) {
            return Ok(Some((manifest.digest, None)));
        }
        let config = self.client.image_labels(path, &manifest);
        let labels = config.map_err(|error| unreadable(error, "an image that cannot be read"))?;
        let label = |name: &str| labels.get(name).map(String::as_str);
        let ours = label(SOURCE_LABEL).is_some_and(|source| self.origin.is_source(source));
        let of_commit = label(REVISION_LABEL) == Some(self.change.commit.as_str());
        let inputs = image.inputs.as_ref().map(Digest::as_str);
        let same_inputs = inputs.is_some() && label(INPUTS_LABEL) == inputs;
        if !ours || !(of_commit || same_inputs) {
            return Err(in_the_way(&format!("{}, which is not an image of this commit", manifest.digest)));
        }
        if self.options.strict {
            return Err(Failure::failed(format!(
                "{} is in the registry already, as {}; an immutable tag is never overwritten",
                repository.tagged(&tag),
                manifest.digest
            ))
            .hint("without --strict the registry's image is kept and used"));
        }
        let note = format!("{tag} is in the registry already with another digest; that image is used");
        Ok(Some((manifest.digest, Some(note))))
    }

    fn push_built(
        &self,
        image: &Image,
        repository: &ImageRepository,
        id: &Digest,
        just_seen: bool,
        on_line: &mut dyn FnMut(&str),
    ) -> Result<(Digest, Option<String>), Failure> {
        if let Some(held) = self.held(image, repository, |manifest| manifest.is_of_image(id))? {
            return Ok(held);
        }
        let (path, tag) = (repository.path(), self.tag());
        let name = repository.tagged(&tag);
        let cancel = self.site.cancel.child(Some(self.site.timeout));
        let gone = || {
            Failure::failed(format!("the engine no longer has {name}"))
                .hint("build it again; it was removed between build and push")
        };
        let another = |there: &str| {
            Failure::failed(format!("the engine's {name} is {there}, not the {id} that was built"))
                .hint("build it again: another build on this engine took the name")
        };
        if !just_seen {
            let there = self.site.docker.inspect(&name, &cancel)?.ok_or_else(gone)?;
            if there.id != *id {
                return Err(another(there.id.as_str()));
            }
        }
        let printed = self.push_with_retries(repository, &cancel, on_line)?.ok_or_else(gone)?;
        let found = self.client.head_manifest(path, &tag)?;
        if found.as_ref() != Some(&printed) {
            let found = found.map_or("nothing".to_owned(), |digest| digest.to_string());
            return Err(Failure::failed(format!(
                "docker reports that it pushed {printed}, but the registry has {found} under {tag}"
            )));
        }
        match self.client.get_manifest(path, &printed)? {
            Some(manifest) if !manifest.is_of_image(id) => Err(another("another image")),
            Some(_) | None => Ok((printed, None)),
        }
    }

    /// One 429 or 502 makes a push fail; docker itself retries only parts of it. `None`: the engine has no such image.
    fn push_with_retries(
        &self,
        repository: &ImageRepository,
        cancel: &Cancel,
        on_line: &mut dyn FnMut(&str),
    ) -> Result<Option<Digest>, Failure> {
        let retry = Retry { attempts: 4, first_delay: Duration::from_secs(1), total: RETRY_WITHIN };
        let mut delays = retry.delays();
        loop {
            let error = match self.site.docker.push(repository, &self.tag(), cancel, on_line) {
                Ok(digest) => return Ok(Some(digest)),
                Err(error) if error.kind == DockerErrorKind::NoSuchImage => return Ok(None),
                Err(error) => error,
            };
            let transient = error.kind == DockerErrorKind::Registry;
            let Some(delay) = delays(None).filter(|_| transient) else {
                return Err(error.into());
            };
            on_line(&format!("{error}; again in {:.1} s", delay.as_secs_f64()));
            cancel.sleep(delay)?;
        }
    }

    /// Writes the manifest of an unchanged image under one more tag.
    fn tag_unchanged(
        &self,
        image: &Image,
        repository: &ImageRepository,
        digest: &Digest,
        just_seen: bool,
    ) -> Result<(Digest, Option<String>), Failure> {
        if !just_seen && let Some(held) = self.held(image, repository, |there| there.digest == *digest)? {
            return Ok(held);
        }
        let path = repository.path();
        let manifest = self.client.get_manifest(path, digest)?.ok_or_else(|| {
            Failure::failed(format!("the registry no longer has {repository}@{digest}"))
                .hint("build it again with --force")
        })?;
        Ok((self.client.put_manifest(path, &self.tag(), &manifest)?, None))
    }
}

/// docker takes about 15 s to give up on a registry that answers 500: a third attempt is not worth the wait.
const RETRY_WITHIN: Duration = Duration::from_secs(25);
