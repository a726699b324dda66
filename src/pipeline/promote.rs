//! Moves the moving tags once every image of a commit is pushed: never back, all or none, one process at a time.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::cancel::Cancel;
use crate::documents::{Image, Move, MoveOutcome};
use crate::error::{Failure, Kind};
use crate::events::Step;
use crate::git::Mirror;
use crate::lock;
use crate::model::{BranchName, CommitSha, Digest, ImageRepository, Tag};
use crate::parallel;
use crate::registry::{Manifest, Registry};

use super::compare::{REVISION_LABEL, SOURCE_LABEL, absent_if_unreadable};
use super::push::Push;
use super::{REGISTRY_THREADS, Site, checkout, survey, worst};

/// Time limit for restoring tags after the command was stopped.
const PUT_BACK_TIME: Duration = Duration::from_secs(20);

/// A tag to move to this commit.
struct Wanted {
    image: usize,
    repository: ImageRepository,
    tag: Tag,
    to: Digest,
    /// Its current manifest, read under its lock.
    now: Option<Manifest>,
    note: Option<String>,
    outcome: Option<MoveOutcome>,
}

impl Push<'_> {
    /// Phase 2. Fills in `moved` of every image, also on failure.
    pub(super) fn promote(&self, images: &mut [Image]) -> Result<(), Failure> {
        let mut wanted = wanted(images);
        let outcome = match &self.change.branch {
            Some(branch) if !wanted.is_empty() => {
                // Always in the same order, to prevent deadlocks.
                let names = wanted.iter().map(|w| w.repository.tagged(&w.tag));
                let _locks = lock::all(&self.site.state_dir, "tag", names, &self.site.cancel)?;
                let mirror = self.origin.mirror(self.site);
                Mover { push: self, branch, images, mirror }.move_tags(&mut wanted)
            }
            Some(_) | None => Ok(()),
        };
        for image in images.iter_mut().filter(|i| i.digest.is_some()) {
            image.moved = Some(Vec::new());
        }
        for tag in wanted {
            if let (Some(outcome), Some(moved)) = (tag.outcome, &mut images[tag.image].moved) {
                let from = tag.now.map(|m| m.digest);
                moved.push(Move { tag: tag.tag, from, to: tag.to, outcome, note: tag.note });
            }
        }
        outcome
    }
}

fn wanted(images: &[Image]) -> Vec<Wanted> {
    let mut all = Vec::new();
    for (image, Image { repository, digest, tags, .. }) in images.iter().enumerate() {
        let (Some(repository), Some(to)) = (repository, digest) else { continue };
        all.extend(tags.iter().flatten().map(|tag| Wanted {
            image,
            repository: repository.clone(),
            tag: tag.clone(),
            to: to.clone(),
            now: None,
            note: None,
            outcome: None,
        }));
    }
    all
}

struct Mover<'a> {
    push: &'a Push<'a>,
    branch: &'a BranchName,
    images: &'a [Image],
    mirror: Mirror<'a>,
}

impl Mover<'_> {
    fn fetch(&self) -> Result<CommitSha, Failure> {
        checkout::prove(self.push.site, &self.mirror, self.branch, &self.push.change.commit, &[])
    }

    fn move_tags(&self, wanted: &mut [Wanted]) -> Result<(), Failure> {
        let step = self.push.site.events.begin(Step::MoveTags);
        let now = parallel::map(REGISTRY_THREADS, wanted, |w| {
            absent_if_unreadable(self.push.client.get_manifest(w.repository.path(), &w.tag))
        });
        for (tag, now) in wanted.iter_mut().zip(now) {
            tag.now = now?;
            if tag.now.as_ref().is_some_and(|m| m.digest == tag.to) {
                tag.outcome = Some(MoveOutcome::Already);
            }
        }
        if wanted.iter().all(|w| w.outcome.is_some()) {
            step.done("all in place already");
            return Ok(());
        }
        // The decision needs the current tip, so the branch is fetched again under the locks.
        let tip = self.fetch()?;
        if self.is_superseded(tip, wanted)? {
            for tag in wanted.iter_mut().filter(|w| w.outcome.is_none()) {
                tag.outcome = Some(MoveOutcome::Superseded);
            }
            step.done("superseded by a newer commit; the tags stay");
            return Ok(());
        }
        match move_all(self.push.client, wanted) {
            Ok(()) => {
                look_again(self.push.client, wanted);
                let count = wanted.iter().filter(|w| w.outcome == Some(MoveOutcome::Moved)).count();
                step.done(&format!("{count} moved, {} in place already", wanted.len() - count));
                Ok(())
            }
            Err(failure) => {
                put_back(self.push.site, self.push.client, wanted);
                let failure = failure.context("not all tags could be moved; those that moved are put back");
                step.failed(&failure.one_line());
                Err(failure)
            }
        }
    }

    /// Whether a newer commit keeps all tags of this commit where they are. A tag of another repository is an error.
    fn is_superseded(&self, mut tip: CommitSha, wanted: &mut [Wanted]) -> Result<bool, Failure> {
        let labels = parallel::map(REGISTRY_THREADS, wanted, |w| match (&w.now, w.outcome) {
            (Some(manifest), None) => {
                let labels = self.push.client.image_labels(w.repository.path(), manifest);
                absent_if_unreadable(labels.map(Some))
            }
            (Some(_) | None, _) => Ok(None),
        });
        let mut fetched_again = false;
        let mut superseded = false;
        let mut relations: BTreeMap<Option<String>, Relation> = BTreeMap::new();
        for (tag, labels) in wanted.iter_mut().zip(labels) {
            let Some(labels) = labels? else { continue };
            if let Some(source) = labels.get(SOURCE_LABEL)
                && !self.push.options.take_over
                && !self.push.origin.is_source(source)
            {
                return Err(self.push.origin.refusal(&tag.repository, source));
            }
            if self.push.options.allow_rollback {
                continue;
            }
            // The tags of one commit mostly share a revision: query git once per revision.
            let relation = match relations.entry(labels.get(REVISION_LABEL).cloned()) {
                Entry::Occupied(known) => known.get().clone(),
                Entry::Vacant(new) => {
                    let ask = || self.relation(new.key().as_deref());
                    let mut relation = ask()?;
                    if matches!(relation, Relation::Unknown(_)) && !fetched_again {
                        // The tag may have moved after the fetch: fetch again before treating its revision as unknown.
                        tip = self.fetch()?;
                        fetched_again = true;
                        relation = ask()?;
                    }
                    new.insert(relation).clone()
                }
            };
            match relation {
                Relation::SameOrOlder => {}
                Relation::Newer => superseded = true,
                Relation::Unknown(why) => {
                    let name = tag.repository.tagged(&tag.tag);
                    self.push.site.events.warn(&format!("{name}: {why}; it moves all the same"));
                    tag.note = Some(why);
                }
            }
        }
        if superseded || self.push.options.allow_rollback {
            return Ok(superseded);
        }
        self.newer_commit_is_complete(&tip)
    }

    fn relation(&self, revision: Option<&str>) -> Result<Relation, Failure> {
        let Some(revision) = revision.and_then(|r| r.parse::<CommitSha>().ok()) else {
            return Ok(Relation::Unknown("the image under it names no revision".to_owned()));
        };
        let (mirror, commit) = (&self.mirror, &self.push.change.commit);
        let unknown = |what: &str| Ok(Relation::Unknown(format!("its revision {} {what}", revision.short())));
        match mirror.is_ancestor(&revision, commit) {
            Ok(true) => Ok(Relation::SameOrOlder),
            Ok(false) if mirror.is_ancestor(commit, &revision)? => Ok(Relation::Newer),
            Ok(false) => unknown("is on a diverged branch"),
            Err(_) if !mirror.has_commit(&revision)? => unknown("is not known in this repository"),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a newer commit of the branch has its `sha-` tag on every image that it shares with this one. This covers
    /// reverts: the tag's image is old, but the commit that set it is newer.
    fn newer_commit_is_complete(&self, tip: &CommitSha) -> Result<bool, Failure> {
        if *tip == self.push.change.commit {
            return Ok(false);
        }
        let range = format!("{}..{tip}", self.push.change.commit);
        let newer = self.mirror.commits(&["--ancestry-path", &range])?;
        let ours: Vec<(&str, &ImageRepository)> = self
            .images
            .iter()
            .filter(|i| i.digest.is_some())
            .filter_map(|i| Some((i.name.as_str(), i.repository.as_ref()?)))
            .collect();
        let lists = parallel::map(REGISTRY_THREADS, &ours, |(_, repository)| {
            self.push.client.list_tags(repository.path())
        });
        let mut tags: BTreeMap<&str, BTreeSet<Tag>> = BTreeMap::new();
        for ((name, _), list) in ours.iter().zip(lists) {
            tags.insert(name, list?.into_iter().collect());
        }
        for commit in newer.into_iter().map(|commit| commit.id) {
            let tag = commit.immutable_tag();
            if !tags.values().any(|list| list.contains(&tag)) {
                continue;
            }
            // A commit whose images.json cannot be read shares no image.
            let specs = match survey::specs(&self.mirror, &commit, &self.push.change.repository) {
                Ok(specs) => specs,
                Err(failure) if failure.kind == Kind::BadInput => continue,
                Err(failure) => return Err(failure),
            };
            let docker = specs.iter().filter(|spec| spec.skipped.is_none());
            let mut shared = docker.filter_map(|spec| tags.get(spec.name.as_str())).peekable();
            if shared.peek().is_some() && shared.all(|list| list.contains(&tag)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The relation of a tag's current image to the commit.
#[derive(Clone)]
enum Relation {
    SameOrOlder,
    Newer,
    Unknown(String),
}

/// Moves the tags to this commit's manifests. On an error, the tags already moved are marked.
fn move_all(client: &Registry, wanted: &mut [Wanted]) -> Result<(), Failure> {
    let mut waiting: Vec<&mut Wanted> = wanted.iter_mut().filter(|w| w.outcome.is_none()).collect();
    let results = parallel::map(REGISTRY_THREADS, &waiting, |w| {
        let manifest = client.get_manifest(w.repository.path(), &w.to)?.ok_or_else(|| {
            Failure::failed(format!("the registry no longer has {}@{}", w.repository, w.to))
        })?;
        Ok(client.put_manifest(w.repository.path(), &w.tag, &manifest)?)
    });
    let mut failures: Vec<Failure> = Vec::new();
    for (tag, result) in waiting.iter_mut().zip(results) {
        match result {
            Ok(_) => tag.outcome = Some(MoveOutcome::Moved),
            Err(error) => {
                let error: Failure = error;
                failures
                    .push(error.context(format!("{} could not be moved", tag.repository.tagged(&tag.tag))));
            }
        }
    }
    worst(failures).map_or(Ok(()), Err)
}

/// Other machines do not share the locks, so each tag is read again.
fn look_again(client: &Registry, wanted: &mut [Wanted]) {
    let mut moved: Vec<&mut Wanted> =
        wanted.iter_mut().filter(|w| w.outcome == Some(MoveOutcome::Moved)).collect();
    let now = parallel::map(REGISTRY_THREADS, &moved, |w| client.head_manifest(w.repository.path(), &w.tag));
    for (tag, now) in moved.iter_mut().zip(now) {
        tag.note = match now {
            Ok(Some(found)) if found == tag.to => continue,
            Ok(Some(found)) => Some(format!("another machine has moved it since, to {found}")),
            Ok(None) => Some("it has been removed since".to_owned()),
            Err(error) => Some(format!("it could not be read again: {error}")),
        };
    }
}

/// A failed request may still have moved its tag, so every tag is checked.
fn put_back(site: &Site, client: &Registry, wanted: &mut [Wanted]) {
    let client = client.with_cancel(Cancel::new().child(Some(PUT_BACK_TIME)));
    for tag in wanted.iter_mut().filter(|w| w.outcome != Some(MoveOutcome::Already)) {
        let reached = match client.head_manifest(tag.repository.path(), &tag.tag) {
            Ok(found) => found.is_some_and(|digest| digest == tag.to),
            Err(_) => tag.outcome == Some(MoveOutcome::Moved),
        };
        if !reached {
            continue;
        }
        let Some(before) = &tag.now else {
            tag.outcome = Some(MoveOutcome::Left);
            continue;
        };
        match client.put_manifest(tag.repository.path(), &tag.tag, before) {
            Ok(_) => tag.outcome = Some(MoveOutcome::Restored),
            Err(error) => {
                tag.outcome = Some(MoveOutcome::Moved);
                let note = format!("it could not be put back to {}: {error}", before.digest);
                site.events.warn(&format!("{}: {note}", tag.repository.tagged(&tag.tag)));
                tag.note = Some(note);
            }
        }
    }
}
