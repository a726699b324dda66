//! images.json → image specs. Strict, because everything here ends up in a command line, a path or a reference. Whether
//! a folder or a Dockerfile exists is checked later.

pub(crate) mod dockerfile;
mod instructions;
mod path;
mod secrets;
pub(crate) mod template;
mod variables;
mod wire;

use std::collections::BTreeMap;
use std::fmt;

use regex_lite::Regex;

use crate::escape::{escaped, shortened};
use crate::json;
use crate::model::{ImageName, Mistake, RepoName, Tag};
use crate::suggest::{self, Wrong};

pub(crate) use path::RelPath;
pub(crate) use template::{Template, TemplateValues};
#[cfg(test)]
pub(crate) use wire::File;

pub(crate) const FILE_NAME: &str = "images.json";

/// The problem of a list without an image.
pub(crate) const NO_IMAGES: &str = "is empty: there is no image to build";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageSpec {
    /// `service_name`.
    pub name: ImageName,
    pub version: Option<Tag>,
    /// Why docker does not build it; safe to print.
    pub skipped: Option<String>,
    pub context: RelPath,
    /// From the root of the repository, not from the context as in images.json.
    pub dockerfile: RelPath,
    pub args: BTreeMap<String, String>,
    pub target: Option<String>,
    /// `os/arch[/variant]`.
    pub platform: Option<String>,
    /// `None` leaves them to the configuration; an empty list means no moving tag.
    pub tags: Option<Vec<Template>>,
}

/// A mistake as a sentence; its problem is the rest of one.
pub(crate) fn sentence(mistake: &Mistake) -> String {
    let line = mistake.at.map(|(line, _)| format!(", line {line}")).unwrap_or_default();
    let key = if mistake.key.is_empty() { String::new() } else { format!("`{}` ", mistake.key) };
    format!("{FILE_NAME}{line}: {key}{}", mistake.problem)
}

/// Adds the position of its key in a part of the text, if that is JSON.
fn placed(mistake: Mistake, text: &str, part: &str) -> Mistake {
    let start = part.as_ptr() as usize - text.as_ptr() as usize;
    let offset = json::offset_of(part, &mistake.key);
    let at = offset.map(|offset| json::line_and_column(text, start + offset)).or(mistake.at);
    Mistake { at, ..mistake }
}

pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<ImageSpec>, Mistake> {
    each(bytes)?.collect()
}

/// Every image of the list, or the first mistake in it; the error is a mistake in the file around the list.
pub(crate) fn each(bytes: &[u8]) -> Result<impl Iterator<Item = Result<ImageSpec, Mistake>>, Mistake> {
    let text = wire::text(bytes)?;
    let images = wire::images(text).map_err(|error| placed(error, text, text))?;
    let mut indexes: BTreeMap<ImageName, usize> = BTreeMap::new();
    Ok(images.into_iter().enumerate().map(move |(index, image)| {
        let image = image.get();
        let spec = wire::image(image).and_then(check).and_then(|spec| {
            match indexes.insert(spec.name.clone(), index) {
                Some(first) => {
                    let problem = format!("is `{}`, which is also the name of `images[{first}]`", spec.name);
                    Err(Mistake::new("service_name", problem))
                }
                None => Ok(spec),
            }
        });
        spec.map_err(|error| {
            let error = placed(error, text, image);
            let dot = if error.key.is_empty() { "" } else { "." };
            Mistake { key: format!("images[{index}]{dot}{}", error.key), ..error }
        })
    }))
}

fn wrong(key: &str, problem: impl fmt::Display) -> Mistake {
    Mistake::new(key, format!("is wrong: {problem}"))
}

/// Errors name the key in the image.
fn check(image: wire::Image) -> Result<ImageSpec, Mistake> {
    let name: ImageName = image.service_name.parse().map_err(|e| wrong("service_name", e))?;
    let version: Option<Tag> =
        image.version.map(|version| version.parse()).transpose().map_err(|e| wrong("version", e))?;
    let root = RelPath::root();
    let context = match &image.context {
        Some(context) => root.join(context).map_err(|e| wrong("context", e))?,
        None => root.join(name.as_str()).map_err(|e| wrong("service_name", e))?,
    };
    let dockerfile = context
        .join(image.dockerfile.as_deref().unwrap_or("Dockerfile"))
        .map_err(|e| wrong("dockerfile", e))?;
    if dockerfile.is_root() {
        return Err(wrong("dockerfile", "it is a folder, not a Dockerfile"));
    }
    let args = image.args.unwrap_or_default().0;
    for (arg, value) in &args {
        check_arg(arg, value)?;
    }
    if let Some(target) = image.target.as_ref().filter(|target| !is_match(TARGET, target)) {
        return Err(wrong("target", format!("`{}` is not a valid stage name", shortened(target, 60))));
    }
    let is_wrong = |platform: &&String| platform.len() > LONGEST_PLATFORM || !is_match(PLATFORM, platform);
    if let Some(platform) = image.platform.as_ref().filter(is_wrong) {
        let platform = shortened(platform, 60);
        let problem = format!("`{platform}` is not one platform like `linux/arm64` or `linux/arm/v7`");
        return Err(wrong("platform", problem));
    }
    let tags = image.tags.map(|tags| check_tags(&tags, version.is_some())).transpose()?;
    let skipped = image.kind.filter(|kind| !kind.eq_ignore_ascii_case("Docker"));
    let skipped =
        skipped.map(|kind| format!("its type is `{}`; only `Docker` is built", shortened(&kind, 60)));
    let (target, platform) = (image.target, image.platform);
    Ok(ImageSpec { name, version, skipped, context, dockerfile, args, target, platform, tags })
}

fn check_arg(arg: &str, value: &str) -> Result<(), Mistake> {
    let problem = if !is_match("^[A-Za-z_][A-Za-z0-9_]*$", arg) {
        "is not an argument name: letters, digits and `_`, not starting with a digit".to_owned()
    } else if let Some(why) = secrets::looks_secret(arg, value) {
        format!(
            "{why}, and an argument shows in the image's history: pass it as a build secret (`secrets` of its \
             [[repository]] in the configuration, `RUN --mount=type=secret` in the Dockerfile)"
        )
    } else {
        return Ok(());
    };
    Err(Mistake::new(format!("args.{}", shortened(arg, 60)), problem))
}

fn check_tags(tags: &[String], has_version: bool) -> Result<Vec<Template>, Mistake> {
    let check = |(i, tag): (usize, &String)| {
        let key = format!("tags[{i}]");
        let template: Template = tag.parse().map_err(|e| wrong(&key, e))?;
        if !has_version && template.uses(template::VERSION) {
            return Err(wrong(&key, "it uses {version}, but the image has no `version`"));
        }
        Ok(template)
    };
    tags.iter().enumerate().map(check).collect()
}

impl ImageSpec {
    /// By the given templates, else its own, else the configured ones, else `{version}` or `{branch}`.
    pub(crate) fn moving_tags(
        &self,
        given: Option<&[Template]>,
        configured: Option<&[Template]>,
        values: &TemplateValues<'_>,
    ) -> Result<Vec<Tag>, String> {
        match given.or(self.tags.as_deref()).or(configured) {
            Some(templates) => Template::expand_all(templates, values),
            None => Template::expand_all(&Template::default_list(self.version.is_some()), values),
        }
    }

    /// The image of a repository that has a Dockerfile at its root and no images.json: named after the repository, in
    /// lower case. An error when that is not a valid image name.
    pub(crate) fn root_dockerfile(repository: &RepoName) -> Result<ImageSpec, Mistake> {
        let name = repository.last().to_ascii_lowercase().parse().map_err(|e| {
            let problem =
                format!("does not exist, and the repository's name is not a valid image name ({e})");
            Mistake::new("", problem + ": add an images.json")
        })?;
        Ok(ImageSpec {
            name,
            version: None,
            skipped: None,
            context: RelPath::root(),
            dockerfile: RelPath::at_root("Dockerfile"),
            args: BTreeMap::new(),
            target: None,
            platform: None,
            tags: None,
        })
    }
}

/// By BuildKit.
const TARGET: &str = "^[A-Za-z][A-Za-z0-9_.-]{0,127}$";

/// Bytes of a platform.
const LONGEST_PLATFORM: usize = 64;

/// `os/arch` or `os/arch/variant` (containerd's platforms package).
const PLATFORM: &str = "^[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*){1,2}$";

fn is_match(pattern: &str, text: &str) -> bool {
    Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text))
}

fn from_serde(error: &serde_path_to_error::Error<serde_json::Error>) -> Mistake {
    let wrong = suggest::in_plain_words(&error.inner().to_string(), "an object");
    let hint = wrong.hint().map(|hint| format!("; {}", escaped(&hint))).unwrap_or_default();
    let problem = match &wrong {
        Wrong::UnknownKey { .. } => format!("is not a known key{hint}"),
        Wrong::Other(problem) => format!("is wrong: {}", escaped(problem)),
    };
    let (path, inner) = (error.path().to_string(), error.inner());
    let at = (inner.line() > 0).then(|| (inner.line(), inner.column()));
    Mistake { at, ..Mistake::new(if path == "." { String::new() } else { escaped(&path) }, problem) }
}

#[cfg(test)]
mod tests;
