//! Plans and builds the images of a commit.

mod image;

use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::cancel::Stop;
use crate::docker::Builder;
use crate::documents::{BuiltDocument, Image, ImageStatus, SCHEMA, Seconds};
use crate::error::{Classify as _, Failure, Kind};
use crate::escape::shortened;
use crate::events::{Phase, RunEvent, Step};
use crate::git::CommitInfo;
use crate::manifest::ImageKind;
use crate::model::{Change, CommitSha, ImageName};
use crate::parallel;
use crate::plan::Action;
use crate::suggest;

use super::compare::{Asked, ask};
use super::contexts::Contexts;
use super::schedule;
use super::scratch::{Scratch, remove_abandoned};
use super::survey::{Surveyed, survey};
use super::{Origin, Outcome, REGISTRY_THREADS, Site, checkout, now, seconds};

#[derive(Debug, Clone, Default)]
pub(crate) struct BuildOptions {
    /// Build only these images; empty means all.
    pub images: Vec<ImageName>,
    /// Build unchanged images too.
    pub force: bool,
    /// Pull newer base images.
    pub pull: bool,
    /// Do not use the build cache.
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

pub(crate) type Built = Outcome<BuiltDocument>;

/// Called for every image that is ready to push, from the thread that found or built it. `true` means fresh: the engine
/// just had a built image under its name, or the registry had nothing under an unchanged image's immutable tag.
pub(super) type OnReady<'a> = &'a (dyn Fn(&Image, bool) + Sync);

pub(crate) fn build(
    site: &Site,
    change: &Change,
    payload_sha256: Option<&str>,
    options: &BuildOptions,
    on_ready: OnReady<'_>,
) -> Result<Built, Failure> {
    let started = now();
    let begun = Instant::now();
    let origin = Origin::of(site, change)?;
    if !options.dry_run {
        super::secrets::check(&origin.secrets, &change.repository)?;
    }
    let step = site.events.begin(Step::Checkout { commit: change.commit.short().to_owned() });
    step.line(&format!("fetching {}", origin.remote.as_git_url()));
    let mirror = checkout::fetch(site, &origin, change, &options.patience)?;
    site.events.emit(&RunEvent::Run { repository: &change.repository, commit: &change.commit });
    thread::scope(|scope| {
        // This starts a process, so it overlaps with reading the commit's files.
        let builder = scope.spawn(|| site.docker.find_builder(&site.cancel));
        let surveyed = survey(site, &origin, &mirror, change)?;
        let chosen = choose(&surveyed, &options.images)?;
        let info = mirror.commit_info(&change.commit)?;
        step.done(&if chosen.len() == 1 { "1 image".to_owned() } else { format!("{} images", chosen.len()) });
        let checkout = begun.elapsed();
        site.events.emit(&RunEvent::Phase { phase: Phase::Checkout, took: checkout });

        let begun = Instant::now();
        let actions = plan(site, &origin, change, &info, &surveyed, &chosen, options)?;
        let temporary = std::env::temp_dir();
        let scratch = Scratch::new(&temporary)
            .classify(Kind::Environment, || format!("cannot make a directory in {}", temporary.display()))?;
        scope.spawn(move || remove_abandoned(&temporary));
        let mut work = Work {
            site,
            change,
            origin: &origin,
            created: info.time,
            contexts: Contexts::new(site, &origin, &mirror, &change.commit, &surveyed, scratch.path()),
            surveyed: &surveyed,
            options,
            on_ready,
            actions: &actions,
            builder: Builder::Buildx,
            results: Mutex::new(surveyed.iter().map(|_| None).collect()),
        };
        if !options.dry_run {
            let count = |wanted: fn(&Action) -> bool| actions.iter().flatten().filter(|a| wanted(a)).count();
            let docker = count(|action| !matches!(action, Action::Skip { .. }));
            let steps = count(|action| matches!(action, Action::Build { .. }))
                + if options.pushes { docker + 1 } else { 0 };
            site.events.emit(&RunEvent::Planned { steps });
            if actions.iter().any(|action| matches!(action, Some(Action::Build { .. }))) {
                work.builder = builder.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            }
            work.carry_out();
        }
        let build = begun.elapsed();
        site.events.emit(&RunEvent::Phase { phase: Phase::Build, took: build });
        let (images, failures) = work.into_images();
        let document = BuiltDocument {
            schema: SCHEMA,
            change: change.clone(),
            registry: site.registry.clone(),
            images,
            payload_sha256: payload_sha256.map(str::to_owned),
            started,
            seconds: Seconds { checkout: seconds(checkout), build: seconds(build), push: None },
        };
        let failure =
            site.cancel.stopped().map(Failure::from).or_else(|| failed_images(&document, &failures));
        Ok(Outcome { document, failure })
    })
}

/// The requested images, with the local bases that they are built on.
fn choose(surveyed: &[Surveyed], asked: &[ImageName]) -> Result<Vec<usize>, Failure> {
    if asked.is_empty() {
        return Ok((0..surveyed.len()).collect());
    }
    let mut chosen = BTreeSet::new();
    let mut open = Vec::new();
    for name in asked {
        let Some(i) = surveyed.iter().position(|s| s.spec.name == *name) else {
            let known: Vec<&str> = surveyed.iter().map(|s| s.spec.name.as_str()).collect();
            let failure = Failure::usage(format!(
                "the commit lists no image `{name}`; it lists {}",
                shortened(&known.join(", "), 300)
            ));
            return Err(match suggest::nearest(name.as_str(), known) {
                Some(nearest) => failure.hint(format!("did you mean `{nearest}`?")),
                None => failure,
            });
        };
        open.push(i);
    }
    while let Some(i) = open.pop() {
        if chosen.insert(i) {
            open.extend(surveyed[i].bases().map(|(_, base)| *base));
        }
    }
    Ok(chosen.into_iter().collect())
}

/// What to do with each image; `None` for one that was not requested.
fn plan(
    site: &Site,
    origin: &Origin,
    change: &Change,
    info: &CommitInfo,
    surveyed: &[Surveyed],
    chosen: &[usize],
    options: &BuildOptions,
) -> Result<Vec<Option<Action>>, Failure> {
    let mut actions: Vec<Option<Action>> = surveyed.iter().map(|_| None).collect();
    let mut docker: Vec<(usize, &Surveyed)> = Vec::new();
    for i in chosen {
        match &surveyed[*i].spec.kind {
            ImageKind::Docker => docker.push((*i, &surveyed[*i])),
            ImageKind::Skipped { reason } => actions[*i] = Some(Action::Skip { reason: reason.clone() }),
        }
    }
    let Some(client) = &site.client else {
        for (i, _) in docker {
            actions[i] = Some(Action::Build { why: "no registry is configured" });
        }
        return Ok(actions);
    };
    let step = site.events.begin(Step::Compare);
    let (own, parent) = (change.commit.immutable_tag(), info.parents.first().map(CommitSha::immutable_tag));
    let asked: Vec<Asked<'_>> = docker
        .iter()
        .map(|(_, image)| Asked {
            repository: &image.repository,
            own: &own,
            parent: parent.as_ref(),
            moving: &image.tags,
        })
        .collect();
    let holdings = match ask(&client.with_cancel(site.cancel.clone()), &asked) {
        Ok(holdings) => holdings,
        Err(error) => {
            let failure = Failure::from(error);
            step.failed(&failure.one_line());
            return Err(failure);
        }
    };
    let mut to_build = 0;
    for ((i, image), holdings) in docker.iter().zip(&holdings) {
        let is_ours = |source: &str| origin.is_source(source);
        if options.only_own_paths
            && let Some(source) = holdings.owned_by_another(is_ours)
        {
            let failure = origin.refusal(&image.repository, source);
            step.failed(&failure.one_line());
            return Err(failure);
        }
        let action = match &image.source {
            Some(source) if !options.force => Action::for_inputs(&source.inputs, holdings, is_ours),
            Some(_) | None => Action::Build { why: "asked for with --force" },
        };
        to_build += usize::from(matches!(action, Action::Build { .. }));
        actions[*i] = Some(action);
    }
    step.done(&format!("{to_build} to build, {} unchanged", docker.len() - to_build));
    Ok(actions)
}

/// Limit on the causes that an error lists; the documents list all of them.
const CAUSES: usize = 10;

/// One failure for all images, with the first available hint.
fn failed_images(document: &BuiltDocument, failures: &[(Kind, Option<String>)]) -> Option<Failure> {
    let kind = failures.iter().map(|(kind, _)| *kind).reduce(Kind::and)?;
    let hint = failures.iter().filter(|(k, _)| *k == kind).find_map(|(_, hint)| hint.clone());
    let failed: Vec<&Image> = document.images.iter().filter(|i| i.status == ImageStatus::Failed).collect();
    let names: Vec<&str> = failed.iter().map(|i| i.name.as_str()).collect();
    let text = format!("{} of {} images failed: {}", failed.len(), document.images.len(), names.join(", "));
    let causes = failed.iter().take(CAUSES).rev();
    let causes = causes.map(|i| format!("{}: {}", i.name, i.error.as_deref().unwrap_or("failed")));
    let error =
        causes.map(|cause| anyhow::anyhow!(cause)).reduce(|inner, outer| inner.context(outer.to_string()));
    Some(Failure { kind, error: error?.context(text), hint })
}

/// The result for an image: its document entry and, for a failure, its kind and hint.
struct Done {
    image: Image,
    failed: Option<(Kind, Option<String>)>,
}

/// What the images of one commit share, and the result for each.
struct Work<'a> {
    site: &'a Site,
    change: &'a Change,
    origin: &'a Origin,
    /// The commit's own time, seconds since the epoch.
    created: i64,
    contexts: Contexts<'a>,
    surveyed: &'a [Surveyed],
    options: &'a BuildOptions,
    on_ready: OnReady<'a>,
    actions: &'a [Option<Action>],
    builder: Builder,
    results: Mutex<Vec<Option<Done>>>,
}

impl Work<'_> {
    /// Reports unchanged images and builds the rest.
    fn carry_out(&self) {
        let indices = |wanted: fn(&Action) -> bool| {
            let action = |i: &usize| self.actions[*i].as_ref().is_some_and(wanted);
            (0..self.actions.len()).filter(action).collect::<Vec<_>>()
        };
        let unchanged = indices(|action| matches!(action, Action::Reuse { .. }));
        let to_build: BTreeSet<usize> =
            indices(|action| matches!(action, Action::Build { .. })).into_iter().collect();
        let after: Vec<Vec<usize>> =
            self.surveyed.iter().map(|s| s.bases().map(|(_, base)| *base).collect()).collect();
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
        let built = self.failed_base(i).and_then(|()| self.site.cancel.check().map_err(Failure::from));
        let done = match built.and_then(|()| self.build_one(i)) {
            Ok(image) => {
                (self.on_ready)(&image, true);
                Done { image, failed: None }
            }
            Err(failure) => {
                let failed = self.described(i, ImageStatus::Failed);
                let image = Image { error: Some(failure.one_line()), ..failed };
                Done { image, failed: Some((failure.kind, failure.hint)) }
            }
        };
        self.results.lock().unwrap_or_else(PoisonError::into_inner)[i] = Some(done);
    }

    /// Skips an image whose base failed; it fails with the same kind as its base.
    fn failed_base(&self, i: usize) -> Result<(), Failure> {
        let results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, base) in self.surveyed[i].bases() {
            if let Some(Done { failed: Some((kind, hint)), image }) = &results[*base] {
                let text = format!("not tried, because its base image {} failed", image.name);
                self.site.events.note(&format!("build {}: {text}", self.surveyed[i].spec.name));
                return Err(Failure { kind: *kind, error: anyhow::anyhow!(text), hint: hint.clone() });
            }
        }
        Ok(())
    }

    /// The planned document entry of the image.
    fn planned(&self, i: usize) -> Image {
        match &self.actions[i] {
            Some(Action::Build { why }) => {
                Image { reason: Some((*why).to_owned()), ..self.described(i, ImageStatus::Planned) }
            }
            Some(Action::Reuse { digest, under, .. }) => Image {
                digest: Some(digest.clone()),
                reason: self.options.dry_run.then(|| format!("the registry holds it as {under}")),
                ..self.described(i, ImageStatus::Unchanged)
            },
            Some(Action::Skip { reason }) => {
                let name = self.surveyed[i].spec.name.to_string();
                Image { reason: Some(reason.clone()), ..Image::new(name, ImageStatus::Skipped) }
            }
            None => self.described(i, ImageStatus::Skipped),
        }
    }

    fn described(&self, i: usize, status: ImageStatus) -> Image {
        let image = &self.surveyed[i];
        Image {
            repository: Some(image.repository.clone()),
            immutable_tag: Some(self.change.commit.immutable_tag()),
            tags: Some(image.tags.clone()),
            inputs: image.source.as_ref().map(|s| s.inputs.clone()),
            ..Image::new(image.spec.name.to_string(), status)
        }
    }

    /// Every requested image, in the order of images.json, and the failures.
    fn into_images(self) -> (Vec<Image>, Vec<(Kind, Option<String>)>) {
        let mut results = std::mem::take(&mut *self.results.lock().unwrap_or_else(PoisonError::into_inner));
        let (mut images, mut failures) = (Vec::new(), Vec::new());
        for i in (0..results.len()).filter(|i| self.actions[*i].is_some()) {
            match results[i].take() {
                Some(Done { image, failed }) => {
                    images.push(image);
                    failures.extend(failed.filter(|_| self.site.cancel.stopped() != Some(Stop::Cancelled)));
                }
                None => images.push(self.planned(i)),
            }
        }
        (images, failures)
    }
}
