//! Why git failed, by its messages (LC_ALL keeps them in English).

use std::fmt;
use std::path::Path;

use crate::cancel::Stop;
use crate::error::{Failure, Kind};
use crate::process::{CommandError, has_sign};

#[derive(Debug)]
pub struct GitError {
    pub kind: GitErrorKind,
    failure: Failure,
}

/// What callers handle differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GitErrorKind {
    /// The remote has no such branch or commit.
    NoSuchRef,
    /// The id belongs to an annotated tag, a file or a folder.
    NotACommit,
    /// Output beyond the limit, as of a large file.
    TooMuchOutput,
    /// A local command failed, so the mirror may be broken.
    Local,
    Other,
}

use GitErrorKind as K;

const ABSENT: &str = "couldn't find remote ref|not our ref|remote ref does not exist|no such remote ref";
const NO_SPACE: &str = "no space left|disk quota exceeded";

/// A known reason why a remote cannot be read.
struct Fault {
    /// Of the messages of git, curl, ssh and git-lfs, see [`has_sign`].
    signs: &'static str,
    /// `{}` is the remote.
    text: &'static str,
    kind: Kind,
    hint: &'static str,
}

/// The first match counts.
const FAULTS: &[Fault] = &[
    Fault {
        signs: "mismatched algorithms|unknown object format|unsupported object format",
        text: "{} uses SHA-256 object ids, which swanci does not support",
        kind: Kind::BadInput,
        hint: "use a repository with SHA-1 object ids",
    },
    Fault {
        signs: "fsck error in pack",
        text: "{} contains an object that git fsck refuses",
        kind: Kind::Refused,
        hint: "`git fsck` in the repository names the same object; rewrite its history without it",
    },
    Fault {
        signs: SHALLOW,
        text: "{} is a shallow clone: its history is cut off",
        kind: Kind::Refused,
        hint: "the proof of merge needs the full history: run `git fetch --unshallow` there",
    },
    Fault {
        signs: "object does not exist on the server|remote missing object",
        text: "a file is missing in the LFS storage of {}",
        kind: Kind::Failed,
        hint: "push it: `git lfs push --all` from a clone that has it",
    },
    Fault {
        signs: "dubious ownership|unsafe repository",
        text: "{} belongs to another user",
        kind: Kind::Environment,
        hint: "swanci trusts only the configured path, not the target of a link; use the repository's own path, or run \
               swanci as its owner",
    },
    Fault {
        signs: "resolve proxy|from proxy|proxy connect|connect tunnel failed|proxy handshake",
        text: "the proxy does not let git through to {}",
        kind: Kind::Environment,
        hint: "check https_proxy, no_proxy, and http.proxy of the git configuration",
    },
    Fault {
        signs: "could not resolve hos|temporary failure in name resolution|no such host",
        text: "the host of {} has no address",
        kind: Kind::Environment,
        hint: "check the host name in clone_url or the forge's url, and the machine's DNS",
    },
    Fault {
        signs: "certificate has expired|expiration date has passed|certificate is not yet valid",
        text: "the certificate of {} has expired or is not valid yet",
        kind: Kind::Environment,
        hint: "renew the certificate, or check the clock of this machine",
    },
    Fault {
        signs: "no alternative certificate subject name|does not match target host name|certificate is valid for|\
                hostname mismatch",
        text: "the certificate of {} is for another host name",
        kind: Kind::Environment,
        hint: "use a host name that the certificate lists in clone_url or the forge's url",
    },
    Fault {
        signs: "wrong version number|unexpected tls packet|packet length too long|record layer|http response to https",
        text: "{} does not speak TLS",
        kind: Kind::Environment,
        hint: "check the port; git over plain HTTP is used only for a forge whose url begins with http://",
    },
    Fault {
        signs: "ssl certificate problem|certificate verification failed|unknown authority|certificate verify failed",
        text: "the certificate of {} cannot be verified",
        kind: Kind::Environment,
        hint: "for an authority of your own set ca_file of its [[forge]], or http.sslCAInfo of the git configuration; \
               git with GnuTLS also gives this message for an expired certificate",
    },
    Fault {
        signs: "returned error: 301|returned error: 302|returned error: 303|returned error: 307|returned error: 308",
        text: "{} redirects to another URL",
        kind: Kind::Environment,
        hint: "redirects are not followed, because git sends the token along; set the new URL as clone_url, or the new \
               full name",
    },
    Fault {
        signs: "host key verification failed|host identification has changed",
        text: "the ssh host key of {} is not the known one",
        kind: Kind::Environment,
        hint: "add the host's key to known_hosts (ssh-keyscan), after you have compared its fingerprint",
    },
    Fault {
        signs: "authentication failed|could not read username|could not read password|permission denied|error: 401|\
                error: 403|access denied|invalid credentials|authentication required|authorization error",
        text: "{} refuses the credentials, or requires some",
        kind: Kind::Environment,
        hint: "for https set SWANCI_GIT_TOKEN or a git credential helper; for ssh load a key that may read it",
    },
    Fault {
        signs: "does not appear to be a git repository|repository not found|error: 404|error: 410|' not found|\
                does not exist",
        text: "there is no git repository at {}",
        kind: Kind::Environment,
        hint: "check the URL; a private repository gives the same answer to a wrong token",
    },
    Fault {
        signs: "connection refused|connection reset|connection timed out|connection closed|timed out|failed to connect|\
                unable to access|couldn't connect|hung up|early eof|rpc failed|could not read from remote|too slow|\
                network is unreachable|no route to host|kex_exchange|unexpected disconnect|batch response|dial tcp",
        text: "cannot reach {}",
        kind: Kind::Environment,
        hint: "check the address, and whether the server is up; a renamed repository needs its new URL as clone_url",
    },
];

/// A fetch from a shallow repository may succeed with a warning.
const SHALLOW: &str = "shallow roots are not allowed|source repository is shallow|shallow file has changed";

impl Fault {
    fn of(tail: &[String]) -> Option<&'static Fault> {
        let text = tail.join("\n");
        FAULTS.iter().find(|fault| has_sign(&text, fault.signs))
    }
}

impl GitError {
    pub(super) fn new(kind: GitErrorKind, failure: Failure) -> GitError {
        GitError { kind, failure }
    }

    /// A failed fetch, clone or checkout from a remote.
    pub(super) fn of_remote(url: &str, wanted: &str, error: CommandError) -> GitError {
        if error.has_sign(ABSENT) {
            return GitError::no_such_ref(url, wanted);
        }
        match GitError::of_tail(url, error.tail()) {
            // A full disk also breaks the connection.
            Some(known) if !error.has_sign(NO_SPACE) => known,
            Some(_) | None => GitError::of_local(url, error),
        }
    }

    /// A known fault of a remote in git's last lines.
    pub(super) fn of_tail(url: &str, tail: &[String]) -> Option<GitError> {
        let Fault { text, kind, hint, .. } = Fault::of(tail)?;
        let text = text.replace("{}", &crate::redact::scrub(url));
        let failure = Failure::new(*kind, anyhow::anyhow!(cause_of(tail))).context(text).hint(*hint);
        Some(GitError::new(K::Other, failure))
    }

    pub(super) fn shallow(url: &str, tail: &[String]) -> Option<GitError> {
        has_sign(&tail.join("\n"), SHALLOW).then(|| GitError::of_tail(url, tail))?
    }

    pub(super) fn of_local(place: &str, error: CommandError) -> GitError {
        let (kind, exit_kind) = match &error {
            CommandError::Exit { tail, .. } if error.has_sign(NO_SPACE) => {
                let place = crate::redact::scrub(place);
                let failure = Failure::environment(cause_of(tail))
                    .context(format!("no space left on the disk for {place}"))
                    .hint("free some space, then run it again; `swanci doctor` shows what is used");
                return GitError::new(K::Other, failure);
            }
            CommandError::Exit { tail, .. } if tail.iter().any(|line| !line.trim().is_empty()) => {
                return GitError::new(K::Local, Failure::environment(cause_of(tail)).context("git failed"));
            }
            CommandError::Exit { .. } => (K::Local, Kind::Environment),
            CommandError::Io { .. } => (K::Other, Kind::Environment),
            CommandError::Stopped { stop, .. } => (K::Other, stop.kind()),
            CommandError::TooMuchOutput { .. } => (K::TooMuchOutput, Kind::BadInput),
        };
        let hint = error.is_not_found().then(|| "install git: apt-get install git".to_owned());
        GitError::new(kind, Failure { hint, ..Failure::new(exit_kind, error).context("git failed") })
    }

    pub(super) fn no_such_ref(url: &str, wanted: &str) -> GitError {
        let failure = Failure::refused(format!("{} has no {wanted}", crate::redact::scrub(url)));
        let hint = "check the name; a branch may have been removed after its merge";
        GitError::new(K::NoSuchRef, failure.hint(hint))
    }

    /// `kind` is git's name for the object's type.
    pub(super) fn not_a_commit(id: &str, kind: &str) -> GitError {
        let hint = match kind {
            "tag" => "name the commit that the tag points to: git rev-parse 'TAG^{commit}'",
            _ => "name a commit: git log shows them",
        };
        let failure = Failure::bad_input(format!("`{id}` is the id of a {kind}, not of a commit"));
        GitError::new(K::NotACommit, failure.hint(hint))
    }

    /// A file operation on the mirror or a working copy failed.
    pub(super) fn io(place: &Path, error: std::io::Error) -> GitError {
        let context = format!("cannot use {}", place.display());
        GitError::new(K::Local, Failure::new(Kind::Environment, error).context(context))
    }

    pub(super) fn unexpected(output: impl fmt::Display) -> GitError {
        let text = format!("git printed something unexpected: {output}");
        GitError::new(K::Local, Failure::environment(text))
    }
}

/// Lines that git prints for every failure, without the cause.
const BOILERPLATE: &str = "could not read from remote repository|please make sure you have the correct access rights|\
    and the repository exists|the remote end hung up unexpectedly|to add an exception for this directory|\
    git config --global --add safe.directory|invalid index-pack output|index-pack failed|fsck error in pack|\
    unpack-objects failed|expected flush after|early eof|@@@@|external filter 'git-lfs|smudge filter lfs failed|\
    errors logged to|git lfs logs last|hint: ";

/// git's first relevant line, and the server's reason.
fn cause_of(tail: &[String]) -> String {
    let lines = || tail.iter().map(|line| line.trim()).filter(|line| !line.is_empty());
    let (remote, telling): (Vec<&str>, Vec<&str>) =
        lines().filter(|line| !has_sign(line, BOILERPLATE)).partition(|line| line.starts_with("remote: "));
    let starts = ["fatal: ", "error: ", "ssh: ", "Error downloading "];
    let first = telling.iter().find(|line| starts.iter().any(|start| line.starts_with(start)));
    let first = first.or(telling.last());
    let cause: Vec<&str> = first.into_iter().chain(remote.first()).copied().collect();
    if cause.is_empty() { lines().next().unwrap_or_default().to_owned() } else { cause.join("; ") }
}

impl From<GitError> for Failure {
    fn from(error: GitError) -> Failure {
        error.failure
    }
}

impl From<Stop> for GitError {
    fn from(stop: Stop) -> GitError {
        GitError::new(K::Other, Failure::from(stop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages of git 2.39, curl, OpenSSH and git-lfs, word for word.
    const FAILURES: &[(&str, &str, &str)] = &[
        (
            "fatal: detected dubious ownership in repository at '/srv/x'\nTo add an exception for this directory, \
             call:\n\n\tgit config --global --add safe.directory /srv/x\nfatal: Could not read from remote repository.\
             \n\nPlease make sure you have the correct access rights\nand the repository exists.",
            "belongs to another user",
            "fatal: detected dubious ownership in repository at '/srv/x'",
        ),
        (
            "ssh: Could not resolve hostname git.invalid: Name or service not known\nfatal: Could not read from remote \
             repository.\n\nPlease make sure you have the correct access rights\nand the repository exists.",
            "has no address",
            "ssh: Could not resolve hostname git.invalid: Name or service not known",
        ),
        (
            "git@github.com: Permission denied (publickey).\nfatal: Could not read from remote repository.",
            "refuses the credentials",
            "git@github.com: Permission denied (publickey).",
        ),
        (
            "remote: Repository not found.\nfatal: repository 'https://github.com/a/b/' not found",
            "no git repository",
            "fatal: repository 'https://github.com/a/b/' not found; remote: Repository not found.",
        ),
        (
            "error: object 3eed0cd517d6b32273188d33f65cd11aa21dcfbd: hasDotgit: contains '.git'\nfatal: fsck error in \
             packed object\nfatal: fetch-pack: invalid index-pack output",
            "git fsck refuses",
            "error: object 3eed0cd517d6b32273188d33f65cd11aa21dcfbd: hasDotgit: contains '.git'",
        ),
        (
            "fatal: unable to access 'https://h/x/': server certificate verification failed. CAfile: none CRLfile: none",
            "cannot be verified",
            "fatal: unable to access 'https://h/x/': server certificate verification failed. CAfile: none CRLfile: none",
        ),
        (
            "fatal: unable to access 'https://h/x/': SSL certificate problem: certificate has expired",
            "has expired",
            "fatal: unable to access 'https://h/x/': SSL certificate problem: certificate has expired",
        ),
        (
            "fatal: unable to access 'https://h/x/': SSL: no alternative certificate subject name matches target host name 'h'",
            "another host name",
            "fatal: unable to access 'https://h/x/': SSL: no alternative certificate subject name matches target host name 'h'",
        ),
        (
            "fatal: unable to access 'https://h/x/': CONNECT tunnel failed, response 407",
            "the proxy",
            "fatal: unable to access 'https://h/x/': CONNECT tunnel failed, response 407",
        ),
        (
            "Downloading a/x.bin (2 B)\nError downloading object: a/x.bin (73cb385): Smudge error: [0] remote missing \
             object 73cb3858\n\nErrors logged to '/x.log'.\nUse `git lfs logs last` to view the log.\n\
             error: external filter 'git-lfs filter-process' failed\nfatal: a/x.bin: smudge filter lfs failed",
            "LFS storage",
            "Error downloading object: a/x.bin (73cb385): Smudge error: [0] remote missing object 73cb3858",
        ),
        (
            "warning: rejected refs/heads/main because shallow roots are not allowed to be updated",
            "shallow clone",
            "warning: rejected refs/heads/main because shallow roots are not allowed to be updated",
        ),
        (
            "fatal: mismatched algorithms: client sha1; server sha256",
            "SHA-256",
            "fatal: mismatched algorithms: client sha1; server sha256",
        ),
        (
            "fatal: the remote end hung up unexpectedly",
            "cannot reach",
            "fatal: the remote end hung up unexpectedly",
        ),
    ];

    #[test]
    fn the_cause_is_gits_own_line_and_its_fault_is_recognized() {
        for (output, text, cause) in FAILURES {
            let tail: Vec<String> = output.lines().map(str::to_owned).collect();
            let failure = GitError::of_tail("https://h/x", &tail).unwrap().failure;
            assert!(failure.error.to_string().contains(text), "{output}: {failure}");
            assert_eq!(failure.error.root_cause().to_string(), *cause);
        }
    }

    #[test]
    fn a_hint_matches_its_fault() {
        let hints: std::collections::BTreeSet<&str> = FAULTS.iter().map(|fault| fault.hint).collect();
        assert_eq!(hints.len(), FAULTS.len());
    }
}
