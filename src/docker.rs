//! Typed verbs over the `docker` CLI, and pure parsers of what it says.

mod build;
mod error;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::cancel::Cancel;
use crate::model::{Digest, ImageRepository, Tag};
use crate::process::{CommandError, Stream, Tool};

pub use build::{BuildRequest, Builder};
pub use error::DockerError;

/// Variables of the user's that docker may see beside the inherited ones: which engine, which credentials.
const DOCKER_VARIABLES: &[&str] = &[
    "DOCKER_HOST",
    "DOCKER_CONFIG",
    "DOCKER_CONTEXT",
    "DOCKER_TLS_VERIFY",
    "DOCKER_CERT_PATH",
    "DOCKER_API_VERSION",
    "DOCKER_DEFAULT_PLATFORM",
    "BUILDX_BUILDER",
    "BUILDX_CONFIG",
    "BUILDKIT_HOST",
    "SSH_AGENT_PID",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "CLOUDSDK_CONFIG",
];

/// So few names are asked for one by one: the engine sizes up every image of a whole list, but it compares every image
/// with every name.
const FEW: usize = 8;

/// Where docker's plugins stand beside the user's own.
const PLUGIN_FOLDERS: &[&str] = &[
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];

/// The folder of docker's config file: `$DOCKER_CONFIG`, else `~/.docker`.
pub fn config_dir() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("DOCKER_CONFIG").or_else(|| Some(set("HOME")?.join(".docker")))
}

/// What the engine says of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// Its Id there.
    pub id: Digest,
    /// The label `io.swanci.inputs`.
    inputs: Option<Digest>,
}

impl Inspected {
    /// Whether it was built from these inputs.
    pub fn has_inputs(&self, inputs: Option<&Digest>) -> bool {
        inputs.is_some() && self.inputs.as_ref() == inputs
    }
}

/// A local image of swanci's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalImage {
    /// `HOST/PATH`, or a path alone.
    pub repository: String,
    /// Its tag there.
    pub tag: String,
    /// When it was made, as docker prints it: sorts by time.
    pub created: String,
}

/// The docker CLI that is configured.
#[derive(Debug, Clone)]
pub struct Docker {
    program: String,
    /// A buildx builder other than the default.
    builder: Option<String>,
}

impl Docker {
    /// The CLI `program`, with a buildx builder where one is named.
    pub fn new(program: &str, builder: Option<&str>) -> Docker {
        Docker { program: program.to_owned(), builder: builder.map(str::to_owned) }
    }

    fn tool(&self) -> Tool {
        // `docker/cli` as the program's name is looked up on the PATH; a path is taken as it is.
        Tool::new(&self.program).inherit(DOCKER_VARIABLES)
    }

    /// The engine's version, and so whether it answers.
    pub fn engine_version(&self, cancel: &Cancel) -> Result<String, DockerError> {
        let tool = self.tool().args(["version", "--format", "{{.Server.Version}}"]);
        Ok(tool.run(cancel).map_err(DockerError::of)?.text())
    }

    /// The version of the client.
    pub fn client_version(&self, cancel: &Cancel) -> Result<String, DockerError> {
        let tool = self.tool().args(["--version"]);
        Ok(tool.run(cancel).map_err(DockerError::of)?.text())
    }

    /// The version of the buildx plugin, if it is there.
    pub fn buildx_version(&self, cancel: &Cancel) -> Result<Option<String>, DockerError> {
        match self.tool().args(["buildx", "version"]).run(cancel) {
            Ok(done) => Ok(Some(done.text())),
            Err(error @ CommandError::Exit { .. }) => {
                let _ = error;
                Ok(None)
            }
            Err(error) => Err(DockerError::of(error)),
        }
    }

    /// Buildx where it is there and not switched off by `DOCKER_BUILDKIT=0`, as docker does it. `memory` is a file in which
    /// the plugin that answered last is remembered: asking it costs a process, half of which a build waits for.
    pub fn choose_builder(&self, memory: Option<&Path>, cancel: &Cancel) -> Result<Builder, DockerError> {
        if std::env::var("DOCKER_BUILDKIT").is_ok_and(|v| v == "0") && self.builder.is_none() {
            return Ok(Builder::Classic);
        }
        if self.buildx_answers(memory, cancel) {
            return Ok(Builder::Buildx);
        }
        Ok(match self.buildx_version(cancel)? {
            Some(_) => Builder::Buildx,
            None => Builder::Classic,
        })
    }

    /// Whether a buildx plugin stands where docker looks first, and answers what docker asks of every plugin (docker/cli,
    /// `cli-plugins/manager`): a third of what it costs to ask docker. `false` leaves it to docker.
    fn buildx_answers(&self, memory: Option<&Path>, cancel: &Cancel) -> bool {
        let own = config_dir().map(|dir| dir.join("cli-plugins"));
        let folders = own.into_iter().chain(PLUGIN_FOLDERS.iter().map(PathBuf::from));
        let plugin = folders.map(|folder| folder.join("docker-buildx")).find(|file| file.is_file());
        let Some(plugin) = plugin.filter(|_| self.program == "docker") else { return false };
        let identity = file_identity(&plugin);
        if identity.is_some() && memory.and_then(|file| fs::read_to_string(file).ok()) == identity {
            return true;
        }
        let answer =
            Tool::new(plugin).inherit(DOCKER_VARIABLES).arg("docker-cli-plugin-metadata").run(cancel);
        let answers = answer.is_ok_and(|done| {
            serde_json::from_slice::<serde_json::Value>(&done.stdout)
                .is_ok_and(|metadata| metadata.get("SchemaVersion").is_some())
        });
        if let (true, Some(identity), Some(memory)) = (answers, identity, memory) {
            // A disk that is full forgets it, and a torn line is nobody's identity.
            let _ = fs::write(memory, identity);
        }
        answers
    }

    /// The image's Id under this name; `None` when the engine has no such image.
    pub fn image_id(&self, name: &str, cancel: &Cancel) -> Result<Option<Digest>, DockerError> {
        Ok(self.inspect(name, cancel)?.map(|image| image.id))
    }

    /// What the engine has under this name; `None` when it has no such image.
    pub fn inspect(&self, name: &str, cancel: &Cancel) -> Result<Option<Inspected>, DockerError> {
        Ok(self.inspect_all(&[name], cancel)?.pop().flatten())
    }

    /// The same of all these names at once.
    pub fn inspect_all(
        &self,
        names: &[&str],
        cancel: &Cancel,
    ) -> Result<Vec<Option<Inspected>>, DockerError> {
        let format =
            r#"{{.Id}} {{with .Config}}{{with .Labels}}{{index . "io.swanci.inputs"}}{{end}}{{end}}"#;
        match self.tool().args(["image", "inspect", "--format", format, "--"]).args(names).run(cancel) {
            Ok(done) => {
                let text = done.text();
                let images: Option<Vec<_>> =
                    text.lines().map(|line| parse_inspected(line).map(Some)).collect();
                images.filter(|images| images.len() == names.len()).ok_or(DockerError::Unexpected(text))
            }
            // Which one is missing stands in no certain place of what docker says.
            Err(error) if error.said(&["no such image"]) => match names {
                [_] => Ok(vec![None]),
                _ => names.iter().map(|name| self.inspect(name, cancel)).collect(),
            },
            Err(error) => Err(DockerError::of(error)),
        }
    }

    /// Pushes `repository:tag` and returns the digest that docker prints.
    pub fn push(
        &self,
        repository: &ImageRepository,
        tag: &Tag,
        cancel: &Cancel,
        on_line: &mut dyn FnMut(&str),
    ) -> Result<Digest, DockerError> {
        let tool = self.tool().args(["push", "--", &repository.tagged(tag)]);
        let done =
            tool.stream(cancel, &mut |_: Stream, line: &str| on_line(line)).map_err(DockerError::of_push)?;
        pushed_digest(&done.text(), tag)
            .ok_or_else(|| DockerError::Unexpected("docker push ended well but printed no digest".to_owned()))
    }

    /// Pulls an image.
    pub fn pull(&self, reference: &str, cancel: &Cancel) -> Result<(), DockerError> {
        self.tool().args(["pull", "--quiet", "--", reference]).run(cancel).map_err(DockerError::of_push)?;
        Ok(())
    }

    /// Swanci's images that stand in the engine under these repositories' names, and perhaps others of its images.
    pub fn local_images(
        &self,
        repositories: &[&str],
        cancel: &Cancel,
    ) -> Result<Vec<LocalImage>, DockerError> {
        let format = "{{.Repository}}\t{{.Tag}}\t{{.CreatedAt}}";
        let mut tool = self.tool().args(["image", "ls", "--no-trunc", "--format", format]);
        tool = tool.args(["--filter", "label=io.swanci.inputs", "--filter", "dangling=false"]);
        if repositories.len() <= FEW {
            for repository in repositories {
                tool = tool.arg("--filter").arg(reference_filter(repository));
            }
        }
        let text = tool.run(cancel).map_err(DockerError::of)?.text();
        Ok(parse_images(&text))
    }

    /// Gives an image one more name.
    pub fn tag(&self, image: &str, name: &str, cancel: &Cancel) -> Result<(), DockerError> {
        self.tool().args(["image", "tag", "--", image, name]).run(cancel).map_err(DockerError::of)?;
        Ok(())
    }

    /// Removes names from the engine, and each image with its last one. Never by force: what docker refuses to remove
    /// stays, and the others go.
    pub fn remove(&self, names: &[&str], cancel: &Cancel) -> Result<(), DockerError> {
        self.tool().args(["image", "rm", "--"]).args(names).run(cancel).map_err(DockerError::of)?;
        Ok(())
    }

    /// The engine's disk usage as docker tells it, one line a kind.
    pub fn disk_usage(&self, cancel: &Cancel) -> Result<Vec<DiskUsage>, DockerError> {
        let text = self
            .tool()
            .args(["system", "df", "--format", "{{json .}}"])
            .run(cancel)
            .map_err(DockerError::of)?
            .text();
        text.lines()
            .map(|line| serde_json::from_str(line).map_err(|_| DockerError::Unexpected(line.to_owned())))
            .collect()
    }

    /// Asks the engine (not swanci) for an image that need not exist: how it fails tells whether the engine trusts
    /// the registry.
    pub fn probe_registry(&self, reference: &str, cancel: &Cancel) -> Result<(), DockerError> {
        match self.pull(reference, cancel) {
            Err(DockerError::Failed(error))
                if error.said(&["not found", "manifest unknown", "does not exist"]) =>
            {
                Ok(())
            }
            outcome => outcome,
        }
    }
}

/// Path, inode, size and time of a file's last change, of its mode too (inode(7)): another file, or the same one changed,
/// has another identity. The size because a kernel's clock may stand still between two changes.
fn file_identity(path: &Path) -> Option<String> {
    let file = fs::metadata(path).ok()?;
    let (inode, size, seconds, nanoseconds) = (file.ino(), file.len(), file.ctime(), file.ctime_nsec());
    Some(format!("{} {inode} {size} {seconds}.{nanoseconds:09}\n", path.display()))
}

/// One line of `docker system df`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DiskUsage {
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

fn parse_inspected(line: &str) -> Option<Inspected> {
    let (id, inputs) = line.split_once(' ').unwrap_or((line, ""));
    Some(Inspected { id: id.parse().ok()?, inputs: inputs.trim().parse().ok() })
}

fn parse_images(text: &str) -> Vec<LocalImage> {
    let image = |line: &str| {
        let (repository, rest) = line.split_once('\t')?;
        let (tag, created) = rest.split_once('\t')?;
        Some(LocalImage {
            repository: repository.to_owned(),
            tag: tag.to_owned(),
            created: created.to_owned(),
        })
    };
    text.lines().filter_map(image).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn a_plugin_that_answered_is_asked_again_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let plugin = dir.path().join("docker-buildx");
        assert_eq!(file_identity(&plugin), None);
        fs::write(&plugin, "one").unwrap();
        let first = file_identity(&plugin);
        assert!(first.is_some());
        assert_eq!(file_identity(&plugin), first);
        fs::write(&plugin, "other").unwrap();
        assert_ne!(file_identity(&plugin), first);
    }

    #[test]
    fn a_name_is_no_pattern() {
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

    fn failed(words: &str) -> CommandError {
        CommandError::Exit {
            command: "docker".into(),
            status: "ended with code 1".into(),
            tail: vec![words.into()],
        }
    }

    #[test]
    fn what_docker_says_is_told_apart() {
        use DockerError as E;
        let said =
            failed("test: 401 unauthorized: connection refused; The command 'x' returned a non-zero code: 1");
        assert!(matches!(E::of_build(said), E::Failed(_)));
        assert!(matches!(E::of(failed("Cannot connect to the Docker daemon at unix:///x")), E::NoEngine(_)));
        assert!(matches!(E::of(failed("write /var/lib/docker/x: no space left on device")), E::NoSpace(_)));
        assert!(matches!(
            E::of(failed("The command '/bin/sh -c false' returned a non-zero code: 1")),
            E::Failed(_)
        ));
        for disturbed in [
            "The command '/bin/sh -c make' returned a non-zero code: 137",
            "No such image: sha256:9004939ff0",
            "unable to find image \"sha256:a1b540c922\"",
            "failed to get digest sha256:8d7d9a: open /var/lib/docker/image/overlay2/imagedb/content/sha256/8d7d9a: no such file or directory",
        ] {
            assert!(matches!(E::of(failed(disturbed)), E::Disturbed(_)), "{disturbed}");
        }
        assert!(matches!(
            E::of_push(failed("x509: certificate signed by unknown authority")),
            E::Registry(_)
        ));
        assert!(matches!(E::of_push(failed("no basic auth credentials")), E::Unauthorized(_)));
        let answered = |status: &str| {
            E::of_push(failed(&format!(
                "failed: unexpected status from PUT request to http://r:5000/v2/a/manifests/1: {status}"
            )))
        };
        for status in ["429 Too Many Requests", "500 Internal Server Error", "503 Injected"] {
            assert!(matches!(answered(status), E::Registry(_)), "{status}");
        }
        assert!(matches!(answered("403 Forbidden"), E::Unauthorized(_)));
        for status in ["400 Bad Request", "", "50", "x"] {
            assert!(matches!(answered(status), E::Failed(_)), "{status}");
        }
        assert_eq!(
            E::of_push(failed("dial tcp 127.0.0.1:1: connect: connection refused")).kind(),
            Kind::Environment
        );
    }
}
