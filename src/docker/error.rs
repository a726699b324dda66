//! Why docker did not do what it was asked, classified by its own final error and by what was being done.

use std::fmt;

use crate::cancel::Stop;
use crate::error::{Failure, Kind};
use crate::process::CommandError;

/// Why docker did not do what it was asked: a kind that callers branch on, and a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub(crate) struct DockerError {
    pub(crate) kind: DockerErrorKind,
    what: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DockerErrorKind {
    /// The docker client is not installed or cannot be started.
    NoClient,
    /// The client has neither buildx nor a BuildKit of its own.
    NoBuildKit,
    NoEngine,
    /// The user may not talk to the engine.
    Forbidden,
    /// The engine's disk is full.
    NoSpace,
    /// The registry cannot be reached by the engine, or answers with a service error.
    Registry,
    /// The engine does not trust the registry's certificate.
    Certificate,
    /// The registry wants other credentials.
    Unauthorized,
    /// The registry takes manifests of another format.
    ManifestRefused,
    /// The engine has no image of this name.
    NoSuchImage,
    /// The build or the push failed for a reason of its own.
    Failed,
    Stopped(Stop),
}

impl DockerError {
    pub(super) fn new(kind: DockerErrorKind, what: impl fmt::Display) -> DockerError {
        let prefix =
            if kind == DockerErrorKind::NoEngine { "the docker engine does not answer: " } else { "" };
        DockerError { kind, what: format!("{prefix}{what}") }
    }

    /// For a call that is neither a build nor a push.
    pub(super) fn of(error: &CommandError) -> DockerError {
        Self::without_answer(error).unwrap_or_else(|| {
            let said = final_error(error.tail());
            Self::new(engine_kind(said).unwrap_or(DockerErrorKind::Failed), said)
        })
    }

    /// For a build that ended with these words; `step` names the failing step, by its exit code. Nothing that a step runs
    /// or prints decides: it stands before the last frame, or behind BuildKit's own words.
    pub(super) fn of_build(
        error: &CommandError,
        words: &LastWords,
        step: impl FnOnce(i32) -> Option<String>,
    ) -> DockerError {
        Self::without_answer(error).unwrap_or_else(|| {
            let said =
                if words.first.is_empty() { final_error(error.tail()) } else { without_start(&words.first) };
            if let Some(code) = exit_code_of_step(&format!("{said}\n{}", words.last)) {
                return Self::new(DockerErrorKind::Failed, step(code).as_deref().unwrap_or(said));
            }
            let said = if is_of_step(said) { behind_command(&words.last).unwrap_or(said) } else { said };
            let plain = without_quotes(said);
            let kind = if plain.contains("dockerfile parse error") {
                DockerErrorKind::Failed
            } else {
                engine_kind(&plain).or_else(|| registry_kind(&plain)).unwrap_or(DockerErrorKind::Failed)
            };
            Self::new(kind, said)
        })
    }

    /// For a push. Nothing in its output is the author's, so what is not known to be final is the registry's: it may
    /// answer differently the next time.
    pub(super) fn of_push(error: &CommandError) -> DockerError {
        Self::without_answer(error).unwrap_or_else(|| {
            let said = final_error(error.tail());
            let lower = said.to_lowercase();
            let has = |texts: &[&str]| texts.iter().any(|text| lower.contains(text));
            let kind = if has(&["does not exist locally", "tag does not exist:", "no such image"]) {
                DockerErrorKind::NoSuchImage
            } else if has(&["manifest invalid", "manifest_invalid"]) {
                DockerErrorKind::ManifestRefused
            } else if has(&["name unknown", "name_unknown", "name invalid", "tag invalid", "too large"]) {
                DockerErrorKind::Failed
            } else {
                engine_kind(said).or_else(|| registry_kind(said)).unwrap_or(DockerErrorKind::Registry)
            };
            Self::new(kind, said)
        })
    }

    /// A client that could not be run, or was stopped.
    fn without_answer(error: &CommandError) -> Option<DockerError> {
        let kind = match error {
            CommandError::Exit { .. } => return None,
            CommandError::NotFound { .. } | CommandError::Spawn { .. } => DockerErrorKind::NoClient,
            CommandError::Stopped { stop, .. } => {
                return Some(Self::new(DockerErrorKind::Stopped(*stop), stop));
            }
            CommandError::TooMuchOutput { .. } => DockerErrorKind::Failed,
        };
        Some(Self::new(kind, error))
    }

    pub(super) fn unexpected(said: impl fmt::Display) -> DockerError {
        Self::new(DockerErrorKind::Failed, format!("docker printed something unexpected: {said}"))
    }

    fn exit_kind(&self) -> Kind {
        match self.kind {
            DockerErrorKind::NoSuchImage | DockerErrorKind::Failed | DockerErrorKind::ManifestRefused => {
                Kind::Failed
            }
            DockerErrorKind::Stopped(stop) => stop.kind(),
            DockerErrorKind::NoClient
            | DockerErrorKind::NoBuildKit
            | DockerErrorKind::NoEngine
            | DockerErrorKind::Forbidden
            | DockerErrorKind::NoSpace
            | DockerErrorKind::Registry
            | DockerErrorKind::Certificate
            | DockerErrorKind::Unauthorized => Kind::Environment,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        match self.kind {
            DockerErrorKind::NoClient => {
                Some("install docker (apt-get install docker.io), or set build.docker")
            }
            DockerErrorKind::NoBuildKit => Some(
                "install the buildx plugin (apt-get install docker-buildx, or Docker's docker-buildx-plugin)",
            ),
            DockerErrorKind::NoEngine => {
                Some("start the engine (systemctl start docker), or set DOCKER_HOST to where it runs")
            }
            DockerErrorKind::Forbidden => Some("add the user to the group `docker` and log in again"),
            DockerErrorKind::NoSpace => {
                Some("free some space: `docker system df` shows what is used, `docker image prune` removes")
            }
            DockerErrorKind::Registry => {
                Some("check that the registry is up and that the engine reaches it under this name")
            }
            DockerErrorKind::Certificate => Some(
                "the engine does not trust the registry's certificate: scripts/trust-ca installs the CA for docker",
            ),
            DockerErrorKind::Unauthorized => Some("run `docker login REGISTRY` as the user that runs swanci"),
            DockerErrorKind::ManifestRefused => Some(crate::registry::OCI_ONLY_HINT),
            DockerErrorKind::NoSuchImage | DockerErrorKind::Failed | DockerErrorKind::Stopped(_) => None,
        }
    }
}

impl From<DockerError> for Failure {
    fn from(error: DockerError) -> Failure {
        let (kind, hint) = (error.exit_kind(), error.hint());
        let failure = Failure::new(kind, error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

const STARTS: [&str; 5] = ["ERROR: ", "error: ", "Error: ", "Error response from daemon: ", "docker: "];

/// Docker's own last word: the last line that starts as an error of its, else the last line.
fn final_error(tail: &[String]) -> &str {
    let said = |line: &'_ &String| STARTS.iter().any(|start| line.starts_with(start));
    let line = tail.iter().rev().find(said).or_else(|| tail.iter().rev().find(|l| !l.trim().is_empty()));
    line.map_or("docker ended without a message", |line| without_start(line))
}

fn without_start(line: &str) -> &str {
    let mut line = line.trim();
    for start in STARTS {
        line = line.strip_prefix(start).unwrap_or(line);
    }
    line.strip_prefix("failed to solve: ").unwrap_or(line)
}

/// What docker says after the lines of dashes around the output of a failed step: one error, of one line or, with a
/// command of several lines in it, of several.
#[derive(Debug, Default)]
pub(super) struct LastWords {
    at: At,
    first: String,
    last: String,
}

#[derive(Debug, Default, Clone, Copy)]
enum At {
    #[default]
    Start,
    /// Behind a line of dashes: what begins with ` > ` is the heading of a step's output.
    Dashes,
    Output,
    Words,
}

impl LastWords {
    /// The name of the step whose output this line begins.
    pub(super) fn heading<'a>(&self, line: &'a str) -> Option<&'a str> {
        if matches!(self.at, At::Dashes) { line.strip_prefix(" > ")?.strip_suffix(':') } else { None }
    }

    pub(super) fn line(&mut self, line: &str) {
        let is_frame = line.starts_with("------") && line.trim_end_matches('-').is_empty();
        match self.at {
            At::Output if is_frame => *self = LastWords { at: At::Words, ..LastWords::default() },
            // A command of several lines may have such a line too.
            At::Start | At::Dashes | At::Words if is_frame => {
                if !is_of_step(&self.first) {
                    *self = LastWords::default();
                }
                self.at = At::Dashes;
            }
            At::Dashes if line.starts_with(" > ") => {
                *self = LastWords { at: At::Output, ..LastWords::default() };
            }
            At::Dashes | At::Words if !line.trim().is_empty() => {
                self.at = At::Words;
                let is_error = STARTS.iter().any(|start| line.starts_with(start));
                // Warnings may stand before the error.
                if self.first.is_empty() || (is_error && !is_of_step(&self.first)) {
                    line.clone_into(&mut self.first);
                }
                line.clone_into(&mut self.last);
            }
            At::Start | At::Dashes | At::Output | At::Words => {}
        }
    }
}

/// BuildKit's words for a step that ended with an error: those of Docker 20.10, and those of today.
const STEP_FAILED: [(&str, &str); 2] =
    [("executor failed running [", "]: "), ("process \"", "\" did not complete successfully: ")];

fn is_of_step(line: &str) -> bool {
    STEP_FAILED.iter().any(|(before, _)| line.contains(before))
}

/// What a step's error says behind the command.
fn behind_command(text: &str) -> Option<&str> {
    // The command may quote the other words.
    let places = STEP_FAILED.iter().filter_map(|(before, behind)| Some((text.find(before)?, behind)));
    let (_, behind) = places.min()?;
    Some(text.rsplit_once(behind)?.1)
}

/// The exit code of a step.
fn exit_code_of_step(text: &str) -> Option<i32> {
    if !is_of_step(text) {
        return None;
    }
    let code = behind_command(text)?.strip_prefix("exit code: ")?;
    code.split_whitespace().next()?.parse().ok()
}

/// The text without what stands between double quotes.
fn without_quotes(text: &str) -> String {
    text.split('"').step_by(2).collect::<Vec<_>>().join("\"\"").to_lowercase()
}

/// What an error says about the engine itself.
fn engine_kind(said: &str) -> Option<DockerErrorKind> {
    let lower = said.to_lowercase();
    let has = |texts: &[&str]| texts.iter().any(|text| lower.contains(text));
    if has(&["permission denied while trying to connect", "docker.sock: connect: permission denied"]) {
        Some(DockerErrorKind::Forbidden)
    } else if has(&["no space left on device", "disk quota exceeded"]) {
        Some(DockerErrorKind::NoSpace)
    } else if has(&[
        "cannot connect to the docker daemon",
        "failed to connect to the docker api",
        "is the docker daemon running",
        "error during connect",
        "transport is closing",
        "code = unavailable",
        "error reading from server: eof",
        "use of closed network connection",
        "closing transport",
    ]) || lower.ends_with("unexpected eof")
    {
        Some(DockerErrorKind::NoEngine)
    } else {
        None
    }
}

/// What an error says about the registry, or about the network to it.
fn registry_kind(said: &str) -> Option<DockerErrorKind> {
    let lower = said.to_lowercase();
    let has = |texts: &[&str]| texts.iter().any(|text| lower.contains(text));
    let status = http_status(&lower);
    if has(&["x509:", "certificate signed by unknown authority"]) {
        Some(DockerErrorKind::Certificate)
    } else if has(&["no basic auth credentials", "unauthorized", "authentication required"])
        || lower.starts_with("denied")
        || lower.contains(": denied")
        || matches!(status, Some(401 | 403))
    {
        Some(DockerErrorKind::Unauthorized)
    } else if has(&[
        "connection refused",
        "connection reset",
        "no such host",
        "server misbehaving",
        "temporary failure in name resolution",
        "i/o timeout",
        "tls handshake",
        "client.timeout",
        "context deadline exceeded",
        "network is unreachable",
        "no route to host",
        "dial tcp",
        "server gave http response to https client",
        "toomanyrequests",
        "too many requests",
        "service unavailable",
        "bad gateway",
        "gateway timeout",
        "internal server error",
    ]) || matches!(status, Some(429 | 500..=599))
    {
        Some(DockerErrorKind::Registry)
    } else {
        None
    }
}

/// The status that a registry gave, in the words of containerd (`unexpected status from PUT request to URL: 503 …`) or
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
        let mut words = LastWords::default();
        lines.iter().for_each(|line| words.line(line));
        DockerError::of_build(&failed(lines), &words, |code| Some(format!("exited with {code}")))
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
                assert_eq!(error.kind, DockerErrorKind::Failed, "{words}: {last}");
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
            let lines = [&[spoof, "------", " > [2/2] RUN x:", spoof, "------"][..], last].concat();
            let error = of_build(&lines);
            assert_eq!(
                (error.kind, error.what.as_str()),
                (DockerErrorKind::Failed, "exited with 3"),
                "{last:?}"
            );
        }
    }

    #[test]
    fn a_build_that_cannot_reach_something_is_told_from_one_that_fails() {
        use DockerErrorKind as K;
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
        use DockerErrorKind as K;
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

    #[test]
    fn the_exit_code_is_the_last_one_that_buildkit_names() {
        for (line, code) in [
            ("executor failed running [/bin/sh -c [ -e exit code: 9 ]: exit code: 8]: exit code: 1", Some(1)),
            (
                "process \"/bin/sh -c echo 'executor failed running [x]: exit code: 137'; exit 3\" did not complete successfully: exit code: 3",
                Some(3),
            ),
            (
                "executor failed running [/bin/sh -c echo 'process \"x\" did not complete successfully: exit code: 9'; exit 3]: exit code: 3",
                Some(3),
            ),
            (
                "process \"/bin/sh -c echo 'did not complete successfully: exit code: 137'; exit 1\" did not complete successfully: exit code: 1",
                Some(1),
            ),
            ("executor failed running [/bin/sh -c false]: exit code: 1", Some(1)),
            ("failed to compute cache key: exit code: 1", None),
            ("did not complete successfully", None),
        ] {
            assert_eq!(exit_code_of_step(line), code, "{line}");
        }
    }
}
