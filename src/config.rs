//! Configuration: default < file < environment < flag, validated into one [`Config`].
//!
//! Flags are laid on top by the commands that have them. Relative paths are relative to the file that they stand in.

mod environment;
mod file;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use secrecy::SecretString;

use crate::error::{Classify as _, Failure, Kind};
use crate::model::{ImageName, RegistryAddress, RepoName};
use crate::redact;

pub use environment::Environment;

/// The file that is read where no other is named.
const DEFAULT_FILE: &str = "swanci.toml";

/// Everything that can be configured, validated.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file that was read.
    pub source: Option<PathBuf>,
    /// Mirrors, receipts, locks, the queue.
    pub state_dir: PathBuf,
    /// Where images go; `None` builds local names only.
    pub registry: Option<RegistryAddress>,
    /// The certificate authority for swanci's own requests to the registry.
    pub ca_file: Option<PathBuf>,
    /// Speak http to the registry; only on loopback.
    pub plain_http: bool,
    /// How images are built.
    pub build: BuildConfig,
    /// How webhooks are taken.
    pub serve: ServeConfig,
    /// The allow-list; empty means that nothing is restricted by hand, and that `serve` does not start.
    pub repositories: Vec<RepositoryConfig>,
    /// The token for private https repositories.
    pub git_token: Option<SecretString>,
    /// What a person should know, as ignored variables.
    pub warnings: Vec<String>,
}

/// Section `[build]`.
#[derive(Debug, Clone)]
pub struct BuildConfig {
    /// Images at once.
    pub jobs: usize,
    /// For each image's build and each image's push.
    pub timeout: Duration,
    /// Tag templates for images that name none; `None` is the built-in default.
    pub tags: Option<Vec<String>>,
    /// BuildKit secrets: id → file.
    pub secrets: BTreeMap<String, PathBuf>,
    /// Newest local images of each name that stay.
    pub keep_local: usize,
    /// A buildx builder.
    pub builder: Option<String>,
    /// The docker CLI.
    pub docker: String,
}

/// Section `[serve]`.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// Where webhooks arrive.
    pub listen: SocketAddr,
    /// The webhook secret's file.
    pub secret_file: Option<PathBuf>,
    /// The webhook secret itself, from the environment.
    pub secret: Option<SecretString>,
    /// Merges at once; 0 queues without running.
    pub jobs: usize,
    /// For one merge.
    pub timeout: Duration,
    /// The largest body that is read.
    pub max_body: ByteSize,
    /// How long finished jobs are kept.
    pub retention: Duration,
    /// Where metrics are served; off unless given.
    pub admin_listen: Option<SocketAddr>,
}

/// One `[[repository]]`.
#[derive(Debug, Clone)]
pub struct RepositoryConfig {
    /// Full name on the forge.
    pub name: RepoName,
    /// Globs of the branches to build; empty means every branch.
    pub branches: Vec<String>,
    /// Where to clone from instead of the payload's URL.
    pub clone_url: Option<String>,
    /// In front of this repository's image names.
    pub namespace: Option<ImageName>,
    /// Whether submodules are checked out.
    pub submodules: bool,
}

impl Config {
    /// Reads the layers below the flags. `file` is `--config`, `state_dir` is `--state-dir`.
    pub fn load(
        file: Option<&Path>,
        state_dir: Option<&Path>,
        environment: &Environment,
    ) -> Result<Config, Failure> {
        let named = file.map(Path::to_owned).or_else(|| environment.get("SWANCI_CONFIG").map(PathBuf::from));
        let path = named.clone().or_else(|| Path::new(DEFAULT_FILE).exists().then(|| DEFAULT_FILE.into()));
        let mut raw = match &path {
            Some(path) => file::read(path)?,
            None => file::RawConfig::default(),
        };
        if let Some(path) = &path {
            raw.anchor(path.parent().unwrap_or(Path::new("")));
        }
        let warnings = environment.overlay(&mut raw)?;
        if let Some(dir) = state_dir {
            raw.state_dir = Some(dir.to_owned());
        }
        let place = path.as_deref().map_or_else(|| "the environment".to_owned(), |p| p.display().to_string());
        let mut config =
            raw.validate(environment).map_err(|problem| Failure::bad_input(format!("{place}: {problem}")))?;
        config.source = path;
        config.warnings = warnings;
        for secret in [&config.git_token, &config.serve.secret].into_iter().flatten() {
            redact::register(secret);
        }
        Ok(config)
    }

    /// The allow-list's entry for a repository, ignoring case.
    pub fn repository(&self, name: &RepoName) -> Option<&RepositoryConfig> {
        self.repositories.iter().find(|r| r.name.same_as(name))
    }
}

/// Reads a webhook secret from a file: its whole content but one trailing newline.
pub fn read_secret_file(path: &Path) -> Result<SecretString, Failure> {
    let text = std::fs::read_to_string(path)
        .classify(Kind::BadInput, || format!("cannot read the secret file {}", path.display()))
        .map_err(|f| f.hint("make one with: openssl rand -hex 32 > FILE; chmod 600 FILE"))?;
    let text = text.strip_suffix('\n').map(|t| t.strip_suffix('\r').unwrap_or(t)).unwrap_or(&text);
    if text.is_empty() {
        return Err(Failure::bad_input(format!("the secret file {} is empty", path.display()))
            .hint("an empty secret would let everybody in; make one with: openssl rand -hex 32"));
    }
    let secret = SecretString::from(text.to_owned());
    redact::register(&secret);
    Ok(secret)
}

#[cfg(test)]
mod tests;
