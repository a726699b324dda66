//! `swanci check`: validates the configuration and the images.json of a working tree, without building.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cancel::Cancel;
use crate::cli::{Check, Global};
use crate::config::{Config, Environment};
use crate::error::{Classify as _, Failure, Kind};
use crate::escape::{escaped, shortened};
use crate::git;
use crate::json::{line_and_column, offset_of};
use crate::manifest::dockerfile::DockerfileStages;
use crate::manifest::{self, ImageSpec, ManifestError, TemplateValues};
use crate::model::ImageRepository;
use crate::plan::{self, LocalNames};
use crate::suggest;

use super::documents_io::show;

#[derive(Debug, Serialize)]
struct Document {
    schema: u32,
    outcome: &'static str,
    /// The configuration that was read.
    configuration: Option<PathBuf>,
    /// The images that the working tree lists.
    images: Vec<String>,
    /// Changes of the working tree that no commit has.
    uncommitted: Vec<String>,
    problems: Vec<Problem>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Problem {
    file: PathBuf,
    /// From 1.
    line: Option<usize>,
    /// From 1, in characters.
    column: Option<usize>,
    /// As `images[1].version` or `build.jobs`; empty for the file as a whole.
    path: String,
    problem: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Problem {
    fn new(
        file: &Path,
        at: Option<(usize, usize)>,
        path: String,
        problem: String,
        hint: Option<String>,
    ) -> Problem {
        let (line, column) = at.unzip();
        Problem { file: file.to_owned(), line, column, path, problem, hint }
    }
}

/// Prints every problem; with any it ends with 4.
pub(super) fn command(
    global: &Global,
    args: &Check,
    cancel: &Cancel,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let environment = Environment::of_process();
    let (configuration, mistakes) = Config::mistakes(global.config.as_deref(), &environment)?;
    let file = configuration.clone().unwrap_or_default();
    let mut problems: Vec<Problem> =
        mistakes.into_iter().map(|m| Problem::new(&file, m.at, m.key, m.problem, m.hint)).collect();
    // What is wrong now is wrong in a variable.
    let config = match problems.is_empty() {
        true => Some(Config::load(global.config.as_deref(), global.state_dir.as_deref(), &environment)?),
        false => None,
    };
    let dir = args.dir.clone().unwrap_or_default();
    let tree = Tree::open(&dir)?;
    let (mut images, mut uncommitted) = (Vec::new(), Vec::new());
    if args.dir.is_some() || configuration.is_none() || tree.lists_images() {
        images = tree.check(config.as_ref(), &mut problems)?;
        uncommitted = git::uncommitted(&tree.root, cancel).unwrap_or_default();
    }
    problems.sort();
    let outcome = if problems.is_empty() { "valid" } else { "invalid" };
    let document = Document { schema: 1, outcome, configuration, images, uncommitted, problems };
    let written = show(out, global.json, &document, || shown(&document));
    match document.problems.len() {
        0 => written,
        1 => Err(Failure::bad_input("1 problem was found")),
        count => Err(Failure::bad_input(format!("{count} problems were found"))),
    }
}

fn shown(document: &Document) -> String {
    let mut text = String::new();
    for problem in &document.problems {
        let place = match (problem.line, problem.column) {
            (Some(line), Some(column)) => format!(":{line}:{column}"),
            (None, _) | (_, None) => String::new(),
        };
        let path = match problem.path.as_str() {
            "" => String::new(),
            path if Some(&problem.file) == document.configuration.as_ref() => format!("{path}: "),
            path => format!("`{path}` "),
        };
        let hint = problem.hint.iter().map(|hint| format!("; {hint}")).collect::<String>();
        let line = format!("{}{place}: {path}{}{hint}", problem.file.display(), problem.problem);
        text.push_str(&format!("{}\n", escaped(&line)));
    }
    if document.problems.is_empty() {
        if let Some(configuration) = &document.configuration {
            text.push_str(&format!("ok  {}\n", escaped(&configuration.display().to_string())));
        }
        if !document.images.is_empty() {
            let count = document.images.len();
            let images = if count == 1 { "1 image".to_owned() } else { format!("{count} images") };
            text.push_str(&format!("ok  {images}: {}\n", shortened(&document.images.join(", "), 200)));
        }
    }
    if !document.uncommitted.is_empty() {
        let list = shortened(&document.uncommitted.join(", "), 200);
        text.push_str(&format!("note: builds use commits, and these changes are not committed: {list}\n"));
    }
    text
}

/// A working tree.
struct Tree {
    /// As it was typed.
    dir: PathBuf,
    root: PathBuf,
}

impl Tree {
    fn open(dir: &Path) -> Result<Tree, Failure> {
        let here = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        let root =
            here.canonicalize().classify(Kind::BadInput, || format!("cannot read {}", here.display()))?;
        if !root.is_dir() {
            return Err(Failure::bad_input(format!("{} is not a folder", here.display()))
                .hint("give the root of a working tree"));
        }
        Ok(Tree { dir: dir.to_owned(), root })
    }

    fn lists_images(&self) -> bool {
        self.root.join(manifest::FILE_NAME).exists() || self.root.join("Dockerfile").exists()
    }

    /// Returns the names of the images.
    fn check(&self, config: Option<&Config>, problems: &mut Vec<Problem>) -> Result<Vec<String>, Failure> {
        let file = self.dir.join(manifest::FILE_NAME);
        let bytes = match std::fs::read(self.root.join(manifest::FILE_NAME)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if self.root.join("Dockerfile").is_file() {
                    return Ok(vec!["the Dockerfile at the root, named after the repository".to_owned()]);
                }
                let problem = "does not exist, and there is no Dockerfile beside it".to_owned();
                let hint = r#"write {"images":[{"service_name":"httpd","version":"1.0","type":"Docker"}]}"#
                    .to_owned();
                problems.push(Problem::new(&file, None, String::new(), problem, Some(hint)));
                return Ok(Vec::new());
            }
            Err(error) => {
                return Err(error).classify(Kind::BadInput, || format!("cannot read {}", file.display()));
            }
        };
        let mut specs = BTreeMap::new();
        let mut mistake = |m: ManifestError| {
            problems.push(Problem::new(&file, m.at, m.path.unwrap_or_default(), m.problem, None));
        };
        match manifest::each(&bytes) {
            Ok(images) => images.enumerate().for_each(|(index, image)| match image {
                Ok(spec) => drop(specs.insert(index, spec)),
                Err(error) => mistake(error),
            }),
            Err(error) => mistake(error),
        }
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_start_matches('\u{feff}');
        let value: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
        let mut report = |index: usize, key: &str, problem: String, hint: Option<String>| {
            let key = if value["images"][index].get(key).is_some() { key } else { "service_name" };
            let path = format!("images[{index}].{key}");
            let place = offset_of(text, &path).map(|offset| line_and_column(text, offset));
            problems.push(Problem::new(&file, place, path, problem, hint));
        };
        let mut stages = BTreeMap::new();
        for (index, spec) in specs.iter().filter(|(_, spec)| spec.skipped.is_none()) {
            if let Err(problem) = tags(spec, config) {
                report(*index, "tags", problem, None);
            }
            match self.stages(spec) {
                Ok(found) => drop(stages.insert(*index, found)),
                Err((key, problem, hint)) => report(*index, key, problem, hint),
            }
        }
        if let Some((index, circle)) = circle(&specs, &stages, config) {
            report(index, "service_name", format!("cannot be built: {circle}"), None);
        }
        Ok(specs.values().map(|spec| spec.name.to_string()).collect())
    }

    /// The stages of an image's Dockerfile, or the key that is wrong, why, and a hint.
    fn stages(&self, spec: &ImageSpec) -> Result<DockerfileStages, (&'static str, String, Option<String>)> {
        let at = |key| move |(problem, hint)| (key, problem, hint);
        self.find(spec.context.as_str(), "folder").map_err(at("context"))?;
        let dockerfile = self.find(spec.dockerfile.as_str(), "file").map_err(at("dockerfile"))?;
        let dockerfile = std::fs::read(dockerfile).unwrap_or_default();
        let stages = DockerfileStages::parse(&String::from_utf8_lossy(&dockerfile), &spec.args)
            .map_err(|error| ("dockerfile", format!("is `{}`: {error}", spec.dockerfile.as_str()), None))?;
        match &spec.target {
            Some(target) if !stages.has_target(target) => {
                let hint =
                    suggest::nearest(target, stages.names()).map(|name| format!("did you mean `{name}`?"));
                Err(("target", format!("is `{target}`, which is not a stage of the Dockerfile"), hint))
            }
            Some(_) | None => Ok(stages),
        }
    }

    /// The file or folder of the working tree that a path leads to, or what is wrong with it, and what may have been meant.
    fn find(&self, path: &str, what: &str) -> Result<PathBuf, (String, Option<String>)> {
        let full = self.root.join(path);
        let found = match full.canonicalize() {
            Ok(found) => found,
            Err(_) => {
                let problem = format!("needs the {what} `{path}`, which does not exist");
                let entries = full.parent().and_then(|parent| std::fs::read_dir(parent).ok());
                let names: Vec<String> = entries
                    .into_iter()
                    .flatten()
                    .flatten()
                    .filter(|entry| entry.path().is_dir() == (what == "folder"))
                    .map(|entry| entry.file_name().to_string_lossy().into_owned())
                    .collect();
                let name = path.rsplit('/').next().unwrap_or(path);
                let nearest = suggest::nearest(name, names.iter().map(String::as_str));
                return Err((problem, nearest.map(|nearest| format!("there is `{nearest}`"))));
            }
        };
        if !found.starts_with(&self.root) {
            return Err((format!("needs the {what} `{path}`, which leads out of the repository"), None));
        }
        if found.is_dir() != (what == "folder") {
            return Err((format!("needs the {what} `{path}`, which is something else"), None));
        }
        Ok(found)
    }
}

/// Whether the tags come out valid: of a branch and a pull request, as a merge has them.
fn tags(spec: &ImageSpec, config: Option<&Config>) -> Result<(), String> {
    let (Ok(branch), Ok(commit)) = ("main".parse(), "0".repeat(40).parse()) else { return Ok(()) };
    let values = TemplateValues {
        version: spec.version.as_ref(),
        branch: Some(&branch),
        commit: &commit,
        number: Some(1),
    };
    let configured = config.and_then(|config| config.build.tags.as_deref());
    let tags = spec.moving_tags(None, configured, &values);
    tags.map(drop).map_err(|error| format!("gets no valid tag: {error}"))
}

/// Images that are built on each other in a circle, and the place of one of them.
fn circle(
    specs: &BTreeMap<usize, ImageSpec>,
    stages: &BTreeMap<usize, DockerfileStages>,
    config: Option<&Config>,
) -> Option<(usize, String)> {
    let places: Vec<usize> = stages.keys().copied().collect();
    let registry = config.and_then(|config| config.registry.as_ref());
    let images: Vec<(&ImageSpec, ImageRepository)> = places
        .iter()
        .filter_map(|place| {
            let spec = specs.get(place)?;
            Some((spec, ImageRepository::new(registry, None, &spec.name).ok()?))
        })
        .collect();
    let names = LocalNames::new(images.iter().map(|(spec, repository)| (*spec, repository, &[][..])));
    let bases: Vec<Vec<usize>> = stages
        .values()
        .enumerate()
        .map(|(own, stages)| stages.bases().iter().filter_map(|base| names.find(base, own)).collect())
        .collect();
    let circle = plan::order(&bases).err()?;
    let names: Vec<&str> = circle.iter().map(|i| images[*i].0.name.as_str()).collect();
    let first = places.get(*circle.first()?)?;
    Some((*first, format!("these images are built on each other in a circle: {}", names.join(", "))))
}
