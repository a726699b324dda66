//! The configuration file (TOML): its shape, and where a mistake stands.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use super::{Environment, Mistake};
use crate::error::{Classify as _, Failure, Kind};
use crate::json::{Part, line_and_column, parts};
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

/// A value or a key that is wrong: its place, as `repository[0].name`, and why.
#[derive(Debug)]
pub(super) struct Invalid {
    pub(super) key: String,
    pub(super) problem: String,
    pub(super) hint: Option<String>,
    /// The offset in the text, where the key does not lead to it.
    pub(super) at: Option<usize>,
}

impl Invalid {
    pub(super) fn new(key: impl Into<String>, problem: impl Into<String>) -> Invalid {
        Invalid { key: key.into(), problem: problem.into(), hint: None, at: None }
    }

    /// The line and the column, from 1.
    pub(super) fn place(&self, text: &str) -> Option<(usize, usize)> {
        let by_key = || offset_of(DeTable::parse(text).ok()?.get_ref(), &self.key);
        Some(line_and_column(text, self.at.or_else(by_key)?))
    }

    /// Names the variable, or the file and the line, that the value comes from.
    pub(super) fn explain(self, path: Option<&Path>, text: &str, environment: &Environment) -> Failure {
        let place = match (environment.variable_of(&self.key), path, self.place(text)) {
            (Some(variable), _, _) => variable.to_owned(),
            (None, Some(path), Some((line, _))) => {
                format!("{}, line {line}{}", path.display(), self.at_key())
            }
            (None, Some(path), None) => format!("{}{}", path.display(), self.at_key()),
            (None, None, _) => self.key.clone(),
        };
        let failure = Failure::bad_input(format!("{place}: {}", self.problem));
        match self.hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }

    fn at_key(&self) -> String {
        if self.key.is_empty() { String::new() } else { format!(": {}", self.key) }
    }
}

/// Where the key stands, or the innermost on the way to it that exists.
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

/// Reads the file.
pub(super) fn read(path: &Path) -> Result<String, Failure> {
    let mut text = std::fs::read_to_string(path)
        .classify(Kind::BadInput, || format!("cannot read the configuration {}", path.display()))?;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

/// The sections, and the lists of sections.
const SECTIONS: [&str; 3] = ["registry", "build", "serve"];
const LISTS: [&str; 2] = ["forge", "repository"];

pub(super) fn table(text: &str) -> Result<toml::Table, Invalid> {
    text.parse::<toml::Table>().map_err(|error| Invalid {
        at: error.span().map(|span| span.start),
        ..Invalid::new("", format!("this is not TOML: {}", error.message()))
    })
}

/// Reads the table.
pub(super) fn parse(table: toml::Table) -> Result<RawConfig, Invalid> {
    for name in SECTIONS.into_iter().chain(LISTS) {
        let write = match table.get(name) {
            Some(toml::Value::Array(_)) if SECTIONS.contains(&name) => format!("[{name}]"),
            Some(toml::Value::Table(_)) if LISTS.contains(&name) => format!("[[{name}]]"),
            Some(_) | None => continue,
        };
        let why = if LISTS.contains(&name) { "there can be several" } else { "there is only one" };
        return Err(Invalid::new(name, format!("{why}: write {write}")));
    }
    serde_path_to_error::deserialize(table).map_err(|error| {
        let path = error.path().to_string();
        let message = error.into_inner();
        let wrong = suggest::in_plain_words(message.message(), "a table");
        match &wrong {
            Wrong::Other(problem) => {
                Invalid::new(if path == "." { String::new() } else { path }, problem.as_str())
            }
            Wrong::UnknownKey { key, known } => {
                let hint = elsewhere(key, known).or_else(|| wrong.hint());
                Invalid { hint, ..Invalid::new(path, "unknown key") }
            }
        }
    })
}

/// For a key that stands in the wrong section.
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
    let found: Vec<&str> = sections
        .iter()
        .filter(|(_, keys)| keys.iter().any(|k| k == key))
        .map(|(section, _)| *section)
        .collect();
    (!found.is_empty()).then(|| format!("`{key}` belongs to {}", found.join(" or ")))
}

/// The keys of a section, as serde lists them for one that it does not know.
fn keys_of<T: serde::de::DeserializeOwned>() -> Vec<String> {
    let unknown = toml::Table::from_iter([(String::new(), toml::Value::Boolean(true))]);
    match T::deserialize(unknown).map_err(|error| suggest::in_plain_words(error.message(), "a table")) {
        Err(Wrong::UnknownKey { known, .. }) => known,
        Err(Wrong::Other(_)) | Ok(_) => Vec::new(),
    }
}

/// More are not reported at once.
const MOST_MISTAKES: usize = 100;

/// Every mistake in the text; the values of the environment are left out.
pub(super) fn mistakes(text: &str, environment: &Environment) -> Vec<Mistake> {
    let described = |invalid: Invalid| Mistake {
        at: invalid.place(text),
        key: invalid.key,
        problem: invalid.problem,
        hint: invalid.hint,
    };
    let mut rest = match table(text) {
        Ok(table) => table,
        Err(invalid) => return vec![described(invalid)],
    };
    let mut found: Vec<Mistake> = Vec::new();
    while let Err(invalid) = parse(rest.clone()).and_then(|raw| raw.validate(environment)) {
        let parts: Vec<Part<'_>> = parts(&invalid.key).collect();
        let mended = mend(&mut rest, &parts, found.len());
        let again = found.last().is_some_and(|last| last.key == invalid.key);
        if !again {
            found.push(described(invalid));
        }
        if again || !mended || found.len() == MOST_MISTAKES {
            break;
        }
    }
    found
}

/// Takes out what is wrong; a name or a kind, without which its section cannot be read, is replaced.
fn mend(table: &mut toml::Table, key: &[Part<'_>], number: usize) -> bool {
    let [Part::Key(first), rest @ ..] = key else { return false };
    match (*first, rest, table.get_mut(*first)) {
        (_, _, None) => false,
        ("name", [], Some(name)) => {
            *name = toml::Value::String(format!("swanci-check/{number}"));
            true
        }
        ("kind", [], Some(kind)) => {
            *kind = toml::Value::String("github".to_owned());
            true
        }
        (_, [Part::Index(index), rest @ ..], Some(toml::Value::Array(list)))
            if list.iter().any(toml::Value::is_table) =>
        {
            match list.get_mut(*index) {
                Some(toml::Value::Table(table)) => mend(table, rest, number),
                Some(_) | None => false,
            }
        }
        (_, [_, ..], Some(toml::Value::Table(table))) => mend(table, rest, number),
        (_, _, Some(_)) => table.remove(*first).is_some(),
    }
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
