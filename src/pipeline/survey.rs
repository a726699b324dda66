//! Reads and checks a commit's images before any build: specs, git objects, tags, local bases, inputs.

use std::collections::BTreeMap;

use crate::error::{Failure, Kind};
use crate::git::{ContextFiles, Found, Mirror};
use crate::manifest::dockerfile::DockerfileStages;
use crate::manifest::template::TemplateValues;
use crate::manifest::{self, ImageKind, ImageSpec, Template};
use crate::model::{Change, CommitSha, Digest, ImageRepository, RepoName, Tag};
use crate::plan::{self, LocalNames};

use super::{Origin, Site};

pub(super) struct Surveyed {
    pub(super) spec: ImageSpec,
    pub(super) repository: ImageRepository,
    pub(super) tags: Vec<Tag>,
    /// `None` for an image that docker does not build.
    pub(super) source: Option<Source>,
}

impl Surveyed {
    pub(super) fn bases(&self) -> impl Iterator<Item = &(String, usize)> {
        self.source.iter().flat_map(|source| &source.bases)
    }
}

pub(super) struct Source {
    pub(super) inputs: Digest,
    pub(super) files: ContextFiles,
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
    match mirror.look(commit, manifest::FILE_NAME)? {
        Found::Blob(id) => {
            let content = mirror.read_blobs(&[id])?.concat();
            manifest::parse(&content).map_err(|e| Failure::new(Kind::BadInput, e))
        }
        Found::Missing | Found::Tree(_) | Found::Submodule => {
            if !matches!(mirror.look(commit, "Dockerfile")?, Found::Blob(_)) {
                return Err(no_images());
            }
            let spec = ImageSpec::root_dockerfile(repository).map_err(|e| Failure::new(Kind::BadInput, e))?;
            Ok(vec![spec])
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
) -> Result<Vec<Surveyed>, Failure> {
    let specs = specs(mirror, &change.commit, &change.repository)?;
    let address = match (&site.registry, &origin.namespace) {
        (Some(address), Some(namespace)) => {
            Some(address.with_namespace(namespace).map_err(|e| Failure::new(Kind::BadInput, e))?)
        }
        (address, _) => address.clone(),
    };
    let mut surveyed = Vec::with_capacity(specs.len());
    for spec in specs {
        let repository = ImageRepository::new(address.as_ref(), &spec.name)
            .map_err(|e| Failure::new(Kind::BadInput, e))?;
        origin
            .check_namespace(&repository, site.registry.as_ref().and_then(|registry| registry.namespace()))?;
        let tags = tags_of(site, change, &spec)?;
        surveyed.push(Surveyed { spec, repository, tags, source: None });
    }
    find_sources(mirror, &change.commit, origin.submodules, &mut surveyed)?;
    hash_inputs(&mut surveyed)?;
    Ok(surveyed)
}

/// The moving tags: from the command line, else the image, else the configuration, else the default. Empty without a
/// branch, because then there is no proof of merge.
fn tags_of(site: &Site, change: &Change, spec: &ImageSpec) -> Result<Vec<Tag>, Failure> {
    if change.branch.is_none() || spec.kind != ImageKind::Docker {
        return Ok(Vec::new());
    }
    let default;
    let templates: &[Template] = match (&site.tags, &spec.tags, &site.default_tags) {
        (Some(tags), _, _) | (None, Some(tags), _) | (None, None, Some(tags)) => tags,
        (None, None, None) => {
            default = Template::default_list(spec.version.is_some());
            &default
        }
    };
    let values = TemplateValues {
        version: spec.version.as_ref(),
        branch: change.branch.as_ref(),
        commit: &change.commit,
        number: change.pull_request.as_ref().map(|pr| pr.number),
    };
    Template::expand_all(templates, &values).map_err(|error| {
        Failure::new(Kind::BadInput, error).context(format!("the tags of the image `{}`", spec.name))
    })
}

fn find_sources(
    mirror: &Mirror<'_>,
    commit: &CommitSha,
    submodules: bool,
    images: &mut [Surveyed],
) -> Result<(), Failure> {
    let docker = || images.iter().filter(|image| image.spec.kind == ImageKind::Docker);
    let paths: Vec<(&str, &str)> =
        docker().map(|image| (image.spec.context.as_str(), image.spec.dockerfile.as_str())).collect();
    let found = mirror.context_files(commit, &paths, submodules)?;
    let docker = images.iter_mut().filter(|image| image.spec.kind == ImageKind::Docker);
    for (image, files) in docker.zip(found) {
        let files = files.map_err(|why| Failure::bad_input(format!("image `{}`: {why}", image.spec.name)))?;
        image.source = Some(Source {
            // `hash_inputs` adds the bases.
            inputs: plan::inputs(&image.spec, &files, BTreeMap::new()),
            files,
            bases: Vec::new(),
            foreign_bases: Vec::new(),
        });
        check_target(image)?;
    }
    Ok(())
}

fn check_target(image: &Surveyed) -> Result<(), Failure> {
    let (Some(target), Some(source)) = (&image.spec.target, &image.source) else { return Ok(()) };
    let text = String::from_utf8_lossy(&source.files.dockerfile.content);
    let stages = DockerfileStages::parse(&text, &image.spec.args)
        .map_err(|e| Failure::bad_input(e).context(format!("image `{}`", image.spec.name)))?;
    if stages.has_target(target) {
        return Ok(());
    }
    let names: Vec<&str> = stages.names().iter().flatten().map(String::as_str).collect();
    let known =
        if names.is_empty() { "it names none".to_owned() } else { format!("it has {}", names.join(", ")) };
    Err(Failure::bad_input(format!(
        "image `{}`: the target `{target}` is not a stage of its Dockerfile; {known}",
        image.spec.name
    )))
}

/// Finds the local bases and hashes each image's inputs, bases first.
fn hash_inputs(images: &mut [Surveyed]) -> Result<(), Failure> {
    let names = LocalNames::new(images.iter().map(|image| (&image.spec, &image.repository, &image.tags[..])));
    let mut bases = Vec::with_capacity(images.len());
    for (i, image) in images.iter().enumerate() {
        let text = image.source.as_ref().map(|s| String::from_utf8_lossy(&s.files.dockerfile.content));
        // Docker reports what is wrong with an invalid Dockerfile.
        let stages = text.and_then(|text| DockerfileStages::parse(&text, &image.spec.args).ok());
        let (mut local, mut foreign) = (Vec::new(), Vec::new());
        for reference in stages.iter().flat_map(|s| s.bases()) {
            match names.find(reference, i).filter(|base| images[*base].source.is_some()) {
                Some(base) => local.push((reference.clone(), base)),
                None => foreign.push(reference.clone()),
            }
        }
        bases.push((local, foreign));
    }
    let edges: Vec<Vec<usize>> =
        bases.iter().map(|(local, _)| local.iter().map(|(_, b)| *b).collect()).collect();
    let order = plan::order(&edges).map_err(|circle| {
        let names: Vec<&str> = circle.iter().map(|i| images[*i].spec.name.as_str()).collect();
        let names = names.join(", ");
        Failure::bad_input(format!("these images are built on each other in a circle: {names}"))
    })?;
    for i in order {
        let (local, foreign) = std::mem::take(&mut bases[i]);
        let mut base_inputs = BTreeMap::new();
        for (_, base) in &local {
            if let Some(source) = &images[*base].source {
                base_inputs.insert(images[*base].spec.name.as_str(), &source.inputs);
            }
        }
        let Some(source) = &images[i].source else { continue };
        let inputs = plan::inputs(&images[i].spec, &source.files, base_inputs);
        if let Some(source) = &mut images[i].source {
            source.inputs = inputs;
            source.bases = local;
            source.foreign_bases = foreign;
        }
    }
    Ok(())
}
