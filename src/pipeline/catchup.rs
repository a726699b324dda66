//! Finds the commits of a branch that the registry does not hold, and carries each of them out, oldest first.
//!
//! The registry is the only state: a commit is there when every Docker image that it lists has its `sha-` tag. The
//! pipeline itself keeps a moving tag from moving back, and makes a commit that `serve` builds at the same time harmless.

mod since;
mod window;

use std::fs::{File, TryLockError};
use std::path::PathBuf;

use serde::Serialize;

use crate::documents::{MoveOutcome, Receipt, SCHEMA};
use crate::error::{Classify as _, Failure, Kind};
use crate::git::Mirror;
use crate::lock;
use crate::manifest::template::Word;
use crate::manifest::{ImageKind, ImageSpec};
use crate::model::{BranchName, Change, CommitSha, Digest, RepoName};
use crate::plan::Holdings;
use crate::registry::Registry;
use crate::state_dir;

use super::checkout::resolve_by_hand;
use super::compare::{Asked, ask};
use super::origin::{rule_of, typed};
use super::survey::{Surveyed, survey};
use super::{BuildOptions, ByHand, Origin, Outcome, PushOptions, Ran, RepositoryRule, Site, run};
use window::{Held, Listing};

pub(crate) use since::Since;

/// Which commits to look at.
#[derive(Debug, Clone)]
pub(crate) struct CatchupOptions {
    /// A repository and branch that a person typed, in place of the configured ones.
    pub by_hand: Option<ByHand>,
    /// Of the configured repositories only these; empty means all.
    pub repositories: Vec<RepoName>,
    /// Where to begin; without it, at the 50th newest commit.
    pub since: Option<Since>,
    /// Look at no more than this many of the newest commits; without it 50, or with `since` all.
    pub max: Option<usize>,
    /// Build commits again whose build failed before.
    pub retry_failed: bool,
    /// Say which commits would be built, and build none.
    pub dry_run: bool,
}

/// The document of `catchup`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct CatchupDocument {
    /// Always 1.
    pub schema: u32,
    /// Another catchup of the same repository is at work, so this one left it all to that. Only there when true.
    #[serde(skip_serializing_if = "is_false")]
    pub busy: bool,
    /// The commits that were looked at, oldest first.
    pub commits: Vec<CaughtUp>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// One commit, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct CaughtUp {
    /// The repository's full name.
    pub repository: RepoName,
    /// The branch.
    pub branch: BranchName,
    /// The commit.
    pub commit: CommitSha,
    /// What became of it.
    pub outcome: CatchupOutcome,
    /// The receipt itself, the same document that `run` prints and `verify` reads (so that
    /// `jq '.commits[].receipt | values'` is all it takes); `null` when nothing was pushed.
    pub receipt: Option<Receipt>,
    /// `failed` and `invalid`: why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CatchupOutcome {
    /// Every Docker image that it lists was in the registry already.
    Present,
    /// It was missing, and now it is there.
    Built,
    /// Its images were there, and now its moving tags are too.
    Finished,
    /// Its build or push failed.
    Failed,
    /// Its build failed in an earlier run, and is not tried again.
    FailedBefore,
    /// It is missing: with `--dry-run`, or because the catchup was interrupted before its turn.
    Planned,
    /// It lists no Docker image.
    Empty,
    /// Its images.json, or what it names, is malformed.
    Invalid,
}

/// Builds and pushes what is missing. Neither a commit nor a repository that fails keeps the others from their turn.
pub(crate) fn catchup(site: &Site, options: &CatchupOptions) -> Result<Outcome<CatchupDocument>, Failure> {
    site.registry_and_client()?;
    let mut document = CatchupDocument { schema: SCHEMA, busy: false, commits: Vec::new() };
    if let Some(by_hand) = &options.by_hand {
        let failure = by_hand_one(site, by_hand, options, &mut document)?;
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
                site.progress.warn(&failure.one_line());
                failures.push(failure);
            }
        }
    }
    let failure = site.cancel.stopped().map(Failure::from).or_else(|| worst(failures));
    Ok(Outcome { document, failure })
}

/// The configured repositories with these names, or all.
fn rules<'s>(site: &'s Site, names: &[RepoName]) -> Result<Vec<&'s RepositoryRule>, Failure> {
    if site.repositories.is_empty() {
        return Err(Failure::usage("no repository is configured")
            .hint("add a [[repository]] to the configuration, or give --repo URL --branch NAME"));
    }
    if names.is_empty() {
        return Ok(site.repositories.iter().collect());
    }
    let find = |name: &RepoName| {
        let found = site.repositories.iter().find(|rule| rule.name.same_as(name));
        found.ok_or_else(|| Failure::refused(format!("the repository `{name}` is not on the allow-list")))
    };
    names.iter().map(find).collect()
}

/// The failure that speaks for several.
fn worst(failures: Vec<Failure>) -> Option<Failure> {
    let kind = failures.iter().map(|failure| failure.kind).reduce(Kind::and)?;
    failures.into_iter().find(|failure| failure.kind == kind)
}

fn by_hand_one(
    site: &Site,
    by_hand: &ByHand,
    options: &CatchupOptions,
    document: &mut CatchupDocument,
) -> Result<Option<Failure>, Failure> {
    // What is wrong with the name is told where it is resolved.
    let key = match typed(site, &by_hand.repository) {
        Ok(remote) => match rule_of(&site.repositories, &remote) {
            Some(rule) => rule.name.to_string(),
            None => remote.source(),
        },
        Err(_) => by_hand.repository.clone(),
    };
    let Turn::Ours(_lock) = take_turn(site, &key)? else {
        document.busy = true;
        return Ok(None);
    };
    let (site, tip) = resolve_by_hand(site.clone(), by_hand)?;
    let origin = Origin::of(&site, &tip)?;
    let mirror = Mirror::of(&site.state_dir, &origin.remote, &site.access, &site.cancel);
    branch(&site, &origin, &mirror, &tip, options, document)
}

fn configured(
    site: &Site,
    rule: &RepositoryRule,
    options: &CatchupOptions,
    document: &mut CatchupDocument,
) -> Result<Option<Failure>, Failure> {
    let origin = Origin::of_rule(site, rule)?;
    let Turn::Ours(_lock) = take_turn(site, rule.name.as_str())? else {
        document.busy = true;
        return Ok(None);
    };
    let mirror = Mirror::of(&site.state_dir, &origin.remote, &site.access, &site.cancel);
    let mut failures = Vec::new();
    for name in mirror.branches()?.into_iter().filter(|name| rule.branches.choose(name)) {
        let tip = Change {
            forge: Some(rule.forge_kind),
            repository: rule.name.clone(),
            clone_url: origin.remote.as_git_url().to_owned(),
            commit: mirror.fetch_branch(&name)?,
            branch: Some(name),
            default_branch: None,
            pull_request: None,
        };
        failures.extend(branch(site, &origin, &mirror, &tip, options, document)?);
    }
    Ok(worst(failures))
}

/// One branch, whose newest commit is `tip`.
fn branch(
    site: &Site,
    origin: &Origin,
    mirror: &Mirror<'_>,
    tip: &Change,
    options: &CatchupOptions,
    document: &mut CatchupDocument,
) -> Result<Option<Failure>, Failure> {
    let (_, client) = site.registry_and_client()?;
    let Some(name) = &tip.branch else { return Ok(None) };
    let step = site.progress.step(&format!("look at {name} of {}", tip.repository));
    let commits = window::commits(mirror, &tip.commit, name, options)?;
    let listings = window::listings(mirror, &commits, &tip.repository)?;
    let held = Held::ask(site, client, origin, &commits, &listings)?;

    let mut looked_at: Vec<Commit> = Vec::with_capacity(commits.len());
    for (commit, listing) in commits.into_iter().zip(&listings) {
        let state = match &**listing {
            Listing::Empty => State::Done(CatchupOutcome::Empty, None),
            Listing::Invalid(why) => State::Done(CatchupOutcome::Invalid, Some(why.clone())),
            Listing::Images(_) if held.holds(&commit, listing) => State::Done(CatchupOutcome::Present, None),
            Listing::Images(specs) => {
                tags_need_no_pull_request(site, specs)?;
                State::Missing
            }
        };
        looked_at.push(Commit { change: Change { commit, ..tip.clone() }, state });
    }
    // In a registry that is new to this repository, history stays history.
    let is_new = !looked_at.iter().any(|c| matches!(c.state, State::Done(CatchupOutcome::Present, _)));
    if is_new && options.since.is_none() {
        looked_at.drain(..looked_at.len().saturating_sub(1));
    }
    for commit in looked_at.iter_mut().filter(|c| matches!(c.state, State::Missing)) {
        // Read from the mirror alone: a commit that cannot be built costs no fetch, in this run and in the next ones.
        match survey(site, origin, mirror, &commit.change) {
            Ok(_) => {}
            Err(wrong) if wrong.kind == Kind::BadInput => {
                commit.state = State::Done(CatchupOutcome::Invalid, Some(wrong.one_line()));
            }
            Err(failure) => return Err(failure),
        }
        let remembered = failed_before(site, origin, &commit.change.commit);
        if !options.retry_failed
            && matches!(commit.state, State::Missing)
            && let Ok(error) = std::fs::read_to_string(remembered)
        {
            commit.state = State::Done(CatchupOutcome::FailedBefore, Some(error));
        }
    }
    step.done(&summary(&looked_at, is_new && options.since.is_none()));
    let mut outcome = carry_out(site, origin, name, looked_at, options.dry_run);
    if site.cancel.stopped().is_none() {
        let unfinished = finish_newest(site, client, origin, mirror, tip, &mut outcome.document, options)?;
        outcome.failure = outcome.failure.or(unfinished);
    }
    document.commits.extend(outcome.document);
    Ok(outcome.failure)
}

/// The file that remembers that the build of a commit failed, and why.
fn failed_before(site: &Site, origin: &Origin, commit: &CommitSha) -> PathBuf {
    let repository = Digest::of(origin.source.as_bytes());
    let repository = repository.as_str().trim_start_matches("sha256:").get(..24).unwrap_or_default();
    site.state_dir.join("failed").join(format!("{repository}-{commit}"))
}

/// Remembers how the build of a commit ended. Without the file it is tried again.
fn remember(site: &Site, origin: &Origin, commit: &CommitSha, failure: Option<&Failure>) {
    let file = failed_before(site, origin, commit);
    match failure {
        Some(failure) if matches!(failure.kind, Kind::Failed | Kind::BadInput) => {
            let made = state_dir::create_below(&site.state_dir.join("failed"));
            let _ = made.and_then(|()| state_dir::write(&file, &failure.one_line()));
        }
        Some(_) => {}
        None => {
            let _ = std::fs::remove_file(file);
        }
    }
}

/// Whether every moving tag names the image that has the commit's own tag. A path of another repository is refused.
fn tags_are_in_place(
    site: &Site,
    client: &Registry,
    origin: &Origin,
    mirror: &Mirror<'_>,
    commit: &CommitSha,
    images: &[Surveyed],
) -> Result<bool, Failure> {
    let own = commit.immutable_tag();
    let docker: Vec<&Surveyed> = images.iter().filter(|i| i.spec.kind == ImageKind::Docker).collect();
    let asked: Vec<Asked<'_>> = docker
        .iter()
        .map(|i| Asked { repository: &i.repository, own: &own, parent: None, moving: &i.tags })
        .collect();
    let holdings = ask(&client.with_cancel(site.cancel.clone()), &asked)?;
    for (image, holdings) in docker.iter().zip(&holdings) {
        if let Some(source) = holdings.owned_by_another(|source| origin.is_source(source)) {
            return Err(origin.refusal(&image.repository, source));
        }
    }
    let own = |holdings: &Holdings| holdings.own.as_ref().map(|held| held.digest.clone());
    for (image, holdings) in docker.iter().zip(&holdings) {
        let Some(own) = own(holdings) else {
            if holdings.moving.is_empty() {
                continue;
            }
            return Ok(false);
        };
        if holdings.moving.len() < image.tags.len() {
            return Ok(false);
        }
        for held in holdings.moving.iter().filter(|held| held.digest != own) {
            // A newer commit holds the tag, or another branch that shares it.
            let elsewhere = match &held.revision {
                Some(revision) => mirror.has_commit(revision)? && !mirror.is_ancestor(revision, commit)?,
                None => false,
            };
            if !elsewhere {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Whether this catchup may begin.
enum Turn {
    /// It may; the next one may when the file is closed.
    Ours(File),
    /// Another one is at work.
    Taken,
}

/// One catchup of a repository at a time, whatever its branch. Nobody waits: cron comes again.
fn take_turn(site: &Site, key: &str) -> Result<Turn, Failure> {
    let path = lock::path_of_one(&site.state_dir, "catchup", key);
    let doing = || format!("cannot lock {}", path.display());
    let file = lock::open(&path).classify(Kind::Environment, doing)?;
    match file.try_lock() {
        Ok(()) => Ok(Turn::Ours(file)),
        Err(TryLockError::WouldBlock) => Ok(Turn::Taken),
        Err(TryLockError::Error(error)) => Err(error).classify(Kind::Environment, doing),
    }
}

/// A commit that was looked at.
struct Commit {
    change: Change,
    state: State,
}

enum State {
    Missing,
    Done(CatchupOutcome, Option<String>),
}

/// `{number}` has no value here. Where the configuration asks for it, every commit would be `invalid` and every run
/// would end well, with nothing built: that is an error of the configuration.
fn tags_need_no_pull_request(site: &Site, specs: &[ImageSpec]) -> Result<(), Failure> {
    let asks = |templates: &[crate::manifest::Template]| templates.iter().any(|t| t.asks_for(Word::Number));
    let by_default = specs.iter().any(|s| s.kind == ImageKind::Docker && s.tags.is_none());
    let wrong = match (&site.tags, &site.default_tags) {
        (Some(tags), _) => asks(tags).then_some("--tag"),
        (None, Some(tags)) => (by_default && asks(tags)).then_some("build.tags of the configuration"),
        (None, None) => None,
    };
    wrong.map_or(Ok(()), |place| {
        Err(Failure::bad_input(format!("{place} asks for {{number}}, and catchup knows no pull requests"))
            .hint("give it tags of its own: --tag TEMPLATE"))
    })
}

fn summary(commits: &[Commit], only_newest: bool) -> String {
    let count = |outcome: CatchupOutcome| {
        commits.iter().filter(|c| matches!(&c.state, State::Done(o, _) if *o == outcome)).count()
    };
    let missing = commits.iter().filter(|c| matches!(c.state, State::Missing)).count();
    let mut text = format!("{missing} of {} commits to build", commits.len());
    for outcome in [
        CatchupOutcome::Present,
        CatchupOutcome::Empty,
        CatchupOutcome::Invalid,
        CatchupOutcome::FailedBefore,
    ] {
        match count(outcome) {
            0 => {}
            n => text.push_str(&format!(", {n} {}", word(outcome))),
        }
    }
    if only_newest {
        text.push_str("; the registry holds none, so only the newest counts (--since says otherwise)");
    }
    text
}

/// Runs the pipeline for each missing commit, in the order given.
fn carry_out(
    site: &Site,
    origin: &Origin,
    branch: &BranchName,
    commits: Vec<Commit>,
    dry_run: bool,
) -> Outcome<Vec<CaughtUp>> {
    let total = commits.iter().filter(|c| matches!(c.state, State::Missing)).count();
    let mut document: Vec<CaughtUp> = Vec::new();
    let mut failures: Vec<Failure> = Vec::new();
    let mut begun = 0;
    for Commit { change, state } in commits {
        let short = change.commit.short().to_owned();
        let (outcome, receipt, error) = match state {
            State::Done(outcome, why) => {
                if let Some(why) = &why {
                    site.progress.say(&format!("commit {short}: {}: {why}", word(outcome)));
                }
                (outcome, None, why)
            }
            State::Missing if dry_run || site.cancel.stopped().is_some() => {
                if dry_run {
                    site.progress.say(&format!("commit {short}: would be built"));
                }
                (CatchupOutcome::Planned, None, None)
            }
            State::Missing => {
                begun += 1;
                site.progress.say(&format!("commit {short} ({begun} of {total})"));
                let (receipt, failure) = build_one(site, &change);
                remember(site, origin, &change.commit, failure.as_ref());
                let outcome = match &failure {
                    None => CatchupOutcome::Built,
                    // What the survey could not see, as in .gitmodules.
                    Some(failure) if failure.kind == Kind::BadInput => CatchupOutcome::Invalid,
                    Some(_) => CatchupOutcome::Failed,
                };
                let error = failure.as_ref().map(Failure::one_line);
                match &error {
                    None => site.progress.say(&format!("commit {short}: {}", word(outcome))),
                    Some(error) => site.progress.warn(&format!("commit {short}: {error}")),
                }
                failures.extend(failure.filter(|_| outcome == CatchupOutcome::Failed));
                (outcome, receipt, error)
            }
        };
        let Change { repository, commit, .. } = change;
        document.push(CaughtUp { repository, branch: branch.clone(), commit, outcome, receipt, error });
    }
    let failure = site.cancel.stopped().map(Failure::from).or_else(|| combine(failures, total));
    Outcome { document, failure }
}

/// A run that failed at the moves is done again: where the newest commit that is in the registry was there before, its
/// moving tags are looked at too.
fn finish_newest(
    site: &Site,
    client: &Registry,
    origin: &Origin,
    mirror: &Mirror<'_>,
    tip: &Change,
    commits: &mut [CaughtUp],
    options: &CatchupOptions,
) -> Result<Option<Failure>, Failure> {
    let is_there = |commit: &&mut CaughtUp| match commit.outcome {
        CatchupOutcome::Present | CatchupOutcome::Built | CatchupOutcome::Planned => true,
        CatchupOutcome::Finished
        | CatchupOutcome::Failed
        | CatchupOutcome::FailedBefore
        | CatchupOutcome::Empty
        | CatchupOutcome::Invalid => false,
    };
    let newest = commits.iter_mut().rfind(is_there);
    let Some(newest) = newest.filter(|commit| commit.outcome == CatchupOutcome::Present) else {
        return Ok(None);
    };
    let change = Change { commit: newest.commit.clone(), ..tip.clone() };
    let surveyed = match survey(site, origin, mirror, &change) {
        Ok(surveyed) => surveyed,
        // Its tags cannot be told, as without a pull request.
        Err(wrong) if wrong.kind == Kind::BadInput => return Ok(None),
        Err(failure) => return Err(failure),
    };
    let short = change.commit.short();
    match tags_are_in_place(site, client, origin, mirror, &change.commit, &surveyed) {
        Ok(true) => return Ok(None),
        Ok(false) => {}
        Err(failure) => {
            site.progress.warn(&format!("commit {short}: {}", failure.one_line()));
            newest.outcome = CatchupOutcome::Failed;
            newest.error = Some(failure.one_line());
            return Ok(Some(failure));
        }
    }
    if options.dry_run {
        site.progress.say(&format!("commit {short}: its tags would be moved"));
        newest.outcome = CatchupOutcome::Planned;
        return Ok(None);
    }
    site.progress.say(&format!("commit {short}: its tags are not in place"));
    let (receipt, failure) = build_one(site, &change);
    match &failure {
        // A newer commit holds its tags.
        None if !receipt.as_ref().is_some_and(has_moved) => {}
        None => {
            newest.outcome = CatchupOutcome::Finished;
            newest.receipt = receipt;
        }
        Some(failure) => {
            site.progress.warn(&format!("commit {short}: {}", failure.one_line()));
            newest.outcome = CatchupOutcome::Failed;
            newest.error = Some(failure.one_line());
            newest.receipt = receipt;
        }
    }
    Ok(failure)
}

fn has_moved(receipt: &Receipt) -> bool {
    receipt
        .images
        .iter()
        .flat_map(|image| image.moved.iter().flatten())
        .any(|m| m.outcome == MoveOutcome::Moved)
}

fn word(outcome: CatchupOutcome) -> &'static str {
    match outcome {
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

fn build_one(site: &Site, change: &Change) -> (Option<Receipt>, Option<Failure>) {
    match run(site, change, None, &BuildOptions::default(), &PushOptions::default()) {
        Ok(Outcome { document: Ran::Pushed(receipt), failure }) => (Some(receipt), failure),
        Ok(Outcome { document: Ran::Built(_), failure }) => (None, failure),
        Err(failure) => (None, Some(failure)),
    }
}

fn combine(failures: Vec<Failure>, tried: usize) -> Option<Failure> {
    let kind = failures.iter().map(|f| f.kind).reduce(Kind::and)?;
    let text = format!("{} of {tried} commits failed; the first:", failures.len());
    failures.into_iter().find(|f| f.kind == kind).map(|first| first.context(text))
}
