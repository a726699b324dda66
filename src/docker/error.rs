//! What docker could not do: told apart by what it says, with its exit code and a way out.

use crate::error::{Failure, Kind};
use crate::process::CommandError;

/// What the classic builder says when a cached step is removed while a build stands on it.
const REMOVED: &[&str] = &[
    "no such image: sha256:",
    "unable to find image \"sha256:",
    "failed to get digest sha256:",
    "unknown parent image id",
    "layer does not exist",
    // The answer to `FROM <id>` of an image that is gone.
    "cannot specify 64-byte hexadecimal strings",
];

/// What docker could not do, as far as a caller or a person does something different about it.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// The engine does not answer.
    #[error("the docker engine does not answer")]
    NoEngine(#[source] CommandError),
    /// The user may not talk to it.
    #[error("this user may not talk to the docker engine")]
    Forbidden(#[source] CommandError),
    /// The disk is full.
    #[error("no space left on the docker engine's disk")]
    NoSpace(#[source] CommandError),
    /// Not by itself: a step was killed by an engine that was stopped or for want of memory, or a step that the build
    /// stood on was removed meanwhile.
    #[error("the build was disturbed")]
    Disturbed(#[source] CommandError),
    /// The registry cannot be reached, or is not trusted, by the engine.
    #[error("the docker engine cannot reach the registry")]
    Registry(#[source] CommandError),
    /// The registry wants other credentials.
    #[error("the registry refuses docker's credentials, or wants some")]
    Unauthorized(#[source] CommandError),
    /// The engine has no image of that name to push.
    #[error("the engine does not hold the image")]
    NoSuchImage(#[source] CommandError),
    /// What was asked for failed by itself.
    #[error("docker failed")]
    Failed(#[source] CommandError),
    /// docker is not there, was stopped, or could not be run.
    #[error("cannot run docker")]
    Command(#[source] CommandError),
    /// A temporary file could not be used.
    #[error("a temporary file cannot be used")]
    Scratch(#[source] std::io::Error),
    /// docker said something that swanci does not understand.
    #[error("docker said something unexpected: {0}")]
    Unexpected(String),
}

impl DockerError {
    pub(super) fn of(error: CommandError) -> DockerError {
        match &error {
            CommandError::Exit { .. } => {}
            CommandError::NotFound { .. }
            | CommandError::Spawn { .. }
            | CommandError::Stopped { .. }
            | CommandError::TooMuchOutput { .. } => return DockerError::Command(error),
        }
        let engine = [
            "cannot connect to the docker daemon",
            "is the docker daemon running",
            "error during connect",
            "unexpected eof",
            "transport is closing",
            "error reading from server: eof",
            "use of closed network connection",
        ];
        // 128 + SIGKILL and SIGTERM: an engine that is stopped ends its containers so, and its client says no more. The
        // others: a cached step of the classic builder goes when the last other image on it is removed.
        let disturbed = error.said(&["code: 137", "code: 143"]) || error.said(REMOVED);
        if error.said(&[
            "permission denied while trying to connect",
            "dial unix /var/run/docker.sock: connect: permission denied",
        ]) {
            DockerError::Forbidden(error)
        } else if error.said(&engine) {
            DockerError::NoEngine(error)
        } else if error.said(&["no space left on device", "disk quota exceeded"]) {
            DockerError::NoSpace(error)
        } else if disturbed {
            DockerError::Disturbed(error)
        } else {
            DockerError::Failed(error)
        }
    }

    /// For a build. What a failing step prints is its own: it says nothing about docker or the registry.
    pub(super) fn of_build(error: CommandError) -> DockerError {
        let step = error.said(&["returned a non-zero code: ", "did not complete successfully: exit code: "]);
        let outside =
            error.said(&["code: 137", "code: 143", "no space left on device", "disk quota exceeded"]);
        if step && !outside { DockerError::Failed(error) } else { DockerError::of_push(error) }
    }

    /// For a push: what the engine said about the registry.
    pub(super) fn of_push(error: CommandError) -> DockerError {
        let registry = [
            "connection refused",
            "no such host",
            "i/o timeout",
            "tls handshake",
            "x509",
            "certificate",
            "connection reset",
            "net/http",
            "server gave http response",
            "received unexpected http status: 5",
            "too many requests",
            "toomanyrequests",
            "service unavailable",
            "bad gateway",
            "gateway timeout",
            "dial tcp",
            "unexpected http status",
        ];
        let credentials = ["no basic auth credentials", "unauthorized", "authentication required", "denied:"];
        let failure = DockerError::of(error);
        let DockerError::Failed(error) = failure else { return failure };
        let status = registry_status(&error);
        if error.said(&["does not exist locally", "tag does not exist:"]) {
            DockerError::NoSuchImage(error)
        } else if error.said(&credentials) || matches!(status, Some(401 | 403)) {
            DockerError::Unauthorized(error)
        } else if error.said(&registry) || matches!(status, Some(429 | 500..=599)) {
            DockerError::Registry(error)
        } else {
            DockerError::Failed(error)
        }
    }

    /// Whether a cached step was removed while the build stood on it: the same build finds another way at once.
    pub fn lost_a_cached_step(&self) -> bool {
        match self {
            DockerError::Disturbed(error) => error.said(REMOVED),
            DockerError::NoEngine(_)
            | DockerError::Forbidden(_)
            | DockerError::NoSpace(_)
            | DockerError::Registry(_)
            | DockerError::Unauthorized(_)
            | DockerError::NoSuchImage(_)
            | DockerError::Failed(_)
            | DockerError::Command(_)
            | DockerError::Scratch(_)
            | DockerError::Unexpected(_) => false,
        }
    }

    /// The lines that docker said last.
    pub fn tail(&self) -> &[String] {
        match self {
            DockerError::NoEngine(e)
            | DockerError::Forbidden(e)
            | DockerError::NoSpace(e)
            | DockerError::Disturbed(e)
            | DockerError::Registry(e)
            | DockerError::Unauthorized(e)
            | DockerError::NoSuchImage(e)
            | DockerError::Failed(e)
            | DockerError::Command(e) => e.tail(),
            DockerError::Unexpected(_) | DockerError::Scratch(_) => &[],
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            DockerError::NoSuchImage(_) | DockerError::Failed(_) | DockerError::Unexpected(_) => Kind::Failed,
            DockerError::Command(CommandError::Stopped { stop, .. }) => stop.kind(),
            DockerError::Command(CommandError::TooMuchOutput { .. }) => Kind::Failed,
            DockerError::NoEngine(_)
            | DockerError::Forbidden(_)
            | DockerError::NoSpace(_)
            | DockerError::Disturbed(_)
            | DockerError::Registry(_)
            | DockerError::Unauthorized(_)
            | DockerError::Scratch(_)
            | DockerError::Command(_) => Kind::Environment,
        }
    }

    fn way_out(&self) -> Option<&'static str> {
        match self {
            DockerError::NoEngine(_) => {
                Some("start it (systemctl start docker), or set DOCKER_HOST to where it runs")
            }
            DockerError::Forbidden(_) => Some("add the user to the group `docker` and log in again"),
            DockerError::Disturbed(_) => Some(
                "was the docker engine restarted, the memory used up (dmesg tells), or were images removed?",
            ),
            DockerError::NoSpace(_) => {
                Some("make room: docker system df shows what is used, docker image prune removes")
            }
            DockerError::Registry(e) if e.said(&["x509", "certificate"]) => Some(
                "the engine does not trust the registry's certificate: scripts/trust-ca puts the CA where docker looks",
            ),
            DockerError::Registry(_) => {
                Some("is the registry up, and does the engine reach it under this name?")
            }
            DockerError::Unauthorized(_) => Some("docker login REGISTRY, as the user that runs swanci"),
            DockerError::Command(CommandError::NotFound { .. }) => {
                Some("install docker (apt-get install docker.io), or set build.docker")
            }
            DockerError::NoSuchImage(_)
            | DockerError::Failed(_)
            | DockerError::Scratch(_)
            | DockerError::Command(_)
            | DockerError::Unexpected(_) => None,
        }
    }
}

/// The status that a registry gave to BuildKit or to an engine with a containerd store (containerd's `remotes/docker`:
/// `unexpected status from PUT request to URL: 503 Service Unavailable`).
fn registry_status(error: &CommandError) -> Option<u16> {
    error.tail().iter().rev().find_map(|line| {
        let (_, request) = line.split_once("unexpected status from ")?;
        let (_, status) = request.split_once(": ")?;
        status.get(..3)?.parse().ok()
    })
}

impl From<DockerError> for Failure {
    fn from(error: DockerError) -> Failure {
        let (kind, hint) = (error.kind(), error.way_out());
        let failure = Failure::new(kind, error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
