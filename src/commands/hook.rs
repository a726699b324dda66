//! `swanci hook`: creates and checks the webhook on the forge, and sends failed deliveries again.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::json;

use crate::cli::{HookAction, HookCheck, HookInstall, HookRedeliver, HookTarget};
use crate::config::{Config, Environment, ForgeConfig, read_secret_file};
use crate::error::Failure;
use crate::escape::escaped;
use crate::forge::api::Problem;
use crate::hooks::{
    Attempt, AttemptState, Hook, HookId, ORIGINAL_PATH, WEBHOOK_PATH, Webhooks, installed, public_url,
    unresolved, webhook_url,
};
use crate::model::{ForgeName, RepoName};

use super::Session;
use super::documents_io::show;
use super::report::api_of;

/// The longest interval between two requests for the ping.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

pub(super) fn command(session: &Session, action: &HookAction) -> Result<(), Failure> {
    match action {
        HookAction::Url { ngrok_api } => url(session, ngrok_api),
        HookAction::Install(args) => install(session, args),
        HookAction::Check(args) => check(session, args),
        HookAction::Redeliver(args) => redeliver(session, args),
    }
}

fn url(session: &Session, ngrok_api: &str) -> Result<(), Failure> {
    let url = from_ngrok(session, ngrok_api, "")?;
    show(session.json, &json!({"schema": 1, "url": url.as_str()}), || format!("{url}\n"))
}

/// `otherwise` names an alternative in the hint.
fn from_ngrok(session: &Session, api: &str, otherwise: &str) -> Result<url::Url, Failure> {
    let port = session.config.serve.listen.port();
    let public = public_url(api, port).map_err(|mut error| {
        if error.problem == Problem::Unreachable {
            error.hint = Some(format!(
                "is ngrok running? `ngrok http {port}` starts it; --ngrok-api names another address{otherwise}"
            ));
        }
        error
    })?;
    webhook_url(&public).map_err(|problem| Failure::failed(format!("ngrok's address: {problem}")))
}

fn open(session: &Session, target: &HookTarget) -> Result<Webhooks, Failure> {
    let config = &session.config;
    let forge = forge_of(config, target)?;
    let Some(repository) = repository_of(config, target) else {
        let many = if config.repositories.is_empty() { "no repository" } else { "several repositories" };
        return Err(
            Failure::usage(format!("the configuration has {many}")).hint("say which one: --repo owner/name")
        );
    };
    let environment = Environment::of_process();
    let (mut api_url, mut token) = (target.api_url.clone(), None);
    if forge.kind == ForgeName::Github {
        api_url = api_url.or_else(|| environment.get("GITHUB_API_URL").map(str::to_owned));
        // In this order, as GitHub's own `gh`.
        token = environment.secret("GH_TOKEN").or_else(|| environment.secret("GITHUB_TOKEN"));
    }
    let api = api_of(config, &forge, repository, api_url, token, &session.cancel)?;
    api.map(Webhooks::new).ok_or_else(|| no_token(&forge))
}

/// The repository that `--repo` names, else the only one.
fn repository_of<'a>(config: &'a Config, target: &'a HookTarget) -> Option<&'a RepoName> {
    match (&target.repo, &config.repositories[..]) {
        (Some(name), _) => Some(name),
        (None, [only]) => Some(&only.name),
        (None, _) => None,
    }
}

/// The forge that `--forge` names, else the repository's own, else the only one.
fn forge_of(config: &Config, target: &HookTarget) -> Result<ForgeConfig, Failure> {
    let several = |problem: String| Failure::usage(problem).hint("say which one: --forge URL");
    let Some(named) = &target.forge else {
        let entries =
            repository_of(config, target).into_iter().flat_map(|name| config.repositories_named(name));
        let forges: Vec<_> =
            entries.map(|entry| config.forge_of(entry).cloned().unwrap_or_default()).collect();
        return match (&config.forges[..], &forges[..]) {
            ([only], _) | (_, [only]) => Ok(only.clone()),
            (_, _) => {
                Err(several("several forges are configured, and it could be on any of them".to_owned()))
            }
        };
    };
    let (kind, url) = (named.parse::<ForgeName>().ok(), named.trim_end_matches('/'));
    let is_named = |forge: &&ForgeConfig| kind.map_or(forge.url == url, |kind| forge.kind == kind);
    let found: Vec<_> = config.forges.iter().filter(is_named).collect();
    let problem = match (&found[..], kind) {
        ([only], _) => return Ok((*only).clone()),
        ([_, ..], _) => return Err(several(format!("several forges of kind {named} are configured"))),
        ([], Some(kind)) => match kind.public_url() {
            Some(url) => return Ok(ForgeConfig { kind, url: url.to_owned(), ..ForgeConfig::default() }),
            None => format!("no forge of kind {kind} is configured"),
        },
        ([], None) => format!("--forge: `{}` is neither a kind nor the url of a [[forge]]", escaped(named)),
    };
    Err(Failure::usage(problem).hint("add it to the configuration: [[forge]] with kind, url and token_file"))
}

fn no_token(forge: &ForgeConfig) -> Failure {
    if forge.kind == ForgeName::Github {
        return Failure::environment(
            "there is no token for GitHub's API: neither GH_TOKEN nor GITHUB_TOKEN is set, and the forge has no token_file",
        )
        .hint(
            "a classic token needs the scope admin:repo_hook, a fine-grained one the repository permission \
             \"Webhooks: write\"; with GitHub's own client: export GITHUB_TOKEN=$(gh auth token)",
        );
    }
    Failure::environment(format!("there is no token for the API of {}", forge.url))
        .hint("name one as token_file of its [[forge]], or set SWANCI_GIT_TOKEN")
}

/// The webhook with this id, else the one that swanci created, else the one that delivers to `url`, else the only one that
/// looks like swanci's.
fn find(
    session: &Session,
    webhooks: &Webhooks,
    id: Option<&HookId>,
    url: Option<&url::Url>,
) -> Result<Option<Hook>, Failure> {
    let name = &webhooks.api.repository;
    let mut hooks = webhooks.all()?;
    if let Some(id) = id {
        let hook = hooks.into_iter().find(|hook| hook.id == *id);
        return hook.map(Some).ok_or_else(|| {
            Failure::failed(format!("{name} has no webhook {id}"))
                .hint("without --id, swanci's own is looked for")
        });
    }
    let known = installed::recall(&session.config.state_dir, webhooks.api.host(), name);
    let made = hooks.iter().position(|hook| known.as_ref() == Some(&hook.id));
    let at_url =
        || hooks.iter().position(|hook| url.is_some() && hook.url.as_deref() == url.map(url::Url::as_str));
    if let Some(position) = made.or_else(at_url) {
        return Ok(Some(hooks.swap_remove(position)));
    }
    let paths = url.map_or(vec![WEBHOOK_PATH, ORIGINAL_PATH], |url| vec![url.path()]);
    hooks.retain(|hook| paths.iter().any(|path| hook.looks_like_ours(path, webhooks.event())));
    if hooks.len() > 1 {
        let all: Vec<String> = hooks.iter().map(|hook| format!("{} ({})", hook.id, address(hook))).collect();
        let problem = format!("{name} has several webhooks that could be swanci's: {}", all.join(", "));
        return Err(Failure::failed(problem)
            .hint("say which one with --id, or remove those that are no longer needed"));
    }
    Ok(hooks.pop())
}

fn address(hook: &Hook) -> String {
    escaped(hook.url.as_deref().unwrap_or("no URL"))
}

fn existing(session: &Session, webhooks: &Webhooks, target: &HookTarget) -> Result<Hook, Failure> {
    let name = &webhooks.api.repository;
    find(session, webhooks, target.id.as_ref(), None)?.ok_or_else(|| {
        Failure::failed(format!("{name} has no webhook of swanci's"))
            .hint(format!("make it with: swanci hook install --repo {name}"))
    })
}

fn install(session: &Session, args: &HookInstall) -> Result<(), Failure> {
    let secret = secret(&session.config, args)?;
    let webhooks = open(session, &args.target)?;
    let url = match &args.url {
        Some(url) => webhook_url(url).map_err(|problem| Failure::usage(format!("--url: {problem}")))?,
        None => from_ngrok(session, &args.ngrok_api, ", and --url replaces it")?,
    };
    if url.scheme() == "http" {
        session.events.warn("deliveries to an http address are not encrypted; https is better");
    }
    let name = &webhooks.api.repository;
    if !session.config.repositories.is_empty() && session.config.repositories_named(name).next().is_none() {
        session.events.warn(&format!(
            "{name} is not in the configuration: `serve` will refuse its deliveries until it is"
        ));
    }
    let found = find(session, &webhooks, args.target.id.as_ref(), Some(&url))?;
    let was = found.as_ref().and_then(|hook| hook.url.clone());
    let (outcome, id) = match &found {
        Some(hook) => ("updated", webhooks.update(&hook.id, &url, &secret)?),
        None => ("created", webhooks.create(&url, &secret)?),
    };
    if let Err(error) = installed::remember(&session.config.state_dir, webhooks.api.host(), name, &id) {
        session.events.warn(&format!("the webhook's number cannot be kept in the state directory: {error}"));
    }
    let mut text = format!("{outcome} webhook {id} of {name}: {} events to {url}\n", webhooks.event());
    if let Some(was) = was.as_deref().filter(|was| *was != url.as_str()) {
        text.push_str(&format!("before, it delivered to {}\n", escaped(was)));
    }
    let document = json!({
        "schema": 1, "outcome": outcome, "repository": name, "id": id, "url": url.as_str(), "was": was,
    });
    show(session.json, &document, || text)
}

/// The first secret: a forge has several only while they are being replaced.
fn secret(config: &Config, args: &HookInstall) -> Result<SecretString, Failure> {
    if let Some(path) = &args.secret_file {
        return read_secret_file(path);
    }
    let secrets = forge_of(config, &args.target)?.webhook_secrets()?;
    secrets.into_iter().next().ok_or_else(|| {
        Failure::usage("there is no secret to sign deliveries with").hint(
            "`swanci init` makes one; or set secret_file of the [[forge]] (for GitHub also serve.secret_file or \
             SWANCI_SECRET), or --secret-file",
        )
    })
}

fn check(session: &Session, args: &HookCheck) -> Result<(), Failure> {
    let webhooks = open(session, &args.target)?;
    let hook = existing(session, &webhooks, &args.target)?;
    let mut problems = hook.problems.clone();
    let (title, count) = (webhooks.api.kind.title(), usize::from(args.last));
    let lists = webhooks.lists_deliveries();
    let mut deliveries =
        if lists { webhooks.deliveries(&hook.id, count, &mut |_| true)? } else { Vec::new() };
    let mut ping = None;
    match if args.no_ping { Ok(None) } else { webhooks.test(&hook) } {
        Ok(None) if lists && !args.no_ping => {
            (deliveries, ping) = wait_for_ping(session, &webhooks, &hook, &deliveries, args)?;
            if ping.is_none() {
                let wait = humantime::format_duration(args.wait);
                problems.push(format!("{title} shows no ping within {wait}"));
            }
        }
        Ok(answered) => ping = answered,
        // GitLab needs a merge request for its test.
        Err(error) if error.problem == Problem::Invalid => {
            problems.push(format!("the test was not sent: {}", error.detail));
        }
        Err(error) => return Err(error.into()),
    }
    if let Some(ping) = ping.as_ref().filter(|ping| ping.state() != AttemptState::Succeeded) {
        problems.push(format!("the ping failed: {}", ping.result()));
    }
    let failed = unresolved(&deliveries);
    if !failed.is_empty() {
        let events = if failed.len() == 1 { "event" } else { "events" };
        problems.push(format!("{} {events} never arrived", failed.len()));
    }
    // `failed`: the newest attempt of each event that never arrived. `deliveries`: newest first.
    let document = json!({
        "schema": 1, "healthy": problems.is_empty(), "repository": webhooks.api.repository, "id": hook.id,
        "url": hook.url, "problems": problems, "ping": ping, "failed": failed, "deliveries": deliveries,
    });
    let mut text = format!("webhook {} of {}: {}\n", hook.id, webhooks.api.repository, address(&hook));
    text.extend(deliveries.iter().map(row));
    if !lists {
        let page = webhooks.page(&hook.id);
        text.push_str(&format!("  {title} does not list deliveries by its API; they are at {page}\n"));
    } else if deliveries.is_empty() {
        text.push_str("  no delivery yet\n");
    }
    let shown = show(session.json, &document, || text);
    if problems.is_empty() {
        return shown;
    }
    let hint = advice(&webhooks, &hook, ping.as_ref(), &failed);
    let failure = Failure::failed(format!("the webhook is not healthy: {}", problems.join("; ")));
    Err(Failure { hint, ..failure })
}

/// Reads the deliveries until the ping has ended or the time is up.
fn wait_for_ping(
    session: &Session,
    webhooks: &Webhooks,
    hook: &Hook,
    before: &[Attempt],
    args: &HookCheck,
) -> Result<(Vec<Attempt>, Option<Attempt>), Failure> {
    let known: HashSet<u64> = before.iter().map(|delivery| delivery.id).collect();
    let (begun, mut pause) = (Instant::now(), Duration::from_millis(100));
    loop {
        let deliveries = webhooks.deliveries(&hook.id, usize::from(args.last), &mut |_| true)?;
        // Only GitHub has an event for pings.
        let is_test = |d: &&Attempt| d.is_ping() || webhooks.api.kind != ForgeName::Github;
        let ping = deliveries.iter().filter(is_test).find(|d| !known.contains(&d.id)).cloned();
        let ended = ping.as_ref().is_some_and(|ping| ping.state() != AttemptState::Pending);
        if ended || begun.elapsed() + pause > args.wait {
            return Ok((deliveries, ping));
        }
        session.cancel.sleep(pause)?;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn row(delivery: &Attempt) -> String {
    let mark = match delivery.state() {
        AttemptState::Succeeded => "ok     ",
        AttemptState::Pending => "pending",
        AttemptState::Failed => "FAILED ",
    };
    let action = delivery.action.as_deref().map(|action| format!(" {action}")).unwrap_or_default();
    let again = if delivery.redelivery { " (again)" } else { "" };
    let line = format!(
        "{mark}  {}  {:<28} {}{again}",
        delivery.delivered_at,
        format!("{}{action}", delivery.event),
        delivery.result()
    );
    format!("  {}\n", escaped(&line))
}

/// The hint for an unhealthy webhook.
fn advice(webhooks: &Webhooks, hook: &Hook, ping: Option<&Attempt>, failed: &[&Attempt]) -> Option<String> {
    let name = &webhooks.api.repository;
    if !hook.problems.is_empty() {
        return Some(format!("`swanci hook install --repo {name}` repairs it"));
    }
    let failed_ping = ping.filter(|ping| ping.state() == AttemptState::Failed);
    let Some(last) = failed_ping.or(failed.last().copied()) else {
        return ping
            .is_none()
            .then(|| format!("try again in a moment; {} may be late", webhooks.api.kind.title()));
    };
    if failed_ping.is_none() && ping.is_some() {
        return Some(format!(
            "the listener answers now: `swanci hook redeliver --repo {name}` sends them again"
        ));
    }
    Some(match last.status_code {
        401 => format!(
            "the listener has another secret than the webhook: `swanci hook install --repo {name}` replaces the webhook's"
        ),
        403 => format!("the listener does not allow {name}: add it as [[repository]]"),
        404 | 405 => "is it the listener's path? `serve` receives deliveries at /webhook".to_owned(),
        200..=299 => return None,
        400..=499 => "the listener refused it; see its log".to_owned(),
        _ => "is `swanci serve` running, and the tunnel or proxy in front of it?".to_owned(),
    })
}

fn redeliver(session: &Session, args: &HookRedeliver) -> Result<(), Failure> {
    let webhooks = open(session, &args.target)?;
    let hook = existing(session, &webhooks, &args.target)?;
    let title = webhooks.api.kind.title();
    if !webhooks.lists_deliveries() {
        return Err(Failure::failed(format!("{title} cannot send deliveries again by its API")).hint(
            format!("{}; `swanci catchup` builds what was merged meanwhile", webhooks.by_hand(&hook.id)),
        ));
    }
    let oldest = Timestamp::now().checked_sub(args.since).unwrap_or(Timestamp::MIN);
    // The list is newest first. An invalid time does not end it.
    let is_new = |d: &Attempt| d.delivered_at.parse::<Timestamp>().map_or(true, |time| time >= oldest);
    let deliveries = webhooks.deliveries(&hook.id, usize::MAX, &mut |delivery| is_new(delivery))?;
    let verb = if args.dry_run { "would send" } else { "sends" };
    let (mut redelivered, mut refused, mut stopped, mut text) = (Vec::new(), Vec::new(), None, String::new());
    for delivery in unresolved(&deliveries) {
        let sent = if args.dry_run { Ok(()) } else { webhooks.redeliver(&hook.id, delivery.id) };
        match sent {
            Ok(()) => {
                text.push_str(&format!("{title} {verb} again:\n{}", row(delivery)));
                redelivered.push(delivery);
            }
            Err(error) if matches!(error.problem, Problem::Invalid | Problem::NotFound) => {
                let error = error.to_string();
                text.push_str(&format!("not sent again: {}\n{}", escaped(&error), row(delivery)));
                refused.push(json!({"delivery": delivery, "error": error}));
            }
            // No token, no network or a rate limit: all others would fail too.
            Err(error) => {
                stopped = Some(Failure::from(error));
                break;
            }
        }
    }
    if text.is_empty() && stopped.is_none() {
        text.push_str("nothing to send again: every event of that time has arrived\n");
    }
    let document = json!({
        "schema": 1, "repository": webhooks.api.repository, "id": hook.id, "dry_run": args.dry_run,
        "redelivered": redelivered, "refused": refused,
    });
    let shown = show(session.json, &document, || text);
    match (stopped, refused.len()) {
        (Some(failure), _) => Err(failure.context(format!("after {} redeliveries", redelivered.len()))),
        (None, 0) => shown,
        (None, count) => Err(Failure::failed(format!(
            "{title} would not send {count} of the deliveries again"
        ))
        .hint("it keeps deliveries for some days only; `swanci catchup` builds what was merged meanwhile")),
    }
}
