//! Typed verbs over the `git` CLI: remotes that are allowed, mirrors, objects, working copies.
//!
//! Every call runs with a stated environment: no system or user configuration but credentials and proxy, no
//! prompts, no hooks, only the transports that the remote needs.

mod history;
mod mirror;
mod objects;
mod remote;
mod worktree;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use base64::Engine as _;
use secrecy::{ExposeSecret, SecretString};

use crate::cancel::{Cancel, Stop};
use crate::error::{Failure, Kind};
use crate::process::{CommandError, Finished, Tool};

pub use history::Landed;
pub use mirror::{Mirror, remove_unused_mirrors};
pub use objects::{AttributesFile, CommitInfo, ContextFiles, Found, Misplaced, Object};
pub use remote::{Remote, RemoteError, Transport};
pub use worktree::{Gitlink, LfsUse, lfs_is_installed, uses_lfs};

/// Variables of the user's that git may see beside the inherited ones: how to reach a server by ssh or TLS.
const GIT_VARIABLES: &[&str] =
    &["GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "GIT_SSH", "GIT_SSH_COMMAND", "GNUPGHOME"];

/// What git could not do, as far as a caller or a person does something different about it.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// The server cannot be reached.
    #[error("cannot reach {url}")]
    Unreachable {
        /// The remote.
        url: String,
        /// What git said.
        #[source]
        source: CommandError,
    },
    /// The server wants other credentials.
    #[error("{url} refuses the credentials, or wants some")]
    Unauthorized {
        /// The remote.
        url: String,
        /// What git said.
        #[source]
        source: CommandError,
    },
    /// There is no repository there.
    #[error("there is no git repository at {url}")]
    NoRepository {
        /// The remote.
        url: String,
        /// What git said.
        #[source]
        source: CommandError,
    },
    /// The remote has no such branch or commit.
    #[error("{url} has no {wanted}")]
    NoSuchRef {
        /// The remote.
        url: String,
        /// The branch or commit.
        wanted: String,
    },
    /// The disk is full.
    #[error("no space left on the disk for {place}")]
    NoSpace {
        /// Where.
        place: String,
        /// What git said.
        #[source]
        source: CommandError,
    },
    /// git is not there, was stopped, or failed in a way that has no name.
    #[error("git failed")]
    Command(#[source] CommandError),
    /// A file of the mirror could not be handled.
    #[error("cannot use the mirror at {place}")]
    Mirror {
        /// Where.
        place: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Files of the repository are kept by git-lfs, which is not installed.
    #[error("{url} keeps files in git LFS, and git-lfs is not installed")]
    LfsMissing {
        /// The remote.
        url: String,
    },
    /// git said something that swanci does not understand.
    #[error("git said something unexpected: {0}")]
    Unexpected(String),
}

impl GitError {
    /// What a failed fetch or clone was about, from what git said (its messages are pinned to English by LC_ALL).
    fn from_fetch(url: &str, wanted: &str, source: CommandError) -> GitError {
        let url = crate::redact::scrub(url).into_owned();
        if source.said(&[
            "couldn't find remote ref",
            "not our ref",
            "remote ref does not exist",
            "no such remote ref",
        ]) {
            return GitError::NoSuchRef { url, wanted: wanted.to_owned() };
        }
        if source.said(&["no space left", "disk quota exceeded"]) {
            return GitError::NoSpace { place: url, source };
        }
        let unauthorized = [
            "authentication failed",
            "could not read username",
            "could not read password",
            "permission denied",
            "error: 401",
            "error: 403",
            "access denied",
            "invalid credentials",
            "host key verification failed",
        ];
        if source.said(&unauthorized) {
            return GitError::Unauthorized { url, source };
        }
        let absent =
            ["does not appear to be a git repository", "repository not found", "error: 404", "' not found"];
        if source.said(&absent) {
            return GitError::NoRepository { url, source };
        }
        let network = [
            "could not resolve",
            "connection refused",
            "connection reset",
            "connection timed out",
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
            "ssl certificate",
        ];
        if source.said(&network) {
            return GitError::Unreachable { url, source };
        }
        GitError::Command(source)
    }

    /// Whether a mirror that answers so may be broken, and a fresh one is worth trying.
    fn may_be_a_broken_mirror(&self) -> bool {
        match self {
            GitError::Command(CommandError::Exit { .. })
            | GitError::Unexpected(_)
            | GitError::Mirror { .. } => true,
            GitError::Command(
                CommandError::NotFound { .. }
                | CommandError::Spawn { .. }
                | CommandError::Stopped { .. }
                | CommandError::TooMuchOutput { .. },
            )
            | GitError::Unreachable { .. }
            | GitError::Unauthorized { .. }
            | GitError::NoRepository { .. }
            | GitError::NoSuchRef { .. }
            | GitError::LfsMissing { .. }
            | GitError::NoSpace { .. } => false,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            GitError::NoSuchRef { .. } => Kind::Refused,
            GitError::Command(CommandError::Stopped { stop, .. }) => stop.kind(),
            GitError::Unreachable { .. }
            | GitError::Unauthorized { .. }
            | GitError::NoRepository { .. }
            | GitError::NoSpace { .. }
            | GitError::Command(_)
            | GitError::Mirror { .. }
            | GitError::LfsMissing { .. }
            | GitError::Unexpected(_) => Kind::Environment,
        }
    }

    fn way_out(&self) -> Option<&'static str> {
        match self {
            GitError::Unreachable { .. } => Some(
                "is the address right, and the server up? a renamed repository needs its new URL as clone_url",
            ),
            GitError::Unauthorized { .. } => Some(
                "for https set SWANCI_GIT_TOKEN or a git credential helper; for ssh load a key that may read it",
            ),
            GitError::NoRepository { .. } => {
                Some("is the URL right? a private repository also answers so to a wrong token")
            }
            GitError::NoSpace { .. } => {
                Some("make room, then run it again; `swanci doctor` shows what is used")
            }
            GitError::LfsMissing { .. } => Some("install it: apt-get install git-lfs"),
            GitError::Command(CommandError::NotFound { .. }) => Some("install git: apt-get install git"),
            GitError::Command(error) if error.said(&["dubious ownership"]) => Some(
                "the repository belongs to another user; run swanci as its owner, or clone it over ssh or https",
            ),
            GitError::NoSuchRef { .. } => {
                Some("is the name right? a branch may have been removed after its merge")
            }
            GitError::Command(_) | GitError::Mirror { .. } | GitError::Unexpected(_) => None,
        }
    }
}

impl From<GitError> for Failure {
    fn from(error: GitError) -> Failure {
        let (kind, hint) = (error.kind(), error.way_out());
        let failure = Failure::new(kind, error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

impl From<Stop> for GitError {
    fn from(stop: Stop) -> GitError {
        GitError::Command(CommandError::Stopped { command: "git".to_owned(), stop })
    }
}

/// `git`, with everything that could change its behaviour pinned. `config` comes on top, as `key`, `value`.
fn git(transports: &str, config: &[(String, String)]) -> Tool {
    let fixed = [
        ("core.hooksPath", "/dev/null"),
        ("init.templateDir", ""),
        ("init.defaultBranch", "main"),
        ("core.autocrlf", "false"),
        ("core.fsmonitor", "false"),
        ("core.symlinks", "true"),
        // Attributes come from the commit alone, with GIT_ATTR_NOSYSTEM below.
        ("core.attributesFile", "/dev/null"),
        ("transfer.fsckObjects", "true"),
        // What old but honest repositories contain; see git-fsck(1).
        ("fetch.fsck.zeroPaddedFilemode", "warn"),
        ("fetch.fsck.badTimezone", "warn"),
        ("fetch.fsck.missingSpaceBeforeDate", "warn"),
        ("gc.auto", "0"),
        ("maintenance.auto", "false"),
        ("advice.detachedHead", "false"),
        ("http.lowSpeedLimit", "1000"),
        ("http.lowSpeedTime", "60"),
        // git sends its Authorization header on to wherever a redirect points.
        ("http.followRedirects", "false"),
    ];
    let mut tool = Tool::new("git")
        // The modes of files in a context do not depend on the umask of whoever runs swanci.
        .umask(0o022)
        .inherit(GIT_VARIABLES)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_ASKPASS", "/bin/false")
        .env("SSH_ASKPASS", "/bin/false")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_ATTR_NOSYSTEM", "1")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_ALLOW_PROTOCOL", transports);
    if std::env::var_os("GIT_SSH_COMMAND").is_none() && std::env::var_os("GIT_SSH").is_none() {
        tool = tool.env(
            "GIT_SSH_COMMAND",
            "ssh -oBatchMode=yes -oConnectTimeout=20 -oServerAliveInterval=15 -oServerAliveCountMax=4",
        );
    }
    let all = fixed.iter().map(|(k, v)| (*k, *v)).chain(config.iter().map(|(k, v)| (k.as_str(), v.as_str())));
    let mut count = 0;
    for (key, value) in all {
        tool =
            tool.env(format!("GIT_CONFIG_KEY_{count}"), key).env(format!("GIT_CONFIG_VALUE_{count}"), value);
        count += 1;
    }
    tool.env("GIT_CONFIG_COUNT", count.to_string())
}

/// A git that touches no network and no remote's configuration.
fn local_git(git_dir: &Path) -> Tool {
    git("none", &[]).arg(format!("--git-dir={}", git_dir.display()))
}

/// How the repositories of one forge are read. What is in it goes to that forge's host and to no other.
#[derive(Debug, Clone)]
pub struct Access {
    /// The forge's `url`, as `https://github.com`; it may end in a path.
    pub forge: String,
    /// The user name that the forge wants beside a token.
    pub login: String,
    /// For private repositories.
    pub token: Option<SecretString>,
    /// A certificate authority that is trusted for this forge.
    pub ca_file: Option<PathBuf>,
}

impl Access {
    /// The entry of the forge that this remote lives on.
    fn to<'a>(remote: &Remote, all: &'a [Access]) -> Option<&'a Access> {
        let base = remote.https_base()?;
        all.iter().find(|access| format!("{}/", access.forge.trim_end_matches('/')).starts_with(&base))
    }
}

/// What git needs to authenticate against an https remote: a header for exactly its host, or the user's own
/// credential helper and proxy.
fn https_config(
    base: &str,
    access: Option<&Access>,
    user: Option<&(String, SecretString)>,
) -> Vec<(String, String)> {
    let header = |user: &str, secret: &SecretString| {
        let pair = format!("{user}:{}", secret.expose_secret());
        let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
        (format!("http.{base}.extraHeader"), format!("Authorization: Basic {encoded}"))
    };
    let mut config = user_config().to_vec();
    match (user, access.and_then(|a| Some((a.login.as_str(), a.token.as_ref()?)))) {
        (Some((name, password)), _) => config.push(header(name, password)),
        (None, Some((login, token))) => {
            config.retain(|(key, _)| !key.starts_with("credential."));
            config.push(header(login, token));
        }
        (None, None) => {}
    }
    config
}

/// Of the user's git configuration only `credential.*`, `http.proxy` and `http.sslCAInfo`; read once.
fn user_config() -> &'static [(String, String)] {
    static USER: OnceLock<Vec<(String, String)>> = OnceLock::new();
    USER.get_or_init(|| {
        let pattern = r"^(credential\..*|http\.proxy|http\.sslcainfo)$";
        let read = Tool::new("git")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .inherit(&["GIT_CONFIG_GLOBAL"])
            .args(["config", "--global", "--includes", "--null", "--get-regexp", pattern])
            .run(&Cancel::new());
        // No such key, or no file: git ends with code 1, and there is nothing to hand on.
        let text = read.map(|done| String::from_utf8_lossy(&done.stdout).into_owned()).unwrap_or_default();
        text.split('\0')
            .filter_map(|entry| entry.split_once('\n'))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    })
}

/// Runs a local verb; its failure has no better name than git's own words.
fn run(tool: Tool, cancel: &Cancel) -> Result<Finished, GitError> {
    tool.run(cancel).map_err(|error| {
        if error.said(&["no space left"]) {
            return GitError::NoSpace {
                place: "the state directory or the temporary directory".to_owned(),
                source: error,
            };
        }
        GitError::Command(error)
    })
}

/// The version of git, or why there is none.
pub fn version(cancel: &Cancel) -> Result<String, GitError> {
    let text = run(Tool::new("git").arg("--version"), cancel)?.text();
    Ok(text.trim_start_matches("git version ").to_owned())
}
