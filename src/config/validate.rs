//! The values of the configuration file, each checked.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytesize::ByteSize;

use super::file::{OneOrMore, RawBuild, RawConfig, RawForge, RawRepository, RawServe};
use super::{BuildConfig, Config, Environment, ForgeConfig, RepositoryConfig, ServeConfig, short_for};
use crate::decide::BranchGlobs;
use crate::escape::shortened;
use crate::manifest::Template;
use crate::model::{ForgeName, Mistake, RegistryAddress, RepoName};

/// All connections of the listener share 128 MiB, so it can never accept a larger body.
const LARGEST_BODY: ByteSize = ByteSize::mib(128);
/// Far more than any build takes; later deadlines overflow some clocks.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

impl RawConfig {
    pub(super) fn validate(self, environment: &Environment) -> Result<Config, Mistake> {
        let registry: Option<RegistryAddress> =
            self.registry.host.as_deref().map(|host| at("registry.host", host.parse())).transpose()?;
        let plain_http = self.registry.plain_http.unwrap_or(false);
        if plain_http && registry.as_ref().is_some_and(|r| !r.is_loopback()) {
            let problem = "only a registry on loopback may use plain HTTP; give the registry a certificate \
                           (`swanci certs` makes one) and name its CA as ca_file";
            return Err(Mistake::new("registry.plain_http", problem));
        }
        let state_dir = self.state_dir.or_else(|| environment.default_state_dir()).ok_or_else(|| {
            let problem = "neither HOME nor XDG_STATE_HOME is set; set SWANCI_STATE_DIR or --state-dir";
            Mistake::new("state_dir", problem)
        })?;
        let mut forges = forges(self.forge)?;
        check_reports(&forges, environment.secret("SWANCI_GIT_TOKEN").is_some())?;
        if let Some(file) = self.serve.secret_file {
            let forge = at("serve.secret_file", short_for(&forges))?;
            forges[forge].secret_files.insert(0, file);
        }
        if let Some(secret) = environment.secret("SWANCI_SECRET") {
            let forge = at("serve.secret", short_for(&forges))?;
            forges[forge].secret = Some(secret);
        }
        let RawBuild { jobs, timeout, tags, keep_local, builder, docker } = self.build;
        let build = BuildConfig {
            jobs: number("build.jobs", jobs, 1..=256, 2)?,
            timeout: duration("build.timeout", timeout, 30 * 60)?,
            tags: tags.as_deref().map(templates).transpose()?,
            keep_local: number("build.keep_local", keep_local, 0..=1_000_000, 2)?,
            builder,
            docker: docker.unwrap_or_else(|| "docker".to_owned()),
        };
        let RawServe { listen, jobs, timeout, max_body, retention, admin_listen, public_url, .. } =
            self.serve;
        let serve = ServeConfig {
            listen: address("serve.listen", listen.as_deref().unwrap_or("127.0.0.1:8080"))?,
            jobs: number("serve.jobs", jobs, 0..=64, 1)?,
            timeout: duration("serve.timeout", timeout, 60 * 60)?,
            max_body: size("serve.max_body", max_body.as_deref())?,
            retention: duration("serve.retention", retention, 90 * 24 * 60 * 60)?,
            admin_listen: admin_listen.map(|text| address("serve.admin_listen", &text)).transpose()?,
            public_url: public_url.map(|url| at("serve.public_url", forge_url(&url))).transpose()?,
        };
        Ok(Config {
            source: None,
            state_dir,
            registry,
            ca_file: self.registry.ca_file,
            plain_http,
            build,
            serve,
            repositories: repositories(self.repository, &forges)?,
            forges,
            git_token: environment.secret("SWANCI_GIT_TOKEN"),
            job_token: environment.secret("CI_JOB_TOKEN"),
            warnings: Vec::new(),
        })
    }
}

/// Puts the key in front of what is wrong with its value.
fn at<T, E: std::fmt::Display>(key: &str, value: Result<T, E>) -> Result<T, Mistake> {
    value.map_err(|error| Mistake::new(key, error.to_string()))
}

fn number(
    key: &str,
    value: Option<i64>,
    range: RangeInclusive<usize>,
    default: usize,
) -> Result<usize, Mistake> {
    let Some(value) = value else { return Ok(default) };
    usize::try_from(value).ok().filter(|number| range.contains(number)).ok_or_else(|| {
        Mistake::new(key, format!("{value} is not between {} and {}", range.start(), range.end()))
    })
}

fn duration(key: &str, value: Option<String>, default_seconds: u64) -> Result<Duration, Mistake> {
    let Some(text) = value else { return Ok(Duration::from_secs(default_seconds)) };
    let (duration, text) = (humantime::parse_duration(&text), shortened(&text, 40));
    match duration {
        Ok(duration) if !duration.is_zero() && duration <= LONGEST => Ok(duration),
        Ok(_) => Err(Mistake::new(key, format!("`{text}` is not between a moment and ten years"))),
        Err(error) => {
            Err(Mistake::new(key, format!("`{text}`: {error}; a duration looks like 30m, 90s or 2h")))
        }
    }
}

fn size(key: &str, value: Option<&str>) -> Result<ByteSize, Mistake> {
    let Some(text) = value else { return Ok(ByteSize::mib(25)) };
    match at(key, text.parse::<ByteSize>())? {
        size if size.as_u64() > 0 && size <= LARGEST_BODY => Ok(size),
        _ => Err(Mistake::new(key, format!("`{text}` is not between 1B and 128MiB"))),
    }
}

fn address(key: &str, text: &str) -> Result<SocketAddr, Mistake> {
    text.parse().map_err(|error| {
        let text = shortened(text, 60);
        Mistake::new(key, format!("`{text}`: {error} (an address looks like 127.0.0.1:8080)"))
    })
}

fn templates(tags: &[String]) -> Result<Vec<Template>, Mistake> {
    tags.iter().enumerate().map(|(i, tag)| at(&format!("build.tags[{i}]"), tag.parse())).collect()
}

/// The configured forges; without any, GitHub's public instance.
fn forges(raw: Vec<RawForge>) -> Result<Vec<ForgeConfig>, Mistake> {
    let mut forges: Vec<ForgeConfig> = Vec::with_capacity(raw.len());
    for (i, raw) in raw.into_iter().enumerate() {
        let kind: ForgeName = at(&format!("forge[{i}].kind"), raw.kind.parse())?;
        let key = format!("forge[{i}].url");
        let url = match (&raw.url, kind.public_url()) {
            (Some(url), _) => at(&key, forge_url(url))?,
            (None, Some(url)) => url.to_owned(),
            (None, None) => {
                let kind = kind.title();
                return Err(Mistake::new(key, format!("is missing, and {kind} has no public instance")));
            }
        };
        if forges.iter().any(|other| other.url == url) {
            return Err(Mistake::new(key, format!("`{url}` is listed twice")));
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

/// Statuses and comments need a token, and a forge that has them.
fn check_reports(forges: &[ForgeConfig], has_git_token: bool) -> Result<(), Mistake> {
    let without = forges.iter().filter(|forge| forge.token_file.is_none()).count();
    for (i, forge) in forges.iter().enumerate() {
        if forge.status && forge.kind == ForgeName::Gogs {
            return Err(Mistake::new(format!("forge[{i}].status"), "Gogs has no commit statuses")
                .hint("set comment = true instead: a comment on the pull request says how it went"));
        }
        // SWANCI_GIT_TOKEN belongs to the only forge, or to the only one without its own token.
        let has_token = forge.token_file.is_some() || has_git_token && without == 1;
        if (forge.status || forge.comment) && !has_token {
            let key = if forge.status { "status" } else { "comment" };
            return Err(Mistake::new(format!("forge[{i}].{key}"), "needs a token, and the forge has none")
                .hint("name its token as token_file, or set SWANCI_GIT_TOKEN"));
        }
    }
    Ok(())
}

/// A URL in the form in which forges are compared: scheme and host in lower case, no default port, no slash at the end.
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

fn full_name(key: &str, text: &str) -> Result<RepoName, Mistake> {
    let name: RepoName = at(key, text.parse())?;
    if name.has_owner() {
        return Ok(name);
    }
    Err(Mistake::new(key, format!("`{name}` has no owner")).hint("write OWNER/NAME, as in acme/shop"))
}

fn repositories(raw: Vec<RawRepository>, forges: &[ForgeConfig]) -> Result<Vec<RepositoryConfig>, Mistake> {
    let mut repositories: Vec<RepositoryConfig> = Vec::with_capacity(raw.len());
    // Forges ignore case, so the names are compared without it. Each forge has its own.
    let mut names = BTreeSet::new();
    for (i, raw) in raw.into_iter().enumerate() {
        let key = |key: &str| format!("repository[{i}].{key}");
        let name = full_name(&key("name"), &raw.name)?;
        let forge = at(&key("forge"), forge_of(raw.forge.as_deref(), forges))?;
        if !names.insert((forge.url.clone(), name.as_str().to_ascii_lowercase())) {
            return Err(Mistake::new(key("name"), format!("`{name}` is listed twice")));
        }
        for id in raw.secrets.keys() {
            at(&key("secrets"), is_secret_id(id))?;
        }
        let former_names = raw.former_names.iter().enumerate();
        repositories.push(RepositoryConfig {
            branches: at(&key("branches"), BranchGlobs::new(&raw.branches))?,
            forge_kind: forge.kind,
            forge: forge.url.clone(),
            clone_url: raw.clone_url,
            namespace: raw.namespace.map(|n| at(&key("namespace"), n.parse())).transpose()?,
            former_names: former_names
                .map(|(j, former)| full_name(&key(&format!("former_names[{j}]")), former))
                .collect::<Result<_, _>>()?,
            secrets: raw.secrets,
            submodules: raw.submodules,
            name,
        });
    }
    for (i, repository) in repositories.iter().enumerate() {
        for (j, former) in repository.former_names.iter().enumerate() {
            if !names.insert((repository.forge.clone(), former.as_str().to_ascii_lowercase())) {
                let problem = format!("`{former}` is already the name or a former name of an entry");
                return Err(Mistake::new(format!("repository[{i}].former_names[{j}]"), problem));
            }
        }
    }
    Ok(repositories)
}

fn forge_of<'f>(named: Option<&str>, forges: &'f [ForgeConfig]) -> Result<&'f ForgeConfig, String> {
    let known = || forges.iter().map(|forge| forge.url.as_str()).collect::<Vec<_>>().join(", ");
    match (named, forges) {
        (None, [only]) => Ok(only),
        (None, _) => Err(format!("is missing: several forges are configured, so name one of {}", known())),
        (Some(named), _) => {
            let url = forge_url(named)?;
            forges.iter().find(|forge| forge.url == url).ok_or_else(|| {
                let named = shortened(named, 80);
                format!("`{named}` is not the url of a configured forge; known are {}", known())
            })
        }
    }
}

pub(crate) fn is_secret_id(id: &str) -> Result<(), String> {
    let valid =
        !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    if valid {
        return Ok(());
    }
    Err(format!("`{}` is not a valid secret id (letters, digits, `_`, `-`, `.`)", shortened(id, 40)))
}
