//! Builds one image with BuildKit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::steps::Steps;
use super::{Docker, DockerError, DockerErrorKind};
use crate::cancel::Cancel;
use crate::model::Digest;
use crate::process::{CommandError, Stream, Tool};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Builder {
    /// `docker buildx build` in the engine.
    Buildx,
    /// `docker buildx build` on a builder without access to the engine's images.
    Remote,
    /// `DOCKER_BUILDKIT=1 docker build`, for clients before 23.
    Integrated,
}

/// A folder in the OCI layout that holds one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) folder: PathBuf,
    pub(crate) digest: Digest,
}

#[derive(Debug, Clone)]
pub(crate) struct BuildRequest {
    pub(crate) context: PathBuf,
    pub(crate) dockerfile: PathBuf,
    pub(crate) name: String,
    pub(crate) args: BTreeMap<String, String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) target: Option<String>,
    pub(crate) platform: Option<String>,
    pub(crate) pull: bool,
    pub(crate) no_cache: bool,
    /// Build secrets: id → file.
    pub(crate) secrets: BTreeMap<String, PathBuf>,
    /// For a remote builder: images by their references in the Dockerfile.
    pub(crate) layouts: BTreeMap<String, Layout>,
    /// For a remote builder: where to write the image too, so that other images can be built on it.
    pub(crate) layout: Option<PathBuf>,
}

impl Docker {
    /// Builds an image and loads it into the engine under its name.
    pub(crate) fn build(
        &self,
        builder: Builder,
        request: &BuildRequest,
        cancel: &Cancel,
        on_line: &mut dyn FnMut(&str),
    ) -> Result<(), DockerError> {
        let into_engine = (builder != Builder::Integrated).then(|| "type=docker".to_owned());
        let into_layout = request
            .layout
            .iter()
            .map(|folder| format!("type=oci,tar=false,{}", csv(&format!("dest={}", folder.display()))));
        let layouts = request.layouts.iter().map(|(reference, layout)| {
            format!("{reference}=oci-layout://{}@{}", layout.folder.display(), layout.digest)
        });
        let pair = |(name, value): (&String, &String)| format!("{name}={value}");
        let secrets = request.secrets.iter();
        let secrets =
            secrets.map(|(id, file)| format!("id={id},{}", csv(&format!("src={}", file.display()))));
        let tool = self
            .build_command(builder)
            .each("--output", into_engine.into_iter().chain(into_layout))
            .each("--build-context", layouts)
            .args(["--tag", &request.name])
            .arg("--file")
            .arg(&request.dockerfile)
            .each("--build-arg", request.args.iter().map(pair))
            .each("--label", request.labels.iter().map(pair))
            .each("--secret", secrets)
            .each("--target", &request.target)
            .each("--platform", &request.platform)
            .args(request.pull.then_some("--pull"))
            .args(request.no_cache.then_some("--no-cache"));
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

    /// Pulls the newest image for a reference into the builder, and returns the reference with its digest. Unlike
    /// `docker pull`, it changes no name in the engine.
    pub(crate) fn newest(
        &self,
        builder: Builder,
        reference: &str,
        platform: Option<&str>,
        cancel: &Cancel,
    ) -> Result<String, DockerError> {
        let tool = self.build_command(builder).args(["--pull", "--output", "type=tar,dest=/dev/null"]);
        let tool = tool.each("--platform", platform);
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
        let (failed, exit_code) = DockerError::of_build(&error, &steps);
        // An engine that stops first kills the steps of its builds, with SIGKILL or SIGTERM.
        if matches!(exit_code, Some(137 | 143)) {
            self.engine_version(cancel)?;
        }
        Err(failed)
    }

    pub(crate) fn find_builder(&self, cancel: &Cancel) -> Result<Builder, DockerError> {
        let answer = match &self.builder {
            Some(name) => self.tool().args(["buildx", "inspect", "--", name]).run(cancel),
            None => self.tool().args(["buildx", "version"]).run(cancel),
        };
        let error = match answer {
            Ok(_) if self.builder.is_none() => return Ok(Builder::Buildx),
            Ok(said) => {
                let text = said.text();
                let driver = text.lines().find_map(|line| Some(line.strip_prefix("Driver:")?.trim()));
                return Ok(if driver == Some("docker") { Builder::Buildx } else { Builder::Remote });
            }
            Err(error @ CommandError::Exit { .. }) => error,
            Err(error) => return Err(DockerError::of(&error)),
        };
        let message = match &self.builder {
            Some(name) => format!("the builder `{name}` cannot be used: {}", DockerError::of(&error)),
            None => {
                let client = self.client_version(cancel)?;
                if major_version(&client).is_some_and(|major| major < 23) {
                    return Ok(Builder::Integrated);
                }
                format!("docker has no buildx plugin, and this client ({client}) cannot build without it")
            }
        };
        Err(DockerError::new(DockerErrorKind::NoBuildKit, message))
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
    let index: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("index.json"))?)?;
    let digest = index.pointer("/manifests/0/digest").and_then(|digest| digest.as_str()?.parse().ok());
    digest.ok_or_else(|| std::io::Error::other("index.json lists no image"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_of_the_client_is_read() {
        assert_eq!(major_version("Docker version 20.10.24+dfsg1, build 297e128"), Some(20));
        assert_eq!(major_version("Docker version 28.2.2, build e6534b4"), Some(28));
        assert_eq!(major_version("podman version"), None);
    }

    #[test]
    fn a_path_with_a_comma_is_one_field() {
        assert_eq!(csv("src=/a"), "src=/a");
        assert_eq!(csv("src=/a,b\"c"), "\"src=/a,b\"\"c\"");
    }
}
