//! `swanci check`: validates the configuration and the images.json of a working tree, without building.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

use crate::cancel::Cancel;
use crate::cli::Global;
use crate::config::{Config, Environment};
use crate::error::{Classify as _, Failure, Kind};
use crate::escape::{escaped, shortened};
use crate::git;
use crate::json::{line_and_column, offset_of};
use crate::manifest::dockerfile::DockerfileStages;
use crate::manifest::{self, ImageSpec, TemplateValues};
use crate::model::{ImageRepository, Mistake};
use crate::plan::{self, LocalNames};
use crate::suggest;

use super::documents_io::show;
use super::summary;

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Finding {
    file: String,
    /// Starts at 1.
    line: Option<usize>,
    /// Starts at 1, in characters.
    column: Option<usize>,
    /// Such as `images[1].version` or `build.jobs`; empty for the file as a whole.
    path: String,
    problem: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Finding {
    fn new(
        file: &Path,
        at: Option<(usize, usize)>,
        path: String,
        problem: String,
        hint: Option<String>,
    ) -> Finding {
        let (line, column) = at.unzip();
        Finding { file: file.display().to_string(), line, column, path, problem, hint }
    }
}

/// Prints every problem; if there is one, the exit code is 4.
pub(super) fn command(global: &Global, dir: Option<&Path>, cancel: &Cancel) -> Result<(), Failure> {
    let environment = Environment::of_process();
    let (configuration, mistakes) = Config::mistakes(global.config.as_deref(), &environment)?;
    let file = configuration.clone().unwrap_or_default();
    let mut problems: Vec<Finding> =
        mistakes.into_iter().map(|m| Finding::new(&file, m.at, m.key, m.problem, m.hint)).collect();
    // Remaining errors are in the environment.
    let config = match problems.is_empty() {
        true => Some(Config::load(global.config.as_deref(), global.state_dir.as_deref(), &environment)?),
        false => None,
    };
    let tree = Tree::open(dir.unwrap_or(Path::new("")))?;
    let (mut images, mut uncommitted) = (Vec::new(), Vec::new());
    if dir.is_some() || configuration.is_none() || tree.lists_images() {
        images = tree.check(config.as_ref(), &mut problems)?;
        uncommitted = git::uncommitted(&tree.root, cancel).unwrap_or_default();
    }
    problems.sort();
    let outcome = if problems.is_empty() { "valid" } else { "invalid" };
    let shown_file = configuration.as_ref().map(|file| file.display().to_string());
    let document = json!({
        "schema": 1, "outcome": outcome, "configuration": shown_file, "images": images,
        "uncommitted": uncommitted, "problems": problems,
    });
    let mut text: String = problems.iter().map(|problem| shown(problem, configuration.as_deref())).collect();
    if problems.is_empty() {
        text.extend(shown_file.map(|file| format!("ok  {}\n", escaped(&file))));
        if !images.is_empty() {
            let (count, names) = (summary::images(images.len()), shortened(&images.join(", "), 200));
            text.push_str(&format!("ok  {count}: {names}\n"));
        }
    }
    if !uncommitted.is_empty() {
        let list = shortened(&uncommitted.join(", "), 200);
        text.push_str(&format!("note: builds use commits, and these changes are not committed: {list}\n"));
    }
    let written = show(global.json, &document, || text);
    match problems.len() {
        0 => written,
        1 => Err(Failure::bad_input("1 problem was found")),
        count => Err(Failure::bad_input(format!("{count} problems were found"))),
    }
}

fn shown(problem: &Finding, configuration: Option<&Path>) -> String {
    let Finding { file, line, column, path, problem, hint } = problem;
    let place = line.zip(*column).map(|(line, column)| format!(":{line}:{column}")).unwrap_or_default();
    let path = match path.as_str() {
        "" => String::new(),
        path if configuration.is_some_and(|configuration| configuration == Path::new(file)) => {
            format!("{path}: ")
        }
        path => format!("`{path}` "),
    };
    let hint = hint.iter().map(|hint| format!("; {hint}")).collect::<String>();
    format!("{}\n", escaped(&format!("{file}{place}: {path}{problem}{hint}")))
}

/// A working tree.
struct Tree {
    /// As typed.
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
    fn check(&self, config: Option<&Config>, problems: &mut Vec<Finding>) -> Result<Vec<String>, Failure> {
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
                problems.push(Finding::new(&file, None, String::new(), problem, Some(hint)));
                return Ok(Vec::new());
            }
            Err(error) => {
                return Err(error).classify(Kind::BadInput, || format!("cannot read {}", file.display()));
            }
        };
        let mut specs = BTreeMap::new();
        let mut mistake = |m: Mistake| {
            problems.push(Finding::new(&file, m.at, m.key, m.problem, m.hint));
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
            problems.push(Finding::new(&file, place, path, problem, hint));
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

    /// The stages of an image's Dockerfile, or the wrong key, the problem and a hint.
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

    /// The file or folder at a path, or the problem and a hint.
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

/// Checks the tags for a branch and a pull request.
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

/// Images that depend on each other in a circle, and the index of the first.
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
