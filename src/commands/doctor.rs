//! `swanci doctor`: every piece of the environment by itself, and how to mend it.

use std::io::Write;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Serialize;

use crate::cancel::Cancel;
use crate::cli::Doctor;
use crate::docker::Builder;
use crate::error::{Failure, Kind};
use crate::git;
use crate::model::{ImageName, ImageRepository};
use crate::pipeline::{RepositoryRule, Site};

use super::Session;
use super::documents_io::{print, write};

/// No single check may take longer.
const LIMIT: Duration = Duration::from_secs(20);
/// Less free space than this is a warning: a build of any size would fill it.
const SCARCE: u64 = 2 << 30;

/// How a check went.
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

#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    healthy: bool,
    checks: &'a [Check],
}

/// Prints every check; one that failed ends with 6.
pub(super) fn command(session: &Session, args: &Doctor, out: &mut dyn Write) -> Result<(), Failure> {
    let mut checks = Vec::new();
    match session.site(&args.registry, None) {
        Ok(site) => check_all(session, &site, &mut checks),
        Err(failure) => checks.push(failed("configuration", failure)),
    }
    if let Some(stop) = session.cancel.stopped() {
        return Err(stop.into());
    }
    let healthy = checks.iter().all(|c| c.health != Health::Failed);
    if args.json {
        write(out, &Report { schema: 1, healthy, checks: &checks })?;
    } else {
        print(out, &checks.iter().map(shown).collect::<String>())?;
    }
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
    let mut text = format!("{mark}  {:<22} {}\n", check.name, crate::escape::escaped(&check.detail));
    if let Some(mend) = &check.mend {
        text.push_str(&format!("                                 → {mend}\n"));
    }
    text
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

fn check_all(session: &Session, site: &Site, checks: &mut Vec<Check>) {
    let cancel = || session.cancel.child(Some(LIMIT));
    checks.push(match &session.config.source {
        Some(path) => ok("configuration", path.display().to_string()),
        None => ok("configuration", "no file; defaults, environment and flags"),
    });
    checks.push(match git::version(&cancel()) {
        Ok(version) => ok("git", version),
        Err(error) => failed("git", error.into()),
    });
    checks.push(if git::lfs_is_installed(&cancel()) {
        ok("git-lfs", "installed")
    } else {
        ok("git-lfs", "not installed; only repositories that use git LFS need it")
    });
    checks.push(match site.docker.client_version(&cancel()) {
        Ok(version) => ok("docker client", version),
        Err(error) => failed("docker client", error.into()),
    });
    let engine = site.docker.engine_version(&cancel());
    let engine_answers = engine.is_ok();
    checks.push(match engine {
        Ok(version) => ok("docker engine", version),
        Err(error) => failed("docker engine", error.into()),
    });
    checks.push(match site.docker.find_builder(&cancel()) {
        Ok(Builder::Buildx) => ok("builder", "buildx (BuildKit of the engine)"),
        Ok(Builder::Remote) => ok("builder", "buildx (a builder outside of the engine)"),
        Ok(Builder::Integrated) => ok("builder", "BuildKit of the docker client (DOCKER_BUILDKIT=1)"),
        Err(error) => failed("builder", error.into()),
    });
    checks.push(disk(site));
    checks.push(state(site));
    if engine_answers {
        checks.push(engine_disk(site, &cancel()));
    }
    registry(site, session.config.plain_http, engine_answers, &cancel, checks);
    for rule in &site.repositories {
        checks.push(match reach(site, rule, &cancel()) {
            Ok(branch) => ok("repository", format!("{}: {branch}", rule.name)),
            Err(failure) => failed("repository", failure.context(format!("{} cannot be read", rule.name))),
        });
    }
    checks.push(webhook_secret(session));
    checks.extend(session.config.unreadable_secrets().into_iter().map(|text| {
        warning("build secret", text, "correct its path, or give it to the user that runs swanci")
    }));
}

fn reach(site: &Site, rule: &RepositoryRule, cancel: &Cancel) -> Result<String, Failure> {
    let remote = match &rule.clone_url {
        Some(url) => git::Remote::typed(url),
        None => rule.on_its_forge(),
    };
    let remote = remote.map_err(|error| Failure::new(Kind::BadInput, error))?;
    let mirror = git::Mirror::of(&site.state_dir, &remote, &site.access, cancel);
    Ok(match mirror.default_branch()? {
        Some(branch) => format!("{} can be read; its default branch is {branch}", remote.as_git_url()),
        None => format!("{} can be read; it has no branch yet", remote.as_git_url()),
    })
}

fn registry(
    site: &Site,
    plain_http: bool,
    engine_answers: bool,
    cancel: &dyn Fn() -> Cancel,
    checks: &mut Vec<Check>,
) {
    let (Some(address), Some(client)) = (&site.registry, &site.client) else {
        checks.push(warning(
            "registry",
            "none is configured; builds make local names only",
            "set registry.host, SWANCI_REGISTRY or --registry",
        ));
        return;
    };
    let client = client.with_cancel(cancel());
    match client.ping() {
        Ok(()) => {
            let trust = if plain_http { "over plain http" } else { "and its certificate is trusted" };
            checks.push(ok("registry", format!("{address} answers swanci, {trust}")));
        }
        Err(error) => checks.push(failed("registry", error.into())),
    }
    // Never pushed: the name only has to be one that swanci would be allowed to write.
    let Ok(name) = "swanci-doctor".parse::<ImageName>() else { return };
    let Ok(repository) = ImageRepository::new(Some(address), &name) else { return };
    checks.push(match client.check_push(repository.path()) {
        Ok(()) => ok("registry credentials", "may write"),
        Err(error) => failed("registry credentials", error.into()),
    });
    if engine_answers {
        let reference = format!("{repository}:none");
        checks.push(match site.docker.probe_registry(&reference, &cancel()) {
            Ok(()) if address.is_loopback() => ok(
                "registry from docker",
                "the docker engine reaches it; on loopback it trusts every registry, whatever its certificate",
            ),
            Ok(()) => ok("registry from docker", "the docker engine reaches it and trusts its certificate"),
            Err(error) => failed("registry from docker", error.into()),
        });
    }
}

fn disk(site: &Site) -> Check {
    match rustix::fs::statvfs(&site.state_dir) {
        Ok(stat) => {
            let free = stat.f_bavail * stat.f_frsize;
            let detail = format!("{} free at {}", ByteSize::b(free), site.state_dir.display());
            if free < SCARCE {
                warning("disk", detail, "make room before the next build needs it")
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
    let used: Vec<String> = ["mirrors", "receipts", "configs", "logs"]
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
        Ok(usage) => {
            let parts: Vec<String> = usage
                .iter()
                .map(|u| format!("{} {} ({} reclaimable)", u.kind.to_lowercase(), u.size, u.reclaimable))
                .collect();
            ok("docker disk", parts.join(", "))
        }
        // Only shown; the engine also refuses while somebody else asks the same.
        Err(error) => warning("docker disk", Failure::from(error).one_line(), "ask again: docker system df"),
    }
}

fn webhook_secret(session: &Session) -> Check {
    use std::os::unix::fs::PermissionsExt as _;
    let serve = &session.config.serve;
    match (&serve.secret, serve.secret_files.first()) {
        (Some(_), _) => ok("webhook secret", "from SWANCI_SECRET"),
        (None, Some(path)) => match crate::config::read_secret_file(path) {
            Ok(_) => match std::fs::metadata(path).map(|m| m.permissions().mode() & 0o077) {
                Ok(0) => ok("webhook secret", path.display().to_string()),
                Ok(_) | Err(_) => warning(
                    "webhook secret",
                    format!("{} can be read by others", path.display()),
                    format!("chmod 600 {}", path.display()),
                ),
            },
            Err(failure) => failed("webhook secret", failure),
        },
        (None, None) => {
            warning("webhook secret", "none; `serve` needs one", "set serve.secret_file or SWANCI_SECRET")
        }
    }
}
