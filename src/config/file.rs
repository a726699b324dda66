//! The configuration file (TOML): its shape, and the positions of mistakes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use super::Environment;
use crate::error::{Classify as _, Failure, Kind};
use crate::json::{Part, line_and_column, parts};
use crate::model::Mistake;
use crate::suggest::{self, Wrong};

/// The file as it is written: everything optional, nothing validated.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawConfig {
    pub(super) state_dir: Option<PathBuf>,
    pub(super) registry: RawRegistry,
    pub(super) build: RawBuild,
    pub(super) serve: RawServe,
    pub(super) forge: Vec<RawForge>,
    pub(super) repository: Vec<RawRepository>,
}

#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRegistry {
    pub(super) host: Option<String>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) plain_http: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawBuild {
    pub(super) jobs: Option<i64>,
    pub(super) timeout: Option<String>,
    pub(super) tags: Option<Vec<String>>,
    pub(super) keep_local: Option<i64>,
    pub(super) builder: Option<String>,
    pub(super) docker: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawServe {
    pub(super) listen: Option<String>,
    pub(super) secret_file: Option<PathBuf>,
    pub(super) jobs: Option<i64>,
    pub(super) timeout: Option<String>,
    pub(super) max_body: Option<String>,
    pub(super) retention: Option<String>,
    pub(super) admin_listen: Option<String>,
    pub(super) public_url: Option<String>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct RawForge {
    pub(super) kind: String,
    pub(super) url: Option<String>,
    pub(super) secret_file: Option<OneOrMore>,
    pub(super) token_file: Option<PathBuf>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) status: Option<bool>,
    pub(super) comment: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "a path or a list of paths")]
pub(super) enum OneOrMore {
    One(PathBuf),
    More(Vec<PathBuf>),
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct RawRepository {
    pub(super) name: String,
    #[serde(default)]
    pub(super) branches: Vec<String>,
    pub(super) forge: Option<String>,
    pub(super) clone_url: Option<String>,
    pub(super) namespace: Option<String>,
    #[serde(default)]
    pub(super) former_names: Vec<String>,
    #[serde(default)]
    pub(super) secrets: BTreeMap<String, PathBuf>,
    #[serde(default)]
    pub(super) submodules: bool,
}

impl Mistake {
    /// Adds the position of its key in the text.
    fn placed(self, text: &str) -> Mistake {
        let by_key = || {
            let offset = offset_of(DeTable::parse(text).ok()?.get_ref(), &self.key)?;
            Some(line_and_column(text, offset))
        };
        Mistake { at: self.at.or_else(by_key), ..self }
    }

    /// Names the variable, or the file and the line, that the value comes from.
    pub(super) fn explain(self, path: Option<&Path>, text: &str, environment: &Environment) -> Failure {
        let mistake = self.placed(text);
        let key = if mistake.key.is_empty() { String::new() } else { format!(": {}", mistake.key) };
        let place = match (environment.variable_of(&mistake.key), path, mistake.at) {
            (Some(variable), _, _) => variable.to_owned(),
            (None, Some(path), Some((line, _))) => format!("{}, line {line}{key}", path.display()),
            (None, Some(path), None) => format!("{}{key}", path.display()),
            (None, None, _) => mistake.key,
        };
        let failure = Failure::bad_input(format!("{place}: {}", mistake.problem));
        Failure { hint: mistake.hint, ..failure }
    }
}

/// The offset of the key, or of the innermost part of it that exists.
fn offset_of(table: &DeTable<'_>, key: &str) -> Option<usize> {
    let mut parts = parts(key);
    let Some(Part::Key(first)) = parts.next() else { return None };
    let (name, value) = table.get_key_value(first)?;
    let mut found = name.span();
    let mut value = value.get_ref();
    for part in parts {
        let next = match (part, value) {
            (Part::Index(index), DeValue::Array(list)) => list.get(index).map(|next| (next.span(), next)),
            (Part::Key(key), DeValue::Table(table)) => {
                table.get_key_value(key).map(|(name, next)| (name.span(), next))
            }
            (Part::Index(_) | Part::Key(_), _) => None,
        };
        let Some((span, next)) = next else { break };
        found = span;
        value = next.get_ref();
    }
    Some(found.start)
}

pub(super) fn read(path: &Path) -> Result<String, Failure> {
    let mut text = std::fs::read_to_string(path)
        .classify(Kind::BadInput, || format!("cannot read the configuration {}", path.display()))?;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

const SECTIONS: [&str; 3] = ["registry", "build", "serve"];
const LISTS: [&str; 2] = ["forge", "repository"];

pub(super) fn table(text: &str) -> Result<toml::Table, Mistake> {
    text.parse::<toml::Table>().map_err(|error| Mistake {
        at: error.span().map(|span| line_and_column(text, span.start)),
        ..Mistake::new("", format!("this is not TOML: {}", error.message()))
    })
}

pub(super) fn parse(table: toml::Table) -> Result<RawConfig, Mistake> {
    for name in SECTIONS.into_iter().chain(LISTS) {
        let is_list = LISTS.contains(&name);
        match table.get(name) {
            Some(toml::Value::Array(_)) if !is_list => {
                return Err(Mistake::new(name, format!("there is only one: write [{name}]")));
            }
            Some(toml::Value::Table(_)) if is_list => {
                return Err(Mistake::new(name, format!("there can be several: write [[{name}]]")));
            }
            Some(_) | None => {}
        }
    }
    serde_path_to_error::deserialize(table).map_err(|error| {
        let path = error.path().to_string();
        let message = error.into_inner();
        let wrong = suggest::in_plain_words(message.message(), "a table");
        match &wrong {
            Wrong::Other(problem) => Mistake::new(if path == "." { "" } else { &path }, problem.as_str()),
            Wrong::UnknownKey { key, known } => {
                let hint = elsewhere(key, known).or_else(|| wrong.hint());
                Mistake { hint, ..Mistake::new(path, "unknown key") }
            }
        }
    })
}

/// The hint for a key that belongs to another section.
fn elsewhere(key: &str, known: &[String]) -> Option<String> {
    if suggest::nearest(key, known.iter().map(String::as_str)).is_some() {
        return None;
    }
    let sections = [
        ("[registry]", keys_of::<RawRegistry>()),
        ("[build]", keys_of::<RawBuild>()),
        ("[serve]", keys_of::<RawServe>()),
        ("[[forge]]", keys_of::<RawForge>()),
        ("[[repository]]", keys_of::<RawRepository>()),
    ];
    let found = sections.iter().filter(|(_, keys)| keys.iter().any(|k| k == key));
    let found: Vec<&str> = found.map(|(section, _)| *section).collect();
    (!found.is_empty()).then(|| format!("`{key}` belongs to {}", found.join(" or ")))
}

/// The keys of a section, from serde's error about an unknown one.
fn keys_of<T: serde::de::DeserializeOwned>() -> Vec<String> {
    let unknown = toml::Table::from_iter([(String::new(), toml::Value::Boolean(true))]);
    match T::deserialize(unknown).map_err(|error| suggest::in_plain_words(error.message(), "a table")) {
        Err(Wrong::UnknownKey { known, .. }) => known,
        Err(Wrong::Other(_)) | Ok(_) => Vec::new(),
    }
}

const MOST_MISTAKES: usize = 100;

/// Every mistake in the text, without the environment: it is parsed repeatedly, each time without the wrong values found
/// so far.
pub(super) fn mistakes(text: &str, environment: &Environment) -> Vec<Mistake> {
    let mut rest = match table(text) {
        Ok(table) => table,
        Err(mistake) => return vec![mistake],
    };
    let mut found: Vec<Mistake> = Vec::new();
    while let Err(mistake) = parse(rest.clone()).and_then(|raw| raw.validate(environment)) {
        let parts: Vec<Part<'_>> = parts(&mistake.key).collect();
        let is_removed = remove(&mut rest, &parts, found.len());
        if found.last().is_some_and(|last| last.key == mistake.key) {
            break;
        }
        found.push(mistake.placed(text));
        if !is_removed || found.len() == MOST_MISTAKES {
            break;
        }
    }
    found
}

/// Removes a wrong value. A name or a kind is replaced, because its section cannot be read without it.
fn remove(table: &mut toml::Table, key: &[Part<'_>], number: usize) -> bool {
    let [Part::Key(first), rest @ ..] = key else { return false };
    let Some(value) = table.get_mut(*first) else { return false };
    match (*first, rest, value) {
        ("name", [], name) => *name = format!("swanci-check/{number}").into(),
        ("kind", [], kind) => *kind = "github".into(),
        (_, [Part::Index(index), rest @ ..], toml::Value::Array(list))
            if list.iter().any(toml::Value::is_table) =>
        {
            let table = list.get_mut(*index).and_then(toml::Value::as_table_mut);
            return table.is_some_and(|table| remove(table, rest, number));
        }
        (_, [_, ..], toml::Value::Table(table)) => return remove(table, rest, number),
        (_, _, _) => drop(table.remove(*first)),
    }
    true
}

impl RawConfig {
    /// Makes relative paths relative to the file's folder.
    pub(super) fn anchor(&mut self, base: &Path) {
        let anchor = |path: &mut PathBuf| *path = base.join(&*path);
        self.state_dir.as_mut().map(anchor);
        self.registry.ca_file.as_mut().map(anchor);
        self.serve.secret_file.as_mut().map(anchor);
        for forge in &mut self.forge {
            forge.token_file.as_mut().map(anchor);
            forge.ca_file.as_mut().map(anchor);
            match &mut forge.secret_file {
                Some(OneOrMore::One(file)) => anchor(file),
                Some(OneOrMore::More(files)) => files.iter_mut().for_each(anchor),
                None => {}
            }
        }
        for repository in &mut self.repository {
            repository.secrets.values_mut().for_each(anchor);
            if let Some(url) = &mut repository.clone_url
                && (url.starts_with("./") || url.starts_with("../"))
            {
                *url = base.join(&*url).display().to_string();
            }
        }
    }
}
