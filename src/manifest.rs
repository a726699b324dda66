//! images.json → image specs. Pure: whether a folder or a Dockerfile is there is for the plan to find out.
//!
//! The format is CONTRACT's, "build", item 2. Reading is strict, because everything here ends in a command line, a
//! path or a reference: what is unclear is refused with its JSON path, before anything is built.

pub(crate) mod dockerfile;
mod path;
mod secrets;
pub(crate) mod template;
mod variables;
mod wire;

use std::collections::BTreeMap;

use crate::escape::{escaped, shortened};
use crate::model::{ImageName, RepoName, Tag};
use crate::suggest;

pub(crate) use path::RelPath;
pub(crate) use template::Template;
#[cfg(test)]
pub(crate) use wire::File;

/// The name of the file, at the root of a commit.
pub(crate) const FILE_NAME: &str = "images.json";

/// One image that a commit asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageSpec {
    /// `service_name`: its name below the registry and its namespace.
    pub name: ImageName,
    /// Its version; valid as a tag.
    pub version: Option<Tag>,
    /// What is to be done with it.
    pub kind: ImageKind,
    /// The build context, from the root of the repository.
    pub context: RelPath,
    /// The Dockerfile, also from the root of the repository (images.json gives it relative to the context, and it may
    /// lie outside of it as long as it stays in the repository).
    pub dockerfile: RelPath,
    /// Build arguments, by name.
    pub args: BTreeMap<String, String>,
    /// The stage to build, by its name.
    pub target: Option<String>,
    /// The one platform to build for, `os/arch[/variant]`.
    pub platform: Option<String>,
    /// Its own tag templates; `None` leaves them to the configuration. An empty list asks for no moving tag.
    pub tags: Option<Vec<Template>>,
}

/// What is to be done with an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ImageKind {
    /// Built with docker.
    Docker,
    /// Reported, and nothing else.
    Skipped {
        /// Why, safe to print.
        reason: String,
    },
}

/// images.json is malformed: exit code 4.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{FILE_NAME}: {}{problem}", .path.as_ref().map(|p| format!("`{p}` ")).unwrap_or_default())]
pub(crate) struct ManifestError {
    /// Where, as a JSON path like `images[1].version`; `None` for the file as a whole.
    pub path: Option<String>,
    /// What is wrong, as the rest of a sentence.
    pub problem: String,
}

impl ManifestError {
    fn at(path: impl Into<String>, problem: impl Into<String>) -> ManifestError {
        ManifestError { path: Some(path.into()), problem: problem.into() }
    }

    fn whole(problem: impl Into<String>) -> ManifestError {
        ManifestError { path: None, problem: problem.into() }
    }
}

/// Reads images.json.
///
/// # Errors
/// [`ManifestError`] with the JSON path of the first thing that is wrong.
pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<ImageSpec>, ManifestError> {
    let images = wire::read(bytes)?;
    if images.is_empty() {
        return Err(ManifestError::at("images", "is empty: there is no image to build"));
    }
    let mut specs: Vec<ImageSpec> = Vec::with_capacity(images.len());
    let mut places: BTreeMap<ImageName, usize> = BTreeMap::new();
    for (index, image) in images.into_iter().enumerate() {
        let spec = check(image, index)?;
        if let Some(first) = places.insert(spec.name.clone(), index) {
            let problem = format!("is `{}`, which `images[{first}]` is called already", spec.name);
            return Err(ManifestError::at(format!("images[{index}].service_name"), problem));
        }
        specs.push(spec);
    }
    Ok(specs)
}

fn check(image: wire::Image, index: usize) -> Result<ImageSpec, ManifestError> {
    let at = |key: &str| format!("images[{index}].{key}");
    let wrong = |key: &str, problem: &dyn std::fmt::Display| {
        ManifestError::at(at(key), format!("is wrong: {problem}"))
    };

    let name: ImageName = image.service_name.parse().map_err(|e| wrong("service_name", &e))?;
    let version: Option<Tag> =
        image.version.map(|version| version.parse()).transpose().map_err(|e| wrong("version", &e))?;
    let context = match &image.context {
        Some(context) => RelPath::parse(context).map_err(|e| wrong("context", &e))?,
        None => RelPath::parse(name.as_str()).map_err(|e| wrong("service_name", &e))?,
    };
    let dockerfile = context
        .join(image.dockerfile.as_deref().unwrap_or("Dockerfile"))
        .and_then(|path| if path.is_root() { Err(path::PathError::NoFile) } else { Ok(path) })
        .map_err(|e| wrong("dockerfile", &e))?;
    let args = image.args.unwrap_or_default().0;
    for (arg, value) in &args {
        let place = at(&format!("args.{}", shortened(arg, 60)));
        if !is_arg_name(arg) {
            return Err(ManifestError::at(
                place,
                "is not an argument name: letters, digits and `_`, not starting with a digit",
            ));
        }
        if let Some(why) = secrets::looks_secret(arg, value) {
            return Err(ManifestError::at(
                place,
                format!(
                    "{why}, and an argument shows in the image's history: pass it as a build secret \
                     (`secrets` of its [[repository]] in the configuration, `RUN --mount=type=secret` in the Dockerfile)"
                ),
            ));
        }
    }
    if let Some(target) = &image.target
        && !is_target(target)
    {
        return Err(wrong("target", &format!("`{}` can be no stage name", shortened(target, 60))));
    }
    if let Some(platform) = &image.platform
        && !is_platform(platform)
    {
        let problem =
            format!("`{}` is not one platform like `linux/arm64` or `linux/arm/v7`", shortened(platform, 60));
        return Err(wrong("platform", &problem));
    }
    let tags = match image.tags {
        None => None,
        Some(tags) => Some(
            tags.iter()
                .enumerate()
                .map(|(i, tag)| {
                    let template: Template = tag.parse().map_err(|e| wrong(&format!("tags[{i}]"), &e))?;
                    if version.is_none() && template.asks_for(template::Word::Version) {
                        return Err(wrong(
                            &format!("tags[{i}]"),
                            &"it asks for {version}, and the image has no `version`",
                        ));
                    }
                    Ok(template)
                })
                .collect::<Result<Vec<_>, _>>()?,
        ),
    };
    let kind = match image.kind.as_deref() {
        None => ImageKind::Docker,
        Some(kind) if kind.eq_ignore_ascii_case("Docker") => ImageKind::Docker,
        Some(other) => ImageKind::Skipped {
            reason: format!("its type is `{}`; only `Docker` is built", shortened(other, 60)),
        },
    };
    Ok(ImageSpec {
        name,
        version,
        kind,
        context,
        dockerfile,
        args,
        target: image.target,
        platform: image.platform,
        tags,
    })
}

impl ImageSpec {
    /// The one image of a repository without images.json but with a Dockerfile at its root: named after the
    /// repository, in lower case.
    ///
    /// # Errors
    /// [`ManifestError`] when the repository's name can be no image name.
    pub(crate) fn root_dockerfile(repository: &RepoName) -> Result<ImageSpec, ManifestError> {
        let name = repository.last().to_ascii_lowercase().parse().map_err(|e| {
            ManifestError::whole(format!(
                "is not there, and the repository's own name can be no image name ({e}): add an images.json"
            ))
        })?;
        Ok(ImageSpec {
            name,
            version: None,
            kind: ImageKind::Docker,
            context: RelPath::root(),
            dockerfile: RelPath::root()
                .join("Dockerfile")
                .map_err(|e| ManifestError::whole(e.to_string()))?,
            args: BTreeMap::new(),
            target: None,
            platform: None,
            tags: None,
        })
    }
}

/// A variable name as a shell and a Dockerfile take it.
fn is_arg_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// A stage name (BuildKit: `^[a-z][a-z0-9-_.]*$`, case ignored).
fn is_target(target: &str) -> bool {
    target.len() <= 128
        && target.starts_with(|c: char| c.is_ascii_alphabetic())
        && target.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// `os/arch` or `os/arch/variant`, each `[A-Za-z0-9_.-]+` (containerd's platforms package).
fn is_platform(platform: &str) -> bool {
    let parts: Vec<&str> = platform.split('/').collect();
    matches!(parts.len(), 2 | 3)
        && platform.len() <= 64
        && parts.iter().all(|part| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        })
}

/// What serde says, in a form that is safe to print.
fn from_serde(error: &serde_path_to_error::Error<serde_json::Error>) -> ManifestError {
    let message = error.inner().to_string();
    let mut problem = escaped(&message);
    if let Some((_, nearest)) = suggest::nearest_key(&message) {
        problem.push_str(&format!("; did you mean `{nearest}`?"));
    }
    match error.path().to_string().as_str() {
        "." => ManifestError::whole(format!("is not a list of images like {{\"images\":[…]}}: {problem}")),
        path => ManifestError::at(escaped(path), format!("is wrong: {problem}")),
    }
}

#[cfg(test)]
mod tests;
