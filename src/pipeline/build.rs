//! Plans and builds the images of a commit.

mod image;

use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::cancel::Stop;
use crate::docker::Builder;
use crate::documents::{BuiltDocument, Image, ImageStatus, SCHEMA, Seconds};
use crate::error::{Failure, Kind};
use crate::escape::shortened;
use crate::events::{Phase, RunEvent, Step};
use crate::git::Mirror;
use crate::model::{Change, CommitSha, ImageName};
use crate::parallel;
use crate::plan::Action;
use crate::suggest;

use super::compare::{Asked, ask};
use super::schedule;
use super::scratch::{Scratch, remove_abandoned};
use super::survey::{Survey, Surveyed, survey};
use super::{Origin, Outcome, REGISTRY_THREADS, Site, checkout, now, seconds};

#[derive(Debug, Clone, Default)]
pub(crate) struct BuildOptions {
    /// Build only these images; empty means all.
    pub images: Vec<ImageName>,
    pub force: bool,
    pub pull: bool,
    pub no_cache: bool,
    /// Plan only.
    pub dry_run: bool,
    /// The waits before each retry of fetching a commit that is not available yet.
    pub patience: Vec<Duration>,
    /// Whether the same run also pushes the images and moves the tags.
    pub pushes: bool,
    /// Reject image paths of other repositories before the first build.
    pub only_own_paths: bool,
}

/// Called for every image that is ready to push, from the thread that found or built it. `true` means fresh: the engine
/// just had a built image under its name, or the registry had nothing under an unchanged image's immutable tag.
pub(super) type OnReady<'a> = &'a (dyn Fn(&Image, bool) + Sync);

pub(crate) fn build(
    site: &Site,
    change: &Change,
    payload_sha256: Option<&str>,
    options: &BuildOptions,
    on_ready: OnReady<'_>,
) -> Result<Outcome<BuiltDocument>, Failure> {
    let (started, begun) = (now(), Instant::now());
    let origin = Origin::of(site, change)?;
    if !options.dry_run {
        origin.check_secrets(&change.repository)?;
    }
    let step = site.events.begin(Step::Checkout { commit: change.commit.short().to_owned() });
    step.line(&format!("fetching {}", origin.remote.as_git_url()));
    let mirror = checkout::fetch(site, &origin, change, &options.patience)?;
    thread::scope(|scope| {
        // This starts a process, so it overlaps with reading the commit's files.
        let builder = scope.spawn(|| site.docker.find_builder(&site.cancel));
        let mut surveyed = survey(site, &origin, &mirror, change)?;
        let chosen = choose(&mut surveyed, &options.images)?;
        let Survey { images: surveyed, skipped } = surveyed;
        let info = mirror.commit_info(&change.commit)?;
        let count = chosen.len() + skipped.len();
        step.done(&if count == 1 { "1 image".to_owned() } else { format!("{count} images") });
        let checkout = begun.elapsed();
        site.events.emit(&RunEvent::Phase { phase: Phase::Checkout, took: checkout });

        let begun = Instant::now();
        let actions =
            plan(site, &origin, change, info.parents.first().cloned(), &surveyed, &chosen, options)?;
        let temporary = std::env::temp_dir();
        let scratch = Scratch::new(&temporary)?;
        scope.spawn(move || remove_abandoned(&temporary));
        let mut work = Work {
            site,
            change,
            origin: &origin,
            mirror: &mirror,
            created: info.time,
            scratch: scratch.path(),
            surveyed: &surveyed,
            written: surveyed.iter().map(|_| Mutex::default()).collect(),
            options,
            on_ready,
            actions: &actions,
            builder: Builder::Buildx,
            results: Mutex::new(surveyed.iter().map(|_| None).collect()),
        };
        if !options.dry_run {
            if actions.iter().flatten().any(Action::is_build) {
                work.builder = builder.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            }
            work.carry_out();
        }
        let build = begun.elapsed();
        site.events.emit(&RunEvent::Phase { phase: Phase::Build, took: build });
        let (images, failures) = work.into_images(skipped);
        let failure = site.cancel.stopped().map(Failure::from).or_else(|| failed_images(&images, &failures));
        let document = BuiltDocument {
            schema: SCHEMA,
            change: change.clone(),
            registry: site.registry.clone(),
            images,
            payload_sha256: payload_sha256.map(str::to_owned),
            started,
            seconds: Seconds { checkout: seconds(checkout), build: seconds(build), push: None },
        };
        Ok(Outcome { document, failure })
    })
}

/// The requested images, with the local bases that they are built on. Removes the skipped ones that were not requested.
fn choose(surveyed: &mut Survey, asked: &[ImageName]) -> Result<BTreeSet<usize>, Failure> {
    let Survey { images, skipped } = surveyed;
    if asked.is_empty() {
        return Ok((0..images.len()).collect());
    }
    let mut chosen = BTreeSet::new();
    let mut open = Vec::new();
    for name in asked {
        if let Some(i) = images.iter().position(|image| image.spec.name == *name) {
            open.push(i);
        } else if skipped.iter().all(|(_, image)| image.name != name.as_str()) {
            let mut known: Vec<&str> = images.iter().map(|image| image.spec.name.as_str()).collect();
            known.extend(skipped.iter().map(|(_, image)| image.name.as_str()));
            let listed = shortened(&known.join(", "), 300);
            let failure = Failure::usage(format!("the commit lists no image `{name}`; it lists {listed}"));
            let hint = suggest::nearest(name.as_str(), known).map(|name| format!("did you mean `{name}`?"));
            return Err(Failure { hint, ..failure });
        }
    }
    skipped.retain(|(_, image)| asked.iter().any(|name| name.as_str() == image.name));
    while let Some(i) = open.pop() {
        if chosen.insert(i) {
            open.extend(images[i].bases.iter().map(|(_, base)| *base));
        }
    }
    Ok(chosen)
}

/// What to do with each image; `None` for one that was not requested.
fn plan(
    site: &Site,
    origin: &Origin,
    change: &Change,
    parent: Option<CommitSha>,
    surveyed: &[Surveyed],
    chosen: &BTreeSet<usize>,
    options: &BuildOptions,
) -> Result<Vec<Option<Action>>, Failure> {
    let mut actions: Vec<Option<Action>> = surveyed.iter().map(|_| None).collect();
    if site.client.is_none() {
        for i in chosen {
            actions[*i] = Some(Action::Build { why: "no registry is configured" });
        }
        return Ok(actions);
    }
    let step = site.events.begin(Step::Compare);
    let (own, parent) = (change.commit.immutable_tag(), parent.map(|parent| parent.immutable_tag()));
    let ask_of = |i: &usize| {
        let Surveyed { repository, tags, .. } = &surveyed[*i];
        Asked { repository, own: &own, parent: parent.as_ref(), moving: tags }
    };
    let asked: Vec<Asked<'_>> = chosen.iter().map(ask_of).collect();
    let holdings = ask(site, &asked).and_then(|holdings| {
        if options.only_own_paths {
            origin.check_owner(&asked, &holdings)?;
        }
        Ok(holdings)
    });
    let holdings = match holdings {
        Ok(holdings) => holdings,
        Err(failure) => {
            step.failed(&failure.one_line());
            return Err(failure);
        }
    };
    for (i, holdings) in chosen.iter().zip(&holdings) {
        actions[*i] = Some(if options.force {
            Action::Build { why: "asked for with --force" }
        } else {
            Action::for_inputs(&surveyed[*i].inputs, holdings, |source| origin.is_source(source))
        });
    }
    let to_build = actions.iter().flatten().filter(|action| action.is_build()).count();
    step.done(&format!("{to_build} to build, {} unchanged", chosen.len() - to_build));
    Ok(actions)
}

/// Limit on the causes that an error lists; the documents list all of them.
const CAUSES: usize = 10;

/// One failure for all images, with the first available hint.
fn failed_images(images: &[Image], failures: &[Failure]) -> Option<Failure> {
    let kind = failures.iter().map(|failure| failure.kind).reduce(Kind::and)?;
    let hint = failures.iter().filter(|f| f.kind == kind).find_map(|f| f.hint.clone());
    let failed: Vec<&Image> = images.iter().filter(|i| i.status == ImageStatus::Failed).collect();
    let names: Vec<&str> = failed.iter().map(|i| i.name.as_str()).collect();
    let text = format!("{} of {} images failed: {}", failed.len(), images.len(), names.join(", "));
    let causes = failed.iter().take(CAUSES).rev();
    let causes = causes.map(|i| format!("{}: {}", i.name, i.error.as_deref().unwrap_or("failed")));
    let error = causes.map(anyhow::Error::msg).reduce(|inner, outer| inner.context(outer.to_string()));
    Some(Failure { kind, error: error?.context(text), hint })
}

/// What the images of one commit share, and the result for each.
pub(super) struct Work<'a> {
    pub(super) site: &'a Site,
    pub(super) change: &'a Change,
    pub(super) origin: &'a Origin,
    pub(super) mirror: &'a Mirror<'a>,
    /// The commit's own time, seconds since the epoch.
    created: i64,
    /// The folder for contexts, Dockerfiles and layouts.
    pub(super) scratch: &'a Path,
    pub(super) surveyed: &'a [Surveyed],
    /// Whether the context of an image is written; images with the same context use the first one's.
    pub(super) written: Vec<Mutex<bool>>,
    options: &'a BuildOptions,
    on_ready: OnReady<'a>,
    actions: &'a [Option<Action>],
    builder: Builder,
    results: Mutex<Vec<Option<Outcome<Image>>>>,
}

impl Work<'_> {
    /// Reports unchanged images and builds the rest.
    fn carry_out(&self) {
        let indices = |wanted: fn(&Action) -> bool| {
            (0..self.actions.len()).filter(move |i| self.actions[*i].as_ref().is_some_and(wanted))
        };
        let unchanged: Vec<usize> = indices(|action| matches!(action, Action::Reuse { .. })).collect();
        let to_build: BTreeSet<usize> = indices(Action::is_build).collect();
        let pushes = if self.options.pushes { unchanged.len() + to_build.len() + 1 } else { 0 };
        self.site.events.emit(&RunEvent::Planned { steps: to_build.len() + pushes });
        let after: Vec<Vec<usize>> =
            self.surveyed.iter().map(|s| s.bases.iter().map(|(_, base)| *base).collect()).collect();
        thread::scope(|scope| {
            scope.spawn(|| {
                parallel::map(REGISTRY_THREADS, &unchanged, |i| {
                    let is_free = matches!(self.actions[*i], Some(Action::Reuse { own_is_taken: false, .. }));
                    (self.on_ready)(&self.planned(*i), is_free);
                });
            });
            schedule::in_order(self.site.jobs, &to_build, &after, |i| self.build(i));
        });
    }

    fn build(&self, i: usize) {
        let may_build = self.failed_base(i).and_then(|()| self.site.cancel.check().map_err(Failure::from));
        let result = match may_build.and_then(|()| self.build_one(i)) {
            Ok(image) => {
                (self.on_ready)(&image, true);
                Outcome { document: image, failure: None }
            }
            Err(failure) => {
                let image = self.described(i, ImageStatus::Failed);
                let document = Image { error: Some(failure.one_line()), ..image };
                Outcome { document, failure: Some(failure) }
            }
        };
        self.results.lock().unwrap_or_else(PoisonError::into_inner)[i] = Some(result);
    }

    /// Skips an image whose base failed; it fails with the same kind as its base.
    fn failed_base(&self, i: usize) -> Result<(), Failure> {
        let results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, base) in &self.surveyed[i].bases {
            if let Some(Outcome { document, failure: Some(Failure { kind, hint, .. }) }) = &results[*base] {
                let text = format!("not tried, because its base image {} failed", document.name);
                self.site.events.note(&format!("build {}: {text}", self.surveyed[i].spec.name));
                return Err(Failure { kind: *kind, error: anyhow::anyhow!(text), hint: hint.clone() });
            }
        }
        Ok(())
    }

    fn planned(&self, i: usize) -> Image {
        match &self.actions[i] {
            Some(Action::Build { why }) => {
                Image { reason: Some((*why).to_owned()), ..self.described(i, ImageStatus::Planned) }
            }
            Some(Action::Reuse { digest, under, .. }) => Image {
                digest: Some(digest.clone()),
                reason: self.options.dry_run.then(|| format!("the registry has it as {under}")),
                ..self.described(i, ImageStatus::Unchanged)
            },
            None => self.described(i, ImageStatus::Planned),
        }
    }

    fn described(&self, i: usize, status: ImageStatus) -> Image {
        let image = &self.surveyed[i];
        Image {
            repository: Some(image.repository.clone()),
            immutable_tag: Some(self.change.commit.immutable_tag()),
            tags: Some(image.tags.clone()),
            inputs: Some(image.inputs.clone()),
            name: image.spec.name.to_string(),
            status,
            ..Image::default()
        }
    }

    /// Every requested image, in the order of images.json, and the failures.
    fn into_images(self, skipped: Vec<(usize, Image)>) -> (Vec<Image>, Vec<Failure>) {
        let mut results = std::mem::take(&mut *self.results.lock().unwrap_or_else(PoisonError::into_inner));
        let (mut images, mut failures) = (skipped, Vec::new());
        for i in (0..results.len()).filter(|i| self.actions[*i].is_some()) {
            let planned = || Outcome { document: self.planned(i), failure: None };
            let Outcome { document, failure } = results[i].take().unwrap_or_else(planned);
            images.push((self.surveyed[i].place, document));
            failures.extend(failure.filter(|_| self.site.cancel.stopped() != Some(Stop::Cancelled)));
        }
        images.sort_by_key(|(place, _)| *place);
        (images.into_iter().map(|(_, image)| image).collect(), failures)
    }
}
