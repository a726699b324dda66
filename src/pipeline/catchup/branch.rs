//! One branch of one repository: which commits are missing, building them, and finishing the newest.

use std::path::PathBuf;

use crate::documents::{MoveOutcome, Receipt};
use crate::error::{Failure, Kind};
use crate::events::Step;
use crate::git::Mirror;
use crate::manifest::template::NUMBER;
use crate::manifest::{ImageSpec, Template};
use crate::model::{BranchName, Change, CommitSha, Digest};
use crate::pipeline::compare::{Asked, ask};
use crate::pipeline::survey::{Surveyed, survey};
use crate::pipeline::{BuildOptions, Origin, Outcome, PushOptions, Ran, Site, run, worst};
use crate::state_dir;

use super::window;
use super::{CatchupDocument, CatchupOptions, CatchupOutcome, CaughtUp};

pub(super) struct Branch<'a> {
    pub(super) site: &'a Site,
    pub(super) origin: &'a Origin,
    pub(super) mirror: &'a Mirror<'a>,
    pub(super) name: &'a BranchName,
    /// The newest commit.
    pub(super) tip: &'a Change,
    pub(super) options: &'a CatchupOptions,
}

impl Branch<'_> {
    pub(super) fn catch_up(&self, document: &mut CatchupDocument) -> Result<Option<Failure>, Failure> {
        let mut commits = self.look_at()?;
        let mut failure = self.carry_out(&mut commits);
        if self.site.cancel.stopped().is_none() {
            let unfinished = self.finish_newest(&mut commits)?;
            failure = failure.or(unfinished);
        }
        document.commits.extend(commits);
        Ok(failure)
    }

    fn change(&self, commit: &CommitSha) -> Change {
        Change { commit: commit.clone(), ..self.tip.clone() }
    }

    /// The commits of the window, oldest first; `Planned` are those that the registry lacks.
    fn look_at(&self) -> Result<Vec<CaughtUp>, Failure> {
        let step = self.site.events.begin(Step::LookAt {
            branch: self.name.to_string(),
            repository: self.tip.repository.to_string(),
        });
        let commits = window::commits(self.mirror, &self.tip.commit, self.name, self.options)?;
        let listings = window::listings(self.mirror, &commits, &self.tip.repository)?;
        let held = window::held(self.site, self.origin, &commits, &listings)?;

        let mut looked_at: Vec<CaughtUp> = Vec::with_capacity(commits.len());
        for (commit, listing) in commits.into_iter().zip(&listings) {
            let (outcome, reason, error) = match &**listing {
                Err(why) => (CatchupOutcome::Invalid, None, Some(why.clone())),
                Ok(specs) if specs.is_empty() => (CatchupOutcome::Empty, None, None),
                Ok(specs) => match window::missing(&held, &commit, specs) {
                    missing if missing.is_empty() => (CatchupOutcome::Present, None, None),
                    missing => {
                        tags_need_no_pull_request(self.site, specs)?;
                        let why = format!("not in the registry: {}", missing.join(", "));
                        (CatchupOutcome::Planned, Some(why), None)
                    }
                },
            };
            let (repository, branch) = (self.tip.repository.clone(), self.name.clone());
            looked_at.push(CaughtUp { repository, branch, commit, outcome, receipt: None, reason, error });
        }
        // If the registry has nothing of this repository yet, older commits are not built.
        let is_new = looked_at.iter().all(|c| c.outcome != CatchupOutcome::Present);
        let only_newest = is_new && self.options.since.is_none();
        if only_newest {
            looked_at.drain(..looked_at.len().saturating_sub(1));
        }
        for commit in looked_at.iter_mut().filter(|c| c.outcome == CatchupOutcome::Planned) {
            // Reads only the mirror: a commit that cannot be built costs no fetch, in this run or later ones.
            match survey(self.site, self.origin, self.mirror, &self.change(&commit.commit)) {
                Err(wrong) if wrong.kind == Kind::BadInput => {
                    commit.end(CatchupOutcome::Invalid, Some(wrong.one_line()));
                }
                Err(failure) => return Err(failure),
                Ok(_) if self.options.retry_failed => {}
                Ok(_) => {
                    if let Ok(error) = std::fs::read_to_string(self.failure_file(&commit.commit)) {
                        commit.end(CatchupOutcome::FailedBefore, Some(error));
                    }
                }
            }
        }
        step.done(&summary(&looked_at, only_newest));
        Ok(looked_at)
    }

    fn carry_out(&self, commits: &mut [CaughtUp]) -> Option<Failure> {
        let events = &self.site.events;
        let total = count(commits, CatchupOutcome::Planned);
        let (mut failures, mut begun) = (Vec::new(), 0);
        for commit in commits {
            let short = commit.commit.short().to_owned();
            if commit.outcome != CatchupOutcome::Planned {
                if let Some(why) = &commit.error {
                    events.note(&format!("commit {short}: {}: {why}", commit.outcome.as_str()));
                }
            } else if self.options.dry_run {
                events.note(&format!(
                    "commit {short}: would be built; {}",
                    commit.reason.as_deref().unwrap_or_default()
                ));
            } else if self.site.cancel.stopped().is_some() {
                commit.reason = None;
            } else {
                begun += 1;
                events.note(&format!("commit {short} ({begun} of {total})"));
                let failure = self.build(commit);
                self.remember(&commit.commit, failure.as_ref());
                match failure {
                    None => {
                        commit.end(CatchupOutcome::Built, None);
                        events.note(&format!("commit {short}: {}", commit.outcome.as_str()));
                    }
                    // For errors that the survey cannot detect, such as in .gitmodules.
                    Some(failure) if failure.kind == Kind::BadInput => {
                        self.fail(commit, &failure, CatchupOutcome::Invalid);
                    }
                    Some(failure) => {
                        self.fail(commit, &failure, CatchupOutcome::Failed);
                        failures.push(failure);
                    }
                }
            }
        }
        let text = format!("{} of {total} commits failed; the first:", failures.len());
        let failure = worst(failures).map(|first| first.context(text));
        self.site.cancel.stopped().map(Failure::from).or(failure)
    }

    fn build(&self, commit: &mut CaughtUp) -> Option<Failure> {
        let change = self.change(&commit.commit);
        let (receipt, failure) =
            match run(self.site, &change, None, &BuildOptions::default(), &PushOptions::default()) {
                Ok(Outcome { document: Ran::Pushed(receipt), failure }) => (Some(receipt), failure),
                Ok(Outcome { document: Ran::Built(_), failure }) => (None, failure),
                Err(failure) => (None, Some(failure)),
            };
        commit.receipt = receipt;
        failure
    }

    fn fail(&self, commit: &mut CaughtUp, failure: &Failure, outcome: CatchupOutcome) {
        self.site.events.warn(&format!("commit {}: {}", commit.commit.short(), failure.one_line()));
        commit.end(outcome, Some(failure.one_line()));
    }

    /// The record of a failed build: a file in the state directory.
    fn failure_file(&self, commit: &CommitSha) -> PathBuf {
        let repository = Digest::of(self.origin.source.as_bytes());
        self.site.state_dir.join("failed").join(format!("{}-{commit}", &repository.hex()[..24]))
    }

    /// Records how a build ended. If the file cannot be written, the next catchup tries the commit again.
    fn remember(&self, commit: &CommitSha, failure: Option<&Failure>) {
        let file = self.failure_file(commit);
        match failure {
            Some(failure) if matches!(failure.kind, Kind::Failed | Kind::BadInput) => {
                let made = state_dir::create_below(&self.site.state_dir.join("failed"));
                let _ = made.and_then(|()| state_dir::write(&file, &failure.one_line()));
            }
            Some(_) => {}
            None => _ = std::fs::remove_file(file),
        }
    }

    /// Completes a run that failed while moving tags: if the newest commit in the registry was already present, its
    /// moving tags are checked too.
    fn finish_newest(&self, commits: &mut [CaughtUp]) -> Result<Option<Failure>, Failure> {
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
        let surveyed = match survey(self.site, self.origin, self.mirror, &self.change(&newest.commit)) {
            Ok(surveyed) => surveyed,
            // Its tags cannot be determined, for example without a pull request.
            Err(wrong) if wrong.kind == Kind::BadInput => return Ok(None),
            Err(failure) => return Err(failure),
        };
        match self.tags_are_in_place(&newest.commit, &surveyed.images) {
            Ok(true) => return Ok(None),
            Ok(false) => {}
            Err(failure) => {
                self.fail(newest, &failure, CatchupOutcome::Failed);
                return Ok(Some(failure));
            }
        }
        let short = newest.commit.short().to_owned();
        if self.options.dry_run {
            self.site.events.note(&format!("commit {short}: its tags would be moved"));
            newest.outcome = CatchupOutcome::Planned;
            newest.reason = Some("its moving tags are not in place".to_owned());
            return Ok(None);
        }
        self.site.events.note(&format!("commit {short}: its tags are not in place"));
        let failure = self.build(newest);
        match &failure {
            Some(failure) => self.fail(newest, failure, CatchupOutcome::Failed),
            None if newest.receipt.as_ref().is_some_and(has_moved) => {
                newest.end(CatchupOutcome::Finished, None);
            }
            // A newer commit has its tags.
            None => newest.receipt = None,
        }
        Ok(failure)
    }

    /// Whether every moving tag points to the commit's own image. A path of another repository is rejected.
    fn tags_are_in_place(&self, commit: &CommitSha, images: &[Surveyed]) -> Result<bool, Failure> {
        let own = commit.immutable_tag();
        let asked: Vec<Asked<'_>> = images
            .iter()
            .map(|i| Asked { repository: &i.repository, own: &own, parent: None, moving: &i.tags })
            .collect();
        let holdings = ask(self.site, &asked)?;
        self.origin.check_owner(&asked, &holdings)?;
        for (image, holdings) in images.iter().zip(&holdings) {
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
    let uses = |templates: &[Template]| templates.iter().any(|t| t.uses(NUMBER));
    let by_default = specs.iter().any(|spec| spec.tags.is_none());
    let wrong = match (&site.tags, &site.default_tags) {
        (Some(tags), _) => uses(tags).then_some("--tag"),
        (None, Some(tags)) => (by_default && uses(tags)).then_some("build.tags of the configuration"),
        (None, None) => None,
    };
    wrong.map_or(Ok(()), |place| {
        Err(Failure::bad_input(format!("{place} uses {{number}}, but a catchup has no pull requests"))
            .hint("give it other tags: --tag TEMPLATE"))
    })
}

fn count(commits: &[CaughtUp], outcome: CatchupOutcome) -> usize {
    commits.iter().filter(|commit| commit.outcome == outcome).count()
}

fn summary(commits: &[CaughtUp], only_newest: bool) -> String {
    let mut text =
        format!("{} of {} commits to build", count(commits, CatchupOutcome::Planned), commits.len());
    for outcome in [
        CatchupOutcome::Present,
        CatchupOutcome::Empty,
        CatchupOutcome::Invalid,
        CatchupOutcome::FailedBefore,
    ] {
        match count(commits, outcome) {
            0 => {}
            n => text.push_str(&format!(", {n} {}", outcome.as_str())),
        }
    }
    if only_newest {
        text.push_str(
            "; the registry has none of them, so only the newest is built (--since builds older ones)",
        );
    }
    text
}

fn has_moved(receipt: &Receipt) -> bool {
    let mut moves = receipt.images.iter().flat_map(|image| image.moved.iter().flatten());
    moves.any(|moved| moved.outcome == MoveOutcome::Moved)
}
