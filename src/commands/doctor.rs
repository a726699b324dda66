//! `swanci doctor`: checks each part of the environment and suggests repairs.

use std::time::Duration;

use bytesize::ByteSize;
use console::Term;
use serde::Serialize;
use serde_json::json;
use url::Url;

use crate::cancel::Cancel;
use crate::cli::SiteArgs;
use crate::config::{ForgeConfig, RepositoryConfig};
use crate::docker::Builder;
use crate::error::Failure;
use crate::escape::escaped;
use crate::git;
use crate::http::proxy::{self, Proxies};
use crate::model::{ForgeName, ImageName, ImageRepository, RegistryAddress};
use crate::pipeline::{Origin, Site};

use super::Session;
use super::documents_io::{print, show};
use super::report::api_of;

/// Time limit for a single check.
const LIMIT: Duration = Duration::from_secs(20);
/// Certificates that expire within this time cause a warning.
const SOON: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Less free space causes a warning: a single build could fill it.
const SCARCE: u64 = 2 << 30;

/// Columns in front of a detail.
const INDENT: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Health {
    Ok,
    Warning,
    Failed,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    health: Health,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

/// Prints each check when it is done; a failed one exits with 6.
pub(super) fn command(session: &Session, registry: Option<RegistryAddress>) -> Result<(), Failure> {
    let mut checks = Vec::new();
    let mut closed = None;
    let mut report = |check: Check| {
        if !session.json && closed.is_none() {
            closed = print(&shown(&check)).err();
        }
        checks.push(check);
    };
    match session.site(&SiteArgs { registry, ..SiteArgs::default() }) {
        Ok(site) => check_all(session, &site, &mut report),
        Err(failure) => report(failed("configuration", failure)),
    }
    if let Some(stop) = session.cancel.stopped() {
        return Err(stop.into());
    }
    let healthy = checks.iter().all(|c| c.health != Health::Failed);
    let document = json!({"schema": 1, "healthy": healthy, "checks": checks});
    let written = if session.json { show(true, &document, String::new) } else { closed.map_or(Ok(()), Err) };
    written?;
    if healthy {
        return Ok(());
    }
    let failed: Vec<&str> = checks.iter().filter(|c| c.health == Health::Failed).map(|c| c.name).collect();
    Err(Failure::environment(format!("not healthy: {}", failed.join(", "))))
}

fn shown(check: &Check) -> String {
    let mark = match check.health {
        Health::Ok => "ok     ",
        Health::Warning => "warning",
        Health::Failed => "FAILED ",
    };
    let mut text = format!("{mark}  {:<22} {}\n", check.name, wrapped(&escaped(&check.detail)));
    if let Some(mend) = &check.mend {
        text.push_str(&format!("{:INDENT$} {}\n", "", wrapped(&format!("→ {mend}"))));
    }
    text
}

/// Breaks a text between words if it does not fit on the terminal.
fn wrapped(text: &str) -> String {
    let columns = Term::stdout().size_checked().map_or(usize::MAX, |(_, columns)| usize::from(columns));
    let (mut wrapped, mut column) = (String::new(), INDENT);
    for word in text.split(' ') {
        let width = console::measure_text_width(word) + 1;
        if column > INDENT && column + width > columns {
            wrapped.push_str(&format!("\n{:INDENT$}", ""));
            column = INDENT;
        }
        wrapped.push_str(if column > INDENT || !wrapped.is_empty() { " " } else { "" });
        wrapped.push_str(word);
        column += width;
    }
    wrapped
}

fn ok(name: &'static str, detail: impl Into<String>) -> Check {
    Check { name, health: Health::Ok, detail: detail.into(), mend: None }
}

fn warning(name: &'static str, detail: impl Into<String>, mend: impl Into<String>) -> Check {
    Check { name, health: Health::Warning, detail: detail.into(), mend: Some(mend.into()) }
}

fn failed(name: &'static str, failure: Failure) -> Check {
    Check { name, health: Health::Failed, detail: failure.one_line(), mend: failure.hint }
}

fn checked<E: Into<Failure>>(name: &'static str, result: Result<impl Into<String>, E>) -> Check {
    match result {
        Ok(detail) => ok(name, detail),
        Err(error) => failed(name, error.into()),
    }
}

fn check_all(session: &Session, site: &Site, report: &mut dyn FnMut(Check)) {
    let cancel = || session.cancel.child(Some(LIMIT));
    report(match &session.config.source {
        Some(path) => ok("configuration", path.display().to_string()),
        None => ok("configuration", "no file; defaults, environment and flags"),
    });
    report(checked("git", git::version(&cancel())));
    report(if git::lfs_is_installed(&cancel()) {
        ok("git-lfs", "installed")
    } else {
        ok("git-lfs", "not installed; only repositories that use git LFS need it")
    });
    report(checked("docker client", site.docker.client_version(&cancel())));
    let engine = site.docker.engine_version(&cancel());
    let engine_answers = engine.is_ok();
    report(checked("docker engine", engine));
    let builder = site.docker.find_builder(&cancel()).map(|builder| match builder {
        Builder::Buildx => "buildx (BuildKit of the engine)",
        Builder::Remote => "buildx (a builder outside of the engine)",
        Builder::Integrated => "BuildKit of the docker client (DOCKER_BUILDKIT=1)",
    });
    report(checked("builder", builder));
    report(disk(site));
    report(state(site));
    if engine_answers {
        report(engine_disk(site, &cancel()));
    }
    report(proxies(site));
    registry(site, session.config.plain_http, engine_answers, &cancel, report);
    for rule in &site.repositories {
        let branch = reach(site, rule, &cancel()).map(|branch| format!("{}: {branch}", rule.name));
        let context = |failure: Failure| failure.context(format!("{} cannot be read", rule.name));
        report(checked("repository", branch.map_err(context)));
    }
    forge_tokens(session, &cancel, report);
    let forges = &session.config.forges;
    forges.iter().map(|forge| webhook_secret(forge, forges.len() > 1)).for_each(&mut *report);
    for text in session.config.unreadable_secrets() {
        report(warning("build secret", text, "correct its path, or give it to the user that runs swanci"));
    }
}

fn reach(site: &Site, rule: &RepositoryConfig, cancel: &Cancel) -> Result<String, Failure> {
    let remote = Origin::of_rule(site, rule)?.remote;
    let mirror = git::Mirror::of(&site.state_dir, &remote, &site.access, cancel);
    Ok(match mirror.default_branch()? {
        Some(branch) => format!("{} can be read; its default branch is {branch}", remote.as_git_url()),
        None => format!("{} can be read; it has no branch yet", remote.as_git_url()),
    })
}

/// The configured servers that are accessed through a proxy.
fn proxies(site: &Site) -> Check {
    let proxies = Proxies::of_environment();
    if proxies.all().next().is_none() {
        return ok("proxy", "none in the environment");
    }
    let registry = site.client.as_ref().zip(site.registry.as_ref());
    let registry = registry.map(|(client, address)| (address.host().to_owned(), client.proxy()));
    let remotes = site.repositories.iter().filter_map(|rule| {
        let url = Url::parse(Origin::of_rule(site, rule).ok()?.remote.as_git_url())
            .ok()
            .filter(|url| matches!(url.scheme(), "https" | "http"))?;
        Some((url.host_str()?.to_owned(), proxies.of(&url).map(proxy::shown)))
    });
    let mut routes: Vec<String> = registry
        .into_iter()
        .chain(remotes)
        .map(|(host, proxy)| match proxy {
            Some(proxy) => format!("{host} through {proxy}"),
            None => format!("{host} directly"),
        })
        .collect();
    routes.dedup();
    ok("proxy", if routes.is_empty() { "no server is configured".to_owned() } else { routes.join(", ") })
}

fn registry(
    site: &Site,
    plain_http: bool,
    engine_answers: bool,
    cancel: &dyn Fn() -> Cancel,
    report: &mut dyn FnMut(Check),
) {
    let (Some(address), Some(client)) = (&site.registry, &site.client) else {
        report(warning(
            "registry",
            "none is configured; builds make local names only",
            "set registry.host, SWANCI_REGISTRY or --registry",
        ));
        return;
    };
    let client = client.with_cancel(cancel());
    let resolves = client.name_resolves();
    let trust = if plain_http { "over plain http" } else { "and its certificate is trusted" };
    let ping = client.ping().map(|()| format!("{address} answers swanci, {trust}"));
    let answers = ping.is_ok();
    report(checked("registry", ping));
    if answers && let Some(day) = client.certificate_ends_within(SOON) {
        report(warning(
            "registry certificate",
            format!("the certificate of {} expires on {day}", address.host()),
            "renew it before then: swanci and docker refuse the registry afterwards",
        ));
    }
    // Never pushed: only a name that swanci may write.
    let Ok(name) = "swanci-doctor".parse::<ImageName>() else { return };
    let Ok(repository) = ImageRepository::new(Some(address), None, &name) else { return };
    report(checked("registry credentials", client.check_push(repository.path()).map(|()| "may write")));
    if !engine_answers {
        return;
    }
    if !resolves {
        let failure = Failure::environment(format!(
            "the name {} cannot be resolved, so docker was not asked",
            address.host()
        ));
        report(failed("registry from docker", failure.hint("check the name, the DNS and /etc/hosts")));
        return;
    }
    let reference = format!("{repository}:none");
    let reached = site.docker.probe_registry(&reference, &cancel()).map(|()| match address.is_loopback() {
        true => {
            "the docker engine reaches it; on loopback it trusts every registry, regardless of its certificate"
        }
        false => "the docker engine reaches it and trusts its certificate",
    });
    report(checked("registry from docker", reached));
}

fn disk(site: &Site) -> Check {
    match rustix::fs::statvfs(&site.state_dir) {
        Ok(stat) => {
            let free = stat.f_bavail * stat.f_frsize;
            let detail = format!("{} free at {}", ByteSize::b(free), site.state_dir.display());
            if free < SCARCE {
                warning("disk", detail, "free some space before the next build")
            } else {
                ok("disk", detail)
            }
        }
        Err(error) => failed("disk", Failure::environment(format!("{}: {error}", site.state_dir.display()))),
    }
}

fn state(site: &Site) -> Check {
    let probe = tempfile::Builder::new().prefix(".doctor-").tempfile_in(&site.state_dir);
    if let Err(error) = probe {
        let failure =
            Failure::environment(format!("{} cannot be written: {error}", site.state_dir.display()));
        return failed(
            "state",
            failure.hint("give it to the user that runs swanci, or choose another --state-dir"),
        );
    }
    let used: Vec<String> = ["mirrors", "receipts", "logs"]
        .iter()
        .map(|part| format!("{part} {}", ByteSize::b(size_of(&site.state_dir.join(part)))))
        .collect();
    ok("state", format!("{}: {}", site.state_dir.display(), used.join(", ")))
}

fn size_of(dir: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size_of(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

fn engine_disk(site: &Site, cancel: &Cancel) -> Check {
    match site.docker.disk_usage(cancel) {
        Ok(usage) => ok("docker disk", usage),
        // Informative only; the engine also fails while it handles the same request of another client.
        Err(error) => warning("docker disk", Failure::from(error).one_line(), "ask again: docker system df"),
    }
}

/// Tries the token of each forge on the first of its repositories.
fn forge_tokens(session: &Session, cancel: &dyn Fn() -> Cancel, report: &mut dyn FnMut(Check)) {
    let config = &session.config;
    for forge in &config.forges {
        if forge.url.starts_with("http://") {
            report(warning(
                "forge",
                format!("{} is on plain http: its token and the code can be read on their way", forge.url),
                "serve it over https; a private certificate authority is its ca_file",
            ));
        }
        let Some(entry) = config.repositories.iter().find(|entry| entry.forge == forge.url) else { continue };
        let answers = forge.status || forge.comment;
        let asked = api_of(config, forge, &entry.name, None, None, &cancel())
            .and_then(|api| api.map(|api| Ok((api.may_write()?, api.rights()))).transpose());
        report(match asked {
            Ok(None) => continue,
            Ok(Some((Some(false), rights))) if answers => warning(
                "forge token",
                format!("{}: the token may read {}, but not write to it", forge.url, entry.name),
                rights,
            ),
            Ok(Some(_)) => ok("forge token", format!("{}: it is valid for {}", forge.url, entry.name)),
            Err(failure) => failed("forge token", failure.context(format!("the token of {}", forge.url))),
        });
    }
}

/// Whether the deliveries of this forge can be verified.
fn webhook_secret(forge: &ForgeConfig, one_of_several: bool) -> Check {
    use std::os::unix::fs::PermissionsExt as _;
    let at = |text: String| if one_of_several { format!("{text} ({})", forge.url) } else { text };
    if forge.secret.is_some() {
        return ok("webhook secret", at("from SWANCI_SECRET".to_owned()));
    }
    let paths: Vec<String> = forge.secret_files.iter().map(|path| path.display().to_string()).collect();
    if paths.is_empty() {
        let short = if forge.kind == ForgeName::Github { " or serve.secret_file" } else { "" };
        return warning(
            "webhook secret",
            at("none; `serve` needs one".to_owned()),
            format!("set secret_file of its [[forge]]{short}"),
        );
    }
    if let Err(failure) = forge.webhook_secrets() {
        return failed("webhook secret", failure);
    }
    let open = forge
        .secret_files
        .iter()
        .find(|path| std::fs::metadata(path).map_or(true, |meta| meta.permissions().mode() & 0o077 != 0));
    match open {
        None => ok("webhook secret", at(paths.join(", "))),
        Some(path) => warning(
            "webhook secret",
            format!("{} can be read by others", path.display()),
            format!("chmod 600 {}", path.display()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_forge_needs_a_webhook_secret() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, "s3cret-of-a-forge").unwrap();
        let with_mode =
            |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let forge = |files: &[&std::path::PathBuf]| ForgeConfig {
            kind: ForgeName::Gitea,
            url: "https://gitea".to_owned(),
            secret_files: files.iter().map(|file| (*file).clone()).collect(),
            ..ForgeConfig::default()
        };
        let asked = |forge: &ForgeConfig| {
            let Check { health, detail, mend, .. } = webhook_secret(forge, true);
            (serde_json::to_value(health).unwrap(), detail, mend.unwrap_or_default())
        };
        with_mode(0o600);
        assert_eq!(
            asked(&forge(&[&path])),
            ("ok".into(), format!("{} (https://gitea)", path.display()), String::new())
        );
        with_mode(0o640);
        assert_eq!(asked(&forge(&[&path])).2, format!("chmod 600 {}", path.display()));
        let (health, detail, mend) = asked(&forge(&[]));
        assert_eq!((health, mend.contains("[[forge]]")), ("warning".into(), true), "{detail}");
        assert!(detail.contains("https://gitea"), "{detail}");
        let gone = dir.path().join("gone");
        assert_eq!(asked(&forge(&[&path, &gone])).0, "failed");
        let environment = ForgeConfig { secret: Some("s3cret-value".into()), ..forge(&[&gone]) };
        assert_eq!(asked(&environment).0, "ok");
    }
}
