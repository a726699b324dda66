//! Builds and pushes the commits of a branch that the registry lacks, oldest first.
//!
//! The registry is the only state: a commit is present when every Docker image that it lists has its `sha-` tag. The
//! pipeline never moves a tag back, and tolerates a `serve` that builds the same commit concurrently.

mod branch;
mod window;

use std::fs::{File, TryLockError};

use serde::Serialize;

use crate::config::RepositoryConfig;
use crate::documents::{Receipt, SCHEMA};
use crate::error::{Classify as _, Failure, Kind};
use crate::escape::shortened;
use crate::lock;
use crate::model::{BranchName, Change, CommitSha, RepoName};

use super::checkout::resolve_by_hand;
use super::origin::{rule_of, typed};
use super::{ByHand, Origin, Outcome, Site, worst};
use branch::Branch;

pub(crate) use window::Since;

#[derive(Debug, Clone)]
pub(crate) struct CatchupOptions {
    /// A repository and branch from the command line, in place of the configured ones.
    pub by_hand: Option<ByHand>,
    /// Restricts the configured repositories to these; empty means all.
    pub repositories: Vec<RepoName>,
    /// The starting point; defaults to the 50th newest commit.
    pub since: Option<Since>,
    /// Limit on the newest commits to check; defaults to 50, or to all with `since`.
    pub max: Option<usize>,
    pub retry_failed: bool,
    pub dry_run: bool,
}

/// The document of `catchup`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct CatchupDocument {
    /// Always 1.
    pub schema: u32,
    /// Another catchup of the same repository is running, so this one did nothing. Present only when true.
    #[serde(skip_serializing_if = "is_false")]
    pub busy: bool,
    /// The checked commits, oldest first.
    pub commits: Vec<CaughtUp>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// One commit and its outcome.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct CaughtUp {
    /// The repository's full name.
    pub repository: RepoName,
    /// The branch.
    pub branch: BranchName,
    /// The commit.
    pub commit: CommitSha,
    /// The outcome.
    pub outcome: CatchupOutcome,
    /// The receipt: the same document that `run` prints and `verify` reads (`jq '.commits[].receipt | values'` extracts
    /// them); `null` when nothing was pushed.
    pub receipt: Option<Receipt>,
    /// `planned`: the reason to build it, with the images that the registry lacks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `failed` and `invalid`: the cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl CaughtUp {
    fn end(&mut self, outcome: CatchupOutcome, error: Option<String>) {
        (self.outcome, self.reason, self.error) = (outcome, None, error);
    }
}

/// The outcome for a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CatchupOutcome {
    /// The registry already had every Docker image that it lists.
    Present,
    /// It was missing; it was built and pushed.
    Built,
    /// Its images were present; its moving tags are now set too.
    Finished,
    /// Its build or push failed.
    Failed,
    /// Its build failed in an earlier run and was not retried.
    FailedBefore,
    /// It is missing and was not built: because of `--dry-run`, or because the catchup was interrupted.
    Planned,
    /// It lists no Docker image.
    Empty,
    /// Its images.json, or a file that it names, is malformed.
    Invalid,
}

impl CatchupOutcome {
    /// In messages.
    const fn as_str(self) -> &'static str {
        match self {
            CatchupOutcome::Present => "in the registry",
            CatchupOutcome::Built => "built",
            CatchupOutcome::Finished => "finished",
            CatchupOutcome::Failed => "failed",
            CatchupOutcome::FailedBefore => "failed before (--retry-failed tries it again)",
            CatchupOutcome::Planned => "planned",
            CatchupOutcome::Empty => "without images",
            CatchupOutcome::Invalid => "invalid",
        }
    }
}

/// Builds and pushes what is missing. A failed commit or repository does not stop the others.
pub(crate) fn catchup(site: &Site, options: &CatchupOptions) -> Result<Outcome<CatchupDocument>, Failure> {
    site.registry_and_client()?;
    let mut document = CatchupDocument { schema: SCHEMA, busy: false, commits: Vec::new() };
    if let Some(by_hand) = &options.by_hand {
        let failure = one_by_hand(site, by_hand, options, &mut document)?;
        return Ok(Outcome { document, failure });
    }
    let rules = rules(site, &options.repositories)?;
    let mut failures: Vec<Failure> = Vec::new();
    for rule in &rules {
        if site.cancel.stopped().is_some() {
            break;
        }
        match configured(site, rule, options, &mut document) {
            Ok(failure) => failures.extend(failure),
            Err(failure) => {
                let failure = failure.context(format!("{} could not be caught up", rule.name));
                site.events.warn(&failure.one_line());
                failures.push(failure);
            }
        }
    }
    let failure = site.cancel.stopped().map(Failure::from).or_else(|| worst(failures));
    Ok(Outcome { document, failure })
}

/// The configured repositories with these names, or all.
fn rules<'s>(site: &'s Site, names: &[RepoName]) -> Result<Vec<&'s RepositoryConfig>, Failure> {
    if site.repositories.is_empty() {
        return Err(Failure::usage("no repository is configured")
            .hint("add a [[repository]] to the configuration, or give --repo URL --branch NAME"));
    }
    if names.is_empty() {
        return Ok(site.repositories.iter().collect());
    }
    let find = |name: &RepoName| {
        let found = site.repositories.iter().find(|rule| rule.name.same_as(name));
        found.ok_or_else(|| {
            let known: Vec<&str> = site.repositories.iter().map(|rule| rule.name.as_str()).collect();
            Failure::refused(format!("the repository `{name}` is not on the allow-list"))
                .hint(format!("configured: {}", shortened(&known.join(", "), 300)))
        })
    };
    names.iter().map(find).collect()
}

fn one_by_hand(
    site: &Site,
    by_hand: &ByHand,
    options: &CatchupOptions,
    document: &mut CatchupDocument,
) -> Result<Option<Failure>, Failure> {
    // `resolve_by_hand` reports an invalid name.
    let key = typed(site, &by_hand.repository).map_or(by_hand.repository.clone(), |remote| {
        let rule = rule_of(&site.repositories, &remote);
        rule.map_or_else(|| remote.source(), |rule| rule.name.to_string())
    });
    let Some(_lock) = take_turn(site, &key, document)? else { return Ok(None) };
    let (site, tip) = resolve_by_hand(site.clone(), by_hand)?;
    let origin = Origin::of(&site, &tip)?;
    let mirror = origin.mirror(&site);
    let Some(name) = &tip.branch else { return Ok(None) };
    Branch { site: &site, origin: &origin, mirror: &mirror, name, tip: &tip, options }.catch_up(document)
}

fn configured(
    site: &Site,
    rule: &RepositoryConfig,
    options: &CatchupOptions,
    document: &mut CatchupDocument,
) -> Result<Option<Failure>, Failure> {
    let origin = &Origin::of_rule(site, rule)?;
    let Some(_lock) = take_turn(site, rule.name.as_str(), document)? else { return Ok(None) };
    let mirror = &origin.mirror(site);
    let mut failures = Vec::new();
    for name in &mirror.branches()? {
        if !rule.branches.choose(name) {
            continue;
        }
        let tip = &Change {
            forge: Some(rule.forge_kind),
            forge_url: Some(rule.forge.clone()).filter(|url| rule.forge_kind.is_elsewhere(url)),
            repository: rule.name.clone(),
            clone_url: Some(origin.remote.as_git_url().to_owned()),
            commit: mirror.fetch_branch(name)?,
            branch: Some(name.clone()),
            default_branch: None,
            pull_request: None,
        };
        failures.extend(Branch { site, origin, mirror, name, tip, options }.catch_up(document)?);
    }
    Ok(worst(failures))
}

/// Allows one catchup per repository, across branches, until the file is closed. It does not wait: cron runs it again
/// later.
fn take_turn(site: &Site, key: &str, document: &mut CatchupDocument) -> Result<Option<File>, Failure> {
    let path = lock::path_of_one(&site.state_dir, "catchup", key);
    let doing = || format!("cannot lock {}", path.display());
    let file = lock::open(&path).classify(Kind::Environment, doing)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            document.busy = true;
            Ok(None)
        }
        Err(TryLockError::Error(error)) => Err(error).classify(Kind::Environment, doing),
    }
}
