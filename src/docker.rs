//! Typed verbs over the `docker` CLI, and pure parsers of what it says.

mod build;
mod error;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::cancel::Cancel;
use crate::model::{Digest, ImageRepository, Tag};
use crate::process::{Stream, Tool};

pub(crate) use build::{BuildRequest, Builder, Layout, layout_digest};
pub(crate) use error::{DockerError, DockerErrorKind};

/// The folder of docker's config file: `$DOCKER_CONFIG`, else `~/.docker`.
pub(crate) fn config_dir() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("DOCKER_CONFIG").or_else(|| Some(set("HOME")?.join(".docker")))
}

/// What the engine says of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inspected {
    pub(crate) id: Digest,
    pub(crate) labels: BTreeMap<String, String>,
}

/// The docker CLI that is configured.
#[derive(Debug, Clone)]
pub(crate) struct Docker {
    program: String,
    /// A buildx builder other than the default.
    builder: Option<String>,
}

impl Docker {
    /// The CLI `program`, with a buildx builder where one is named.
    pub(crate) fn new(program: &str, builder: Option<&str>) -> Docker {
        Docker { program: program.to_owned(), builder: builder.map(str::to_owned) }
    }

    fn tool(&self) -> Tool {
        // `docker/cli` as the program's name is looked up on the PATH; a path is taken as it is.
        Tool::of_docker(&self.program)
    }

    /// The engine's version, and so whether it answers.
    pub(crate) fn engine_version(&self, cancel: &Cancel) -> Result<String, DockerError> {
        let tool = self.tool().args(["version", "--format", "{{.Server.Version}}"]);
        Ok(tool.run(cancel).map_err(|error| DockerError::of(&error))?.text())
    }

    /// The version of the client.
    pub(crate) fn client_version(&self, cancel: &Cancel) -> Result<String, DockerError> {
        let tool = self.tool().args(["--version"]);
        Ok(tool.run(cancel).map_err(|error| DockerError::of(&error))?.text())
    }

    /// The buildx builder to name: without one, the engine's own, whatever `docker buildx use` selected.
    fn builder_name(&self) -> &str {
        self.builder.as_deref().unwrap_or("default")
    }

    /// What the engine has under this name; `None` when it has no such image.
    pub(crate) fn inspect(&self, name: &str, cancel: &Cancel) -> Result<Option<Inspected>, DockerError> {
        let format = "{{.Id}} {{with .Config}}{{json .Labels}}{{end}}";
        match self.tool().args(["image", "inspect", "--format", format, "--", name]).run(cancel) {
            Ok(done) => {
                let text = done.text();
                parse_inspected(&text).map(Some).ok_or_else(|| DockerError::unexpected(text))
            }
            Err(error) if error.said(&["no such image"]) => Ok(None),
            Err(error) => Err(DockerError::of(&error)),
        }
    }

    /// Pushes `repository:tag` and returns the digest that docker prints.
    pub(crate) fn push(
        &self,
        repository: &ImageRepository,
        tag: &Tag,
        cancel: &Cancel,
        on_line: &mut dyn FnMut(&str),
    ) -> Result<Digest, DockerError> {
        let tool = self.tool().args(["push", "--", &repository.tagged(tag)]);
        let done = tool
            .stream(cancel, &mut |_: Stream, line: &str| on_line(line))
            .map_err(|error| DockerError::of_push(&error))?;
        pushed_digest(&done.text(), tag).ok_or_else(|| DockerError::unexpected("a push without a digest"))
    }

    /// The images of one repository in the engine that have a `sha-` tag, if there are more than `more_than`, newest
    /// first by the time of their last tag, or of their creation where the engine keeps no such time.
    pub(crate) fn images_by_age(
        &self,
        repository: &str,
        more_than: usize,
        cancel: &Cancel,
    ) -> Result<Vec<String>, DockerError> {
        let run = |tool: Tool| tool.run(cancel).map_err(|error| DockerError::of(&error));
        let list = self.tool().args(["image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "--filter"]);
        let listed = run(list.arg(reference_filter(repository)))?.text();
        let prefix = format!("{repository}:sha-");
        let names: Vec<&str> = listed.lines().filter(|name| name.starts_with(&prefix)).collect();
        if names.len() <= more_than {
            return Ok(Vec::new());
        }
        let format = "{{json .Metadata.LastTagTime}} {{json .Created}}";
        let inspect = self.tool().args(["image", "inspect", "--format", format, "--"]).args(&names);
        let inspected = run(inspect)?.text();
        let time = |text: &str| text.trim_matches('"').parse::<jiff::Timestamp>().ok();
        let times: Vec<_> = inspected.lines().map(|line| line.split(' ').filter_map(time).max()).collect();
        if times.len() != names.len() {
            return Err(DockerError::unexpected(inspected));
        }
        let mut images: Vec<_> = times.into_iter().zip(names).collect();
        images.sort_by(|a, b| b.cmp(a));
        Ok(images.into_iter().map(|(_, name)| name.to_owned()).collect())
    }

    /// Removes names from the engine, and each image with its last name. What docker refuses to remove stays.
    pub(crate) fn remove(&self, names: &[&str], cancel: &Cancel) -> Result<(), DockerError> {
        let tool = self.tool().args(["image", "rm", "--"]).args(names);
        tool.run(cancel).map(drop).map_err(|error| DockerError::of(&error))
    }

    /// The engine's disk usage as docker tells it, one line a kind.
    pub(crate) fn disk_usage(&self, cancel: &Cancel) -> Result<Vec<DiskUsage>, DockerError> {
        let text = self
            .tool()
            .args(["system", "df", "--format", "{{json .}}"])
            .run(cancel)
            .map_err(|error| DockerError::of(&error))?
            .text();
        text.lines()
            .map(|line| serde_json::from_str(line).map_err(|_| DockerError::unexpected(line)))
            .collect()
    }

    /// Asks the engine (not swanci) for an image that need not exist: how it fails tells whether the engine trusts
    /// the registry.
    pub(crate) fn probe_registry(&self, reference: &str, cancel: &Cancel) -> Result<(), DockerError> {
        match self.tool().args(["pull", "--quiet", "--", reference]).run(cancel) {
            Ok(_) => Ok(()),
            Err(error) if error.said(&["not found", "manifest unknown", "does not exist"]) => Ok(()),
            Err(error) => Err(DockerError::of_push(&error)),
        }
    }
}

/// One line of `docker system df`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DiskUsage {
    /// Images, Containers, Local Volumes, Build Cache.
    #[serde(rename = "Type")]
    pub kind: String,
    /// Human-readable.
    pub size: String,
    /// Human-readable, with a percentage.
    pub reclaimable: String,
}

/// A name as `docker image ls --filter` takes it: a pattern of Go's `path.Match`, in which the brackets of an IPv6 address
/// would be a class of characters.
fn reference_filter(repository: &str) -> String {
    format!("reference={}", repository.replace('[', r"\["))
}

/// `sha-…: digest: sha256:… size: 528`, the last line of a push.
fn pushed_digest(output: &str, tag: &Tag) -> Option<Digest> {
    let mark = format!("{tag}: digest: ");
    let rest = output.lines().rev().find_map(|line| line.trim().strip_prefix(&mark))?;
    rest.split_whitespace().next()?.parse().ok()
}

fn parse_inspected(text: &str) -> Option<Inspected> {
    let (id, labels) = text.split_once(' ').unwrap_or((text, ""));
    let labels: Option<BTreeMap<String, String>> =
        if labels.trim().is_empty() { None } else { serde_json::from_str(labels).ok()? };
    Some(Inspected { id: id.parse().ok()?, labels: labels.unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_not_a_pattern() {
        assert_eq!(reference_filter("[::1]:5000/a"), r"reference=\[::1]:5000/a");
        assert_eq!(reference_filter("r.test/team/a"), "reference=r.test/team/a");
    }

    #[test]
    fn the_digest_of_a_push_is_read_from_its_last_line() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let output =
            format!("The push refers to repository [r/x]\nabc: Pushed\nsha-1: digest: {digest} size: 528\n");
        assert_eq!(pushed_digest(&output, &"sha-1".parse().unwrap()).unwrap().as_str(), digest);
        assert_eq!(pushed_digest(&output, &"sha-2".parse().unwrap()), None);
    }

    #[test]
    fn an_image_without_labels_is_inspected_too() {
        let id = format!("sha256:{}", "a".repeat(64));
        let labels = |text: &str| parse_inspected(text).unwrap().labels;
        assert_eq!(labels(&format!(r#"{id} {{"a":"b"}}"#))["a"], "b");
        assert!(labels(&format!("{id} null")).is_empty());
        assert!(labels(&id).is_empty());
        assert_eq!(parse_inspected("x {}"), None);
    }
}
