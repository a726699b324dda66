//! images.json → image specs. Strict, because everything here ends up in a command line, a path or a reference. Whether
//! a folder or a Dockerfile exists is checked later.

pub(crate) mod dockerfile;
mod instructions;
mod path;
mod secrets;
pub(crate) mod template;
mod variables;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::escape::{escaped, shortened};
use crate::json::Part;
use crate::model::{ImageName, RepoName, Tag};
use crate::suggest::{self, Wrong};

pub(crate) use path::RelPath;
pub(crate) use template::Template;
#[cfg(test)]
pub(crate) use wire::File;

pub(crate) const FILE_NAME: &str = "images.json";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageSpec {
    /// `service_name`.
    pub name: ImageName,
    pub version: Option<Tag>,
    pub kind: ImageKind,
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

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ImageKind {
    Docker,
    Skipped {
        /// Safe to print.
        reason: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{FILE_NAME}{}: {}{problem}", 
    .at.map(|(line, _)| format!(", line {line}")).unwrap_or_default(),
    .path.as_ref().map(|p| format!("`{p}` ")).unwrap_or_default())]
pub(crate) struct ManifestError {
    /// A JSON path like `images[1].version`; `None` for the file as a whole.
    pub path: Option<String>,
    /// The rest of a sentence.
    pub problem: String,
    /// The line and the column, from 1.
    pub at: Option<(usize, usize)>,
}

impl ManifestError {
    fn at(path: impl Into<String>, problem: impl Into<String>) -> ManifestError {
        ManifestError { path: Some(path.into()), problem: problem.into(), at: None }
    }

    fn whole(problem: impl Into<String>) -> ManifestError {
        ManifestError { path: None, problem: problem.into(), at: None }
    }
}

pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<ImageSpec>, ManifestError> {
    // An error that has no place yet is of a value that was read: its path leads there.
    read(bytes).map_err(|error| {
        let text = std::str::from_utf8(bytes).unwrap_or_default().trim_start_matches('\u{feff}');
        let offset = error.path.as_deref().and_then(|path| crate::json::offset_of(text, path));
        let at = offset.map(|offset| crate::json::line_and_column(text, offset)).or(error.at);
        ManifestError { at, ..error }
    })
}

/// Every mistake in images.json, and the images whose files are known all the same, by their place in the list. After each mistake it is read
/// again, without the value that is wrong.
pub(crate) fn mistakes(bytes: &[u8]) -> (Vec<ManifestError>, BTreeMap<usize, ImageSpec>) {
    let (mut mistakes, mut unplaced) = (Vec::new(), BTreeSet::<usize>::new());
    let mut parsed = parse(bytes);
    let mut value = serde_json::from_slice(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes));
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_start_matches('\u{feff}');
    while let Err(error) = parsed {
        let path = error.path.clone().unwrap_or_default();
        let offset = crate::json::offset_of(text, &path);
        let at = offset.map(|offset| crate::json::line_and_column(text, offset)).or(error.at);
        let again =
            mistakes.iter().any(|m: &ManifestError| m.path == error.path && m.problem == error.problem);
        let places = ["]", "].service_name", "].context", "].dockerfile"];
        if let Some((index, rest)) = path.strip_prefix("images[").and_then(|rest| rest.split_once(']'))
            && places.contains(&format!("]{rest}").as_str())
        {
            unplaced.extend(index.parse::<usize>());
        }
        let mended = match &mut value {
            Ok(value) if !again => mend(value, &path, mistakes.len()),
            Ok(_) | Err(_) => false,
        };
        if !again {
            mistakes.push(ManifestError { at, ..error });
        }
        if !mended || mistakes.len() == MOST_MISTAKES {
            return (mistakes, BTreeMap::new());
        }
        parsed = parse(&value.as_ref().map(ToString::to_string).unwrap_or_default().into_bytes());
    }
    let specs = parsed.unwrap_or_default().into_iter().enumerate();
    (mistakes, specs.filter(|(index, _)| !unplaced.contains(index)).collect())
}

/// More are not reported at once.
const MOST_MISTAKES: usize = 100;

/// Replaces what is wrong at a path by something that is not.
fn mend(value: &mut serde_json::Value, path: &str, number: usize) -> bool {
    use serde_json::{Value, json};
    let (parent, last) = match path.rsplit_once(['.', '[']) {
        Some((parent, last)) => (parent, last),
        None => ("", path),
    };
    let name = || json!(format!("swanci-check-{number}"));
    let mut at = value;
    for part in crate::json::parts(parent).filter(|part| *part != Part::Key("")) {
        let next = match part {
            Part::Key(key) => at.get_mut(key),
            Part::Index(index) => at.get_mut(index),
        };
        let Some(next) = next else { return false };
        at = next;
    }
    match at {
        // Without the list nothing is left to read.
        Value::Object(_) if path == "images" => false,
        Value::Object(fields) if last == "service_name" => fields.insert(last.to_owned(), name()).is_some(),
        Value::Object(fields) => fields.remove(last).is_some(),
        Value::Array(list) => {
            let element = last.strip_suffix(']').and_then(|i| i.parse::<usize>().ok());
            match element.and_then(|i| list.get_mut(i)) {
                // Its name is missing, or a key of it is given twice, which `value` no longer shows.
                Some(Value::Object(fields)) => {
                    fields.entry("service_name").or_insert_with(name);
                }
                Some(element) if parent == "images" => *element = json!({ "service_name": name() }),
                Some(element) => *element = json!("x"),
                None => return false,
            }
            true
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn read(bytes: &[u8]) -> Result<Vec<ImageSpec>, ManifestError> {
    let images = wire::read(bytes)?;
    if images.is_empty() {
        return Err(ManifestError::at("images", "is empty: there is no image to build"));
    }
    let mut specs: Vec<ImageSpec> = Vec::with_capacity(images.len());
    let mut indexes: BTreeMap<ImageName, usize> = BTreeMap::new();
    for (index, image) in images.into_iter().enumerate() {
        let at = |error: ManifestError| {
            let key = error.path.unwrap_or_default();
            ManifestError::at(format!("images[{index}].{key}"), error.problem)
        };
        let spec = check(image).map_err(at)?;
        if let Some(first) = indexes.insert(spec.name.clone(), index) {
            let problem = format!("is `{}`, which is also the name of `images[{first}]`", spec.name);
            return Err(at(ManifestError::at("service_name", problem)));
        }
        specs.push(spec);
    }
    Ok(specs)
}

fn wrong(key: &str, problem: impl fmt::Display) -> ManifestError {
    ManifestError::at(key, format!("is wrong: {problem}"))
}

/// Errors name the key in the image.
fn check(image: wire::Image) -> Result<ImageSpec, ManifestError> {
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
    if let Some(target) = image.target.as_ref().filter(|target| !is_target(target)) {
        return Err(wrong("target", format!("`{}` is not a valid stage name", shortened(target, 60))));
    }
    if let Some(platform) = image.platform.as_ref().filter(|platform| !is_platform(platform)) {
        let platform = shortened(platform, 60);
        let problem = format!("`{platform}` is not one platform like `linux/arm64` or `linux/arm/v7`");
        return Err(wrong("platform", problem));
    }
    let tags = image.tags.map(|tags| check_tags(&tags, version.is_some())).transpose()?;
    let kind = match image.kind.as_deref() {
        Some(other) if !other.eq_ignore_ascii_case("Docker") => ImageKind::Skipped {
            reason: format!("its type is `{}`; only `Docker` is built", shortened(other, 60)),
        },
        Some(_) | None => ImageKind::Docker,
    };
    let (target, platform) = (image.target, image.platform);
    Ok(ImageSpec { name, version, kind, context, dockerfile, args, target, platform, tags })
}

fn check_arg(arg: &str, value: &str) -> Result<(), ManifestError> {
    let problem = if !is_arg_name(arg) {
        "is not an argument name: letters, digits and `_`, not starting with a digit".to_owned()
    } else if let Some(why) = secrets::looks_secret(arg, value) {
        format!(
            "{why}, and an argument shows in the image's history: pass it as a build secret (`secrets` of its \
             [[repository]] in the configuration, `RUN --mount=type=secret` in the Dockerfile)"
        )
    } else {
        return Ok(());
    };
    Err(ManifestError::at(format!("args.{}", shortened(arg, 60)), problem))
}

fn check_tags(tags: &[String], has_version: bool) -> Result<Vec<Template>, ManifestError> {
    let check = |(i, tag): (usize, &String)| {
        let key = format!("tags[{i}]");
        let template: Template = tag.parse().map_err(|e| wrong(&key, e))?;
        if !has_version && template.asks_for(template::Word::Version) {
            return Err(wrong(&key, "it asks for {version}, but the image has no `version`"));
        }
        Ok(template)
    };
    tags.iter().enumerate().map(check).collect()
}

impl ImageSpec {
    /// The image of a repository that has a Dockerfile at its root and no images.json: named after the repository, in
    /// lower case. An error when that is not a valid image name.
    pub(crate) fn root_dockerfile(repository: &RepoName) -> Result<ImageSpec, ManifestError> {
        let name = repository.last().to_ascii_lowercase().parse().map_err(|e| {
            ManifestError::whole(format!(
                "does not exist, and the repository's name is not a valid image name ({e}): add an images.json"
            ))
        })?;
        Ok(ImageSpec {
            name,
            version: None,
            kind: ImageKind::Docker,
            context: RelPath::root(),
            dockerfile: RelPath::at_root("Dockerfile"),
            args: BTreeMap::new(),
            target: None,
            platform: None,
            tags: None,
        })
    }
}

fn is_arg_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// BuildKit's `^[a-z][a-z0-9-_.]*$`, ignoring case.
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

fn from_serde(error: &serde_path_to_error::Error<serde_json::Error>) -> ManifestError {
    let wrong = suggest::in_plain_words(&error.inner().to_string(), "an object");
    let problem = match &wrong {
        Wrong::UnknownKey { .. } => "is not a known key".to_owned(),
        Wrong::Other(problem) => format!("is wrong: {}", escaped(problem)),
    };
    let hint = wrong.hint().map(|hint| format!("; {}", escaped(&hint))).unwrap_or_default();
    let path = error.path().to_string();
    let made = match (path.as_str(), &wrong) {
        (".", Wrong::Other(problem)) => {
            let problem = escaped(problem);
            ManifestError::whole(format!("{problem}; a list of images looks like {{\"images\":[…]}}"))
        }
        (path, Wrong::UnknownKey { .. }) => ManifestError::at(escaped(path), problem + &hint),
        (path, Wrong::Other(_)) => ManifestError::at(escaped(path), problem),
    };
    let inner = error.inner();
    ManifestError { at: (inner.line() > 0).then(|| (inner.line(), inner.column())), ..made }
}

#[cfg(test)]
mod tests;
