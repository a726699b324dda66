//! `swanci hook`: the webhook on GitHub made, checked, and its failed deliveries sent again.

use std::collections::HashSet;
use std::io::Write;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use secrecy::SecretString;
use serde::Serialize;

use crate::cli::{Hook as HookArgs, HookAction, HookCheck, HookInstall, HookRedeliver, HookTarget, HookUrl};
use crate::config::{Environment, read_secret_file};
use crate::error::Failure;
use crate::escape::escaped;
use crate::hooks::{
    Delivery, DeliveryState, EVENT, GITHUB_API, GitHub, Hook, HookError, ORIGINAL_PATH, WEBHOOK_PATH, Wanted,
    installed, public_url, unresolved, webhook_url,
};
use crate::model::{ForgeName, RepoName};

use super::Session;

/// The longest pause between two looks for the ping.
const SLOWEST_LOOK: Duration = Duration::from_secs(2);

pub(super) fn command(session: &Session, args: &HookArgs, out: &mut dyn Write) -> Result<(), Failure> {
    match &args.action {
        HookAction::Url(args) => url(session, args, out),
        HookAction::Install(args) => install(session, args, out),
        HookAction::Check(args) => check(session, args, out),
        HookAction::Redeliver(args) => redeliver(session, args, out),
    }
}

/// Prints `text`, or the document as JSON.
fn show(out: &mut dyn Write, json: bool, document: &impl Serialize, text: &str) -> Result<(), Failure> {
    if json {
        return super::documents_io::write(out, document);
    }
    super::documents_io::print(out, text)
}

// ---- url

#[derive(Serialize)]
struct UrlDocument<'a> {
    schema: u32,
    url: &'a str,
}

fn url(session: &Session, args: &HookUrl, out: &mut dyn Write) -> Result<(), Failure> {
    let url = from_ngrok(session, &args.ngrok.ngrok_api, "")?;
    show(out, args.json, &UrlDocument { schema: 1, url: url.as_str() }, &format!("{url}\n"))
}

/// `otherwise` says what the command takes in its stead.
fn from_ngrok(session: &Session, api: &str, otherwise: &str) -> Result<url::Url, Failure> {
    let listen = session.config.serve.listen;
    let public = public_url(api, listen.port()).map_err(|error| {
        let unreachable = matches!(error, HookError::Unreachable { .. });
        let failure = Failure::from(error);
        if !unreachable {
            return failure;
        }
        failure.hint(format!(
            "is ngrok running? `ngrok http {}` starts it; --ngrok-api names another address{otherwise}",
            listen.port()
        ))
    })?;
    webhook_url(&public).map_err(|problem| Failure::failed(format!("ngrok's address: {problem}")))
}

// ---- which repository, which webhook

struct Site {
    github: GitHub,
    repository: RepoName,
}

fn open(session: &Session, target: &HookTarget) -> Result<Site, Failure> {
    let repository = match (&target.repo, &session.config.repositories[..]) {
        (Some(name), _) => name.clone(),
        (None, [only]) => only.name.clone(),
        (None, all) => {
            let many = if all.is_empty() { "no repository" } else { "several repositories" };
            return Err(Failure::usage(format!("the configuration has {many}"))
                .hint("say which one: --repo owner/name"));
        }
    };
    let environment = Environment::of_process();
    let api = target.api_url.as_deref().or(environment.get("GITHUB_API_URL")).unwrap_or(GITHUB_API);
    // In this order, as GitHub's own `gh`.
    let token = environment.secret("GH_TOKEN").or_else(|| environment.secret("GITHUB_TOKEN"));
    let Some(token) = token else {
        return Err(Failure::environment(
            "there is no token for GitHub's API: neither GH_TOKEN nor GITHUB_TOKEN is set",
        )
        .hint(
            "a classic token needs the scope admin:repo_hook, a fine-grained one the repository permission \
                   \"Webhooks: write\"; with GitHub's own client: export GITHUB_TOKEN=$(gh auth token)",
        ));
    };
    crate::redact::register(&token);
    let github = GitHub::new(api, repository.clone(), token, session.cancel.clone())?;
    Ok(Site { github, repository })
}

impl Site {
    /// swanci's webhook among the repository's: the one of this number, else the one that was made before, else the
    /// one that delivers to `url`, else the only one that looks as if swanci had made it.
    fn find(
        &self,
        session: &Session,
        hooks: Vec<Hook>,
        id: Option<u64>,
        url: Option<&url::Url>,
    ) -> Result<Option<Hook>, Failure> {
        let name = &self.repository;
        if let Some(id) = id {
            return match hooks.into_iter().find(|hook| hook.id == id) {
                Some(hook) => Ok(Some(hook)),
                None => Err(Failure::failed(format!("{name} has no webhook {id}"))
                    .hint("without --id, swanci's own is looked for")),
            };
        }
        let known = installed::recall(&session.config.state_dir, self.github.host(), name);
        let position = hooks.iter().position(|hook| Some(hook.id) == known).or_else(|| {
            hooks
                .iter()
                .position(|hook| hook.config.url.as_deref() == url.map(url::Url::as_str) && url.is_some())
        });
        let paths = url.map_or(vec![WEBHOOK_PATH, ORIGINAL_PATH], |url| vec![url.path()]);
        let mut hooks = hooks;
        if let Some(position) = position {
            return Ok(Some(hooks.swap_remove(position)));
        }
        hooks.retain(|hook| paths.iter().any(|path| hook.looks_like_ours(path)));
        if hooks.len() > 1 {
            let all: Vec<String> = hooks
                .iter()
                .map(|hook| {
                    format!("{} ({})", hook.id, escaped(hook.config.url.as_deref().unwrap_or("no URL")))
                })
                .collect();
            return Err(Failure::failed(format!(
                "{name} has several webhooks that could be swanci's: {}",
                all.join(", ")
            ))
            .hint("say which one with --id, or remove those that are no longer needed"));
        }
        Ok(hooks.pop())
    }

    fn existing(&self, session: &Session, target: &HookTarget) -> Result<Hook, Failure> {
        let hooks = self.github.hooks()?;
        self.find(session, hooks, target.id, None)?.ok_or_else(|| {
            Failure::failed(format!("{} has no webhook of swanci's", self.repository))
                .hint(format!("make it with: swanci hook install --repo {}", self.repository))
        })
    }
}

// ---- install

#[derive(Serialize)]
struct InstallDocument<'a> {
    schema: u32,
    outcome: &'static str,
    repository: &'a RepoName,
    id: u64,
    url: &'a str,
    /// Where it delivered before.
    was: Option<&'a str>,
}

fn install(session: &Session, args: &HookInstall, out: &mut dyn Write) -> Result<(), Failure> {
    let secret = secret(session, args)?;
    let site = open(session, &args.target)?;
    let url = match &args.url {
        Some(url) => webhook_url(url).map_err(|problem| Failure::usage(format!("--url: {problem}")))?,
        None => from_ngrok(session, &args.ngrok.ngrok_api, ", --url does without it")?,
    };
    if url.scheme() == "http" {
        session.events.warn("deliveries to an http address can be read on their way; https is better");
    }
    let name = &site.repository;
    if !session.config.repositories.is_empty() && session.config.repositories_named(name).next().is_none() {
        session.events.warn(&format!(
            "{name} is not in the configuration: `serve` will refuse its deliveries until it is"
        ));
    }
    let wanted = Wanted { url: &url, secret: &secret };
    let found = site.find(session, site.github.hooks()?, args.target.id, Some(&url))?;
    let was = found.as_ref().and_then(|hook| hook.config.url.clone());
    let (outcome, hook) = match &found {
        Some(hook) => ("updated", site.github.update(hook.id, &wanted)?),
        None => ("created", site.github.create(&wanted)?),
    };
    let remembered = installed::remember(&session.config.state_dir, site.github.host(), name, hook.id);
    if let Err(error) = remembered {
        session.events.warn(&format!("the webhook's number cannot be kept in the state directory: {error}"));
    }
    let mut text = format!("{outcome} webhook {} of {name}: {EVENT} events to {url}\n", hook.id);
    if let Some(was) = was.as_deref().filter(|was| *was != url.as_str()) {
        text.push_str(&format!("before, it delivered to {}\n", escaped(was)));
    }
    let document = InstallDocument {
        schema: 1,
        outcome,
        repository: name,
        id: hook.id,
        url: url.as_str(),
        was: was.as_deref(),
    };
    show(out, args.target.json, &document, &text)
}

fn secret(session: &Session, args: &HookInstall) -> Result<SecretString, Failure> {
    if let Some(path) = &args.secret_file {
        return read_secret_file(path);
    }
    let forge = session.config.forges.iter().find(|forge| forge.kind == ForgeName::Github);
    let secrets = forge.map(|forge| forge.webhook_secrets()).transpose()?.unwrap_or_default();
    secrets.into_iter().next().ok_or_else(|| {
        Failure::usage("there is no secret to sign deliveries with")
            .hint("`swanci init` makes one; or set serve.secret_file, SWANCI_SECRET or --secret-file")
    })
}

// ---- check

#[derive(Serialize)]
struct CheckDocument<'a> {
    schema: u32,
    healthy: bool,
    repository: &'a RepoName,
    id: u64,
    url: Option<&'a str>,
    problems: &'a [String],
    ping: Option<&'a Delivery>,
    /// The newest attempt of each event that never arrived.
    failed: &'a [&'a Delivery],
    /// Newest first.
    deliveries: &'a [Delivery],
}

fn check(session: &Session, args: &HookCheck, out: &mut dyn Write) -> Result<(), Failure> {
    let site = open(session, &args.target)?;
    let hook = site.existing(session, &args.target)?;
    let mut problems = misconfigured(&hook);
    let count = usize::from(args.last);
    let before = site.github.newest_deliveries(hook.id, count)?;
    let (deliveries, ping) = if args.no_ping {
        (before, None)
    } else {
        site.github.ping(hook.id)?;
        let (deliveries, ping) = wait_for_ping(session, &site, &hook, count, &before, args.wait)?;
        match &ping {
            None => problems
                .push(format!("GitHub shows no ping within {}", humantime::format_duration(args.wait))),
            Some(ping) if ping.state() != DeliveryState::Succeeded => {
                problems.push(format!("the ping failed: {}", said(ping)));
            }
            Some(_) => {}
        }
        (deliveries, ping)
    };
    let failed = unresolved(&deliveries);
    if !failed.is_empty() {
        let they = if failed.len() == 1 { "1 event" } else { &format!("{} events", failed.len()) };
        problems.push(format!("{they} never arrived"));
    }
    let document = CheckDocument {
        schema: 1,
        healthy: problems.is_empty(),
        repository: &site.repository,
        id: hook.id,
        url: hook.config.url.as_deref(),
        problems: &problems,
        ping: ping.as_ref(),
        failed: &failed,
        deliveries: &deliveries,
    };
    let address = escaped(hook.config.url.as_deref().unwrap_or("no URL"));
    let mut text = format!("webhook {} of {}: {address}\n", hook.id, site.repository);
    deliveries.iter().for_each(|delivery| text.push_str(&row(delivery)));
    if deliveries.is_empty() {
        text.push_str("  no delivery yet\n");
    }
    let shown = show(out, args.target.json, &document, &text);
    if problems.is_empty() {
        return shown;
    }
    let failure = Failure::failed(format!("the webhook is not healthy: {}", problems.join("; ")));
    Err(match advice(&hook, ping.as_ref(), &failed, &site.repository) {
        Some(hint) => failure.hint(hint),
        None => failure,
    })
}

/// How the webhook differs from what `install` makes.
fn misconfigured(hook: &Hook) -> Vec<String> {
    let json = hook.config.content_type.as_deref();
    [
        (hook.active, "it is switched off"),
        (hook.events.iter().any(|e| e == EVENT || e == "*"), "it does not deliver pull_request events"),
        (hook.config.has_secret(), "it has no secret, so `serve` refuses what it delivers"),
        (matches!(json, Some("json" | "form")), "its content type is neither json nor form"),
        (hook.config.verifies_tls(), "it does not check the listener's certificate"),
    ]
    .into_iter()
    .filter(|(well, _)| !well)
    .map(|(_, problem)| problem.to_owned())
    .collect()
}

/// Looks at the deliveries until the ping is among them and has ended, or the time is up.
fn wait_for_ping(
    session: &Session,
    site: &Site,
    hook: &Hook,
    count: usize,
    before: &[Delivery],
    wait: Duration,
) -> Result<(Vec<Delivery>, Option<Delivery>), Failure> {
    let known: HashSet<u64> = before.iter().map(|delivery| delivery.id).collect();
    let (begun, mut pause) = (Instant::now(), Duration::from_millis(100));
    loop {
        let deliveries = site.github.newest_deliveries(hook.id, count)?;
        let ping = deliveries.iter().find(|d| d.is_ping() && !known.contains(&d.id)).cloned();
        let ended = ping.as_ref().is_some_and(|ping| ping.state() != DeliveryState::Pending);
        if ended || begun.elapsed() + pause > wait {
            return Ok((deliveries, ping));
        }
        session.cancel.sleep(pause)?;
        pause = (pause * 2).min(SLOWEST_LOOK);
    }
}

fn row(delivery: &Delivery) -> String {
    let mark = match delivery.state() {
        DeliveryState::Succeeded => "ok     ",
        DeliveryState::Pending => "pending",
        DeliveryState::Failed => "FAILED ",
    };
    let action = delivery.action.as_deref().map(|action| format!(" {action}")).unwrap_or_default();
    let again = if delivery.redelivery { " (again)" } else { "" };
    let line = format!(
        "{mark}  {}  {:<28} {}{again}",
        delivery.delivered_at,
        format!("{}{action}", delivery.event),
        said(delivery)
    );
    format!("  {}\n", escaped(&line))
}

fn said(delivery: &Delivery) -> String {
    match delivery.status_code {
        0 => delivery.status.clone(),
        code => format!("{code} {}", delivery.status).trim_end().to_owned(),
    }
}

/// What the listener's answers say about the way out.
fn advice(hook: &Hook, ping: Option<&Delivery>, failed: &[&Delivery], name: &RepoName) -> Option<String> {
    if !misconfigured(hook).is_empty() {
        return Some(format!("`swanci hook install --repo {name}` sets it right"));
    }
    let failed_ping = ping.filter(|ping| ping.state() == DeliveryState::Failed);
    let Some(last) = failed_ping.or(failed.last().copied()) else {
        return ping.is_none().then(|| "try again in a moment; GitHub may be late".to_owned());
    };
    if failed_ping.is_none() && ping.is_some() {
        return Some(format!(
            "the listener answers now: `swanci hook redeliver --repo {name}` sends them again"
        ));
    }
    Some(match last.status_code {
        401 => format!(
            "the listener has another secret than the webhook: `swanci hook install --repo {name}` gives it this one's"
        ),
        403 => format!("the listener does not allow {name}: add it as [[repository]]"),
        404 | 405 => "is it the listener's path? `serve` takes deliveries at /webhook".to_owned(),
        200..=299 => return None,
        400..=499 => "the listener refused it; its log says why".to_owned(),
        _ => "is `swanci serve` running, and the tunnel or proxy in front of it?".to_owned(),
    })
}

// ---- redeliver

#[derive(Serialize)]
struct RedeliverDocument<'a> {
    schema: u32,
    repository: &'a RepoName,
    id: u64,
    dry_run: bool,
    /// What was asked for again, oldest first.
    redelivered: &'a [&'a Delivery],
    /// What GitHub would not send again.
    refused: &'a [Refused<'a>],
}

#[derive(Serialize)]
struct Refused<'a> {
    delivery: &'a Delivery,
    error: String,
}

fn redeliver(session: &Session, args: &HookRedeliver, out: &mut dyn Write) -> Result<(), Failure> {
    let site = open(session, &args.target)?;
    let hook = site.existing(session, &args.target)?;
    let since = i64::try_from(args.since.as_secs()).unwrap_or(i64::MAX);
    let oldest =
        Timestamp::from_second(Timestamp::now().as_second().saturating_sub(since)).unwrap_or(Timestamp::MIN);
    // The list is newest first. A time that cannot be read does not end it.
    let deliveries =
        site.github.deliveries(hook.id, &mut |delivery| delivery.time().is_none_or(|time| time >= oldest))?;
    let wanted = unresolved(&deliveries);
    let (mut redelivered, mut refused, mut stopped) = (Vec::new(), Vec::new(), None);
    for delivery in wanted {
        let asked = if args.dry_run { Ok(()) } else { site.github.redeliver(hook.id, delivery.id) };
        match asked {
            Ok(()) => redelivered.push(delivery),
            Err(error @ (HookError::Invalid { .. } | HookError::NotFound { .. })) => {
                refused.push(Refused { delivery, error: error.to_string() });
            }
            // What stops one stops the rest too: no token, no rate, no network.
            Err(error) => {
                stopped = Some(Failure::from(error));
                break;
            }
        }
    }
    let verb = if args.dry_run { "would send" } else { "sends" };
    let mut text: String =
        redelivered.iter().map(|delivery| format!("GitHub {verb} again:\n{}", row(delivery))).collect();
    for one in &refused {
        text.push_str(&format!("not sent again: {}\n{}", escaped(&one.error), row(one.delivery)));
    }
    if text.is_empty() && stopped.is_none() {
        text.push_str("nothing to send again: every event of that time has arrived\n");
    }
    let document = RedeliverDocument {
        schema: 1,
        repository: &site.repository,
        id: hook.id,
        dry_run: args.dry_run,
        redelivered: &redelivered,
        refused: &refused,
    };
    let shown = show(out, args.target.json, &document, &text);
    match (stopped, refused.len()) {
        (Some(failure), _) => Err(failure.context(format!("after {} redeliveries", redelivered.len()))),
        (None, 0) => shown,
        (None, count) => {
            Err(Failure::failed(format!("GitHub would not send {count} of the deliveries again"))
                .hint("it keeps deliveries for 3 days; `swanci catchup` builds what was merged meanwhile"))
        }
    }
}
