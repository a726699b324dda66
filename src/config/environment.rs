//! The environment as a layer of the configuration: `SWANCI_<SECTION>_<KEY>` and a few short names.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use secrecy::SecretString;

use super::file::RawConfig;
use crate::error::Failure;

/// The variables that are looked at, taken once.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl std::fmt::Debug for Environment {
    /// Names only: values may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Every variable that is known, so that another one is warned about.
const KNOWN: &[&str] = &[
    "SWANCI_CONFIG",
    "SWANCI_STATE_DIR",
    "SWANCI_REGISTRY",
    "SWANCI_SECRET",
    "SWANCI_GIT_TOKEN",
    "SWANCI_REGISTRY_HOST",
    "SWANCI_REGISTRY_CA_FILE",
    "SWANCI_REGISTRY_PLAIN_HTTP",
    "SWANCI_BUILD_JOBS",
    "SWANCI_BUILD_TIMEOUT",
    "SWANCI_BUILD_TAGS",
    "SWANCI_BUILD_KEEP_LOCAL",
    "SWANCI_BUILD_BUILDER",
    "SWANCI_BUILD_DOCKER",
    "SWANCI_SERVE_LISTEN",
    "SWANCI_SERVE_SECRET_FILE",
    "SWANCI_SERVE_JOBS",
    "SWANCI_SERVE_TIMEOUT",
    "SWANCI_SERVE_MAX_BODY",
    "SWANCI_SERVE_RETENTION",
    "SWANCI_SERVE_ADMIN_LISTEN",
    "SWANCI_SERVE_PUBLIC_URL",
];

impl Environment {
    /// The process's own. Values that are not UTF-8 count as not set.
    pub fn of_process() -> Environment {
        std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .collect()
    }

    /// A variable that is set and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A variable that holds a secret.
    pub fn secret(&self, name: &str) -> Option<SecretString> {
        self.get(name).map(|value| SecretString::from(value.to_owned()))
    }

    /// `$XDG_STATE_HOME/swanci`, else `~/.local/state/swanci` (XDG base directory specification).
    pub(super) fn default_state_dir(&self) -> Option<PathBuf> {
        let base = match self.get("XDG_STATE_HOME").map(PathBuf::from).filter(|p| p.is_absolute()) {
            Some(dir) => dir,
            None => PathBuf::from(self.get("HOME")?).join(".local/state"),
        };
        Some(base.join("swanci"))
    }

    /// The variable that sets a key like `build.tags[0]`, where one does.
    pub(super) fn variable_of(&self, key: &str) -> Option<&'static str> {
        let key = key.split('[').next().unwrap_or(key);
        let name = format!("SWANCI_{}", key.replace('.', "_").to_ascii_uppercase());
        let short = match key {
            "registry.host" => Some("SWANCI_REGISTRY"),
            "serve.secret" => Some("SWANCI_SECRET"),
            _ => None,
        };
        let is_it = |known: &str| short == Some(known) || known == name;
        KNOWN.iter().copied().find(|known| is_it(known) && self.get(known).is_some())
    }

    /// Lays the variables over the file. Returns a warning for each `SWANCI_*` that is not known.
    pub(super) fn overlay(&self, raw: &mut RawConfig) -> Result<Vec<String>, Failure> {
        self.set("SWANCI_STATE_DIR", &mut raw.state_dir)?;
        self.set("SWANCI_REGISTRY_HOST", &mut raw.registry.host)?;
        self.set("SWANCI_REGISTRY", &mut raw.registry.host)?;
        self.set("SWANCI_REGISTRY_CA_FILE", &mut raw.registry.ca_file)?;
        self.set("SWANCI_REGISTRY_PLAIN_HTTP", &mut raw.registry.plain_http)?;
        self.set("SWANCI_BUILD_JOBS", &mut raw.build.jobs)?;
        self.set("SWANCI_BUILD_TIMEOUT", &mut raw.build.timeout)?;
        if let Some(list) = self.get("SWANCI_BUILD_TAGS") {
            raw.build.tags = Some(list.split(',').map(|tag| tag.trim().to_owned()).collect());
        }
        self.set("SWANCI_BUILD_KEEP_LOCAL", &mut raw.build.keep_local)?;
        self.set("SWANCI_BUILD_BUILDER", &mut raw.build.builder)?;
        self.set("SWANCI_BUILD_DOCKER", &mut raw.build.docker)?;
        self.set("SWANCI_SERVE_LISTEN", &mut raw.serve.listen)?;
        self.set("SWANCI_SERVE_SECRET_FILE", &mut raw.serve.secret_file)?;
        self.set("SWANCI_SERVE_JOBS", &mut raw.serve.jobs)?;
        self.set("SWANCI_SERVE_TIMEOUT", &mut raw.serve.timeout)?;
        self.set("SWANCI_SERVE_MAX_BODY", &mut raw.serve.max_body)?;
        self.set("SWANCI_SERVE_RETENTION", &mut raw.serve.retention)?;
        self.set("SWANCI_SERVE_ADMIN_LISTEN", &mut raw.serve.admin_listen)?;
        self.set("SWANCI_SERVE_PUBLIC_URL", &mut raw.serve.public_url)?;
        Ok(self.unknown())
    }

    fn set<T: FromStr>(&self, name: &str, slot: &mut Option<T>) -> Result<(), Failure>
    where
        T::Err: std::fmt::Display,
    {
        if let Some(text) = self.get(name) {
            let value = text
                .parse()
                .map_err(|error| Failure::bad_input(format!("{name}: `{text}` is not valid: {error}")))?;
            *slot = Some(value);
        }
        Ok(())
    }

    fn unknown(&self) -> Vec<String> {
        self.0
            .keys()
            .filter(|name| name.starts_with("SWANCI_") && !KNOWN.contains(&name.as_str()))
            .map(|name| format!("the variable {name} is not known to swanci and is ignored"))
            .collect()
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(vars: I) -> Environment {
        Environment(vars.into_iter().collect())
    }
}
