//! The configuration file (TOML): its shape, where a mistake stands, and its validation.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use super::{
    BuildConfig, Config, Environment, ForgeConfig, Mistake, RepositoryConfig, ServeConfig, short_for,
};
use crate::decide::BranchGlobs;
use crate::error::{Classify as _, Failure, Kind};
use crate::escape::shortened;
use crate::json::{Part, line_and_column, parts};
use crate::manifest::Template;
use crate::model::{ForgeName, RegistryAddress, RepoName};
use crate::suggest::{self, Wrong};

/// All readers of the listener share 128 MiB: a larger body could never be taken.
const LARGEST_BODY: ByteSize = ByteSize::mib(128);
/// Far more than any build takes; later deadlines overflow some clocks.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

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
    kind: String,
    url: Option<String>,
    secret_file: Option<OneOrMore>,
    token_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    status: Option<bool>,
    comment: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "a path or a list of paths")]
enum OneOrMore {
    One(PathBuf),
    More(Vec<PathBuf>),
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct RawRepository {
    name: String,
    #[serde(default)]
    branches: Vec<String>,
    forge: Option<String>,
    clone_url: Option<String>,
    namespace: Option<String>,
    #[serde(default)]
    former_names: Vec<String>,
    #[serde(default)]
    secrets: BTreeMap<String, PathBuf>,
    #[serde(default)]
    submodules: bool,
}

/// A value or a key that is wrong: its place, as `repository[0].name`, and why.
#[derive(Debug)]
pub(super) struct Invalid {
    pub(super) key: String,
    pub(super) problem: String,
    pub(super) hint: Option<String>,
    /// The offset in the text, where the key does not lead to it.
    at: Option<usize>,
}

impl Invalid {
    fn new(key: impl Into<String>, problem: impl Into<String>) -> Invalid {
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

    /// Checks every value.
    pub(super) fn validate(self, environment: &Environment) -> Result<Config, Invalid> {
        let registry: Option<RegistryAddress> =
            self.registry.host.as_deref().map(|host| at("registry.host", host.parse())).transpose()?;
        let plain_http = self.registry.plain_http.unwrap_or(false);
        if plain_http && registry.as_ref().is_some_and(|r| !r.is_loopback()) {
            return Err(Invalid::new(
                "registry.plain_http",
                "only a registry on loopback may speak plain HTTP; give the registry a certificate \
                 (`swanci certs` makes one) and name its CA as ca_file",
            ));
        }
        let state_dir = self.state_dir.or_else(|| environment.default_state_dir()).ok_or_else(|| {
            Invalid::new(
                "state_dir",
                "neither HOME nor XDG_STATE_HOME is set; set SWANCI_STATE_DIR or --state-dir",
            )
        })?;
        let tags = self.build.tags.as_deref().map(templates).transpose()?;
        let mut forges = forges(self.forge)?;
        answers(&forges, environment.secret("SWANCI_GIT_TOKEN").is_some())?;
        if let Some(file) = self.serve.secret_file {
            let forge = at("serve.secret_file", short_for(&forges))?;
            forges[forge].secret_files.insert(0, file);
        }
        if let Some(secret) = environment.secret("SWANCI_SECRET") {
            let forge = at("serve.secret", short_for(&forges))?;
            forges[forge].secret = Some(secret);
        }
        let repositories = repositories(self.repository, &forges)?;
        Ok(Config {
            source: None,
            state_dir,
            registry,
            ca_file: self.registry.ca_file,
            plain_http,
            build: BuildConfig {
                jobs: number("build.jobs", self.build.jobs, 1..=256, 2)?,
                timeout: duration("build.timeout", self.build.timeout, 30 * 60)?,
                tags,
                keep_local: number("build.keep_local", self.build.keep_local, 0..=1_000_000, 2)?,
                builder: self.build.builder,
                docker: self.build.docker.unwrap_or_else(|| "docker".to_owned()),
            },
            serve: ServeConfig {
                listen: address("serve.listen", self.serve.listen.as_deref().unwrap_or("127.0.0.1:8080"))?,
                jobs: number("serve.jobs", self.serve.jobs, 0..=64, 1)?,
                timeout: duration("serve.timeout", self.serve.timeout, 60 * 60)?,
                max_body: max_body(self.serve.max_body.as_deref())?,
                retention: duration("serve.retention", self.serve.retention, 90 * 24 * 60 * 60)?,
                admin_listen: match self.serve.admin_listen.as_deref() {
                    Some(text) => Some(address("serve.admin_listen", text)?),
                    None => None,
                },
                public_url: self.serve.public_url.as_deref().map(public_url).transpose()?,
            },
            forges,
            repositories,
            git_token: environment.secret("SWANCI_GIT_TOKEN"),
            job_token: environment.secret("CI_JOB_TOKEN"),
            warnings: Vec::new(),
        })
    }
}

/// Puts the key in front of what is wrong with its value.
fn at<T, E: std::fmt::Display>(key: &str, value: Result<T, E>) -> Result<T, Invalid> {
    value.map_err(|error| Invalid::new(key, error.to_string()))
}

fn number(
    key: &str,
    value: Option<i64>,
    range: std::ops::RangeInclusive<i64>,
    default: usize,
) -> Result<usize, Invalid> {
    let Some(value) = value else { return Ok(default) };
    let problem =
        || Invalid::new(key, format!("{value} is not between {} and {}", range.start(), range.end()));
    if !range.contains(&value) {
        return Err(problem());
    }
    usize::try_from(value).map_err(|_| problem())
}

fn duration(key: &str, value: Option<String>, default_seconds: u64) -> Result<Duration, Invalid> {
    let Some(text) = value else { return Ok(Duration::from_secs(default_seconds)) };
    let duration = humantime::parse_duration(&text).map_err(|error| {
        Invalid::new(
            key,
            format!("`{}`: {error}; a duration looks like 30m, 90s or 2h", shortened(&text, 40)),
        )
    })?;
    if duration.is_zero() || duration > LONGEST {
        return Err(Invalid::new(key, format!("`{text}` is not between a moment and ten years")));
    }
    Ok(duration)
}

fn max_body(value: Option<&str>) -> Result<ByteSize, Invalid> {
    let key = "serve.max_body";
    let Some(text) = value else { return Ok(ByteSize::mib(25)) };
    let size: ByteSize = at(key, text.parse())?;
    if size.as_u64() == 0 || size > LARGEST_BODY {
        return Err(Invalid::new(key, format!("`{text}` is not between 1B and 128MiB")));
    }
    Ok(size)
}

fn address(key: &str, text: &str) -> Result<std::net::SocketAddr, Invalid> {
    text.parse().map_err(|error| {
        Invalid::new(
            key,
            format!("`{}`: {error} (an address looks like 127.0.0.1:8080)", shortened(text, 60)),
        )
    })
}

fn templates(tags: &[String]) -> Result<Vec<Template>, Invalid> {
    tags.iter().enumerate().map(|(i, tag)| at(&format!("build.tags[{i}]"), tag.parse())).collect()
}

/// The configured forges; without any, GitHub's public instance.
fn forges(raw: Vec<RawForge>) -> Result<Vec<ForgeConfig>, Invalid> {
    let mut forges: Vec<ForgeConfig> = Vec::with_capacity(raw.len());
    for (i, raw) in raw.into_iter().enumerate() {
        let kind: ForgeName = at(&format!("forge[{i}].kind"), raw.kind.parse())?;
        let key = format!("forge[{i}].url");
        let url = match (&raw.url, kind.public_url()) {
            (Some(url), _) => at(&key, forge_url(url))?,
            (None, Some(url)) => url.to_owned(),
            (None, None) => {
                let problem = format!("is missing, and {} has no public instance", kind.title());
                return Err(Invalid::new(key, problem));
            }
        };
        if forges.iter().any(|other| other.url == url) {
            return Err(Invalid::new(key, format!("`{url}` is listed twice")));
        }
        forges.push(ForgeConfig {
            kind,
            url,
            secret_files: match raw.secret_file {
                Some(OneOrMore::One(file)) => vec![file],
                Some(OneOrMore::More(files)) => files,
                None => Vec::new(),
            },
            secret: None,
            token_file: raw.token_file,
            ca_file: raw.ca_file,
            status: raw.status.unwrap_or(false),
            comment: raw.comment.unwrap_or(false),
        });
    }
    if forges.is_empty() {
        forges.push(ForgeConfig::default());
    }
    Ok(forges)
}

/// Whether the forges can be told how a merge went.
fn answers(forges: &[ForgeConfig], has_git_token: bool) -> Result<(), Invalid> {
    let without = forges.iter().filter(|forge| forge.token_file.is_none()).count();
    for (i, forge) in forges.iter().enumerate() {
        if forge.status && forge.kind == ForgeName::Gogs {
            let problem = "Gogs has no commit statuses";
            let hint =
                Some("set comment = true instead: a comment on the pull request says how it went".to_owned());
            return Err(Invalid { hint, ..Invalid::new(format!("forge[{i}].status"), problem) });
        }
        // SWANCI_GIT_TOKEN belongs to the only forge, or to the only one without a token of its own.
        let has_token = forge.token_file.is_some() || has_git_token && without == 1;
        if (forge.status || forge.comment) && !has_token {
            let key = if forge.status { "status" } else { "comment" };
            return Err(Invalid {
                hint: Some("name its token as token_file, or set SWANCI_GIT_TOKEN".to_owned()),
                ..Invalid::new(format!("forge[{i}].{key}"), "needs a token, and the forge has none")
            });
        }
    }
    Ok(())
}

/// Where people reach `serve`, without a slash at its end.
fn public_url(text: &str) -> Result<String, Invalid> {
    at("serve.public_url", forge_url(text))
}

/// A forge's URL in the one form in which it is compared: scheme and host in lower case, no default port, no slash at
/// its end.
pub(crate) fn forge_url(text: &str) -> Result<String, String> {
    let shown = shortened(&crate::redact::scrub(text), 80);
    let url = url::Url::parse(text)
        .map_err(|error| format!("`{shown}` is not a URL: {error}; it looks like https://git.example.org"))?;
    let problem = if !matches!(url.scheme(), "https" | "http") {
        "is neither https nor http"
    } else if !url.username().is_empty() || url.password().is_some() {
        "has a login in it; name a token_file"
    } else if url.query().is_some() || url.fragment().is_some() {
        "has a query or a fragment"
    } else if url.path().contains("//") || url.path().contains('%') {
        "has a path that no forge is served under"
    } else {
        return Ok(url.as_str().trim_end_matches('/').to_owned());
    };
    Err(format!("`{shown}` {problem}"))
}

fn full_name(key: &str, text: &str) -> Result<RepoName, Invalid> {
    let name: RepoName = at(key, text.parse())?;
    if name.has_owner() {
        return Ok(name);
    }
    let problem = format!("`{name}` has no owner");
    Err(Invalid { hint: Some("write OWNER/NAME, as in acme/shop".to_owned()), ..Invalid::new(key, problem) })
}

fn repositories(raw: Vec<RawRepository>, forges: &[ForgeConfig]) -> Result<Vec<RepositoryConfig>, Invalid> {
    let mut repositories: Vec<RepositoryConfig> = Vec::with_capacity(raw.len());
    // Forges ignore case, so the names are compared without it. Each forge has its own.
    let mut names = BTreeSet::new();
    for (i, raw) in raw.into_iter().enumerate() {
        let at_key = |key: &str| format!("repository[{i}].{key}");
        let name = full_name(&at_key("name"), &raw.name)?;
        let forge = forge_of(raw.forge.as_deref(), forges)
            .map_err(|problem| Invalid::new(at_key("forge"), problem))?;
        if !names.insert((forge.clone(), name.as_str().to_ascii_lowercase())) {
            return Err(Invalid::new(at_key("name"), format!("`{name}` is listed twice")));
        }
        at(&at_key("branches"), BranchGlobs::new(&raw.branches))?;
        for id in raw.secrets.keys() {
            at(&at_key("secrets"), is_secret_id(id))?;
        }
        let former_names = raw.former_names.iter().enumerate();
        repositories.push(RepositoryConfig {
            branches: raw.branches,
            forge,
            clone_url: raw.clone_url,
            namespace: raw.namespace.map(|n| at(&at_key("namespace"), n.parse())).transpose()?,
            former_names: former_names
                .map(|(j, former)| full_name(&at_key(&format!("former_names[{j}]")), former))
                .collect::<Result<_, _>>()?,
            secrets: raw.secrets,
            submodules: raw.submodules,
            name,
        });
    }
    for (i, repository) in repositories.iter().enumerate() {
        for (j, former) in repository.former_names.iter().enumerate() {
            if !names.insert((repository.forge.clone(), former.as_str().to_ascii_lowercase())) {
                let key = format!("repository[{i}].former_names[{j}]");
                return Err(Invalid::new(
                    key,
                    format!("`{former}` is already the name or a former name of an entry"),
                ));
            }
        }
    }
    Ok(repositories)
}

/// Which forge a repository lives on.
fn forge_of(named: Option<&str>, forges: &[ForgeConfig]) -> Result<String, String> {
    let known = || forges.iter().map(|forge| forge.url.as_str()).collect::<Vec<_>>().join(", ");
    match (named, forges) {
        (None, [only]) => Ok(only.url.clone()),
        (None, _) => Err(format!("is missing: several forges are configured, so name one of {}", known())),
        (Some(named), _) => {
            let url = forge_url(named)?;
            let found = forges.iter().any(|forge| forge.url == url);
            found.then_some(url).ok_or_else(|| {
                format!(
                    "`{}` is not the url of a configured forge; known are {}",
                    shortened(named, 80),
                    known()
                )
            })
        }
    }
}

/// Whether it can name a build secret.
pub(crate) fn is_secret_id(id: &str) -> Result<(), String> {
    let valid =
        !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    if valid {
        return Ok(());
    }
    Err(format!("`{}` is not a valid secret id (letters, digits, `_`, `-`, `.`)", shortened(id, 40)))
}
