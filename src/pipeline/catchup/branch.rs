//! One branch of one repository: which commits are missing, building them, and finishing the newest.

use crate::documents::{MoveOutcome, Receipt};
use crate::error::{Failure, Kind};
use crate::events::Step;
use crate::git::Mirror;
use crate::manifest::template::Word;
use crate::manifest::{ImageKind, ImageSpec, Template};
use crate::model::{BranchName, Change, CommitSha};
use crate::pipeline::compare::{Asked, ask};
use crate::pipeline::survey::{Surveyed, survey};
use crate::pipeline::{BuildOptions, Origin, Outcome, PushOptions, Ran, Site, run};
use crate::registry::Registry;

use super::window::{self, Held, Listing};
use super::{CatchupOptions, CatchupOutcome, CaughtUp, failed_before};

pub(super) struct Branch<'a> {
    pub(super) site: &'a Site,
    pub(super) client: &'a Registry,
    pub(super) origin: &'a Origin,
    pub(super) mirror: &'a Mirror<'a>,
    pub(super) name: &'a BranchName,
    /// The newest commit.
    pub(super) tip: &'a Change,
    pub(super) options: &'a CatchupOptions,
}

struct Commit {
    change: Change,
    state: State,
}

enum State {
    /// The images that the registry lacks.
    Missing(Vec<String>),
    /// The error is set for failures.
    Done(CatchupOutcome, Option<String>),
}

impl Branch<'_> {
    pub(super) fn catch_up(&self) -> Result<Outcome<Vec<CaughtUp>>, Failure> {
        let commits = self.look_at()?;
        let mut outcome = self.carry_out(commits);
        if self.site.cancel.stopped().is_none() {
            let unfinished = self.finish_newest(&mut outcome.document)?;
            outcome.failure = outcome.failure.or(unfinished);
        }
        Ok(outcome)
    }

    /// The commits of the window, oldest first.
    fn look_at(&self) -> Result<Vec<Commit>, Failure> {
        let step = self.site.events.begin(Step::LookAt {
            branch: self.name.to_string(),
            repository: self.tip.repository.to_string(),
        });
        let commits = window::commits(self.mirror, &self.tip.commit, self.name, self.options)?;
        let listings = window::listings(self.mirror, &commits, &self.tip.repository)?;
        let held = Held::ask(self.site, self.client, self.origin, &commits, &listings)?;

        let mut looked_at: Vec<Commit> = Vec::with_capacity(commits.len());
        for (commit, listing) in commits.into_iter().zip(&listings) {
            let state = match &**listing {
                Listing::Empty => State::Done(CatchupOutcome::Empty, None),
                Listing::Invalid(why) => State::Done(CatchupOutcome::Invalid, Some(why.clone())),
                Listing::Images(specs) => match held.missing(&commit, listing) {
                    missing if missing.is_empty() => State::Done(CatchupOutcome::Present, None),
                    missing => {
                        tags_need_no_pull_request(self.site, specs)?;
                        State::Missing(missing)
                    }
                },
            };
            looked_at.push(Commit { change: Change { commit, ..self.tip.clone() }, state });
        }
        // If the registry has nothing of this repository yet, older commits are not built.
        let is_new = !looked_at.iter().any(|c| matches!(c.state, State::Done(CatchupOutcome::Present, _)));
        if is_new && self.options.since.is_none() {
            looked_at.drain(..looked_at.len().saturating_sub(1));
        }
        for commit in looked_at.iter_mut().filter(|c| matches!(c.state, State::Missing(_))) {
            // Reads only the mirror: a commit that cannot be built costs no fetch, in this run or later ones.
            match survey(self.site, self.origin, self.mirror, &commit.change) {
                Ok(_) => {}
                Err(wrong) if wrong.kind == Kind::BadInput => {
                    commit.state = State::Done(CatchupOutcome::Invalid, Some(wrong.one_line()));
                }
                Err(failure) => return Err(failure),
            }
            if !self.options.retry_failed
                && matches!(commit.state, State::Missing(_))
                && let Some(error) = failed_before::recall(self.site, self.origin, &commit.change.commit)
            {
                commit.state = State::Done(CatchupOutcome::FailedBefore, Some(error));
            }
        }
        step.done(&summary(&looked_at, is_new && self.options.since.is_none()));
        Ok(looked_at)
    }

    /// Runs the pipeline for each missing commit.
    fn carry_out(&self, commits: Vec<Commit>) -> Outcome<Vec<CaughtUp>> {
        let (site, dry_run) = (self.site, self.options.dry_run);
        let total = commits.iter().filter(|c| matches!(c.state, State::Missing(_))).count();
        let mut document: Vec<CaughtUp> = Vec::new();
        let mut failures: Vec<Failure> = Vec::new();
        let mut begun = 0;
        for Commit { change, state } in commits {
            let short = change.commit.short().to_owned();
            let mut reason = None;
            let (outcome, receipt, error) = match state {
                State::Done(outcome, why) => {
                    if let Some(why) = &why {
                        site.events.note(&format!("commit {short}: {}: {why}", word(outcome)));
                    }
                    (outcome, None, why)
                }
                State::Missing(images) if dry_run || site.cancel.stopped().is_some() => {
                    if dry_run {
                        let why = format!("not in the registry: {}", images.join(", "));
                        site.events.note(&format!("commit {short}: would be built; {why}"));
                        reason = Some(why);
                    }
                    (CatchupOutcome::Planned, None, None)
                }
                State::Missing(_) => {
                    begun += 1;
                    site.events.note(&format!("commit {short} ({begun} of {total})"));
                    let (receipt, failure) = build_one(site, &change);
                    failed_before::remember(site, self.origin, &change.commit, failure.as_ref());
                    let outcome = match &failure {
                        None => CatchupOutcome::Built,
                        // For errors that the survey cannot detect, such as in .gitmodules.
                        Some(failure) if failure.kind == Kind::BadInput => CatchupOutcome::Invalid,
                        Some(_) => CatchupOutcome::Failed,
                    };
                    let error = failure.as_ref().map(Failure::one_line);
                    match &error {
                        None => site.events.note(&format!("commit {short}: {}", word(outcome))),
                        Some(error) => site.events.warn(&format!("commit {short}: {error}")),
                    }
                    failures.extend(failure.filter(|_| outcome == CatchupOutcome::Failed));
                    (outcome, receipt, error)
                }
            };
            let Change { repository, commit, .. } = change;
            document.push(CaughtUp {
                repository,
                branch: self.name.clone(),
                commit,
                outcome,
                receipt,
                reason,
                error,
            });
        }
        let failure = site.cancel.stopped().map(Failure::from).or_else(|| combine(failures, total));
        Outcome { document, failure }
    }

    /// Completes a run that failed while moving tags: if the newest commit in the registry was already present, its
    /// moving tags are checked too.
    fn finish_newest(&self, commits: &mut [CaughtUp]) -> Result<Option<Failure>, Failure> {
        let site = self.site;
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
        let change = Change { commit: newest.commit.clone(), ..self.tip.clone() };
        let surveyed = match survey(site, self.origin, self.mirror, &change) {
            Ok(surveyed) => surveyed,
            // Its tags cannot be determined, for example without a pull request.
            Err(wrong) if wrong.kind == Kind::BadInput => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let short = change.commit.short();
        match self.tags_are_in_place(&change.commit, &surveyed) {
            Ok(true) => return Ok(None),
            Ok(false) => {}
            Err(failure) => {
                site.events.warn(&format!("commit {short}: {}", failure.one_line()));
                newest.outcome = CatchupOutcome::Failed;
                newest.error = Some(failure.one_line());
                return Ok(Some(failure));
            }
        }
        if self.options.dry_run {
            site.events.note(&format!("commit {short}: its tags would be moved"));
            newest.outcome = CatchupOutcome::Planned;
            newest.reason = Some("its moving tags are not in place".to_owned());
            return Ok(None);
        }
        site.events.note(&format!("commit {short}: its tags are not in place"));
        let (receipt, failure) = build_one(site, &change);
        match &failure {
            // A newer commit has its tags.
            None if !receipt.as_ref().is_some_and(has_moved) => {}
            None => {
                newest.outcome = CatchupOutcome::Finished;
                newest.receipt = receipt;
            }
            Some(failure) => {
                site.events.warn(&format!("commit {short}: {}", failure.one_line()));
                newest.outcome = CatchupOutcome::Failed;
                newest.error = Some(failure.one_line());
                newest.receipt = receipt;
            }
        }
        Ok(failure)
    }

    /// Whether every moving tag points to the commit's own image. A path of another repository is rejected.
    fn tags_are_in_place(&self, commit: &CommitSha, images: &[Surveyed]) -> Result<bool, Failure> {
        let own = commit.immutable_tag();
        let docker: Vec<&Surveyed> = images.iter().filter(|i| i.spec.kind == ImageKind::Docker).collect();
        let asked: Vec<Asked<'_>> = docker
            .iter()
            .map(|i| Asked { repository: &i.repository, own: &own, parent: None, moving: &i.tags })
            .collect();
        let holdings = ask(&self.client.with_cancel(self.site.cancel.clone()), &asked)?;
        for (image, holdings) in docker.iter().zip(&holdings) {
            if let Some(source) = holdings.owned_by_another(|source| self.origin.is_source(source)) {
                return Err(self.origin.refusal(&image.repository, source));
            }
        }
        for (image, holdings) in docker.iter().zip(&holdings) {
            let Some(own) = holdings.own.as_ref().map(|held| &held.digest) else {
                if holdings.moving.is_empty() {
                    continue;
                }
                return Ok(false);
            };
            if holdings.moving.len() < image.tags.len() {
                return Ok(false);
            }
            for held in holdings.moving.iter().filter(|held| held.digest != *own) {
                // A newer commit has the tag, or another branch that shares it.
                let elsewhere = match &held.revision {
                    Some(revision) => {
                        self.mirror.has_commit(revision)? && !self.mirror.is_ancestor(revision, commit)?
                    }
                    None => false,
                };
                if !elsewhere {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

/// `{number}` has no value here. If the configuration uses it, every commit would be `invalid` and every run would
/// succeed without a build, so this is a configuration error.
fn tags_need_no_pull_request(site: &Site, specs: &[ImageSpec]) -> Result<(), Failure> {
    let asks = |templates: &[Template]| templates.iter().any(|t| t.asks_for(Word::Number));
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
    let missing = commits.iter().filter(|c| matches!(c.state, State::Missing(_))).count();
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
