//! Builds what a commit lists: reused where the registry holds the same inputs, built where it does not.

mod compare;
mod image;

use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::cancel::{Cancel, Stop};
use crate::docker::Builder;
use crate::documents::{BuiltDocument, Image, ImageStatus, SCHEMA, Seconds};
use crate::error::{Classify as _, Failure, Kind};
use crate::lock;
use crate::manifest::ImageKind;
use crate::model::{Change, CommitSha, Digest, ImageName, Tag};

use super::bases::LocalBases;
use super::contexts::Contexts;
use super::push::Standing;
use super::schedule::Schedule;
use super::scratch::{Scratch, remove_abandoned};
use super::survey::{Surveyed, survey};
use super::{BUILDX, Origin, Outcome, Site, checkout, housekeeping, now, seconds};

/// What a build is asked to do differently.
#[derive(Debug, Clone, Default)]
pub struct BuildOptions {
    /// Only these images; empty means all.
    pub images: Vec<ImageName>,
    /// Build even what is unchanged.
    pub force: bool,
    /// Ask for newer base images.
    pub pull: bool,
    /// Use no cached step.
    pub no_cache: bool,
    /// Say what would be built, and build nothing.
    pub dry_run: bool,
    /// How long to wait before each further fetch of a commit that is not there yet.
    pub patience: Vec<Duration>,
}

/// A build that came to its end.
pub type Built = Outcome<BuiltDocument>;

/// Hears of every image that is ready to be pushed, as soon as it is, from the thread that found or built it.
pub(super) type OnReady<'a> = &'a (dyn Fn(&Image, Standing) + Sync);

/// Builds a change.
pub fn build(
    site: &Site,
    change: &Change,
    payload_sha256: Option<&str>,
    options: &BuildOptions,
    on_ready: OnReady<'_>,
) -> Result<Built, Failure> {
    let started = now();
    let begun = Instant::now();
    let origin = Origin::of(site, change)?;
    let step = site.progress.step(&format!("checkout {}", change.commit.short()));
    step.line(&format!("fetching {}", origin.remote.as_git_url()));
    let mirror = checkout::fetch(site, &origin, change, &options.patience)?;
    thread::scope(|scope| {
        // Each answer costs a process: they are asked for while the commit's files are read.
        let builder =
            scope.spawn(|| site.docker.choose_builder(Some(&site.state_dir.join(BUILDX)), &site.cancel));
        let info = scope.spawn(|| mirror.commit_info(&change.commit));
        let surveyed = survey(site, &origin, &mirror, change)?;
        let chosen = choose(&surveyed, &options.images)?;
        let info = info.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        step.done(&if chosen.len() == 1 { "1 image".to_owned() } else { format!("{} images", chosen.len()) });
        let checkout = begun.elapsed();

        let begun = Instant::now();
        let temporary = std::env::temp_dir();
        let scratch = Scratch::new(&temporary)
            .classify(Kind::Environment, || format!("cannot make a directory in {}", temporary.display()))?;
        scope.spawn(move || remove_abandoned(&temporary));
        // What concerns all images ends the work on each of them.
        let together = Site { cancel: site.cancel.child(None), ..site.clone() };
        let after = surveyed.iter().map(|s| s.bases().map(|(_, base)| *base).collect()).collect();
        let sources = chosen.iter().copied().filter(|i| surveyed[*i].source.is_some()).collect();
        let answer = || Ok(builder.join().unwrap_or_else(|panic| resume_unwind(panic))?);
        let work = Work {
            site: &together,
            change,
            origin: &origin,
            created: info.time,
            parent: info.first_parent.as_ref().map(CommitSha::immutable_tag),
            contexts: Contexts::new(&together, &origin, &mirror, &change.commit, &surveyed, scratch.path()),
            surveyed: &surveyed,
            options,
            on_ready,
            schedule: Schedule::new(sources, after),
            builder: Mutex::new(AskedBuilder::Asked(Box::new(answer))),
            images: Mutex::new(surveyed.iter().map(|_| None).collect()),
            failures: Mutex::default(),
            ended: Mutex::default(),
        };
        let (images, failures) = work.carry_out(&chosen, &site.cancel)?;
        let document = BuiltDocument {
            schema: SCHEMA,
            change: change.clone(),
            registry: site.registry.clone(),
            images,
            payload_sha256: payload_sha256.map(str::to_owned),
            started,
            seconds: Seconds { checkout: seconds(checkout), build: seconds(begun.elapsed()), push: None },
        };
        let failure =
            site.cancel.stopped().map(Failure::from).or_else(|| failed_images(&document, &failures));
        Ok(Outcome { document, failure })
    })
}

/// One failure that speaks for all images, with the way out of the first that has one.
fn failed_images(document: &BuiltDocument, failures: &[ImageFailure]) -> Option<Failure> {
    let kind = failures.iter().map(|(kind, _)| *kind).reduce(Kind::and)?;
    let hint = failures.iter().filter(|(k, _)| *k == kind).find_map(|(_, hint)| hint.clone());
    let failed: Vec<&Image> = document.images.iter().filter(|i| i.status == ImageStatus::Failed).collect();
    let names: Vec<&str> = failed.iter().map(|i| i.name.as_str()).collect();
    let first = failed.iter().find_map(|i| i.error.clone()).unwrap_or_default();
    let text = format!("{} of {} images failed: {}", failed.len(), document.images.len(), names.join(", "));
    let failure = Failure::new(kind, anyhow::anyhow!("{first}").context(text));
    Some(Failure { hint, ..failure })
}

/// The images that are asked for, with the local bases that they stand on.
fn choose(surveyed: &[Surveyed], asked: &[ImageName]) -> Result<Vec<usize>, Failure> {
    if asked.is_empty() {
        return Ok((0..surveyed.len()).collect());
    }
    let mut chosen = BTreeSet::new();
    let mut open = Vec::new();
    for name in asked {
        let Some(i) = surveyed.iter().position(|s| s.spec.name == *name) else {
            let known: Vec<&str> = surveyed.iter().map(|s| s.spec.name.as_str()).collect();
            return Err(Failure::usage(format!(
                "the commit lists no image `{name}`; it lists {}",
                known.join(", ")
            )));
        };
        open.push(i);
    }
    while let Some(i) = open.pop() {
        if chosen.insert(i) {
            open.extend(surveyed[i].source.iter().flat_map(|s| s.bases.iter().map(|(_, b)| *b)));
        }
    }
    Ok(chosen.into_iter().collect())
}

fn plain(image: &Surveyed, status: ImageStatus) -> Image {
    Image {
        name: image.spec.name.to_string(),
        status,
        repository: None,
        immutable_tag: None,
        tags: None,
        image_id: None,
        digest: None,
        inputs: None,
        reason: None,
        error: None,
        note: None,
        seconds: None,
        moved: None,
    }
}

/// Why an image failed, and the way out.
type ImageFailure = (Kind, Option<String>);

/// Waits for what docker says about its builder.
type BuilderAnswer<'a> = Box<dyn FnOnce() -> Result<Builder, Failure> + Send + 'a>;

/// What is known of the builder.
enum AskedBuilder<'a> {
    Asked(BuilderAnswer<'a>),
    Known(Builder),
    /// It cannot be had, which has ended the work on all images.
    Unusable,
}

/// What the images of one commit share, and what has become of each.
struct Work<'a> {
    site: &'a Site,
    change: &'a Change,
    origin: &'a Origin,
    created: i64,
    /// The `sha-` tag of the first parent.
    parent: Option<Tag>,
    contexts: Contexts<'a>,
    surveyed: &'a [Surveyed],
    options: &'a BuildOptions,
    on_ready: OnReady<'a>,
    schedule: Schedule,
    builder: Mutex<AskedBuilder<'a>>,
    images: Mutex<Vec<Option<Image>>>,
    failures: Mutex<Vec<ImageFailure>>,
    /// What ended the work on all of them: the first such failure.
    ended: Mutex<Option<Failure>>,
}

impl Work<'_> {
    /// Compares, builds, and returns what has become of the images, and why some failed.
    fn carry_out(
        self,
        chosen: &[usize],
        cancel: &Cancel,
    ) -> Result<(Vec<Image>, Vec<ImageFailure>), Failure> {
        self.skip(chosen);
        thread::scope(|scope| {
            scope.spawn(|| self.compare(chosen));
            if let Err(failure) = self.build_wanted() {
                self.end_all(failure);
            }
        });
        self.ask_for_ids();
        let failures = self.failures.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = self.ended.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let kind = failures.iter().fold(failure.kind, |kind, (other, _)| kind.and(*other));
            return Err(cancel.stopped().map_or(Failure { kind, ..failure }, Failure::from));
        }
        let images = self.images.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok((images.into_iter().flatten().collect(), failures))
    }

    fn described(&self, i: usize, status: ImageStatus) -> Image {
        let image = &self.surveyed[i];
        Image {
            repository: Some(image.repository.clone()),
            immutable_tag: Some(self.change.commit.immutable_tag()),
            tags: Some(image.tags.clone()),
            inputs: image.source.as_ref().map(|s| s.inputs.clone()),
            ..plain(image, status)
        }
    }

    fn put(&self, i: usize, image: Image) {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)[i] = Some(image);
    }

    fn set_id(&self, i: usize, id: Digest) {
        if let Some(image) = &mut self.images.lock().unwrap_or_else(PoisonError::into_inner)[i] {
            image.image_id = Some(id);
        }
    }

    fn fail(&self, i: usize, failure: &Failure) {
        let failed = self.described(i, ImageStatus::Failed);
        self.put(i, Image { error: Some(failure.one_line()), ..failed });
        // What was only cut short by the end of all says nothing of its own.
        if self.site.cancel.stopped() != Some(Stop::Cancelled) {
            let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            failures.push((failure.kind, failure.hint.clone()));
        }
    }

    fn skip(&self, chosen: &[usize]) {
        for i in chosen {
            let image = &self.surveyed[*i];
            if let ImageKind::Skipped { reason } = &image.spec.kind {
                self.site.progress.say(&format!("{}: skipped: {reason}", image.spec.name));
                self.put(*i, Image { reason: Some(reason.clone()), ..plain(image, ImageStatus::Skipped) });
            }
        }
    }

    /// A failure that concerns all images.
    fn end_all(&self, failure: Failure) {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
        self.site.cancel.stop(Stop::Cancelled);
    }

    /// Builds what is wanted, from the moment that the first image is.
    fn build_wanted(&self) -> Result<(), Failure> {
        let site = self.site;
        if !self.schedule.wait_for_work() {
            return Ok(());
        }
        let doing = || "cannot lock the engine for builds";
        let builds = housekeeping::builds_lock(site).classify(Kind::Environment, doing)?;
        lock::shared(&builds, &site.cancel)?.classify(Kind::Environment, doing)?;
        let bases = self.local_bases()?;
        self.schedule.work(site.jobs, |i, blocked| {
            let name = &self.surveyed[i].spec.name;
            let built = match blocked {
                Some(base) => {
                    Err(Failure::failed(format!("its base image {} failed", self.surveyed[base].spec.name)))
                }
                None => site.cancel.check().map_err(Failure::from).and_then(|()| self.build_one(i)),
            };
            let built = built.and_then(|image| {
                bases.provide(i, &image, None)?;
                (self.on_ready)(&image, Standing::JustBuilt(Instant::now()));
                Ok(image)
            });
            let went_well = built.is_ok();
            match built {
                Ok(image) => self.put(i, image),
                Err(failure) => {
                    if blocked.is_some() {
                        site.progress.say(&format!("build {name}: not tried: {failure}"));
                    }
                    self.fail(i, &failure);
                }
            }
            went_well
        });
        Ok(())
    }

    /// The builder; waits until docker has said which. That there is none to use concerns all images.
    fn builder(&self) -> Result<Builder, Failure> {
        let mut builder = self.builder.lock().unwrap_or_else(PoisonError::into_inner);
        *builder = match std::mem::replace(&mut *builder, AskedBuilder::Unusable) {
            AskedBuilder::Asked(answer) => match answer().and_then(|builder| self.usable(builder)) {
                Ok(known) => AskedBuilder::Known(known),
                Err(failure) => {
                    self.end_all(failure);
                    AskedBuilder::Unusable
                }
            },
            settled @ (AskedBuilder::Known(_) | AskedBuilder::Unusable) => settled,
        };
        match *builder {
            AskedBuilder::Known(known) => Ok(known),
            AskedBuilder::Asked(_) | AskedBuilder::Unusable => {
                self.site.cancel.check()?;
                Err(Failure::environment("docker has no builder to use"))
            }
        }
    }

    fn usable(&self, builder: Builder) -> Result<Builder, Failure> {
        if builder == Builder::Classic && !self.site.secrets.is_empty() {
            return Err(Failure::environment("build secrets need BuildKit, and docker has no buildx plugin")
                .hint("install docker-buildx, or take build.secrets out of the configuration"));
        }
        Ok(builder)
    }

    /// The names of local bases are locked all at once, so everything has to be decided first; without local bases
    /// nothing waits.
    fn local_bases(&self) -> Result<LocalBases<'_>, Failure> {
        let to_build = if self.surveyed.iter().any(|s| s.bases().next().is_some()) {
            self.schedule.wait_until_decided()
        } else {
            BTreeSet::new()
        };
        let bases = LocalBases::prepare(self.site, self.surveyed, &to_build)?;
        // A base that is not built now was reused: it can be given its name at once.
        let images = self.images.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (i, image) in images.iter().enumerate() {
            if let Some(image) = image.as_ref().filter(|image| image.digest.is_some()) {
                bases.provide(i, image, image.digest.as_ref())?;
            }
        }
        Ok(bases)
    }
}
