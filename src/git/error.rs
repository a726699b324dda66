//! Classifies git's failures by its messages (LC_ALL keeps them in English).

use crate::cancel::Stop;
use crate::error::{Failure, Kind};
use crate::process::CommandError;

/// The failures of git that callers or users handle differently.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// A remote could not be read, for a known reason.
    #[error("{}", .fault.about(.url))]
    Remote {
        fault: Fault,
        /// The remote, without a password.
        url: String,
        /// git's own message.
        #[source]
        cause: Cause,
    },
    /// The remote has no such branch or commit.
    #[error("{url} has no {wanted}")]
    NoSuchRef {
        /// The remote, without a password.
        url: String,
        /// The branch or commit.
        wanted: String,
    },
    /// The id belongs to an annotated tag, a file or a folder.
    #[error("`{id}` is the id of a {kind}, not of a commit")]
    NotACommit {
        /// The id.
        id: String,
        /// git's name for the object's type.
        kind: String,
    },
    /// Several commits start with this prefix.
    #[error("`{abbreviated}` is ambiguous: {} commits begin so", .commits.len())]
    Ambiguous {
        abbreviated: String,
        /// The commits.
        commits: Vec<String>,
    },
    /// The installed git lacks a feature that the protection against repositories and configurations needs.
    #[error("git {version} is too old; swanci needs git {}.{} or newer", super::OLDEST.0, super::OLDEST.1)]
    TooOld {
        /// The installed version.
        version: String,
    },
    /// The disk is full.
    #[error("no space left on the disk for {place}")]
    NoSpace {
        place: String,
        /// git's own message.
        #[source]
        cause: Cause,
    },
    /// Any other error of git.
    #[error("git failed")]
    Failed(#[source] Cause),
    /// git is missing, was stopped, or its output was too long or empty.
    #[error("git failed")]
    Command(#[source] CommandError),
    /// A file operation on the mirror failed.
    #[error("cannot use the mirror at {place}")]
    Mirror {
        place: String,
        #[source]
        source: std::io::Error,
    },
    /// The repository stores files in git-lfs, which is not installed.
    #[error("{url} keeps files in git LFS, and git-lfs is not installed")]
    LfsMissing {
        /// The remote.
        url: String,
    },
    /// git's output has an unexpected format.
    #[error("git said something unexpected: {0}")]
    Unexpected(String),
}

/// The lines of git's output that describe the cause.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{said}")]
pub struct Cause {
    said: String,
}

/// Why a remote could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Its host name cannot be resolved.
    UnknownHost,
    /// The proxy rejects git's connection.
    Proxy,
    /// Its certificate comes from an untrusted authority, or git does not report the problem.
    UnknownAuthority,
    /// Its certificate has expired.
    Expired,
    /// Its certificate is for another host.
    WrongName,
    /// It does not speak TLS.
    PlainHttp,
    /// It redirects to another URL.
    Moved,
    /// Its ssh key is unknown or has changed.
    HostKey,
    /// It requires other credentials.
    Unauthorized,
    /// It is a path whose owner git does not trust.
    Owner,
    /// The repository does not exist.
    NoRepository,
    /// It is a shallow clone.
    Shallow,
    /// Its objects use SHA-256.
    ObjectFormat,
    /// It contains an object that fsck rejects.
    BadObject,
    /// A file is missing in its LFS storage.
    LfsObject,
    /// It is unreachable, or the connection breaks.
    Unreachable,
}

/// Messages of git, curl, ssh and git-lfs, in lower case. The first match counts.
const SIGNS: &[(Fault, &[&str])] = &[
    (Fault::ObjectFormat, &["mismatched algorithms", "unknown object format", "unsupported object format"]),
    (Fault::BadObject, &["fsck error in pack"]),
    (
        Fault::Shallow,
        &["shallow roots are not allowed", "source repository is shallow", "shallow file has changed"],
    ),
    (Fault::LfsObject, &["object does not exist on the server", "remote missing object"]),
    (Fault::Owner, &["dubious ownership", "unsafe repository"]),
    (
        Fault::Proxy,
        &["resolve proxy", "from proxy", "proxy connect", "connect tunnel failed", "proxy handshake"],
    ),
    (Fault::UnknownHost, &["could not resolve hos", "temporary failure in name resolution", "no such host"]),
    (
        Fault::Expired,
        &["certificate has expired", "expiration date has passed", "certificate is not yet valid"],
    ),
    (
        Fault::WrongName,
        &[
            "no alternative certificate subject name",
            "does not match target host name",
            "certificate is valid for",
            "hostname mismatch",
        ],
    ),
    (
        Fault::PlainHttp,
        &[
            "wrong version number",
            "unexpected tls packet",
            "packet length too long",
            "record layer",
            "http response to https",
        ],
    ),
    (
        Fault::UnknownAuthority,
        &[
            "ssl certificate problem",
            "certificate verification failed",
            "unknown authority",
            "certificate verify failed",
        ],
    ),
    (
        Fault::Moved,
        &[
            "returned error: 301",
            "returned error: 302",
            "returned error: 303",
            "returned error: 307",
            "returned error: 308",
        ],
    ),
    (Fault::HostKey, &["host key verification failed", "host identification has changed"]),
    (
        Fault::Unauthorized,
        &[
            "authentication failed",
            "could not read username",
            "could not read password",
            "permission denied",
            "error: 401",
            "error: 403",
            "access denied",
            "invalid credentials",
            "authentication required",
            "authorization error",
        ],
    ),
    (
        Fault::NoRepository,
        &[
            "does not appear to be a git repository",
            "repository not found",
            "error: 404",
            "error: 410",
            "' not found",
            "does not exist",
        ],
    ),
    (
        Fault::Unreachable,
        &[
            "connection refused",
            "connection reset",
            "connection timed out",
            "connection closed",
            "timed out",
            "failed to connect",
            "unable to access",
            "couldn't connect",
            "hung up",
            "early eof",
            "rpc failed",
            "could not read from remote",
            "too slow",
            "network is unreachable",
            "no route to host",
            "kex_exchange",
            "unexpected disconnect",
            "batch response",
            "dial tcp",
        ],
    ),
];

const NO_SPACE: &[&str] = &["no space left", "disk quota exceeded"];

impl Fault {
    fn about(self, url: &str) -> String {
        let text = match self {
            Fault::UnknownHost => "the host of {} has no address",
            Fault::Proxy => "the proxy does not let git through to {}",
            Fault::UnknownAuthority => "the certificate of {} cannot be verified",
            Fault::Expired => "the certificate of {} has expired or is not valid yet",
            Fault::WrongName => "the certificate of {} is for another host name",
            Fault::PlainHttp => "{} does not speak TLS",
            Fault::Moved => "{} redirects to another URL",
            Fault::HostKey => "the ssh host key of {} is not the known one",
            Fault::Unauthorized => "{} refuses the credentials, or wants some",
            Fault::Owner => "{} belongs to another user",
            Fault::NoRepository => "there is no git repository at {}",
            Fault::Shallow => "{} is a shallow clone: its history is cut off",
            Fault::ObjectFormat => "{} uses SHA-256 object ids, which swanci does not support",
            Fault::BadObject => "{} holds an object that git fsck refuses",
            Fault::LfsObject => "a file is missing in the LFS storage of {}",
            Fault::Unreachable => "cannot reach {}",
        };
        text.replace("{}", url)
    }

    fn kind(self) -> Kind {
        match self {
            Fault::UnknownHost
            | Fault::Proxy
            | Fault::UnknownAuthority
            | Fault::Expired
            | Fault::WrongName
            | Fault::PlainHttp
            | Fault::Moved
            | Fault::HostKey
            | Fault::Unauthorized
            | Fault::Owner
            | Fault::NoRepository
            | Fault::Unreachable => Kind::Environment,
            Fault::Shallow | Fault::BadObject => Kind::Refused,
            Fault::ObjectFormat => Kind::BadInput,
            Fault::LfsObject => Kind::Failed,
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Fault::UnknownHost => {
                "check the host name in clone_url or the forge's url, and the machine's DNS"
            }
            Fault::Proxy => "check https_proxy, no_proxy, and http.proxy of the git configuration",
            Fault::UnknownAuthority => {
                "for an authority of your own set ca_file of its [[forge]], or http.sslCAInfo of the git configuration; \
                 a git built with GnuTLS also says so of a certificate that has expired"
            }
            Fault::Expired => "renew the certificate, or check the clock of this machine",
            Fault::WrongName => "use a host name that the certificate lists in clone_url or the forge's url",
            Fault::PlainHttp => {
                "is this the port of plain HTTP? git over plain HTTP is used only for a forge whose url says http"
            }
            Fault::Moved => {
                "redirects are not followed, because git sends the token along; \
                 set the new URL as clone_url, or the new full name"
            }
            Fault::HostKey => {
                "add the host's key to known_hosts (ssh-keyscan), after you have compared its fingerprint"
            }
            Fault::Unauthorized => {
                "for https set SWANCI_GIT_TOKEN or a git credential helper; for ssh load a key that may read it"
            }
            Fault::Owner => {
                "swanci trusts the configured path alone, not one that it links to; \
                 use the repository's own path, or run swanci as its owner"
            }
            Fault::NoRepository => "is the URL right? a private repository also answers so to a wrong token",
            Fault::Shallow => "the proof of merge needs the full history: run `git fetch --unshallow` there",
            Fault::ObjectFormat => "use a repository with SHA-1 object ids",
            Fault::BadObject => {
                "`git fsck` in the repository names the same object; its history has to be rewritten without it"
            }
            Fault::LfsObject => "push it: `git lfs push --all` from a clone that has it",
            Fault::Unreachable => {
                "is the address right, and the server up? a renamed repository needs its new URL as clone_url"
            }
        }
    }
}

impl GitError {
    /// Classifies a failed fetch, clone or checkout from a remote.
    pub(super) fn of_remote(url: &str, wanted: &str, error: CommandError) -> GitError {
        let url = crate::redact::scrub(url).into_owned();
        let absent =
            ["couldn't find remote ref", "not our ref", "remote ref does not exist", "no such remote ref"];
        if error.said(&absent) {
            return GitError::NoSuchRef { url, wanted: wanted.to_owned() };
        }
        match fault_of(error.tail()) {
            // A full disk also breaks the connection.
            Some(_) if error.said(NO_SPACE) => GitError::of_local(&url, error),
            Some(fault) => GitError::Remote { fault, url, cause: Cause::of(error.tail()) },
            None => GitError::of_local(&url, error),
        }
    }

    /// Classifies a failed local command.
    pub(super) fn of_local(place: &str, error: CommandError) -> GitError {
        match &error {
            CommandError::Exit { tail, .. } if error.said(NO_SPACE) => {
                GitError::NoSpace { place: place.to_owned(), cause: Cause::of(tail) }
            }
            CommandError::Exit { tail, .. } if tail.iter().any(|line| !line.trim().is_empty()) => {
                GitError::Failed(Cause::of(tail))
            }
            CommandError::Exit { .. }
            | CommandError::NotFound { .. }
            | CommandError::Spawn { .. }
            | CommandError::Stopped { .. }
            | CommandError::TooMuchOutput { .. } => GitError::Command(error),
        }
    }

    /// A fetch from a shallow repository succeeds with a warning.
    pub(super) fn shallow(url: &str, tail: &[String]) -> Option<GitError> {
        (fault_of(tail) == Some(Fault::Shallow)).then(|| GitError::Remote {
            fault: Fault::Shallow,
            url: crate::redact::scrub(url).into_owned(),
            cause: Cause::of(tail),
        })
    }

    /// Whether the mirror may be broken, so that a new one may help.
    pub(super) fn may_be_a_broken_mirror(&self) -> bool {
        match self {
            GitError::Failed(_)
            | GitError::Command(CommandError::Exit { .. })
            | GitError::Unexpected(_)
            | GitError::Mirror { .. } => true,
            GitError::Command(
                CommandError::NotFound { .. }
                | CommandError::Spawn { .. }
                | CommandError::Stopped { .. }
                | CommandError::TooMuchOutput { .. },
            )
            | GitError::Remote { .. }
            | GitError::NoSuchRef { .. }
            | GitError::NotACommit { .. }
            | GitError::Ambiguous { .. }
            | GitError::TooOld { .. }
            | GitError::LfsMissing { .. }
            | GitError::NoSpace { .. } => false,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            GitError::Remote { fault, .. } => fault.kind(),
            GitError::NoSuchRef { .. } => Kind::Refused,
            GitError::NotACommit { .. }
            | GitError::Ambiguous { .. }
            | GitError::Command(CommandError::TooMuchOutput { .. }) => Kind::BadInput,
            GitError::Command(CommandError::Stopped { stop, .. }) => stop.kind(),
            GitError::TooOld { .. }
            | GitError::NoSpace { .. }
            | GitError::Failed(_)
            | GitError::Command(
                CommandError::NotFound { .. } | CommandError::Spawn { .. } | CommandError::Exit { .. },
            )
            | GitError::Mirror { .. }
            | GitError::LfsMissing { .. }
            | GitError::Unexpected(_) => Kind::Environment,
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            GitError::Remote { fault, .. } => fault.hint(),
            GitError::NoSpace { .. } => "make room, then run it again; `swanci doctor` shows what is used",
            GitError::LfsMissing { .. } => "install it: apt-get install git-lfs",
            GitError::TooOld { .. } => "upgrade git; Debian 12 and Ubuntu 22.04 have a newer one",
            GitError::Command(CommandError::NotFound { .. }) => "install git: apt-get install git",
            GitError::NoSuchRef { .. } => "is the name right? a branch may have been removed after its merge",
            GitError::NotACommit { kind, .. } if kind == "tag" => {
                "name the commit that the tag points to: git rev-parse 'TAG^{commit}'"
            }
            GitError::NotACommit { .. } => "name a commit: git log shows them",
            GitError::Ambiguous { commits, .. } => {
                return Some(format!("name one of them: {}", commits[..commits.len().min(5)].join(", ")));
            }
            GitError::Failed(_)
            | GitError::Command(
                CommandError::Spawn { .. }
                | CommandError::Exit { .. }
                | CommandError::Stopped { .. }
                | CommandError::TooMuchOutput { .. },
            )
            | GitError::Mirror { .. }
            | GitError::Unexpected(_) => return None,
        };
        Some(text.to_owned())
    }
}

fn fault_of(tail: &[String]) -> Option<Fault> {
    let said = tail.join("\n").to_lowercase();
    let fits = |signs: &[&str]| signs.iter().any(|sign| said.contains(sign));
    SIGNS.iter().find(|(_, signs)| fits(signs)).map(|(fault, _)| *fault)
}

/// Lines that git prints for every failure, without the cause.
const BOILERPLATE: &[&str] = &[
    "Could not read from remote repository",
    "Please make sure you have the correct access rights",
    "and the repository exists",
    "the remote end hung up unexpectedly",
    "To add an exception for this directory",
    "git config --global --add safe.directory",
    "invalid index-pack output",
    "index-pack failed",
    "fsck error in pack",
    "unpack-objects failed",
    "expected flush after",
    "early EOF",
    "@@@@",
    "external filter 'git-lfs",
    "smudge filter lfs failed",
    "Errors logged to",
    "git lfs logs last",
    "hint: ",
];

impl Cause {
    /// git's first relevant line, and the server's reason.
    fn of(tail: &[String]) -> Cause {
        let lines = || tail.iter().map(|line| line.trim()).filter(|line| !line.is_empty());
        let telling: Vec<&str> =
            lines().filter(|line| !BOILERPLATE.iter().any(|known| line.contains(known))).collect();
        let starts = |line: &str, with: &[&str]| with.iter().any(|start| line.starts_with(start));
        let first = telling
            .iter()
            .find(|line| starts(line, &["fatal: ", "error: ", "ssh: ", "Error downloading "]))
            .or_else(|| telling.iter().rfind(|line| !starts(line, &["remote: "])))
            .copied();
        let reason = telling.iter().find(|line| starts(line, &["remote: "])).copied();
        let said: Vec<&str> = first.into_iter().chain(reason).collect();
        let said = if said.is_empty() { lines().take(1).collect() } else { said };
        Cause { said: said.join("; ") }
    }
}

impl From<GitError> for Failure {
    fn from(error: GitError) -> Failure {
        let (kind, hint) = (error.kind(), error.hint());
        Failure { hint, ..Failure::new(kind, error) }
    }
}

impl From<Stop> for GitError {
    fn from(stop: Stop) -> GitError {
        GitError::Command(CommandError::Stopped { command: "git".to_owned(), stop })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages of git 2.39, curl, OpenSSH and git-lfs, word for word.
    const SAID: &[(&str, Fault, &str)] = &[
        (
            "fatal: detected dubious ownership in repository at '/srv/x'\nTo add an exception for this directory, \
             call:\n\n\tgit config --global --add safe.directory /srv/x\nfatal: Could not read from remote repository.\
             \n\nPlease make sure you have the correct access rights\nand the repository exists.",
            Fault::Owner,
            "fatal: detected dubious ownership in repository at '/srv/x'",
        ),
        (
            "ssh: Could not resolve hostname git.invalid: Name or service not known\nfatal: Could not read from remote \
             repository.\n\nPlease make sure you have the correct access rights\nand the repository exists.",
            Fault::UnknownHost,
            "ssh: Could not resolve hostname git.invalid: Name or service not known",
        ),
        (
            "git@github.com: Permission denied (publickey).\nfatal: Could not read from remote repository.",
            Fault::Unauthorized,
            "git@github.com: Permission denied (publickey).",
        ),
        (
            "remote: Repository not found.\nfatal: repository 'https://github.com/a/b/' not found",
            Fault::NoRepository,
            "fatal: repository 'https://github.com/a/b/' not found; remote: Repository not found.",
        ),
        (
            "error: object 3eed0cd517d6b32273188d33f65cd11aa21dcfbd: hasDotgit: contains '.git'\nfatal: fsck error in \
             packed object\nfatal: fetch-pack: invalid index-pack output",
            Fault::BadObject,
            "error: object 3eed0cd517d6b32273188d33f65cd11aa21dcfbd: hasDotgit: contains '.git'",
        ),
        (
            "fatal: unable to access 'https://h/x/': server certificate verification failed. CAfile: none CRLfile: none",
            Fault::UnknownAuthority,
            "fatal: unable to access 'https://h/x/': server certificate verification failed. CAfile: none CRLfile: none",
        ),
        (
            "fatal: unable to access 'https://h/x/': SSL certificate problem: certificate has expired",
            Fault::Expired,
            "fatal: unable to access 'https://h/x/': SSL certificate problem: certificate has expired",
        ),
        (
            "fatal: unable to access 'https://h/x/': SSL: no alternative certificate subject name matches target host name 'h'",
            Fault::WrongName,
            "fatal: unable to access 'https://h/x/': SSL: no alternative certificate subject name matches target host name 'h'",
        ),
        (
            "fatal: unable to access 'https://h/x/': CONNECT tunnel failed, response 407",
            Fault::Proxy,
            "fatal: unable to access 'https://h/x/': CONNECT tunnel failed, response 407",
        ),
        (
            "Downloading a/x.bin (2 B)\nError downloading object: a/x.bin (73cb385): Smudge error: [0] remote missing \
             object 73cb3858\n\nErrors logged to '/x.log'.\nUse `git lfs logs last` to view the log.\n\
             error: external filter 'git-lfs filter-process' failed\nfatal: a/x.bin: smudge filter lfs failed",
            Fault::LfsObject,
            "Error downloading object: a/x.bin (73cb385): Smudge error: [0] remote missing object 73cb3858",
        ),
        (
            "warning: rejected refs/heads/main because shallow roots are not allowed to be updated",
            Fault::Shallow,
            "warning: rejected refs/heads/main because shallow roots are not allowed to be updated",
        ),
        (
            "fatal: mismatched algorithms: client sha1; server sha256",
            Fault::ObjectFormat,
            "fatal: mismatched algorithms: client sha1; server sha256",
        ),
        (
            "fatal: the remote end hung up unexpectedly",
            Fault::Unreachable,
            "fatal: the remote end hung up unexpectedly",
        ),
    ];

    #[test]
    fn the_cause_is_gits_own_line_and_its_fault_is_recognized() {
        for (said, fault, cause) in SAID {
            let tail: Vec<String> = said.lines().map(str::to_owned).collect();
            assert_eq!(fault_of(&tail), Some(*fault), "{said}");
            assert_eq!(Cause::of(&tail).to_string(), *cause);
        }
    }

    #[test]
    fn a_hint_matches_its_fault() {
        let hints: std::collections::BTreeSet<&str> = SAID.iter().map(|(_, fault, _)| fault.hint()).collect();
        assert_eq!(hints.len(), SAID.len());
    }
}
