//! A typed interface to the `git` CLI: remotes, mirrors, objects, working copies.
//!
//! Every call has a fixed environment: no system or user configuration except credentials and proxies, no prompts, no
//! hooks, only the transports that the remote needs.

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
use crate::error::Failure;
use crate::model::ForgeName;
use crate::process::{Finished, Tool};

pub use error::{GitError, GitErrorKind};
pub use history::CommitInfo;
pub use landed::Merge;
pub use mirror::{Mirror, remove_unused_mirrors};
pub use objects::{AttributesFile, Blob, ContextFiles, Found};
pub use remote::{Remote, Transport};
pub(crate) use worktree::uncommitted;
pub use worktree::{Submodules, lfs_is_installed};

/// Environment variables that git receives in addition to the inherited ones: for ssh and TLS.
const GIT_VARIABLES: &[&str] =
    &["GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "GIT_SSH", "GIT_SSH_COMMAND", "GNUPGHOME"];

/// The oldest git with the required feature: configuration from the environment (`GIT_CONFIG_COUNT`).
const OLDEST: (u32, u32) = (2, 31);

/// fsck errors in old histories that do not affect a checkout (git-fsck(1)): names, addresses and dates that importers
/// wrote, zero-padded modes. Whatever could mislead a checkout (`.git` and `..` in trees, links and URLs in
/// `.gitmodules`, unsorted trees) remains an error.
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

/// `git` with fixed settings for all that affects its behavior. `config` adds `key`, `value` pairs.
fn git(transports: &str, config: &[(String, String)]) -> Tool {
    let fixed = [
        ("core.hooksPath", "/dev/null"),
        ("init.templateDir", ""),
        ("init.defaultBranch", "main"),
        ("core.autocrlf", "false"),
        ("core.fsmonitor", "false"),
        ("core.symlinks", "true"),
        // Attributes come only from the commit, with GIT_ATTR_NOSYSTEM below.
        ("core.attributesFile", "/dev/null"),
        ("transfer.fsckObjects", "true"),
        ("gc.auto", "0"),
        ("maintenance.auto", "false"),
        ("advice.detachedHead", "false"),
        ("http.lowSpeedLimit", "1000"),
        ("http.lowSpeedTime", "60"),
        // git sends its Authorization header to redirect targets.
        ("http.followRedirects", "false"),
    ];
    let mut tool = Tool::new("git")
        // File modes in a context do not depend on the user's umask.
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
    let fixed = fixed.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let harmless = HARMLESS.iter().map(|id| (format!("fetch.fsck.{id}"), "ignore".to_owned()));
    let all: Vec<_> = fixed.chain(harmless).chain(config.iter().cloned()).collect();
    tool = tool.env("GIT_CONFIG_COUNT", all.len().to_string());
    all.iter().enumerate().fold(tool, |tool, (i, (key, value))| {
        tool.env(format!("GIT_CONFIG_KEY_{i}"), key).env(format!("GIT_CONFIG_VALUE_{i}"), value)
    })
}

/// A git without network access or remote configuration.
fn local_git(git_dir: &Path) -> Tool {
    git("none", &[]).arg(format!("--git-dir={}", git_dir.display()))
}

/// Access to the repositories of one forge. Nothing in it is sent to other hosts.
#[derive(Debug, Clone)]
pub struct Access {
    pub kind: ForgeName,
    /// The forge's `url`, such as `https://github.com`, possibly with a path.
    pub forge: String,
    pub login: String,
    /// For private repositories.
    pub token: Option<SecretString>,
    pub ca_file: Option<PathBuf>,
}

impl Access {
    /// The entry of this remote's forge: same scheme, host, port and path prefix.
    fn to<'a>(remote: &Remote, all: &'a [Access]) -> Option<&'a Access> {
        all.iter().find(|access| remote.is_below(&access.forge))
    }

    /// The forge's `url` with a trailing slash: git's scope for configuration (git-config(1), `http.<url>.*`).
    fn scope(&self) -> String {
        format!("{}/", self.forge.trim_end_matches('/'))
    }
}

/// The configuration for an http remote: its token or login as a header for that forge or host only, the forge's
/// certificate authority, and the user's credential helpers, proxies and authorities.
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
    match (&remote.userinfo, access.and_then(|access| Some((access, access.token.as_ref()?)))) {
        (Some((name, password)), _) => config.push(header(&host, name, password)),
        (None, Some((access, token))) => {
            config.retain(|(key, _)| !key.starts_with("credential."));
            config.push(header(&access.scope(), &access.login, token));
        }
        (None, None) => {}
    }
    config
}

/// The credential helpers, proxies and certificate authorities in the machine's and the user's git configuration.
fn user_config() -> &'static [(String, String)] {
    static USER: OnceLock<Vec<(String, String)>> = OnceLock::new();
    USER.get_or_init(|| {
        let pattern =
            r"^(credential\..*|http\.(.*\.)?(proxy|proxyauthmethod|proxysslcainfo|sslcainfo|sslcapath))$";
        let read = Tool::new("git")
            .inherit(&["GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM"])
            // No repository: git must not read the configuration of the current directory or of a parent.
            .env("GIT_DIR", "/dev/null")
            .args(["config", "--includes", "--null", "--get-regexp", pattern])
            .run(&Cancel::new());
        // For a missing key or file, git exits with 1, and there is nothing to use.
        let text = read.map(|done| String::from_utf8_lossy(&done.stdout).into_owned()).unwrap_or_default();
        text.split('\0')
            .filter_map(|entry| entry.split_once('\n'))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    })
}

/// Runs a local command.
fn run(tool: Tool, cancel: &Cancel) -> Result<Finished, GitError> {
    let place = "the state directory or the temporary directory";
    tool.run(cancel).map_err(|error| GitError::of_local(place, error))
}

/// The version of git; an error if it is too old.
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
        (Some(Ok(_)), Some(Ok(_))) => {
            let (major, minor) = OLDEST;
            let text = format!("git {version} is too old; swanci needs git {major}.{minor} or newer");
            let failure = Failure::environment(text);
            let hint = "upgrade git; Debian 12 and Ubuntu 22.04 have a newer one";
            Err(GitError::new(GitErrorKind::Other, failure.hint(hint)))
        }
        _ => Err(GitError::unexpected(format!("git --version: {version}"))),
    }
}
