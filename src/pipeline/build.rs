//! Builds what a commit lists: reused where the registry holds the same inputs, built where it does not.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::docker::{BuildRequest, Builder, DockerError};
use crate::documents::{BuiltDocument, Image, ImageStatus, SCHEMA, Seconds};
use crate::error::{Classify as _, Failure, Kind};
use crate::lock;
use crate::manifest::ImageKind;
use crate::model::{Change, Digest, ImageName};
use crate::parallel;

use super::bases::LocalBases;
use super::reuse::{self, INPUTS_LABEL};
use super::survey::{Source, Surveyed, survey};
use super::{Origin, Outcome, REGISTRY_THREADS, Site, checkout, housekeeping, now, schedule, seconds};

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

/// Builds a change. `on_image` hears of every image that is ready to be pushed, as soon as it is, from the thread that
/// built it.
pub fn build(
    site: &Site,
    change: &Change,
    payload_sha256: Option<&str>,
    options: &BuildOptions,
    on_image: &(dyn Fn(usize, &Image) + Sync),
) -> Result<Built, Failure> {
    thread::scope(|scope| {
        // Asked while the commit is fetched: the answer costs a process of docker's.
        let asked = scope.spawn(|| site.docker.choose_builder(&site.cancel));
        let builder = || Ok(asked.join().unwrap_or_else(|panic| resume_unwind(panic))?);
        build_with(builder, site, change, payload_sha256, options, on_image)
    })
}

fn build_with(
    builder: impl FnOnce() -> Result<Builder, Failure>,
    site: &Site,
    change: &Change,
    payload_sha256: Option<&str>,
    options: &BuildOptions,
    on_image: &(dyn Fn(usize, &Image) + Sync),
) -> Result<Built, Failure> {
    let started = now();
    let begun = Instant::now();
    let origin = Origin::of(site, change)?;
    let step = site.progress.step(&format!("checkout {}", change.commit.short()));
    step.line(&format!("fetching {}", origin.remote.as_git_url()));
    let commit = checkout::fetch(site, &origin, change, &options.patience)?;
    let surveyed = survey(site, &origin, &commit.mirror, change)?;
    let chosen = choose(&surveyed, &options.images)?;
    let parent = commit.info.first_parent.as_ref().map(|p| p.immutable_tag());
    let reused = look_for_reuse(site, change, &surveyed, &chosen, parent.as_ref(), options.force)?;

    let to_build: BTreeSet<usize> =
        chosen.iter().copied().filter(|i| reused[*i].is_none() && surveyed[*i].source.is_some()).collect();
    let scratch = tempfile::Builder::new()
        .prefix("swanci-")
        .tempdir()
        .classify(Kind::Environment, || "cannot make a temporary directory")?;
    let work = Work {
        site,
        change,
        origin: &origin,
        created: commit.info.time,
        surveyed: &surveyed,
        scratch: scratch.path(),
        options,
    };
    if !options.dry_run {
        work.write_contexts(&commit.mirror, &to_build)?;
    }
    step.done(&format!("{} to build, {} unchanged", to_build.len(), reused.iter().flatten().count()));
    let checkout_time = begun.elapsed();

    let build_begun = Instant::now();
    let images: Mutex<Vec<Option<Image>>> = Mutex::new(surveyed.iter().map(|_| None).collect());
    let failures: Mutex<Vec<(Kind, Option<String>)>> = Mutex::new(Vec::new());
    let put = |i: usize, image: Image| {
        images.lock().unwrap_or_else(PoisonError::into_inner)[i] = Some(image);
    };
    for i in &chosen {
        let image = &surveyed[*i];
        if let ImageKind::Skipped { reason } = &image.spec.kind {
            site.progress.say(&format!("{}: skipped: {reason}", image.spec.name));
            put(*i, Image { reason: Some(reason.clone()), ..plain(image, ImageStatus::Skipped) });
        } else if let Some(digest) = &reused[*i] {
            let ready = Image { digest: Some(digest.clone()), ..work.described(*i, ImageStatus::Unchanged) };
            on_image(*i, &ready);
            put(*i, ready);
        } else if options.dry_run {
            put(*i, work.described(*i, ImageStatus::Planned));
        }
    }
    if !options.dry_run && !to_build.is_empty() {
        let builder = builder()?;
        if builder == Builder::Classic && !site.secrets.is_empty() {
            return Err(Failure::environment("build secrets need BuildKit, and docker has no buildx plugin")
                .hint("install docker-buildx, or take build.secrets out of the configuration"));
        }
        let doing = || "cannot lock the engine for builds";
        let builds = housekeeping::builds_lock(site).classify(Kind::Environment, doing)?;
        lock::shared(&builds, &site.cancel)?.classify(Kind::Environment, doing)?;
        let bases = LocalBases::prepare(site, &surveyed, &to_build)?;
        let after: Vec<Vec<usize>> = surveyed
            .iter()
            .map(|s| s.source.iter().flat_map(|s| s.bases.iter().map(|(_, b)| *b)).collect())
            .collect();
        // A base that is not built now was reused: it can be given its name at once.
        for i in chosen.iter().filter(|i| reused[**i].is_some()) {
            bases.provide(*i, &work.described(*i, ImageStatus::Unchanged), reused[*i].as_ref())?;
        }
        schedule::in_order(site.jobs, &to_build, &after, |i, blocked| {
            let name = &surveyed[i].spec.name;
            let result = match blocked {
                Some(base) => {
                    Err(Failure::failed(format!("its base image {} failed", surveyed[base].spec.name)))
                }
                None => work.build_one(i, builder).and_then(|image| {
                    bases.provide(i, &image, None)?;
                    Ok(image)
                }),
            };
            match result {
                Ok(image) => {
                    on_image(i, &image);
                    put(i, image);
                    true
                }
                Err(failure) => {
                    if blocked.is_some() {
                        site.progress.say(&format!("build {name}: not tried: {failure}"));
                    }
                    let told = (failure.kind, failure.hint.clone());
                    failures.lock().unwrap_or_else(PoisonError::into_inner).push(told);
                    put(
                        i,
                        Image { error: Some(failure.one_line()), ..work.described(i, ImageStatus::Failed) },
                    );
                    false
                }
            }
        });
        drop(bases);
        drop(builds);
    }
    let images: Vec<Image> =
        images.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten().collect();
    let document = BuiltDocument {
        schema: SCHEMA,
        change: change.clone(),
        registry: site.registry.clone(),
        images,
        payload_sha256: payload_sha256.map(str::to_owned),
        started,
        seconds: Seconds {
            checkout: seconds(checkout_time),
            build: seconds(build_begun.elapsed()),
            push: None,
        },
    };
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    let failure = site.cancel.stopped().map(Failure::from).or_else(|| failed_images(&document, &failures));
    Ok(Outcome { document, failure })
}

/// One failure that speaks for all images, with the way out of the first that has one.
fn failed_images(document: &BuiltDocument, failures: &[(Kind, Option<String>)]) -> Option<Failure> {
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

/// For each image the digest of one with the same inputs, as CONTRACT orders the places: the commit's own `sha-` tag,
/// the first moving tag, the first parent's `sha-` tag.
fn look_for_reuse(
    site: &Site,
    change: &Change,
    surveyed: &[Surveyed],
    chosen: &[usize],
    parent: Option<&crate::model::Tag>,
    force: bool,
) -> Result<Vec<Option<Digest>>, Failure> {
    let mut reused = vec![None; surveyed.len()];
    let Some(client) = site.client.as_ref().filter(|_| !force) else { return Ok(reused) };
    let own = change.commit.immutable_tag();
    let found = parallel::map(REGISTRY_THREADS, chosen, |i| {
        let image = &surveyed[*i];
        let Some(source) = &image.source else { return Ok(None) };
        let tags: Vec<_> = [Some(&own), image.tags.first(), parent].into_iter().flatten().collect();
        reuse::find(client, &image.repository, &tags, &source.inputs)
    });
    for (i, found) in chosen.iter().zip(found) {
        reused[*i] = found?;
    }
    Ok(reused)
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

/// What every build of one commit shares.
struct Work<'a> {
    site: &'a Site,
    change: &'a Change,
    origin: &'a Origin,
    created: i64,
    surveyed: &'a [Surveyed],
    scratch: &'a Path,
    options: &'a BuildOptions,
}

impl Work<'_> {
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

    /// All plain contexts in one working copy; one of its own for each that is reached through a link.
    fn write_contexts(
        &self,
        mirror: &crate::git::Mirror<'_>,
        to_build: &BTreeSet<usize>,
    ) -> Result<(), Failure> {
        let sources = || to_build.iter().filter_map(|i| Some((*i, self.surveyed[*i].source.as_ref()?)));
        let folders: Vec<String> = sources()
            .filter(|(_, source)| source.context_is_plain)
            .map(|(i, _)| self.surveyed[i].spec.context.as_str().to_owned())
            .collect();
        if !folders.is_empty() {
            let into = self.scratch.join("tree");
            checkout::write_out(self.site, self.origin, mirror, &self.change.commit, &folders, &into)?;
        }
        for (i, source) in sources().filter(|(_, source)| !source.context_is_plain) {
            mirror.check_out(&source.context_tree, &[".".to_owned()], &self.linked_context(i))?;
        }
        Ok(())
    }

    fn linked_context(&self, i: usize) -> PathBuf {
        self.scratch.join(format!("linked-{i}"))
    }

    fn context(&self, i: usize, source: &Source) -> PathBuf {
        if source.context_is_plain {
            self.scratch.join("tree").join(self.surveyed[i].spec.context.as_str())
        } else {
            self.linked_context(i)
        }
    }

    /// The Dockerfile in the context, or a copy of it where it stands outside or is reached through a link.
    fn dockerfile(&self, i: usize, source: &Source) -> Result<PathBuf, Failure> {
        if source.dockerfile_is_plain {
            return Ok(self.scratch.join("tree").join(self.surveyed[i].spec.dockerfile.as_str()));
        }
        let path = self.scratch.join(format!("Dockerfile-{i}"));
        std::fs::write(&path, &source.dockerfile)
            .classify(Kind::Environment, || format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    fn labels(&self, i: usize, source: &Source) -> BTreeMap<String, String> {
        let image = &self.surveyed[i];
        let version = image.spec.version.as_ref().or(image.tags.first());
        let created = jiff::Timestamp::from_second(self.created).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let oci = |name: &str| format!("org.opencontainers.image.{name}");
        let mut labels = BTreeMap::from([
            (oci("source"), self.origin.source.clone()),
            (oci("revision"), self.change.commit.to_string()),
            (
                oci("version"),
                version.map_or_else(|| self.change.commit.short().to_owned(), ToString::to_string),
            ),
            (oci("title"), image.spec.name.to_string()),
            (oci("created"), created.to_string()),
            (INPUTS_LABEL.to_owned(), source.inputs.to_string()),
        ]);
        if let Some(pull_request) = &self.change.pull_request {
            labels.insert("io.swanci.pull-request".to_owned(), pull_request.number.to_string());
        }
        labels
    }

    fn build_one(&self, i: usize, builder: Builder) -> Result<Image, Failure> {
        let image = &self.surveyed[i];
        let Some(source) = &image.source else {
            return Err(Failure::failed(format!("image {} has no source", image.spec.name)));
        };
        let begun = Instant::now();
        let name = image.repository.tagged(&self.change.commit.immutable_tag());
        self.site.leases.hold(self.site, &name);
        let cancel = self.site.cancel.child(Some(self.site.timeout));
        let on_local_base = !source.bases.is_empty();
        if self.options.pull && on_local_base {
            // docker's --pull would also ask a registry for the local base, which only stands here.
            for reference in &source.foreign_bases {
                self.site.docker.pull(reference, &cancel)?;
            }
        }
        let request = BuildRequest {
            context: self.context(i, source),
            dockerfile: self.dockerfile(i, source)?,
            name: name.clone(),
            args: image.spec.args.clone(),
            labels: self.labels(i, source),
            target: image.spec.target.clone(),
            platform: image.spec.platform.clone(),
            pull: self.options.pull && !on_local_base,
            no_cache: self.options.no_cache,
            secrets: self.site.secrets.clone(),
        };
        let step = self.site.progress.step(&format!("build {}", image.spec.name));
        let build = || self.site.docker.build(builder, &request, &cancel, &mut |line| step.line(line));
        let mut built = build();
        // Somebody pruned the engine meanwhile. Others may go on pruning, so not for ever.
        for _ in 0..2 {
            if !built.as_ref().is_err_and(DockerError::lost_a_cached_step) {
                break;
            }
            built = build();
        }
        let id = match built {
            Ok(Some(id)) => id,
            Ok(None) => {
                step.failed("the engine does not hold the image that was built");
                return Err(Failure::failed(format!("docker built {name}, and the engine does not hold it")));
            }
            Err(error) => {
                let mut failure = Failure::from(error);
                if cancel.stopped() == Some(crate::cancel::Stop::TimedOut)
                    && self.site.cancel.stopped().is_none()
                {
                    let limit = humantime::format_duration(self.site.timeout);
                    failure = failure.context(format!("the build took longer than build.timeout ({limit})"));
                }
                let failure = failure.context(format!("the build of {} failed", image.spec.name));
                step.failed(&failure.one_line());
                return Err(failure);
            }
        };
        step.done("built");
        Ok(Image {
            image_id: Some(id),
            seconds: Some(seconds(begun.elapsed())),
            ..self.described(i, ImageStatus::Built)
        })
    }
}
