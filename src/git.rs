//! Typed verbs over the `git` CLI: remotes that are allowed, mirrors, objects, working copies.
//!
//! Every call runs with a stated environment: no system or user configuration but credentials and proxy, no
//! prompts, no hooks, only the transports that the remote needs.

mod error;
mod history;
mod landed;
mod mirror;
mod objects;
mod remote;
mod worktree;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use base64::Engine as _;
use secrecy::{ExposeSecret, SecretString};

use crate::cancel::Cancel;
use crate::model::ForgeName;
use crate::process::{Finished, Tool};

pub use error::{Cause, Fault, GitError};
pub use history::Landed;
pub use landed::Merge;
pub use mirror::{Mirror, remove_unused_mirrors};
pub use objects::{AttributesFile, CommitInfo, ContextFiles, Found, Misplaced, Object};
pub use remote::{Remote, RemoteError, Transport};
pub(crate) use worktree::uncommitted;
pub use worktree::{Gitlink, LfsUse, lfs_is_installed, uses_lfs};

/// Variables of the user's that git may see beside the inherited ones: how to reach a server by ssh or TLS.
const GIT_VARIABLES: &[&str] =
    &["GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "GIT_SSH", "GIT_SSH_COMMAND", "GNUPGHOME"];

/// The oldest git that knows what this module relies on: configuration from the environment (`GIT_CONFIG_COUNT`).
const OLDEST: (u32, u32) = (2, 31);

/// Faults of old histories that change nothing for a checkout, as fsck names them (git-fsck(1)): names, addresses and
/// dates that importers wrote, modes with a zero before them. What could lead a checkout astray (`.git` and `..` in
/// trees, links and URLs in `.gitmodules`, trees that are not sorted) stays an error.
const HARMLESS: &[&str] = &[
    "badDate",
    "badDateOverflow",
    "badEmail",
    "badFilemode",
    "badName",
    "badTagName",
    "badTimezone",
    "extraHeaderEntry",
    "gitignoreSymlink",
    "mailmapSymlink",
    "missingAuthor",
    "missingCommitter",
    "missingEmail",
    "missingNameBeforeEmail",
    "missingSpaceBeforeDate",
    "missingSpaceBeforeEmail",
    "missingTagEntry",
    "missingTaggerEntry",
    "multipleAuthors",
    "nulInCommit",
    "zeroPaddedDate",
    "zeroPaddedFilemode",
];

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
    let ids: Vec<String> = HARMLESS.iter().map(|id| format!("fetch.fsck.{id}")).collect();
    let harmless = ids.iter().map(|key| (key.as_str(), "ignore"));
    let all = fixed
        .iter()
        .map(|(k, v)| (*k, *v))
        .chain(harmless)
        .chain(config.iter().map(|(k, v)| (k.as_str(), v.as_str())));
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
    pub kind: ForgeName,
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
    /// The entry of the forge that this remote lives on: the same scheme, host, port and path prefix.
    fn to<'a>(remote: &Remote, all: &'a [Access]) -> Option<&'a Access> {
        all.iter().find(|access| remote.is_below(&access.forge))
    }

    /// The forge's `url` with a slash at its end: git's scope for configuration (git-config(1), `http.<url>.*`).
    fn scope(&self) -> String {
        format!("{}/", self.forge.trim_end_matches('/'))
    }
}

/// What git needs for an http remote: its token or login as a header for the forge or the host alone, the forge's
/// certificate authority, the user's credential helpers, proxies and authorities.
fn http_config(remote: &Remote, access: Option<&Access>) -> Vec<(String, String)> {
    let Some(host) = remote.http_base() else { return Vec::new() };
    let header = |scope: &str, user: &str, secret: &SecretString| {
        let pair = format!("{user}:{}", secret.expose_secret());
        let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
        crate::redact::register(&SecretString::from(encoded.clone()));
        (format!("http.{scope}.extraHeader"), format!("Authorization: Basic {encoded}"))
    };
    let mut config = user_config().to_vec();
    if let Some((access, file)) = access.and_then(|access| Some((access, access.ca_file.as_ref()?))) {
        config.push((format!("http.{}.sslCAInfo", access.scope()), file.display().to_string()));
    }
    match (remote.userinfo(), access.and_then(|access| Some((access, access.token.as_ref()?)))) {
        (Some((name, password)), _) => config.push(header(&host, name, password)),
        (None, Some((access, token))) => {
            config.retain(|(key, _)| !key.starts_with("credential."));
            config.push(header(&access.scope(), &access.login, token));
        }
        (None, None) => {}
    }
    config
}

/// Of the machine's and the user's git configuration: credential helpers, proxies and certificate authorities.
fn user_config() -> &'static [(String, String)] {
    static USER: OnceLock<Vec<(String, String)>> = OnceLock::new();
    USER.get_or_init(|| {
        let pattern =
            r"^(credential\..*|http\.(.*\.)?(proxy|proxyauthmethod|proxysslcainfo|sslcainfo|sslcapath))$";
        let read = Tool::new("git")
            .inherit(&["GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM"])
            // No repository: neither the current directory's configuration nor that of a folder above it.
            .env("GIT_DIR", "/dev/null")
            .args(["config", "--includes", "--null", "--get-regexp", pattern])
            .run(&Cancel::new());
        // No such key, or no file: git ends with code 1, and there is nothing to hand on.
        let text = read.map(|done| String::from_utf8_lossy(&done.stdout).into_owned()).unwrap_or_default();
        text.split('\0')
            .filter_map(|entry| entry.split_once('\n'))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    })
}

/// Runs a local verb.
fn run(tool: Tool, cancel: &Cancel) -> Result<Finished, GitError> {
    let place = "the state directory or the temporary directory";
    tool.run(cancel).map_err(|error| GitError::of_local(place, error))
}

/// The version of git; an error where there is none, or one that is too old.
///
/// # Errors
/// [`GitError::TooOld`], and what keeps git from running.
pub fn version(cancel: &Cancel) -> Result<String, GitError> {
    static VERSION: OnceLock<String> = OnceLock::new();
    let version = match VERSION.get() {
        Some(version) => version.clone(),
        None => {
            let text = run(Tool::new("git").arg("--version"), cancel)?.text();
            VERSION.get_or_init(|| text.trim_start_matches("git version ").to_owned()).clone()
        }
    };
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= OLDEST => Ok(version),
        (Some(Ok(_)), Some(Ok(_))) => Err(GitError::TooOld { version }),
        _ => Err(GitError::Unexpected(format!("git --version: {version}"))),
    }
}
