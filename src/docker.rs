//! Runs the `docker` CLI and parses its output.

mod build;
mod error;
mod steps;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;

use crate::cancel::Cancel;
use crate::model::{Digest, ImageRepository, Tag};
use crate::process::{Stream, Tool};

pub(crate) use build::{BuildRequest, Builder, Layout, layout_digest};
pub(crate) use error::{DockerError, DockerErrorKind};

/// `$DOCKER_CONFIG`, else `~/.docker`.
pub(crate) fn config_dir() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("DOCKER_CONFIG").or_else(|| Some(set("HOME")?.join(".docker")))
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inspected {
    pub(crate) id: Digest,
    pub(crate) labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Docker {
    program: String,
    builder: Option<String>,
}

impl Docker {
    pub(crate) fn new(program: &str, builder: Option<&str>) -> Docker {
        Docker { program: program.to_owned(), builder: builder.map(str::to_owned) }
    }

    fn tool(&self) -> Tool {
        Tool::of_docker(&self.program)
    }

    fn text(
        &self,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
        cancel: &Cancel,
    ) -> Result<String, DockerError> {
        Ok(self.tool().args(args).run(cancel).map_err(|error| DockerError::of(&error))?.text())
    }

    pub(crate) fn engine_version(&self, cancel: &Cancel) -> Result<String, DockerError> {
        self.text(["version", "--format", "{{.Server.Version}}"], cancel)
    }

    pub(crate) fn client_version(&self, cancel: &Cancel) -> Result<String, DockerError> {
        self.text(["--version"], cancel)
    }

    /// `default` is the engine's own builder, also after `docker buildx use`.
    fn builder_name(&self) -> &str {
        self.builder.as_deref().unwrap_or("default")
    }

    /// `None` when the engine has no such image.
    pub(crate) fn inspect(&self, name: &str, cancel: &Cancel) -> Result<Option<Inspected>, DockerError> {
        let format = "{{.Id}} {{with .Config}}{{json .Labels}}{{end}}";
        match self.tool().args(["image", "inspect", "--format", format, "--", name]).run(cancel) {
            Ok(done) => {
                let text = done.text();
                parse_inspected(&text).map(Some).ok_or_else(|| DockerError::unexpected(text))
            }
            Err(error) if error.has_sign("no such image") => Ok(None),
            Err(error) => Err(DockerError::of(&error)),
        }
    }

    /// Returns the digest that docker prints.
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

    /// The repository's images in the engine that have a `sha-` tag, newest first: by the time of their last tag, or of
    /// their creation when the engine has no such time. Empty unless there are more than `more_than`.
    pub(crate) fn images_by_age(
        &self,
        repository: &str,
        more_than: usize,
        cancel: &Cancel,
    ) -> Result<Vec<String>, DockerError> {
        let filter = reference_filter(repository);
        let listed = self.text(
            ["image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "--filter", filter.as_str()],
            cancel,
        )?;
        let prefix = format!("{repository}:sha-");
        let names: Vec<&str> = listed.lines().filter(|name| name.starts_with(&prefix)).collect();
        if names.len() <= more_than {
            return Ok(Vec::new());
        }
        let format = "{{json .Metadata.LastTagTime}} {{json .Created}}";
        let inspect = ["image", "inspect", "--format", format, "--"];
        let inspected = self.text(inspect.iter().chain(&names), cancel)?;
        let time = |text: &str| text.trim_matches('"').parse::<jiff::Timestamp>().ok();
        let times: Vec<_> = inspected.lines().map(|line| line.split(' ').filter_map(time).max()).collect();
        if times.len() != names.len() {
            return Err(DockerError::unexpected(inspected));
        }
        let mut images: Vec<_> = times.into_iter().zip(names).collect();
        images.sort_by(|a, b| b.cmp(a));
        Ok(images.into_iter().map(|(_, name)| name.to_owned()).collect())
    }

    /// Removes names from the engine, and an image with its last name. Docker keeps images that are in use.
    pub(crate) fn remove(&self, names: &[&str], cancel: &Cancel) -> Result<(), DockerError> {
        self.text(["image", "rm", "--"].iter().chain(names), cancel).map(drop)
    }

    /// What the engine's disk is used for, as `images 1.2GB (30% reclaimable), …`.
    pub(crate) fn disk_usage(&self, cancel: &Cancel) -> Result<String, DockerError> {
        let format = "{{lower .Type}} {{.Size}} ({{.Reclaimable}} reclaimable)";
        let usage = self.text(["system", "df", "--format", format], cancel)?;
        Ok(usage.lines().collect::<Vec<_>>().join(", "))
    }

    /// Fails unless the engine can talk to the registry: pulls an image that need not exist.
    pub(crate) fn probe_registry(&self, reference: &str, cancel: &Cancel) -> Result<(), DockerError> {
        match self.tool().args(["pull", "--quiet", "--", reference]).run(cancel) {
            Ok(_) => Ok(()),
            Err(error) if error.has_sign("not found|manifest unknown|does not exist") => Ok(()),
            Err(error) => Err(DockerError::of_push(&error)),
        }
    }
}

/// A name for `docker image ls --filter`, which takes a pattern of Go's `path.Match`: the brackets of an IPv6 address
/// would be a character class.
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
    fn a_name_is_escaped_in_the_filter() {
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
    fn an_image_without_labels_is_inspected() {
        let id = format!("sha256:{}", "a".repeat(64));
        let labels = |text: &str| parse_inspected(text).unwrap().labels;
        assert_eq!(labels(&format!(r#"{id} {{"a":"b"}}"#))["a"], "b");
        assert!(labels(&format!("{id} null")).is_empty());
        assert!(labels(&id).is_empty());
        assert_eq!(parse_inspected("x {}"), None);
    }
}
