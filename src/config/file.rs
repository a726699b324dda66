//! The configuration file (TOML): its shape, where a mistake stands, and its validation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;

use super::{BuildConfig, Config, Environment, RepositoryConfig, ServeConfig};
use crate::error::{Classify as _, Failure, Kind};
use crate::model::RegistryAddress;

/// The file as it is written: everything optional, nothing validated.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawConfig {
    pub(super) state_dir: Option<PathBuf>,
    pub(super) registry: RawRegistry,
    pub(super) build: RawBuild,
    pub(super) serve: RawServe,
    pub(super) repository: Vec<RawRepository>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRegistry {
    pub(super) host: Option<String>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) plain_http: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawBuild {
    pub(super) jobs: Option<usize>,
    pub(super) timeout: Option<String>,
    pub(super) tags: Option<Vec<String>>,
    pub(super) secrets: BTreeMap<String, PathBuf>,
    pub(super) keep_local: Option<usize>,
    pub(super) builder: Option<String>,
    pub(super) docker: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawServe {
    pub(super) listen: Option<String>,
    pub(super) secret_file: Option<PathBuf>,
    pub(super) jobs: Option<usize>,
    pub(super) timeout: Option<String>,
    pub(super) max_body: Option<String>,
    pub(super) retention: Option<String>,
    pub(super) admin_listen: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRepository {
    pub(super) name: String,
    #[serde(default)]
    pub(super) branches: Vec<String>,
    pub(super) clone_url: Option<String>,
    pub(super) namespace: Option<String>,
    #[serde(default)]
    pub(super) submodules: bool,
}

/// Reads and parses the file.
pub(super) fn read(path: &Path) -> Result<RawConfig, Failure> {
    let text = std::fs::read_to_string(path)
        .classify(Kind::BadInput, || format!("cannot read the configuration {}", path.display()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    toml::from_str(text).map_err(|error| explain(path, text, &error))
}

/// Names the file, the line, and the nearest known key.
fn explain(path: &Path, text: &str, error: &toml::de::Error) -> Failure {
    let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    let place = match line {
        Some(line) => format!("{}, line {line}", path.display()),
        None => path.display().to_string(),
    };
    let failure = Failure::bad_input(format!("{place}: {}", error.message()));
    match nearest_key(error.message()) {
        Some((unknown, nearest)) => {
            failure.hint(format!("`{unknown}` is not known; did you mean `{nearest}`?"))
        }
        None => failure,
    }
}

/// From serde's "unknown field `x`, expected one of `a`, `b`": the unknown key and the known one most like it.
fn nearest_key(message: &str) -> Option<(&str, &str)> {
    let mut quoted = message.strip_prefix("unknown field")?.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    let nearest = quoted
        .max_by(|a, b| strsim::jaro_winkler(unknown, a).total_cmp(&strsim::jaro_winkler(unknown, b)))?;
    Some((unknown, nearest))
}

impl RawConfig {
    /// Makes relative paths relative to the file's folder.
    pub(super) fn anchor(&mut self, base: &Path) {
        let anchor = |path: &mut PathBuf| *path = base.join(&*path);
        self.state_dir.as_mut().map(anchor);
        self.registry.ca_file.as_mut().map(anchor);
        self.serve.secret_file.as_mut().map(anchor);
        self.build.secrets.values_mut().for_each(anchor);
        for url in self.repository.iter_mut().filter_map(|r| r.clone_url.as_mut()) {
            if url.starts_with("./") || url.starts_with("../") {
                *url = base.join(&*url).display().to_string();
            }
        }
    }

    /// Checks every value; the error names the key.
    pub(super) fn validate(self, environment: &Environment) -> Result<Config, String> {
        let registry: Option<RegistryAddress> =
            self.registry.host.as_deref().map(|host| at("registry.host", host.parse())).transpose()?;
        let plain_http = self.registry.plain_http.unwrap_or(false);
        if plain_http && registry.as_ref().is_some_and(|r| !r.is_loopback()) {
            return Err(
                "registry.plain_http is only for a registry on loopback; give the registry a certificate \
                        (scripts/gen-certs) and name its CA as ca_file"
                    .to_owned(),
            );
        }
        let jobs = self.build.jobs.unwrap_or(2);
        if jobs == 0 {
            return Err("build.jobs must be at least 1".to_owned());
        }
        for id in self.build.secrets.keys() {
            if id.is_empty()
                || !id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
            {
                return Err(format!(
                    "build.secrets: `{id}` is not a valid secret id (letters, digits, `_`, `-`, `.`)"
                ));
            }
        }
        let mut repositories: Vec<RepositoryConfig> = Vec::new();
        for (i, raw) in self.repository.into_iter().enumerate() {
            let key = format!("repository[{i}]");
            let repository = RepositoryConfig {
                name: at(&format!("{key}.name"), raw.name.parse())?,
                branches: raw.branches,
                clone_url: raw.clone_url,
                namespace: raw.namespace.map(|n| at(&format!("{key}.namespace"), n.parse())).transpose()?,
                submodules: raw.submodules,
            };
            if repositories.iter().any(|r| r.name.same_as(&repository.name)) {
                return Err(format!("{key}.name: `{}` is listed twice", repository.name));
            }
            repositories.push(repository);
        }
        let duration = |key, value: Option<String>, default: u64| match value {
            Some(text) => at(key, humantime::parse_duration(&text)),
            None => Ok(Duration::from_secs(default)),
        };
        let address = |key, value: String| {
            at(key, value.parse()).map_err(|e| format!("{e} (an address looks like 127.0.0.1:8080)"))
        };
        Ok(Config {
            source: None,
            state_dir: match self.state_dir.or_else(|| environment.default_state_dir()) {
                Some(dir) => dir,
                None => {
                    return Err("no state directory: neither HOME nor XDG_STATE_HOME is set; \
                                    set SWANCI_STATE_DIR or --state-dir"
                        .to_owned());
                }
            },
            registry,
            ca_file: self.registry.ca_file,
            plain_http,
            build: BuildConfig {
                jobs,
                timeout: duration("build.timeout", self.build.timeout, 30 * 60)?,
                tags: self.build.tags,
                secrets: self.build.secrets,
                keep_local: self.build.keep_local.unwrap_or(2),
                builder: self.build.builder,
                docker: self.build.docker.unwrap_or_else(|| "docker".to_owned()),
            },
            serve: ServeConfig {
                listen: address(
                    "serve.listen",
                    self.serve.listen.unwrap_or_else(|| "127.0.0.1:8080".to_owned()),
                )?,
                secret_file: self.serve.secret_file,
                secret: environment.secret("SWANCI_SECRET"),
                jobs: self.serve.jobs.unwrap_or(1),
                timeout: duration("serve.timeout", self.serve.timeout, 60 * 60)?,
                max_body: match self.serve.max_body {
                    Some(text) => at("serve.max_body", text.parse())?,
                    None => ByteSize::mib(25),
                },
                retention: duration("serve.retention", self.serve.retention, 90 * 24 * 60 * 60)?,
                admin_listen: self
                    .serve
                    .admin_listen
                    .map(|a| address("serve.admin_listen", a))
                    .transpose()?,
            },
            repositories,
            git_token: environment.secret("SWANCI_GIT_TOKEN"),
            warnings: Vec::new(),
        })
    }
}

/// Puts the key in front of what is wrong with its value.
fn at<T, E: std::fmt::Display>(key: &str, value: Result<T, E>) -> Result<T, String> {
    value.map_err(|error| format!("{key}: {error}"))
}
