//! Configuration: default < file < environment < flag, validated into a [`Config`].
//!
//! The commands apply their own flags. Relative paths are relative to the file that contains them.

mod environment;
mod file;
mod validate;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use secrecy::{ExposeSecret as _, SecretString};

use crate::decide::BranchGlobs;
use crate::error::{Classify as _, Failure, Kind};
use crate::manifest::Template;
use crate::model::{ForgeName, ImageName, Mistake, RegistryAddress, RepoName};
use crate::redact;

pub use environment::Environment;
#[cfg(test)]
pub(crate) use file::RawConfig;
pub(crate) use validate::{forge_url, is_secret_id};

/// The default files, in order of precedence.
const DEFAULT_FILES: [&str; 2] = ["swanci.toml", "/etc/swanci/swanci.toml"];

#[derive(Debug, Clone)]
pub struct Config {
    pub source: Option<PathBuf>,
    /// Contains mirrors, receipts, locks, the queue.
    pub state_dir: PathBuf,
    /// The target registry; `None` builds only local names.
    pub registry: Option<RegistryAddress>,
    /// The certificate authority for swanci's own requests to the registry.
    pub ca_file: Option<PathBuf>,
    /// Use http for the registry; only on loopback.
    pub plain_http: bool,
    pub build: BuildConfig,
    pub serve: ServeConfig,
    /// The allow-list; if empty, commands accept any repository and `serve` does not start.
    pub repositories: Vec<RepositoryConfig>,
    /// The configured forges; never empty.
    pub forges: Vec<ForgeConfig>,
    /// `SWANCI_GIT_TOKEN`.
    pub git_token: Option<SecretString>,
    /// The token of the surrounding GitLab job, which has its own login.
    pub job_token: Option<SecretString>,
    /// Warnings for the user, such as ignored variables.
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct BuildConfig {
    pub jobs: usize,
    /// The limit for each image's build and each image's push.
    pub timeout: Duration,
    /// Tag templates for images that list none; `None` is the built-in default.
    pub tags: Option<Vec<Template>>,
    /// How many of the newest local images of each name to keep.
    pub keep_local: usize,
    pub builder: Option<String>,
    pub docker: String,
}

#[derive(Debug, Clone)]
pub struct ServeConfig {
    pub listen: SocketAddr,
    /// Concurrent merges; 0 queues without running.
    pub jobs: usize,
    /// The limit for one merge.
    pub timeout: Duration,
    pub max_body: ByteSize,
    /// How long to keep finished jobs.
    pub retention: Duration,
    /// The address for metrics; off by default.
    pub admin_listen: Option<SocketAddr>,
    /// Its public URL without a trailing slash; the base of links in commit statuses.
    pub public_url: Option<String>,
}

#[derive(Debug, Clone)]
pub struct ForgeConfig {
    pub kind: ForgeName,
    /// Without a trailing slash; possibly with a path.
    pub url: String,
    /// Files of its webhook secrets; a delivery may be signed with any of them.
    pub secret_files: Vec<PathBuf>,
    /// The webhook secret from the environment, which replaces the files.
    pub secret: Option<SecretString>,
    /// The file with the token for its private repositories.
    pub token_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub status: bool,
    pub comment: bool,
}

impl Default for ForgeConfig {
    fn default() -> ForgeConfig {
        ForgeConfig {
            kind: ForgeName::Github,
            url: "https://github.com".to_owned(),
            secret_files: Vec::new(),
            secret: None,
            token_file: None,
            ca_file: None,
            status: false,
            comment: false,
        }
    }
}

impl ForgeConfig {
    pub fn webhook_secrets(&self) -> Result<Vec<SecretString>, Failure> {
        match &self.secret {
            Some(secret) => Ok(vec![secret.clone()]),
            None => self.secret_files.iter().map(|path| read_secret_file(path)).collect(),
        }
    }
}

/// One `[[repository]]`: an entry of the allow-list.
#[derive(Debug, Clone)]
pub struct RepositoryConfig {
    pub name: RepoName,
    pub branches: BranchGlobs,
    pub forge_kind: ForgeName,
    /// The `url` of its forge.
    pub forge: String,
    /// The clone source in place of the forge's own address.
    pub clone_url: Option<String>,
    /// The prefix of this repository's image names.
    pub namespace: Option<ImageName>,
    /// Earlier full names: images with these sources still belong to it.
    pub former_names: Vec<RepoName>,
    /// BuildKit secrets of its images: id → file.
    pub secrets: BTreeMap<String, PathBuf>,
    pub submodules: bool,
}

impl Config {
    /// Reads all layers below the flags. `file` is `--config`, `state_dir` is `--state-dir`.
    pub fn load(
        file: Option<&Path>,
        state_dir: Option<&Path>,
        environment: &Environment,
    ) -> Result<Config, Failure> {
        let path = path_of(file, environment);
        let text = path.as_deref().map(file::read).transpose()?.unwrap_or_default();
        let mut raw = match &path {
            Some(path) => file::table(&text)
                .and_then(file::parse)
                .map_err(|mistake| mistake.explain(Some(path), &text, environment))?,
            None => file::RawConfig::default(),
        };
        if let Some(path) = &path {
            raw.anchor(path.parent().unwrap_or(Path::new("")));
        }
        let warnings = environment.overlay(&mut raw)?;
        if let Some(dir) = state_dir {
            raw.state_dir = Some(dir.to_owned());
        }
        let mut config = raw
            .validate(environment)
            .map_err(|mistake| mistake.explain(path.as_deref(), &text, environment))?;
        config.source = path;
        config.warnings = warnings;
        let secrets = config.forges.iter().filter_map(|forge| forge.secret.as_ref());
        secrets.chain(&config.git_token).for_each(redact::register);
        match (&config.git_token, config.forge_of_git_token()) {
            (Some(token), Some(forge)) => config
                .login(forge.kind, token)
                .map(drop)
                .map_err(|failure| failure.context("SWANCI_GIT_TOKEN cannot be used"))?,
            (Some(_), None) => config.warnings.push(
                "SWANCI_GIT_TOKEN is not used, because several forges are configured: give each its own token_file"
                    .to_owned(),
            ),
            (None, _) => {}
        }
        Ok(config)
    }

    /// All mistakes in the file that [`Config::load`] would read.
    pub(crate) fn mistakes(
        file: Option<&Path>,
        environment: &Environment,
    ) -> Result<(Option<PathBuf>, Vec<Mistake>), Failure> {
        let Some(path) = path_of(file, environment) else { return Ok((None, Vec::new())) };
        let text = file::read(&path)?;
        Ok((Some(path), file::mistakes(&text, environment)))
    }

    pub fn allow(&mut self, name: &RepoName) -> Result<(), Failure> {
        if self.repositories.iter().any(|repository| repository.name.same_as(name)) {
            return Ok(());
        }
        let [forge] = &self.forges[..] else {
            return Err(Failure::usage(format!("several forges are configured, so {name} needs an entry"))
                .hint("add a [[repository]] with its name and its forge to the configuration"));
        };
        self.repositories.push(RepositoryConfig {
            name: name.clone(),
            branches: BranchGlobs::default(),
            forge_kind: forge.kind,
            forge: forge.url.clone(),
            clone_url: None,
            namespace: None,
            former_names: Vec::new(),
            secrets: BTreeMap::new(),
            submodules: false,
        });
        Ok(())
    }

    /// The user name for git and the token: from `USER:TOKEN`, or with the forge's user name for tokens. Redacts both.
    pub fn login(&self, kind: ForgeName, text: &SecretString) -> Result<(String, SecretString), Failure> {
        let text = redact::trimmed(text.expose_secret());
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            let text = format!("the token for {} contains blanks or line breaks", kind.title());
            return Err(Failure::bad_input(text).hint("give the token alone, or USER:TOKEN"));
        }
        let (login, token) =
            text.split_once(':').unwrap_or_else(|| (self.login_for_tokens(kind, text), text));
        let token = SecretString::from(token.to_owned());
        redact::register_login(login, &token);
        Ok((login.to_owned(), token))
    }

    fn login_for_tokens(&self, kind: ForgeName, token: &str) -> &'static str {
        let is_job_token = self.job_token.as_ref().is_some_and(|job| job.expose_secret() == token);
        match kind {
            ForgeName::Github => "x-access-token",
            ForgeName::Gitlab if is_job_token => "gitlab-ci-token",
            ForgeName::Gitlab => "oauth2",
            ForgeName::Bitbucket | ForgeName::BitbucketServer => "x-token-auth",
            // These accept any name.
            ForgeName::Gitea | ForgeName::Forgejo | ForgeName::Gogs => "swanci",
            // GitBucket checks the name; this is the default administrator.
            ForgeName::Gitbucket => "root",
        }
    }

    /// The forge of `SWANCI_GIT_TOKEN`: the only one, or the only one without its own token. A token is never sent to
    /// several hosts.
    pub fn forge_of_git_token(&self) -> Option<&ForgeConfig> {
        let mut without = self.forges.iter().filter(|forge| forge.token_file.is_none());
        match (&self.forges[..], without.next(), without.next()) {
            ([only], _, _) => Some(only),
            (_, Some(only), None) => Some(only),
            (_, _, _) => None,
        }
    }

    /// Each unreadable build secret, as `repository[NAME].secrets.ID: why`.
    pub fn unreadable_secrets(&self) -> Vec<String> {
        let files = self.repositories.iter().flat_map(|r| r.secrets.iter().map(move |s| (&r.name, s)));
        files
            .filter_map(|(name, (id, path))| {
                let error = std::fs::File::open(path).err()?;
                Some(format!("the build secret `{id}` of {name}: {}: {error}", path.display()))
            })
            .collect()
    }

    /// The allow-list's entries with this name, case-insensitive: at most one per forge.
    pub fn repositories_named(&self, name: &RepoName) -> impl Iterator<Item = &RepositoryConfig> {
        self.repositories.iter().filter(move |repository| repository.name.same_as(name))
    }

    pub fn forge_of(&self, repository: &RepositoryConfig) -> Option<&ForgeConfig> {
        self.forges.iter().find(|forge| forge.url == repository.forge)
    }

    /// Replaces the webhook secret files of the forge that `serve.secret_file` applies to.
    pub fn set_secret_file(&mut self, path: &Path) -> Result<(), Failure> {
        let forge = short_for(&self.forges).map_err(Failure::usage)?;
        if let Some(forge) = self.forges.get_mut(forge) {
            (forge.secret_files, forge.secret) = (vec![path.to_owned()], None);
        }
        Ok(())
    }
}

/// The forge that `serve.secret_file` applies to: the only GitHub, or the public one of several; else the only forge.
fn short_for(forges: &[ForgeConfig]) -> Result<usize, String> {
    let githubs: Vec<usize> = (0..forges.len()).filter(|i| forges[*i].kind == ForgeName::Github).collect();
    let is_public = |i: &&usize| !ForgeName::Github.is_elsewhere(&forges[**i].url);
    match (&githubs[..], githubs.iter().find(is_public), forges) {
        ([only], _, _) => Ok(*only),
        (_, Some(public), _) => Ok(*public),
        ([], None, [_]) => Ok(0),
        (_, None, _) => {
            Err("several forges are configured: give the right one its own secret_file".to_owned())
        }
    }
}

/// The file to read: the given one, else the first that exists.
fn path_of(file: Option<&Path>, environment: &Environment) -> Option<PathBuf> {
    let named = file.map(Path::to_owned).or_else(|| environment.get("SWANCI_CONFIG").map(PathBuf::from));
    named.or_else(|| first_of(&DEFAULT_FILES))
}

/// Parses a configuration without access to files, for fuzzing.
#[cfg(fuzzing)]
pub(crate) fn read_text(text: &str) {
    let environment = Environment::default();
    let _ = file::mistakes(text, &environment);
    let read = file::table(text).and_then(file::parse).and_then(|raw| raw.validate(&environment));
    let _ = read.map_err(|mistake| mistake.explain(None, text, &environment).render());
}

fn first_of(paths: &[&str]) -> Option<PathBuf> {
    paths.iter().map(PathBuf::from).find(|path| path.exists())
}

/// Reads a secret or a token from a file, without a byte order mark and surrounding white space.
pub fn read_secret_file(path: &Path) -> Result<SecretString, Failure> {
    let text = std::fs::read_to_string(path)
        .classify(Kind::BadInput, || format!("cannot read the secret file {}", path.display()))
        .map_err(|f| f.hint("make one with: openssl rand -hex 32 > FILE; chmod 600 FILE"))?;
    let text = redact::trimmed(&text);
    if text.is_empty() {
        return Err(Failure::bad_input(format!("the secret file {} is empty", path.display()))
            .hint("everybody could sign with an empty secret; make one with: openssl rand -hex 32"));
    }
    let secret = SecretString::from(text.to_owned());
    redact::register(&secret);
    Ok(secret)
}

#[cfg(test)]
mod tests;
