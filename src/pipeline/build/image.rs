//! The build of one image: its labels, its time, its second tries.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Instant;

use crate::cancel::Stop;
use crate::docker::{BuildRequest, Builder, DockerError};
use crate::documents::{Image, ImageStatus};
use crate::error::Failure;
use crate::pipeline::reuse::INPUTS_LABEL;
use crate::pipeline::seconds;
use crate::pipeline::survey::Source;

use super::Work;

impl Work<'_> {
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

    /// What the image is called in the engine.
    fn engine_name(&self, i: usize) -> String {
        self.surveyed[i].repository.tagged(&self.change.commit.immutable_tag())
    }

    pub(super) fn build_one(&self, i: usize) -> Result<Image, Failure> {
        let image = &self.surveyed[i];
        let Some(source) = &image.source else {
            return Err(Failure::failed(format!("image {} has no source", image.spec.name)));
        };
        let begun = Instant::now();
        let name = self.engine_name(i);
        self.site.leases.hold(self.site, &name);
        // Fetching submodules and large files is no part of the build's time.
        let (context, dockerfile) = self.contexts.of(i, source)?;
        let builder = self.builder()?;
        let cancel = self.site.cancel.child(Some(self.site.timeout));
        let on_local_base = !source.bases.is_empty();
        if self.options.pull && on_local_base {
            // docker's --pull would also ask a registry for the local base, which only stands here.
            for reference in &source.foreign_bases {
                self.site.docker.pull(reference, &cancel)?;
            }
        }
        let request = BuildRequest {
            context,
            dockerfile,
            scratch: self.contexts.scratch().to_owned(),
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
            Ok(id) => id,
            Err(error) => {
                let mut failure = Failure::from(error);
                if cancel.stopped() == Some(Stop::TimedOut) && self.site.cancel.stopped().is_none() {
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

    /// Asks the engine for the Ids of what buildx built, while the last of it goes up: its push compares what the registry
    /// got with what the builder made.
    pub(super) fn ask_for_ids(&self) {
        let built: Vec<usize> = {
            let images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
            let is_built =
                |i: &usize| images[*i].as_ref().is_some_and(|image| image.status == ImageStatus::Built);
            (0..images.len()).filter(is_built).collect()
        };
        // The classic builder says the Id itself.
        if built.is_empty() || !matches!(self.builder(), Ok(Builder::Buildx)) {
            return;
        }
        let names: Vec<String> = built.iter().map(|i| self.engine_name(*i)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        // What cannot be asked, or is another image by now, keeps its builder's word: the push compares it.
        let Ok(found) = self.site.docker.inspect_all(&names, &self.site.cancel) else { return };
        for (i, found) in built.into_iter().zip(found) {
            let inputs = self.surveyed[i].source.as_ref().map(|source| &source.inputs);
            if let Some(image) = found.filter(|image| image.has_inputs(inputs)) {
                self.set_id(i, image.id);
            }
        }
    }
}
