//! `docker build` with either builder, and the labels of its image.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::NamedTempFile;

use super::{Docker, DockerError};
use crate::cancel::Cancel;
use crate::manifest::dockerfile::DockerfileStages;
use crate::model::Digest;
use crate::process::{CommandError, Stream, Tool};

/// What a build that was ended leaves is removed within this time, or stays.
const TIDY_UP_TIME: Duration = Duration::from_secs(5);
const TIDY_UP_PAUSE: Duration = Duration::from_millis(100);

/// How images are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builder {
    /// The engine's first builder: no secrets, no cache mounts.
    Classic,
    /// BuildKit through the buildx plugin.
    Buildx,
}

/// What one image is built from.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// The folder that is sent.
    pub context: PathBuf,
    /// The Dockerfile.
    pub dockerfile: PathBuf,
    /// Where files that docker reads or writes beside them may stand for the time of the build.
    pub scratch: PathBuf,
    /// What the image is called.
    pub name: String,
    /// Build arguments.
    pub args: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The stage to build.
    pub target: Option<String>,
    /// The platform to build for.
    pub platform: Option<String>,
    /// Ask the registries for newer base images.
    pub pull: bool,
    /// Use no cached step.
    pub no_cache: bool,
    /// BuildKit secrets, by id.
    pub secrets: BTreeMap<String, PathBuf>,
}

impl BuildRequest {
    /// The options that both builders take.
    fn options(&self, mut tool: Tool) -> Tool {
        tool = tool.arg("--tag").arg(&self.name);
        for (name, value) in &self.args {
            tool = tool.arg("--build-arg").arg(format!("{name}={value}"));
        }
        if let Some(target) = &self.target {
            tool = tool.arg("--target").arg(target);
        }
        if let Some(platform) = &self.platform {
            tool = tool.arg("--platform").arg(platform);
        }
        if self.pull {
            tool = tool.arg("--pull");
        }
        if self.no_cache {
            tool = tool.arg("--no-cache");
        }
        tool
    }
}

impl Docker {
    /// Builds one image and returns what the builder calls it: its Id, but from buildx the digest of its config, which is
    /// the Id only in an engine that keeps images by their configs. [`Docker::image_id`] knows the Id. Every line that
    /// docker says is handed on.
    pub fn build(
        &self,
        builder: Builder,
        request: &BuildRequest,
        cancel: &Cancel,
        on_line: &mut dyn FnMut(&str),
    ) -> Result<Digest, DockerError> {
        match builder {
            Builder::Classic => self.build_classic(request, cancel, on_line),
            Builder::Buildx => self.build_with_buildx(request, cancel, on_line),
        }
    }

    fn build_with_buildx(
        &self,
        request: &BuildRequest,
        cancel: &Cancel,
        on_line: &mut dyn FnMut(&str),
    ) -> Result<Digest, DockerError> {
        let image_id = NamedTempFile::new_in(&request.scratch).map_err(DockerError::Scratch)?;
        // A single-platform image stays a plain manifest.
        let mut tool = self.tool().env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1").args(["buildx", "build"]);
        if let Some(name) = &self.builder {
            tool = tool.args(["--builder", name]);
        }
        tool = tool.args(["--load", "--progress=plain", "--iidfile"]).arg(image_id.path());
        tool = tool.arg("--file").arg(&request.dockerfile);
        for (name, value) in &request.labels {
            tool = tool.arg("--label").arg(format!("{name}={value}"));
        }
        for (id, file) in &request.secrets {
            tool = tool.arg("--secret").arg(format!("id={id},src={}", file.display()));
        }
        stream(request.options(tool).arg("--").arg(&request.context), cancel, on_line)?;
        read_image_id(image_id.path())
    }

    /// To the classic builder every `--label` is a step of its own, with a container. One `LABEL` is one step for all
    /// of them: at the end of a copy of the Dockerfile, or, where that end is not the end of what is built, on top of
    /// the image that was built.
    fn build_classic(
        &self,
        request: &BuildRequest,
        cancel: &Cancel,
        on_line: &mut dyn FnMut(&str),
    ) -> Result<Digest, DockerError> {
        let labelled = labelled_dockerfile(request).map_err(DockerError::Scratch)?;
        let dockerfile = labelled.as_ref().map_or(request.dockerfile.as_path(), NamedTempFile::path);
        let image_id = NamedTempFile::new_in(&request.scratch).map_err(DockerError::Scratch)?;
        let tool = self.classic(image_id.path()).arg("--file").arg(dockerfile);
        let mut last_layer = None;
        let built = stream(request.options(tool).arg("--").arg(&request.context), cancel, &mut |line| {
            last_layer = classic_layer(line).map(str::to_owned).or_else(|| last_layer.take());
            on_line(line);
        });
        if let (Err(DockerError::Command(CommandError::Stopped { .. })), Some(id)) = (&built, last_layer) {
            self.remove_dangling(&id);
        }
        built?;
        let built = read_image_id(image_id.path())?;
        if labelled.is_some() {
            return Ok(built);
        }
        let image = built.as_str().trim_start_matches("sha256:");
        let dockerfile = format!("FROM {image}\n{}\n", label_instruction(&request.labels, '\\'));
        let mut tool = self.classic(image_id.path()).args(["--tag", &request.name]);
        if let Some(platform) = &request.platform {
            tool = tool.arg("--platform").arg(platform);
        }
        stream(tool.arg("-").stdin(dockerfile), cancel, on_line)?;
        read_image_id(image_id.path())
    }

    fn classic(&self, image_id: &Path) -> Tool {
        // --force-rm: a build that is ended leaves no container.
        self.tool().env("DOCKER_BUILDKIT", "0").args(["build", "--force-rm", "--iidfile"]).arg(image_id)
    }

    /// The classic builder keeps the steps of a build that was ended as images without a name. The last of them goes,
    /// and with it those below it; a build that failed keeps them, as the cache of its next try.
    fn remove_dangling(&self, id: &str) {
        let cancel = Cancel::new().child(Some(TIDY_UP_TIME));
        let list = ["image", "ls", "--quiet", "--no-trunc", "--filter", "dangling=true"];
        let wanted = format!("sha256:{id}");
        // The engine is a moment behind: a container that it still has to remove holds the image.
        while let Ok(listed) = self.tool().args(list).run(&cancel) {
            let there = listed.text().lines().any(|line| line.starts_with(&wanted));
            // Not by force: another build may stand on it by now.
            if !there || self.remove(&[id], &cancel).is_ok() || cancel.sleep(TIDY_UP_PAUSE).is_err() {
                return;
            }
        }
    }
}

/// Runs a build; its output may be of any length.
fn stream(tool: Tool, cancel: &Cancel, on_line: &mut dyn FnMut(&str)) -> Result<(), DockerError> {
    tool.uncaptured()
        .stream(cancel, &mut |_: Stream, line: &str| on_line(line))
        .map(drop)
        .map_err(DockerError::of_build)
}

fn read_image_id(file: &Path) -> Result<Digest, DockerError> {
    let text = std::fs::read_to_string(file).map_err(DockerError::Scratch)?;
    text.trim().parse().map_err(|_| DockerError::Unexpected(format!("docker build --iidfile: {text}")))
}

/// A copy of the Dockerfile with the labels at its end; `None` where they would not end the stage that is built, and
/// beside a `.dockerignore`: docker's client writes the random name of a Dockerfile from outside into it, so that a
/// `COPY . .` would never be cached and would bring another file than the commit's into the image (docker/cli#3921).
fn labelled_dockerfile(request: &BuildRequest) -> std::io::Result<Option<NamedTempFile>> {
    if request.context.join(".dockerignore").symlink_metadata().is_ok() {
        return Ok(None);
    }
    let mut content = std::fs::read(&request.dockerfile)?;
    let text = String::from_utf8_lossy(&content);
    let stages = DockerfileStages::parse(&text, &request.args).ok();
    let Some(escape) = stages.and_then(|s| s.escape_to_append(request.target.as_deref())) else {
        return Ok(None);
    };
    content.extend_from_slice(format!("\n{}\n", label_instruction(&request.labels, escape)).as_bytes());
    let mut copy = NamedTempFile::with_prefix_in("Dockerfile-", &request.scratch)?;
    copy.write_all(&content)?;
    copy.flush()?;
    Ok(Some(copy))
}

/// Dockerfile reference, LABEL: pairs in double quotes, in which the escape character keeps a quote, itself and a
/// variable's `$` as they are.
fn label_instruction(labels: &BTreeMap<String, String>, escape: char) -> String {
    let quoted = |text: &str| {
        let mut out = String::from('"');
        for c in text.chars() {
            if matches!(c, '"' | '$') || c == escape {
                out.push(escape);
            }
            out.push(c);
        }
        out + "\""
    };
    let pairs: Vec<String> =
        labels.iter().map(|(name, value)| format!("{}={}", quoted(name), quoted(value))).collect();
    format!("LABEL {}", pairs.join(" "))
}

/// ` ---> 0123456789ab`, the image that a step of the classic builder made.
fn classic_layer(line: &str) -> Option<&str> {
    let id = line.trim().strip_prefix("---> ")?;
    (id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_of_the_classic_builder_are_told_from_its_other_lines() {
        assert_eq!(classic_layer(" ---> 0123456789ab"), Some("0123456789ab"));
        for other in
            [" ---> Using cache", " ---> Running in 0123456789ab", "0123456789ab", " ---> 0123456789abc"]
        {
            assert_eq!(classic_layer(other), None, "{other}");
        }
    }

    #[test]
    fn labels_are_quoted_for_a_dockerfile() {
        let labels = BTreeMap::from([("a".to_owned(), r#"x "y" $z \"#.to_owned())]);
        assert_eq!(label_instruction(&labels, '\\'), "LABEL \"a\"=\"x \\\"y\\\" \\$z \\\\\"");
        assert_eq!(label_instruction(&labels, '`'), "LABEL \"a\"=\"x `\"y`\" `$z \\\"");
    }
}
