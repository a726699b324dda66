//! Builds one image with BuildKit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::error::LastWords;
use super::{Docker, DockerError, DockerErrorKind};
use crate::cancel::Cancel;
use crate::model::Digest;
use crate::process::{CommandError, Stream, Tool};

/// How docker reaches BuildKit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Builder {
    /// `docker buildx build` in the engine that holds the images.
    Buildx,
    /// `docker buildx build` on a builder that does not see the engine's images.
    Remote,
    /// `DOCKER_BUILDKIT=1 docker build`, for clients before 23.
    Integrated,
}

/// An image as a folder in the OCI layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) folder: PathBuf,
    pub(crate) digest: Digest,
}

/// What one image is built from.
#[derive(Debug, Clone)]
pub(crate) struct BuildRequest {
    pub(crate) context: PathBuf,
    pub(crate) dockerfile: PathBuf,
    pub(crate) name: String,
    pub(crate) args: BTreeMap<String, String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) target: Option<String>,
    pub(crate) platform: Option<String>,
    /// Ask the registries for newer base images.
    pub(crate) pull: bool,
    pub(crate) no_cache: bool,
    /// Build secrets: id → file.
    pub(crate) secrets: BTreeMap<String, PathBuf>,
    /// For a remote builder: the images behind these references of the Dockerfile.
    pub(crate) layouts: BTreeMap<String, Layout>,
    /// For a remote builder: where the image is written too, so that other images can be built on it.
    pub(crate) layout: Option<PathBuf>,
}

impl Docker {
    /// Builds an image and loads it into the engine under its name. Every line of docker's output goes to `on_line`.
    pub(crate) fn build(
        &self,
        builder: Builder,
        request: &BuildRequest,
        cancel: &Cancel,
        on_line: &mut dyn FnMut(&str),
    ) -> Result<(), DockerError> {
        let mut tool = self.build_command(builder);
        if builder != Builder::Integrated {
            tool = tool.args(["--output", "type=docker"]);
        }
        if let Some(folder) = &request.layout {
            let dest = csv(&format!("dest={}", folder.display()));
            tool = tool.arg("--output").arg(format!("type=oci,tar=false,{dest}"));
        }
        for (reference, layout) in &request.layouts {
            let place = format!("oci-layout://{}@{}", layout.folder.display(), layout.digest);
            tool = tool.arg("--build-context").arg(format!("{reference}={place}"));
        }
        tool = tool.args(["--tag", &request.name]).arg("--file").arg(&request.dockerfile);
        for (name, value) in &request.args {
            tool = tool.arg("--build-arg").arg(format!("{name}={value}"));
        }
        for (name, value) in &request.labels {
            tool = tool.arg("--label").arg(format!("{name}={value}"));
        }
        for (id, file) in &request.secrets {
            tool = tool.arg("--secret").arg(format!("id={id},{}", csv(&format!("src={}", file.display()))));
        }
        if let Some(target) = &request.target {
            tool = tool.arg("--target").arg(target);
        }
        if let Some(platform) = &request.platform {
            tool = tool.arg("--platform").arg(platform);
        }
        tool = tool.args(request.pull.then_some("--pull")).args(request.no_cache.then_some("--no-cache"));
        self.run_build(tool.arg("--").arg(&request.context), cancel, on_line)
    }

    fn build_command(&self, builder: Builder) -> Tool {
        let tool = match builder {
            Builder::Integrated => self.tool().env("DOCKER_BUILDKIT", "1").arg("build"),
            Builder::Buildx | Builder::Remote => {
                // Without attestations a single-platform image stays a plain manifest.
                let tool = self.tool().env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1").args(["buildx", "build"]);
                tool.args(["--builder", self.builder_name()])
            }
        };
        tool.arg("--progress=plain")
    }

    /// The newest image behind a reference, by its digest. The builder gets it; no name in the engine changes, as it
    /// would by `docker pull`.
    pub(crate) fn newest(
        &self,
        builder: Builder,
        reference: &str,
        platform: Option<&str>,
        cancel: &Cancel,
    ) -> Result<String, DockerError> {
        let mut tool = self.build_command(builder).args(["--pull", "--output", "type=tar,dest=/dev/null"]);
        if let Some(platform) = platform {
            tool = tool.arg("--platform").arg(platform);
        }
        // BuildKit names the digest of a stage's image: `#4 [base 1/1] FROM docker.io/library/a:1@sha256:…`.
        let dockerfile =
            format!("FROM {reference} AS base\nFROM scratch\nCOPY --from=base /.no-such-file* /\n");
        let mut digest: Option<Digest> = None;
        self.run_build(tool.arg("-").stdin(dockerfile), cancel, &mut |line| {
            if let Some((_, image)) = line.split_once("] FROM ") {
                digest =
                    image.split_whitespace().next().and_then(|image| image.split_once('@')?.1.parse().ok());
            }
        })?;
        let digest = digest.ok_or_else(|| DockerError::unexpected("a base image without a digest"))?;
        Ok(format!("{reference}@{digest}"))
    }

    /// Runs a build; its output may be of any length.
    fn run_build(
        &self,
        tool: Tool,
        cancel: &Cancel,
        on_line: &mut dyn FnMut(&str),
    ) -> Result<(), DockerError> {
        on_line(&format!("{tool:?}"));
        let mut steps = Steps::default();
        let built = tool.uncaptured().stream(cancel, &mut |_: Stream, line: &str| {
            steps.line(line);
            on_line(line);
        });
        let Err(error) = built else { return Ok(()) };
        let mut exit_code = None;
        let failed = DockerError::of_build(&error, &steps.last_words, |code| {
            exit_code = Some(code);
            steps.failed(code)
        });
        // An engine that is stopped kills the steps of its builds first, with the code of SIGKILL or SIGTERM.
        let killed = matches!(exit_code, Some(137 | 143));
        if killed && let Err(gone) = self.engine_version(cancel) {
            return Err(gone);
        }
        Err(failed)
    }

    /// How docker reaches BuildKit: one attempt, and its answer.
    pub(crate) fn find_builder(&self, cancel: &Cancel) -> Result<Builder, DockerError> {
        let answer = match &self.builder {
            Some(name) => self.tool().args(["buildx", "inspect", "--", name]).run(cancel),
            None => self.tool().args(["buildx", "version"]).run(cancel),
        };
        let error = match answer {
            Ok(_) if self.builder.is_none() => return Ok(Builder::Buildx),
            Ok(said) => {
                let driver = said
                    .text()
                    .lines()
                    .find_map(|line| Some(line.strip_prefix("Driver:")?.trim().to_owned()));
                return Ok(if driver.as_deref() == Some("docker") {
                    Builder::Buildx
                } else {
                    Builder::Remote
                });
            }
            Err(error @ CommandError::Exit { .. }) => error,
            Err(error) => return Err(DockerError::of(&error)),
        };
        if let Some(name) = &self.builder {
            let error = DockerError::of(&error);
            return Err(DockerError::new(
                DockerErrorKind::NoBuildKit,
                format!("the builder `{name}` cannot be used: {error}"),
            ));
        }
        let client = self.client_version(cancel)?;
        match major_version(&client) {
            Some(major) if major < 23 => Ok(Builder::Integrated),
            Some(_) | None => Err(DockerError::new(
                DockerErrorKind::NoBuildKit,
                format!("docker has no buildx plugin, and this client ({client}) cannot build without it"),
            )),
        }
    }
}

/// The major version in `Docker version 20.10.24+dfsg1, build 297e128`.
fn major_version(text: &str) -> Option<u32> {
    text.split_whitespace().find_map(|word| word.split_once('.')?.0.parse().ok())
}

/// A field of an option that docker reads as CSV.
fn csv(field: &str) -> String {
    if field.contains([',', '"']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field.to_owned() }
}

/// The digest of the one image in an OCI layout (OCI image spec, image-layout, `index.json`).
pub(crate) fn layout_digest(folder: &Path) -> std::io::Result<Digest> {
    #[derive(serde::Deserialize)]
    struct Index {
        manifests: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        digest: Digest,
    }
    let index: Index = serde_json::from_slice(&std::fs::read(folder.join("index.json"))?)?;
    let mut digests = index.manifests.into_iter().map(|entry| entry.digest);
    digests.next().ok_or_else(|| std::io::Error::other("index.json lists no image"))
}

/// What BuildKit's plain progress tells of the steps: `#7 [3/4] RUN make`, `#7 0.512 output`, `#7 ERROR: …`.
#[derive(Default)]
struct Steps {
    /// Name and last line of output by step number.
    steps: BTreeMap<u32, (String, String)>,
    failed: Option<u32>,
    /// The same by the heading of its output, which decides.
    headed: Option<u32>,
    last_words: LastWords,
}

/// More steps than a Dockerfile has; what is beyond is not remembered.
const MOST_STEPS: usize = 10_000;

impl Steps {
    fn line(&mut self, line: &str) {
        if let Some(name) = self.last_words.heading(line) {
            let named = |(number, (step, _)): (&u32, &(String, String))| (step == name).then_some(*number);
            self.headed = self.steps.iter().find_map(named);
        }
        self.last_words.line(line);
        let Some((number, rest)) = line.strip_prefix('#').and_then(|line| line.split_once(' ')) else {
            return;
        };
        let Ok(number) = number.parse::<u32>() else { return };
        if rest.starts_with("ERROR: ") {
            self.failed = Some(number);
        } else if let Some((time, output)) = rest.split_once(' ')
            && time.parse::<f64>().is_ok()
        {
            if let Some((_, last)) = self.steps.get_mut(&number)
                && !output.trim().is_empty()
            {
                *last = output.trim().to_owned();
            }
        } else if rest.starts_with('[') && self.steps.len() < MOST_STEPS {
            self.steps.entry(number).or_insert_with(|| (rest.to_owned(), String::new()));
        }
    }

    /// `step 3/4 RUN make exited with 1: <last line>`, for a step that ran a program.
    fn failed(&self, exit_code: i32) -> Option<String> {
        let (name, last) = self.steps.get(&self.headed.or(self.failed)?)?;
        let name = match name.strip_prefix('[').and_then(|name| name.split_once(']')) {
            Some((place, command)) => format!("step {} {}", place.trim(), command.trim()),
            None => name.clone(),
        };
        let text = format!("{} exited with {}", crate::escape::shortened(&name, 120), exit_code);
        Some(if last.is_empty() { text } else { format!("{text}: {}", crate::escape::shortened(last, 400)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_is_named_with_its_last_line() {
        let mut steps = Steps::default();
        for line in [
            "#5 [1/3] FROM docker.io/library/a",
            "#6 [build 2/3] RUN make all",
            "#6 0.101 first",
            "#6 0.202 cannot find x.h",
            "#6 0.300 ",
            "#6 ERROR: process \"/bin/sh -c make all\" did not complete successfully: exit code: 2",
        ] {
            steps.line(line);
        }
        assert_eq!(steps.failed(2).unwrap(), "step build 2/3 RUN make all exited with 2: cannot find x.h");
        assert_eq!(Steps::default().failed(1), None);
        // Output that ends without a line's end swallows the line of the error.
        let mut steps = Steps::default();
        for line in ["#6 [2/2] RUN x", "#6 0.1 why#6 ERROR: executor failed", "------", " > [2/2] RUN x:"] {
            steps.line(line);
        }
        assert!(steps.failed(1).unwrap().starts_with("step 2/2 RUN x exited with 1: why"));
    }

    #[test]
    fn the_clients_version_is_read() {
        assert_eq!(major_version("Docker version 20.10.24+dfsg1, build 297e128"), Some(20));
        assert_eq!(major_version("Docker version 28.2.2, build e6534b4"), Some(28));
        assert_eq!(major_version("podman version"), None);
    }

    #[test]
    fn a_path_with_a_comma_stays_one_field() {
        assert_eq!(csv("src=/a"), "src=/a");
        assert_eq!(csv("src=/a,b\"c"), "\"src=/a,b\"\"c\"");
    }
}
