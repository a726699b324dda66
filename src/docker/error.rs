//! Why a docker command failed, by its final error and by what was being done.

use std::fmt;

use crate::cancel::Stop;
use crate::error::{Failure, Kind};
use crate::process::{CommandError, has_sign};

use super::steps::{Steps, behind_command, exit_code_of_step, is_of_step};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct DockerError {
    pub(crate) kind: DockerErrorKind,
    message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DockerErrorKind {
    NoClient,
    NoBuildKit,
    NoEngine,
    /// The user may not connect to the engine.
    Forbidden,
    /// The engine's disk is full.
    NoSpace,
    /// The engine cannot reach the registry, or the registry has a service error.
    Registry,
    /// The engine does not trust the registry's certificate.
    Certificate,
    Unauthorized,
    ManifestRefused,
    NoSuchImage,
    Failed,
    Stopped(Stop),
}

use DockerErrorKind as K;

impl DockerError {
    pub(super) fn new(kind: DockerErrorKind, message: impl fmt::Display) -> DockerError {
        let prefix = if kind == K::NoEngine { "the docker engine does not answer: " } else { "" };
        DockerError { kind, message: format!("{prefix}{message}") }
    }

    /// For a call that is neither a build nor a push.
    pub(super) fn of(error: &CommandError) -> DockerError {
        Self::of_client(error).unwrap_or_else(|| {
            let message = final_error(error.tail());
            Self::new(engine_kind(message).unwrap_or(K::Failed), message)
        })
    }

    /// For a build, with the exit code of the step that failed. What a step runs or prints does not decide the kind: only
    /// BuildKit's own final words count, without the command that they quote.
    pub(super) fn of_build(error: &CommandError, steps: &Steps) -> (DockerError, Option<i32>) {
        if let Some(error) = Self::of_client(error) {
            return (error, None);
        }
        let message =
            if steps.error.is_empty() { final_error(error.tail()) } else { without_start(&steps.error) };
        if let Some(code) = exit_code_of_step(&format!("{message}\n{}", steps.error_end)) {
            return (Self::new(K::Failed, steps.failed(code).as_deref().unwrap_or(message)), Some(code));
        }
        let message =
            if is_of_step(message) { behind_command(&steps.error_end).unwrap_or(message) } else { message };
        let plain = without_quotes(message);
        let kind = if has_sign(&plain, "dockerfile parse error") {
            K::Failed
        } else {
            engine_kind(&plain).or_else(|| registry_kind(&plain)).unwrap_or(K::Failed)
        };
        (Self::new(kind, message), None)
    }

    /// For a push. The author controls nothing in its output, so an unknown error counts as the registry's: a retry may
    /// succeed.
    pub(super) fn of_push(error: &CommandError) -> DockerError {
        Self::of_client(error).unwrap_or_else(|| {
            let message = final_error(error.tail());
            let kind =
                find(PUSH, message).or_else(|| engine_kind(message)).or_else(|| registry_kind(message));
            Self::new(kind.unwrap_or(K::Registry), message)
        })
    }

    /// For a client that did not start or was stopped.
    fn of_client(error: &CommandError) -> Option<DockerError> {
        Some(match error {
            CommandError::Exit { .. } => return None,
            CommandError::Io { .. } => Self::new(K::NoClient, error),
            CommandError::Stopped { stop, .. } => Self::new(K::Stopped(*stop), stop),
            CommandError::TooMuchOutput { .. } => Self::new(K::Failed, error),
        })
    }

    pub(super) fn unexpected(output: impl fmt::Display) -> DockerError {
        Self::new(K::Failed, format!("docker printed something unexpected: {output}"))
    }
}

impl From<DockerError> for Failure {
    fn from(error: DockerError) -> Failure {
        let hint = match error.kind {
            K::NoSuchImage | K::Failed => return Failure::new(Kind::Failed, error),
            K::ManifestRefused => {
                return Failure::new(Kind::Failed, error).hint(crate::registry::OCI_ONLY_HINT);
            }
            K::Stopped(stop) => return Failure::new(stop.kind(), error),
            K::NoClient => "install docker (apt-get install docker.io), or set build.docker",
            K::NoBuildKit => {
                "install the buildx plugin (apt-get install docker-buildx, or Docker's docker-buildx-plugin)"
            }
            K::NoEngine => "start the engine (systemctl start docker), or set DOCKER_HOST to where it runs",
            K::Forbidden => "add the user to the group `docker` and log in again",
            K::NoSpace => {
                "free some space: `docker system df` shows what is used, `docker image prune` removes unused images"
            }
            K::Registry => "check that the registry is up and that the engine reaches it under this name",
            K::Certificate => {
                "the engine does not trust the registry's certificate: `sudo swanci trust --ca FILE HOST` installs the CA \
                 for docker"
            }
            K::Unauthorized => "run `docker login REGISTRY` as the user that runs swanci",
        };
        Failure::new(Kind::Environment, error).hint(hint)
    }
}

pub(super) const STARTS: [&str; 5] =
    ["ERROR: ", "error: ", "Error: ", "Error response from daemon: ", "docker: "];

/// The last line that starts like an error of docker's, else the last line.
fn final_error(tail: &[String]) -> &str {
    let is_error = |line: &'_ &String| STARTS.iter().any(|start| line.starts_with(start));
    let line = tail.iter().rev().find(is_error).or_else(|| tail.iter().rev().find(|l| !l.trim().is_empty()));
    line.map_or("docker ended without a message", |line| without_start(line))
}

fn without_start(line: &str) -> &str {
    let mut line = line.trim();
    for start in STARTS {
        line = line.strip_prefix(start).unwrap_or(line);
    }
    line.strip_prefix("failed to solve: ").unwrap_or(line)
}

fn without_quotes(text: &str) -> String {
    text.split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
}

/// Kinds and their signs, see [`has_sign`]. The first match counts.
const ENGINE: &[(DockerErrorKind, &str)] = &[
    (K::Forbidden, "permission denied while trying to connect|docker.sock: connect: permission denied"),
    (K::NoSpace, "no space left on device|disk quota exceeded"),
    (
        K::NoEngine,
        "cannot connect to the docker daemon|failed to connect to the docker api|is the docker daemon running|\
         error during connect|transport is closing|code = unavailable|error reading from server: eof|\
         use of closed network connection|closing transport",
    ),
];

const REGISTRY: &[(DockerErrorKind, &str)] = &[
    (K::Certificate, "x509:|certificate signed by unknown authority"),
    (K::Unauthorized, "no basic auth credentials|unauthorized|authentication required|: denied"),
    (
        K::Registry,
        "connection refused|connection reset|no such host|server misbehaving|temporary failure in name resolution|\
         i/o timeout|tls handshake|client.timeout|context deadline exceeded|network is unreachable|no route to host|\
         dial tcp|server gave http response to https client|toomanyrequests|too many requests|service unavailable|\
         bad gateway|gateway timeout|internal server error",
    ),
];

const PUSH: &[(DockerErrorKind, &str)] = &[
    (K::NoSuchImage, "does not exist locally|tag does not exist:|no such image"),
    (K::ManifestRefused, "manifest invalid|manifest_invalid"),
    (K::Failed, "name unknown|name_unknown|name invalid|tag invalid|too large"),
];

fn find(signs: &[(DockerErrorKind, &str)], message: &str) -> Option<DockerErrorKind> {
    signs.iter().find(|(_, signs)| has_sign(message, signs)).map(|(kind, _)| *kind)
}

fn engine_kind(message: &str) -> Option<DockerErrorKind> {
    let is_cut = || message.to_lowercase().ends_with("unexpected eof");
    find(ENGINE, message).or_else(|| is_cut().then_some(K::NoEngine))
}

fn registry_kind(message: &str) -> Option<DockerErrorKind> {
    let (found, lower) = (find(REGISTRY, message), message.to_lowercase());
    match http_status(&lower) {
        _ if matches!(found, Some(K::Certificate | K::Unauthorized)) => found,
        _ if lower.starts_with("denied") => Some(K::Unauthorized),
        Some(401 | 403) => Some(K::Unauthorized),
        Some(429 | 500..=599) => Some(K::Registry),
        Some(_) | None => found,
    }
}

/// The registry's HTTP status, in the words of containerd (`unexpected status from PUT request to URL: 503 …`) or
/// of the engine's own client (`received unexpected http status: 503 …`).
fn http_status(lower: &str) -> Option<u16> {
    let (_, rest) =
        lower.split_once("unexpected status").or_else(|| lower.split_once("unexpected http status"))?;
    rest.split(": ").skip(1).find_map(|part| part.get(..3)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(lines: &[&str]) -> CommandError {
        CommandError::exit_for_test(lines)
    }

    fn of_build(lines: &[&str]) -> DockerError {
        let mut steps = Steps::default();
        lines.iter().for_each(|line| steps.line(line));
        DockerError::of_build(&failed(lines), &steps).0
    }

    #[test]
    fn the_output_of_a_step_does_not_decide_the_kind() {
        for words in ["connection refused", "no space left on device", "x509: certificate", "exit code: 137"]
        {
            let step = format!("#7 0.1 {words}");
            let shown = format!("0.101 {words}");
            for last in [
                "ERROR: failed to solve: process \"/bin/sh -c echo connection refused; exit 3\" did not complete successfully: exit code: 3",
                "executor failed running [/bin/sh -c echo no space left on device; exit 3]: exit code: 3",
                "ERROR: failed to solve: failed to compute cache key: \"/connection refused\": not found",
                "ERROR: failed to solve: dockerfile parse error on line 2: unknown instruction: CONNECTION refused",
            ] {
                let error = of_build(&[&step, "------", &shown, "------", last]);
                assert_eq!(error.kind, K::Failed, "{words}: {last}");
            }
        }
    }

    #[test]
    fn a_command_of_several_lines_does_not_decide_the_kind() {
        let spoof = "ERROR: failed to solve: dial tcp 10.0.0.1: connect: connection refused";
        for last in [
            &["executor failed running [/bin/sh -c echo", spoof, "exit 3]: exit code: 3"][..],
            &[
                "ERROR: failed to solve: executor failed running [/bin/sh -c echo",
                spoof,
                "exit 3]: exit code: 3",
            ],
            &["executor failed running [/bin/sh -c echo", "------", spoof, "exit 3]: exit code: 3"],
            // Printed after a carriage return.
            &["executor failed running [/bin/sh -c exit 3]: exit code: 3"],
            &[
                " 1 warning found:",
                " - a",
                "ERROR: failed to build: failed to solve: process \"/bin/sh -c x\" did not complete successfully: exit code: 3",
                "View build details: x",
            ],
        ] {
            let lines =
                [&["#6 [2/2] RUN x", spoof, "------", " > [2/2] RUN x:", spoof, "------"][..], last].concat();
            let error = of_build(&lines);
            assert_eq!(
                (error.kind, error.message.as_str()),
                (K::Failed, "step 2/2 RUN x exited with 3"),
                "{last:?}"
            );
        }
    }

    #[test]
    fn a_build_that_cannot_reach_something_is_told_from_one_that_fails() {
        for (line, kind) in [
            (
                "ERROR: failed to solve: a:1: failed to do request: Head \"https://r/v2/\": dial tcp: lookup r: no such host",
                K::Registry,
            ),
            (
                "ERROR: failed to solve: a:1: unexpected status from HEAD request to https://r/v2/a/manifests/1: 503 Service Unavailable",
                K::Registry,
            ),
            (
                "ERROR: failed to solve: a:1: failed to do request: Head \"https://r/\": tls: failed to verify certificate: x509: certificate signed by unknown authority",
                K::Certificate,
            ),
            ("ERROR: failed to solve: write /var/lib/docker/tmp/x: no space left on device", K::NoSpace),
            (
                "ERROR: failed to receive status: rpc error: code = Unavailable desc = error reading from server: EOF",
                K::NoEngine,
            ),
            (
                "ERROR: Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?",
                K::NoEngine,
            ),
            (
                "ERROR: failed to solve: a:1: pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed",
                K::Failed,
            ),
            ("ERROR: failed to solve: target stage \"x\" could not be found", K::Failed),
        ] {
            assert_eq!(of_build(&[line]).kind, kind, "{line}");
        }
    }

    #[test]
    fn a_push_that_fails_is_the_registrys_unless_it_is_known_to_be_final() {
        for (line, kind) in [
            ("received unexpected HTTP status: 500 Internal Server Error", K::Registry),
            ("error from registry: unknown: unknown error", K::Registry),
            (
                "failed: unexpected status from PUT request to http://r:5000/v2/a/manifests/1: 429 Too Many Requests",
                K::Registry,
            ),
            (
                "failed: unexpected status from PUT request to http://r:5000/v2/a/manifests/1: 403 Forbidden",
                K::Unauthorized,
            ),
            ("denied: requested access to the resource is denied", K::Unauthorized),
            ("no basic auth credentials", K::Unauthorized),
            ("Get \"https://r/v2/\": x509: certificate signed by unknown authority", K::Certificate),
            ("An image does not exist locally with the tag: r/x", K::NoSuchImage),
            ("manifest invalid: manifest invalid", K::ManifestRefused),
            ("name unknown: The repository with name 'x' does not exist", K::Failed),
            ("write /var/lib/docker/x: no space left on device", K::NoSpace),
        ] {
            assert_eq!(
                DockerError::of_push(&failed(&["The push refers to repository [r/x]", line])).kind,
                kind,
                "{line}"
            );
        }
    }
}
