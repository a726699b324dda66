//! Reads and checks a commit's images before any build: specs, git objects, tags, local bases, inputs.

use std::collections::BTreeMap;

use crate::documents::{Image, ImageStatus};
use crate::error::Failure;
use crate::git::{ContextFiles, Found, Mirror};
use crate::manifest::dockerfile::DockerfileStages;
use crate::manifest::{self, ImageSpec, TemplateValues};
use crate::model::{Change, CommitSha, Digest, ImageRepository, RepoName, Tag};
use crate::plan::{self, LocalNames};

use super::{Origin, Site};

pub(super) struct Survey {
    pub(super) images: Vec<Surveyed>,
    /// The images that docker does not build, each with its place in images.json.
    pub(super) skipped: Vec<(usize, Image)>,
}

/// An image that docker builds.
pub(super) struct Surveyed {
    pub(super) place: usize,
    pub(super) spec: ImageSpec,
    pub(super) repository: ImageRepository,
    pub(super) tags: Vec<Tag>,
    pub(super) files: ContextFiles,
    /// `None` for an invalid Dockerfile; docker reports what is wrong with it.
    pub(super) stages: Option<DockerfileStages>,
    pub(super) inputs: Digest,
    /// Local bases: the reference in `FROM`, and the index of its image.
    pub(super) bases: Vec<(String, usize)>,
    /// References to images that this repository does not build.
    pub(super) foreign_bases: Vec<String>,
}

/// From images.json, or from the Dockerfile at the root.
pub(super) fn specs(
    mirror: &Mirror<'_>,
    commit: &CommitSha,
    repository: &RepoName,
) -> Result<Vec<ImageSpec>, Failure> {
    let bad_input = |mistake| Failure::bad_input(manifest::sentence(&mistake));
    match mirror.look(commit, manifest::FILE_NAME)? {
        Found::Blob(id) => manifest::parse(&mirror.read_blobs(&[id])?.concat()).map_err(bad_input),
        Found::Missing | Found::Tree(_) | Found::Submodule => {
            if !matches!(mirror.look(commit, "Dockerfile")?, Found::Blob(_)) {
                return Err(no_images());
            }
            Ok(vec![ImageSpec::root_dockerfile(repository).map_err(bad_input)?])
        }
        Found::Outside(_) | Found::Dangling => {
            Err(Failure::bad_input("images.json is a link that leads out of the repository"))
        }
    }
}

fn no_images() -> Failure {
    Failure::bad_input("the commit lists no image: there is no images.json and no Dockerfile at its root")
        .hint(r#"add an images.json: {"images":[{"service_name":"httpd","version":"1.0","type":"Docker"}]}"#)
}

pub(super) fn survey(
    site: &Site,
    origin: &Origin,
    mirror: &Mirror<'_>,
    change: &Change,
) -> Result<Survey, Failure> {
    let (mut docker, mut skipped) = (Vec::new(), Vec::new());
    for (place, spec) in specs(mirror, &change.commit, &change.repository)?.into_iter().enumerate() {
        if spec.skipped.is_none() {
            docker.push((place, spec));
        } else {
            let (name, reason) = (spec.name.to_string(), spec.skipped);
            skipped.push((place, Image { name, status: ImageStatus::Skipped, reason, ..Image::default() }));
        }
    }
    let paths: Vec<(&str, &str)> =
        docker.iter().map(|(_, spec)| (spec.context.as_str(), spec.dockerfile.as_str())).collect();
    let found = mirror.context_files(&change.commit, &paths, origin.submodules)?;
    let mut images = Vec::with_capacity(docker.len());
    for ((place, spec), files) in docker.into_iter().zip(found) {
        let bad_input = |problem: String| Failure::bad_input(format!("image `{}`: {problem}", spec.name));
        let repository = ImageRepository::new(site.registry.as_ref(), origin.namespace.as_ref(), &spec.name);
        let repository = repository.map_err(|error| bad_input(error.to_string()))?;
        origin.check_namespace(site, &repository)?;
        let tags = tags_of(site, change, &spec)?;
        let files = files.map_err(|misplaced| bad_input(misplaced.to_string()))?;
        let text = String::from_utf8_lossy(&files.dockerfile.content);
        let stages = DockerfileStages::parse(&text, &spec.args);
        if let Some(target) = &spec.target {
            check_target(target, &stages).map_err(bad_input)?;
        }
        images.push(Surveyed {
            place,
            repository,
            tags,
            stages: stages.ok(),
            // `find_bases` adds the inputs of the bases.
            inputs: plan::inputs(&spec, &files, BTreeMap::new()),
            files,
            spec,
            bases: Vec::new(),
            foreign_bases: Vec::new(),
        });
    }
    find_bases(&mut images)?;
    Ok(Survey { images, skipped })
}

/// Empty without a branch, because then there is no proof of merge.
fn tags_of(site: &Site, change: &Change, spec: &ImageSpec) -> Result<Vec<Tag>, Failure> {
    if change.branch.is_none() {
        return Ok(Vec::new());
    }
    let values = TemplateValues {
        version: spec.version.as_ref(),
        branch: change.branch.as_ref(),
        commit: &change.commit,
        number: change.pull_request.as_ref().map(|pr| pr.number),
    };
    let tags = spec.moving_tags(site.tags.as_deref(), site.default_tags.as_deref(), &values);
    tags.map_err(|error| Failure::bad_input(error).context(format!("the tags of the image `{}`", spec.name)))
}

fn check_target(target: &str, stages: &Result<DockerfileStages, String>) -> Result<(), String> {
    let stages = stages.as_ref().map_err(Clone::clone)?;
    if stages.has_target(target) {
        return Ok(());
    }
    let names = stages.names();
    let known =
        if names.is_empty() { "it names none".to_owned() } else { format!("it has {}", names.join(", ")) };
    Err(format!("the target `{target}` is not a stage of its Dockerfile; {known}"))
}

/// Finds the local bases and hashes each image's inputs, bases first.
fn find_bases(images: &mut [Surveyed]) -> Result<(), Failure> {
    let names = LocalNames::new(images.iter().map(|image| (&image.spec, &image.repository, &image.tags[..])));
    let mut found = Vec::with_capacity(images.len());
    for (i, image) in images.iter().enumerate() {
        let (mut local, mut foreign) = (Vec::new(), Vec::new());
        for reference in image.stages.iter().flat_map(DockerfileStages::bases) {
            match names.find(reference, i) {
                Some(base) => local.push((reference.to_owned(), base)),
                None => foreign.push(reference.to_owned()),
            }
        }
        found.push((local, foreign));
    }
    for (image, bases) in images.iter_mut().zip(found) {
        (image.bases, image.foreign_bases) = bases;
    }
    let bases: Vec<Vec<usize>> =
        images.iter().map(|image| image.bases.iter().map(|(_, base)| *base).collect()).collect();
    let order = plan::order(&bases).map_err(|circle| {
        let names: Vec<&str> = circle.iter().map(|i| images[*i].spec.name.as_str()).collect();
        let names = names.join(", ");
        Failure::bad_input(format!("these images are built on each other in a circle: {names}"))
    })?;
    for i in order {
        let inputs_of = |base: &usize| (images[*base].spec.name.as_str(), &images[*base].inputs);
        let (spec, files) = (&images[i].spec, &images[i].files);
        images[i].inputs = plan::inputs(spec, files, bases[i].iter().map(inputs_of).collect());
    }
    Ok(())
}
