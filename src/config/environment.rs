//! The environment as a layer of the configuration: `SWANCI_<SECTION>_<KEY>` and a few short names.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Display, Formatter};
use std::path::PathBuf;
use std::str::FromStr;

use secrecy::SecretString;

use super::file::RawConfig;
use crate::error::Failure;

/// The variables of the process, read once.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Debug for Environment {
    /// Names only: values may be secrets.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

type SetValue = fn(&mut RawConfig, &str) -> Result<(), String>;

/// Every known variable, in the order in which they override each other. The first three are read elsewhere.
const VARIABLES: [(&str, SetValue); 22] = [
    ("SWANCI_CONFIG", |_, _| Ok(())),
    ("SWANCI_SECRET", |_, _| Ok(())),
    ("SWANCI_GIT_TOKEN", |_, _| Ok(())),
    ("SWANCI_STATE_DIR", |raw, text| set(&mut raw.state_dir, text)),
    ("SWANCI_REGISTRY_HOST", |raw, text| set(&mut raw.registry.host, text)),
    ("SWANCI_REGISTRY", |raw, text| set(&mut raw.registry.host, text)),
    ("SWANCI_REGISTRY_CA_FILE", |raw, text| set(&mut raw.registry.ca_file, text)),
    ("SWANCI_REGISTRY_PLAIN_HTTP", |raw, text| set(&mut raw.registry.plain_http, text)),
    ("SWANCI_BUILD_JOBS", |raw, text| set(&mut raw.build.jobs, text)),
    ("SWANCI_BUILD_TIMEOUT", |raw, text| set(&mut raw.build.timeout, text)),
    ("SWANCI_BUILD_TAGS", |raw, text| {
        raw.build.tags = Some(text.split(',').map(|tag| tag.trim().to_owned()).collect());
        Ok(())
    }),
    ("SWANCI_BUILD_KEEP_LOCAL", |raw, text| set(&mut raw.build.keep_local, text)),
    ("SWANCI_BUILD_BUILDER", |raw, text| set(&mut raw.build.builder, text)),
    ("SWANCI_BUILD_DOCKER", |raw, text| set(&mut raw.build.docker, text)),
    ("SWANCI_SERVE_LISTEN", |raw, text| set(&mut raw.serve.listen, text)),
    ("SWANCI_SERVE_SECRET_FILE", |raw, text| set(&mut raw.serve.secret_file, text)),
    ("SWANCI_SERVE_JOBS", |raw, text| set(&mut raw.serve.jobs, text)),
    ("SWANCI_SERVE_TIMEOUT", |raw, text| set(&mut raw.serve.timeout, text)),
    ("SWANCI_SERVE_MAX_BODY", |raw, text| set(&mut raw.serve.max_body, text)),
    ("SWANCI_SERVE_RETENTION", |raw, text| set(&mut raw.serve.retention, text)),
    ("SWANCI_SERVE_ADMIN_LISTEN", |raw, text| set(&mut raw.serve.admin_listen, text)),
    ("SWANCI_SERVE_PUBLIC_URL", |raw, text| set(&mut raw.serve.public_url, text)),
];

fn set<T: FromStr<Err: Display>>(value: &mut Option<T>, text: &str) -> Result<(), String> {
    *value = Some(text.parse().map_err(|error| format!("`{text}` is not valid: {error}"))?);
    Ok(())
}

impl Environment {
    /// Values that are not UTF-8 count as not set.
    pub fn of_process() -> Environment {
        std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .collect()
    }

    /// A variable that is set and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

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

    /// The variable that set a key like `build.tags[0]`, if any.
    pub(super) fn variable_of(&self, key: &str) -> Option<&'static str> {
        let key = key.split('[').next().unwrap_or(key);
        let name = format!("SWANCI_{}", key.replace('.', "_").to_ascii_uppercase());
        let short = match key {
            "registry.host" => Some("SWANCI_REGISTRY"),
            "serve.secret" => Some("SWANCI_SECRET"),
            _ => None,
        };
        let is_it = |known: &str| short == Some(known) || known == name;
        let mut names = VARIABLES.iter().rev().map(|(known, _)| *known);
        names.find(|known| is_it(known) && self.get(known).is_some())
    }

    /// Overrides the file's values. Returns a warning for each unknown `SWANCI_*`.
    pub(super) fn overlay(&self, raw: &mut RawConfig) -> Result<Vec<String>, Failure> {
        for (name, set) in VARIABLES {
            if let Some(text) = self.get(name) {
                set(raw, text).map_err(|problem| Failure::bad_input(format!("{name}: {problem}")))?;
            }
        }
        let unknown =
            |name: &&String| name.starts_with("SWANCI_") && VARIABLES.iter().all(|(known, _)| known != name);
        let warning = |name| format!("the variable {name} is not known to swanci and is ignored");
        Ok(self.0.keys().filter(unknown).map(warning).collect())
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(vars: I) -> Environment {
        Environment(vars.into_iter().collect())
    }
}
