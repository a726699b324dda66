//! The build of one image: its labels and the request to docker.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use crate::cancel::{Cancel, Stop};
use crate::docker::{BuildRequest, Builder, Layout, layout_digest};
use crate::documents::{Image, ImageStatus};
use crate::error::{Classify as _, Failure, Kind};
use crate::events::Step;
use crate::model::{Digest, Tag};
use crate::pipeline::compare::{INPUTS_LABEL, REVISION_LABEL, SOURCE_LABEL};
use crate::pipeline::seconds;
use crate::pipeline::survey::Surveyed;
use crate::plan::Action;

use super::Work;

/// How often to try a build whose image is missing from the engine afterwards.
const BUILDS: usize = 3;

impl Work<'_> {
    fn labels(&self, i: usize) -> BTreeMap<String, String> {
        let image = &self.surveyed[i];
        let version = image.spec.version.as_ref().or(image.tags.first()).map(Tag::as_str);
        let created = jiff::Timestamp::from_second(self.created).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let oci = |name: &str| format!("org.opencontainers.image.{name}");
        let mut labels = BTreeMap::from([
            (SOURCE_LABEL.to_owned(), self.origin.source.clone()),
            (REVISION_LABEL.to_owned(), self.change.commit.to_string()),
            (oci("version"), version.unwrap_or(self.change.commit.short()).to_owned()),
            (oci("title"), image.spec.name.to_string()),
            (oci("created"), created.to_string()),
            (INPUTS_LABEL.to_owned(), image.inputs.to_string()),
        ]);
        if let Some(pull_request) = &self.change.pull_request {
            labels.insert("io.swanci.pull-request".to_owned(), pull_request.number.to_string());
        }
        labels
    }

    /// The name of an image in the engine.
    fn engine_name(&self, i: usize) -> String {
        self.surveyed[i].repository.tagged(&self.change.commit.immutable_tag())
    }

    /// The name of a local base in the builds that need it: its immutable name in the engine, or its digest in the
    /// registry.
    fn base_name(&self, base: usize) -> String {
        match &self.actions[base] {
            Some(Action::Reuse { digest, .. }) => format!("{}@{digest}", self.surveyed[base].repository),
            Some(Action::Build { .. }) | None => self.engine_name(base),
        }
    }

    /// The local bases that a remote builder gets as folders, by name.
    fn base_layouts(&self, i: usize) -> Result<BTreeMap<String, Layout>, Failure> {
        let mut layouts = BTreeMap::new();
        for (_, base) in &self.surveyed[i].bases {
            if let Some(folder) = self.layout_of(*base) {
                let digest = layout_digest(&folder)
                    .classify(Kind::Environment, || format!("cannot read {}", folder.display()))?;
                layouts.insert(self.base_name(*base), Layout { folder, digest });
            }
        }
        Ok(layouts)
    }

    /// Where a remote builder writes an image that other images need.
    fn layout_of(&self, i: usize) -> Option<PathBuf> {
        let is_base = self.surveyed.iter().any(|image| image.bases.iter().any(|(_, base)| *base == i));
        let built = self.actions[i].as_ref().is_some_and(Action::is_build);
        let needed = self.builder == Builder::Remote && built && is_base;
        needed.then(|| self.scratch.join(format!("layout-{i}")))
    }

    pub(super) fn build_one(&self, i: usize) -> Result<Image, Failure> {
        let image = &self.surveyed[i];
        let begun = Instant::now();
        let cancel = self.site.cancel.child(Some(self.site.timeout));
        let request = self.request(i, &cancel)?;
        let step = self.site.events.begin(Step::Build { image: image.spec.name.to_string() });
        let build = || {
            self.site.docker.build(self.builder, &request, &cancel, &mut |line| step.line(line))?;
            self.read_back(&request.name, &request.labels, &cancel)
        };
        // The engine drops a new image if the same image is removed under its other names concurrently.
        let built = (0..BUILDS).find_map(|_| build().transpose()).unwrap_or_else(|| {
            Err(Failure::environment(format!("the engine has no {} after its build", request.name)))
        });
        let stopped = self.site.cancel.stopped();
        match built {
            Ok(id) => {
                step.done("built");
                Ok(Image {
                    image_id: Some(id),
                    seconds: Some(seconds(begun.elapsed())),
                    ..self.described(i, ImageStatus::Built)
                })
            }
            Err(_) if cancel.stopped() == Some(Stop::TimedOut) && stopped.is_none() => {
                let limit = humantime::format_duration(self.site.timeout);
                let text = format!("the build took longer than build.timeout ({limit})");
                step.failed(&text);
                Err(Failure::failed(text))
            }
            Err(failure) if matches!(failure.kind, Kind::Interrupted | Kind::Terminated) => {
                drop(step);
                self.site.events.note(&format!("{}: {failure}", image.spec.name));
                Err(failure)
            }
            Err(failure) => {
                step.failed(&failure.one_line());
                Err(failure)
            }
        }
    }

    fn request(&self, i: usize, cancel: &Cancel) -> Result<BuildRequest, Failure> {
        let Surveyed { spec, bases, foreign_bases, .. } = &self.surveyed[i];
        let mut names: BTreeMap<String, String> =
            bases.iter().map(|(reference, base)| (reference.clone(), self.base_name(*base))).collect();
        let in_engine = !names.is_empty() && self.builder != Builder::Remote;
        if self.options.pull && in_engine {
            // docker's --pull would also look for the local base in a registry, but only the engine has it.
            for reference in foreign_bases.iter().filter(|reference| !reference.contains('@')) {
                let platform = spec.platform.as_deref();
                let newest = self.site.docker.newest(self.builder, reference, platform, cancel)?;
                names.insert(reference.clone(), newest);
            }
        }
        let (context, dockerfile) = self.context(i, &names)?;
        let mut args = spec.args.clone();
        args.entry("BUILDKIT_CACHE_MOUNT_NS".to_owned()).or_insert_with(|| self.origin.cache_scope());
        Ok(BuildRequest {
            context,
            dockerfile,
            name: self.engine_name(i),
            args,
            labels: self.labels(i),
            target: spec.target.clone(),
            platform: spec.platform.clone(),
            pull: self.options.pull && !in_engine,
            no_cache: self.options.no_cache,
            secrets: self.origin.secrets.clone(),
            layouts: self.base_layouts(i)?,
            layout: self.layout_of(i),
        })
    }

    /// The Id of the image, if the engine has it. Its labels must match the ones set, because later runs rely on them.
    fn read_back(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
        cancel: &Cancel,
    ) -> Result<Option<Digest>, Failure> {
        let Some(image) = self.site.docker.inspect(name, cancel)? else { return Ok(None) };
        for (label, value) in labels {
            let found = image.labels.get(label);
            if found != Some(value) {
                let found = found.map_or("missing".to_owned(), |found| {
                    format!("`{}`", crate::escape::shortened(found, 80))
                });
                return Err(Failure::failed(format!(
                    "the label {label} of {name} is {found}, not `{value}`"
                ))
                .hint("the Dockerfile, or another run on this engine, replaced the image or its labels"));
            }
        }
        Ok(Some(image.id))
    }
}
