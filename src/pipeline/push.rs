//! Pushes what was built: first every image under its immutable tag, then, when all of them are there, the moving
//! tags.

use std::time::{Duration, Instant};

use backon::BackoffBuilder as _;

use crate::docker::DockerError;
use crate::documents::{BuiltDocument, Image, ImageStatus, PushOutcome, Receipt, SCHEMA};
use crate::error::{Failure, Kind};
use crate::manifest::template::is_immutable;
use crate::model::{CommitSha, Digest, ImageRepository, Tag};
use crate::parallel;
use crate::registry::Registry;

use super::{Origin, Outcome, Site, housekeeping, now, promote, receipt, seconds};

/// What a push is asked to do differently.
#[derive(Debug, Clone, Default)]
pub struct PushOptions {
    /// A `sha-` tag that is there with another digest is a failure.
    pub force: bool,
    /// Moving tags may move back.
    pub allow_rollback: bool,
    /// Images of another repository may be overwritten.
    pub take_over: bool,
}

/// Uploads at once; the engine has its own limit on the layers of each.
pub(super) const UPLOADS: usize = 3;

/// Pushes a built document and writes its receipt.
pub fn push(site: &Site, built: BuiltDocument, options: &PushOptions) -> Result<Outcome<Receipt>, Failure> {
    let begun = Instant::now();
    check(site, &built)?;
    let pushed = parallel::map(UPLOADS, &built.images, |image| {
        if needs_push(image) {
            push_image(site, &built.change.commit, image, Standing::Unknown, options).map(Some)
        } else {
            Ok(None)
        }
    });
    std::thread::scope(|scope| {
        if pushed.iter().all(Result::is_ok) {
            // The engine has time for it while the tags move; nothing of the push waits for it.
            let images = built.images.clone();
            scope.spawn(move || housekeeping::remove_old_images(site, &images));
        }
        finish(site, built, pushed, options, begun)
    })
}

/// A document that cannot be pushed is refused before anything moves.
pub(super) fn check(site: &Site, built: &BuiltDocument) -> Result<(), Failure> {
    let (address, _) = site.registry_and_client()?;
    if built.schema != SCHEMA {
        return Err(Failure::bad_input(format!(
            "the document has schema {}; this swanci reads {SCHEMA}",
            built.schema
        )));
    }
    if let Some(failed) = built.images.iter().find(|i| i.status == ImageStatus::Failed) {
        return Err(Failure::failed(format!(
            "the image {} failed to build, so nothing is pushed",
            failed.name
        )));
    }
    for (i, image) in built.images.iter().enumerate() {
        let at = |problem: &str| {
            Failure::bad_input(format!("the document's images[{i}] ({}) {problem}", image.name))
        };
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

pub(super) fn needs_push(image: &Image) -> bool {
    match image.status {
        ImageStatus::Built | ImageStatus::Unchanged => true,
        ImageStatus::Skipped | ImageStatus::Failed | ImageStatus::Planned => false,
    }
}

/// Phase 2 and the receipt, once every image has been pushed or has failed.
pub(super) fn finish(
    site: &Site,
    built: BuiltDocument,
    pushed: Vec<Result<Option<Image>, Failure>>,
    options: &PushOptions,
    begun: Instant,
) -> Result<Outcome<Receipt>, Failure> {
    let mut images = built.images.clone();
    let mut failures: Vec<Failure> = Vec::new();
    for (image, pushed) in images.iter_mut().zip(pushed) {
        match pushed {
            Ok(Some(done)) => *image = done,
            Ok(None) => {}
            Err(failure) => {
                image.error = Some(failure.one_line());
                failures.push(failure);
            }
        }
    }
    if failures.is_empty() {
        let moved = Origin::of(site, &built.change)
            .and_then(|origin| promote::promote(site, &origin, &built.change, &mut images, options));
        failures.extend(moved.err());
    }
    write_receipt(site, built, images, failures, begun)
}

fn write_receipt(
    site: &Site,
    built: BuiltDocument,
    images: Vec<Image>,
    failures: Vec<Failure>,
    begun: Instant,
) -> Result<Outcome<Receipt>, Failure> {
    let failure = site.cancel.stopped().map(Failure::from).or_else(|| combine(failures));
    let mut receipt = Receipt {
        schema: SCHEMA,
        outcome: if failure.is_none() { PushOutcome::Succeeded } else { PushOutcome::Failed },
        error: failure.as_ref().map(Failure::one_line),
        change: built.change,
        registry: built.registry,
        images,
        payload_sha256: built.payload_sha256,
        started: built.started,
        finished: now(),
        seconds: built.seconds,
    };
    receipt.seconds.push = Some(seconds(begun.elapsed()));
    let kept = receipt::keep(&site.state_dir, &receipt);
    let failure = match (failure, kept) {
        (None, Err(unkept)) => Some(unkept),
        (failure, _) => failure,
    };
    if failure.is_none() {
        housekeeping::after_push(site, &receipt);
    }
    Ok(Outcome { document: receipt, failure })
}

fn combine(failures: Vec<Failure>) -> Option<Failure> {
    let kind = failures.iter().map(|f| f.kind).reduce(Kind::and)?;
    let count = failures.len();
    let mut first = failures.into_iter().find(|f| f.kind == kind)?;
    if count > 1 {
        first = first.context(format!("the push of {count} images failed, the first so"));
    }
    Some(first)
}

/// What was seen so long ago is looked at again: others push too.
const FRESH: Duration = Duration::from_secs(1);

/// What is known of an image when its push begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// This process built it at this time.
    JustBuilt(Instant),
    /// At this time the registry held nothing under the immutable tag; it holds the image under another.
    Untagged(Instant),
    /// The registry holds the image under the immutable tag, which never changes.
    Tagged,
    /// Nothing: a document may be old.
    Unknown,
}

/// Phase 1 for one image: it stands in the registry under its immutable tag, and the registry says under which digest.
pub(super) fn push_image(
    site: &Site,
    commit: &CommitSha,
    image: &Image,
    standing: Standing,
    options: &PushOptions,
) -> Result<Image, Failure> {
    let (_, client) = site.registry_and_client()?;
    let Some(repository) = &image.repository else {
        return Err(Failure::bad_input(format!("the image {} has no repository", image.name)));
    };
    let tag = commit.immutable_tag();
    let step = site.progress.step(&format!("push {}", image.name));
    let notice = client.with_cancel(site.cancel.clone());
    let outcome = match (&image.image_id, &image.digest) {
        (Some(id), _) if image.status == ImageStatus::Built => {
            let inputs = image.inputs.as_ref();
            let mut on_line = |line: &str| step.line(line);
            push_built(site, &notice, repository, &tag, id, inputs, standing, options, &mut on_line)
        }
        (_, Some(digest)) => tag_unchanged(&notice, repository, &tag, digest, standing, options),
        (_, None) => {
            Err(Failure::bad_input(format!("the image {} has neither image_id nor digest", image.name)))
        }
    };
    match outcome {
        Ok((digest, note)) => {
            step.done(note.as_deref().unwrap_or(match image.status {
                ImageStatus::Unchanged => "unchanged, tagged",
                ImageStatus::Built | ImageStatus::Skipped | ImageStatus::Failed | ImageStatus::Planned => {
                    "pushed"
                }
            }));
            Ok(Image { digest: Some(digest), note, ..image.clone() })
        }
        Err(failure) => {
            let failure = failure.context(format!("the push of {} failed", image.name));
            step.failed(&failure.one_line());
            Err(failure)
        }
    }
}

/// An immutable tag that is there already: the registry's image stays and is used.
fn kept(
    repository: &ImageRepository,
    tag: &Tag,
    there: &Digest,
    options: &PushOptions,
) -> Result<(Digest, Option<String>), Failure> {
    if options.force {
        return Err(Failure::failed(format!(
            "{repository}:{tag} is in the registry already, as {there}; an immutable tag is never overwritten"
        ))
        .hint("without --force the registry's image is kept and used"));
    }
    Ok((
        there.clone(),
        Some(format!("{tag} was in the registry already with another digest; the registry's image is used")),
    ))
}

#[allow(clippy::too_many_arguments, reason = "what the push of one image needs to know")]
fn push_built(
    site: &Site,
    client: &Registry,
    repository: &ImageRepository,
    tag: &Tag,
    id: &Digest,
    inputs: Option<&Digest>,
    standing: Standing,
    options: &PushOptions,
    on_line: &mut dyn FnMut(&str),
) -> Result<(Digest, Option<String>), Failure> {
    let name = repository.tagged(tag);
    if let Some(manifest) = client.get_manifest(repository.path(), tag)? {
        return if manifest.is_of_image(id) {
            Ok((manifest.digest, None))
        } else {
            kept(repository, tag, &manifest.digest, options)
        };
    }
    let cancel = site.cancel.child(Some(site.timeout));
    let another = |there: &str| {
        Failure::failed(format!("the engine's {name} is {there}, not the {id} that was built"))
            .hint("build it again: something else gave the name to another image")
    };
    let gone = || {
        Failure::failed(format!("the engine no longer holds {name}"))
            .hint("build it again; was it pruned between build and push?")
    };
    match standing {
        // Nothing had the time to give the name to another image; the registry's manifest tells all the same.
        Standing::JustBuilt(at) if at.elapsed() < FRESH => {}
        Standing::JustBuilt(_) | Standing::Untagged(_) | Standing::Tagged | Standing::Unknown => {
            // The engine may know what was just built by another Id than its builder.
            let of_builder = matches!(standing, Standing::JustBuilt(_)).then_some(inputs).flatten();
            match site.docker.inspect(&name, &cancel)? {
                Some(there) if there.id == *id || there.has_inputs(of_builder) => {}
                Some(there) => return Err(another(there.id.as_str())),
                None => return Err(gone()),
            }
        }
    }
    let printed = match push_with_retries(site, repository, tag, &cancel, on_line)? {
        Some(digest) => digest,
        None => return Err(gone()),
    };
    let holds = match client.head_manifest(repository.path(), tag)? {
        Some(found) if found.digest == printed => client.get_manifest(repository.path(), &printed)?,
        Some(found) => {
            return Err(Failure::failed(format!(
                "docker says that it pushed {printed}, and the registry holds {} under {tag}",
                found.digest
            )));
        }
        None => None,
    };
    match holds {
        Some(manifest) if manifest.is_of_image(id) => Ok((printed, None)),
        Some(_) => Err(another("another image")),
        None => Err(Failure::failed(format!(
            "docker says that it pushed {printed}, and the registry has no {tag}"
        ))),
    }
}

/// docker takes about 15 s to give up on a registry that answers 500; when two of its pushes did, a third is not worth
/// the wait.
const RETRY_WITHIN: Duration = Duration::from_secs(25);

/// A push dies of one 429 or 502; docker itself retries only parts of it. `None`: the engine has no such image.
fn push_with_retries(
    site: &Site,
    repository: &ImageRepository,
    tag: &Tag,
    cancel: &crate::cancel::Cancel,
    on_line: &mut dyn FnMut(&str),
) -> Result<Option<Digest>, Failure> {
    let mut delays = backon::ExponentialBuilder::default()
        .with_min_delay(Duration::from_secs(1))
        .with_max_times(3)
        .with_jitter()
        .build();
    let begun = Instant::now();
    loop {
        let error = match site.docker.push(repository, tag, cancel, on_line) {
            Ok(digest) => return Ok(Some(digest)),
            Err(DockerError::NoSuchImage(_)) => return Ok(None),
            Err(error) => error,
        };
        let transient = matches!(&error, DockerError::Registry(e) if !e.said(&["x509", "certificate"]));
        match delays.next().filter(|_| transient && begun.elapsed() < RETRY_WITHIN) {
            Some(delay) => {
                on_line(&format!("{error}; again in {}", crate::progress::seconds(delay)));
                cancel.sleep(delay)?;
            }
            None => return Err(error.into()),
        }
    }
}

/// An unchanged image: its manifest under one more tag; no layer moves.
fn tag_unchanged(
    client: &Registry,
    repository: &ImageRepository,
    tag: &Tag,
    digest: &Digest,
    standing: Standing,
    options: &PushOptions,
) -> Result<(Digest, Option<String>), Failure> {
    match standing {
        Standing::Tagged => return Ok((digest.clone(), None)),
        Standing::Untagged(asked) if asked.elapsed() < FRESH => {}
        Standing::Untagged(_) | Standing::JustBuilt(_) | Standing::Unknown => {
            match client.head_manifest(repository.path(), tag)? {
                Some(there) if there.digest == *digest => return Ok((there.digest, None)),
                Some(there) => return kept(repository, tag, &there.digest, options),
                None => {}
            }
        }
    }
    let Some(manifest) = client.recall_manifest(repository.path(), digest)? else {
        return Err(Failure::failed(format!("the registry no longer holds {repository}@{digest}"))
            .hint("build it again, with --force if need be"));
    };
    Ok((client.put_manifest(repository.path(), tag, &manifest)?, None))
}
