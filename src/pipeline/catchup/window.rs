//! The commits that a catchup checks, what each lists, and which of them the registry has.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::error::Failure;
use crate::git::{Found, GitError, GitErrorKind, Mirror};
use crate::manifest::{self, ImageSpec};
use crate::model::{BranchName, CommitSha, ImageName, ImageRepository, InvalidValue, RepoName, Tag, invalid};
use crate::parallel;
use crate::registry::RegistryError;

use super::super::{Origin, REGISTRY_THREADS, Site};
use super::CatchupOptions;

/// The start of the range: a commit (exclusive) or a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Since {
    /// Commits after this one.
    Commit(CommitSha),
    /// Commits that landed at this time or later, by their committer dates.
    Time(Timestamp),
}

impl FromStr for Since {
    type Err = InvalidValue;

    /// Stricter than git: git's date parser accepts any word.
    fn from_str(text: &str) -> Result<Since, InvalidValue> {
        if let Ok(commit) = text.parse() {
            return Ok(Since::Commit(commit));
        }
        // jiff also parses a date followed by a time, and drops the time.
        let day = (text.len() == "2026-11-22".len()).then(|| text.parse::<Date>().ok()).flatten();
        let moment = match day {
            Some(day) => day.to_zoned(TimeZone::UTC).ok().map(|midnight| midnight.timestamp()),
            None => text.parse().ok(),
        };
        moment.map(Since::Time).ok_or_else(|| {
            invalid(text, "a full commit id, or a date like 2026-11-22 or 2026-11-22T06:00:00Z")
        })
    }
}

const NEWEST: usize = 50;

/// The commits to check, oldest first.
pub(super) fn commits(
    mirror: &Mirror<'_>,
    tip: &CommitSha,
    branch: &BranchName,
    options: &CatchupOptions,
) -> Result<Vec<CommitSha>, Failure> {
    let mut landed = match &options.since {
        None => mirror.first_parents(tip, None, Some(options.max.unwrap_or(NEWEST)))?,
        Some(Since::Commit(since)) => {
            if !mirror.has_commit(since)? || !mirror.is_ancestor(since, tip)? {
                return Err(not_on_branch(since, branch));
            }
            mirror.first_parents(tip, Some(since), options.max)?
        }
        Some(Since::Time(since)) => {
            let mut landed = mirror.first_parents(tip, None, None)?;
            let times: Vec<i64> = landed.iter().map(|commit| commit.time).collect();
            landed.truncate(landed_since(&times, since.as_second()));
            landed
        }
    };
    if let Some(max) = options.max {
        landed.truncate(max);
    }
    Ok(landed.into_iter().rev().map(|commit| commit.id).collect())
}

fn not_on_branch(since: &CommitSha, branch: &BranchName) -> Failure {
    Failure::refused(format!("--since {since}: this commit is not on the branch `{branch}`"))
        .hint("was the branch force-pushed? a date, as --since 2026-11-22, always works")
}

/// How many of the commits, newest first, landed at `since` or later. A commit lands after its first parent, so a
/// commit with an earlier time (a slow clock) counts too if its parent's time is late enough.
fn landed_since(times: &[i64], since: i64) -> usize {
    times.iter().rposition(|time| *time >= since).map_or(0, |oldest| oldest + 1)
}

/// The Docker images that a commit lists, or why its images.json cannot be read.
pub(super) type Listing = Result<Vec<ImageSpec>, String>;

/// What each commit lists. Runs git three times for any number of commits: most share one images.json.
pub(super) fn listings(
    mirror: &Mirror<'_>,
    commits: &[CommitSha],
    repository: &RepoName,
) -> Result<Vec<Rc<Listing>>, Failure> {
    let files = mirror.look_across(commits, manifest::FILE_NAME)?;
    let blob = |found: &Found| if let Found::Blob(id) = found { Some(id.clone()) } else { None };
    let ids: Vec<String> = files.iter().filter_map(blob).collect::<BTreeSet<_>>().into_iter().collect();
    let contents = read_blobs(mirror, &ids)?;
    let parsed: BTreeMap<&String, Rc<Listing>> =
        ids.iter().zip(contents).map(|(id, content)| (id, Rc::new(parse(content.as_deref())))).collect();
    let dockerfiles = mirror.look_across(commits, "Dockerfile")?;
    let root = ImageSpec::root_dockerfile(repository).map(|spec| vec![spec]);
    let root = Rc::new(root.map_err(|mistake| manifest::sentence(&mistake)));
    let empty = Rc::new(Ok(Vec::new()));
    let outside = Rc::new(Err("images.json is a link that leads out of the repository".to_owned()));
    let listing = |(file, dockerfile): (&Found, &Found)| match file {
        Found::Blob(id) => parsed.get(id).unwrap_or(&empty).clone(),
        Found::Outside(_) | Found::Dangling => outside.clone(),
        Found::Missing | Found::Tree(_) | Found::Submodule if blob(dockerfile).is_some() => root.clone(),
        Found::Missing | Found::Tree(_) | Found::Submodule => empty.clone(),
    };
    Ok(files.iter().zip(&dockerfiles).map(listing).collect())
}

/// Reads the blobs in batches that fit git's output limit; `None` for a blob that exceeds it alone.
fn read_blobs(mirror: &Mirror<'_>, ids: &[String]) -> Result<Vec<Option<Vec<u8>>>, GitError> {
    match mirror.read_blobs(ids) {
        Ok(contents) => Ok(contents.into_iter().map(Some).collect()),
        Err(error) if error.kind == GitErrorKind::TooMuchOutput => {
            if ids.len() < 2 {
                return Ok(vec![None]);
            }
            let (some, others) = ids.split_at(ids.len() / 2);
            let mut contents = read_blobs(mirror, some)?;
            contents.extend(read_blobs(mirror, others)?);
            Ok(contents)
        }
        Err(error) => Err(error),
    }
}

fn parse(content: Option<&[u8]>) -> Listing {
    match manifest::parse(content.ok_or("images.json is too large")?) {
        Ok(specs) => Ok(specs.into_iter().filter(|spec| spec.skipped.is_none()).collect()),
        // An error in a build, but valid here.
        Err(error) if error.problem == manifest::NO_IMAGES => Ok(Vec::new()),
        Err(error) => Err(manifest::sentence(&error)),
    }
}

/// The immutable tags of these commits that the registry has: one tag list per image.
pub(super) fn held(
    site: &Site,
    origin: &Origin,
    commits: &[CommitSha],
    listings: &[Rc<Listing>],
) -> Result<BTreeMap<ImageName, BTreeSet<Tag>>, Failure> {
    let (address, client) = site.registry_and_client()?;
    let names: BTreeSet<&ImageName> =
        listings.iter().flat_map(|listing| listing.iter().flatten()).map(|spec| &spec.name).collect();
    let names: Vec<&ImageName> = names.into_iter().collect();
    let wanted: BTreeSet<Tag> = commits.iter().map(CommitSha::immutable_tag).collect();
    let lists = parallel::map(REGISTRY_THREADS, &names, |name| -> Result<BTreeSet<Tag>, RegistryError> {
        // No registry has a name that is too long under the namespace; the survey of its commit reports it.
        let Ok(repository) = ImageRepository::new(Some(address), origin.namespace.as_ref(), name) else {
            return Ok(BTreeSet::new());
        };
        let tags = client.list_tags(repository.path())?;
        // A repository may have a hundred thousand other tags.
        Ok(tags.into_iter().filter(|tag| wanted.contains(tag)).collect())
    });
    names.into_iter().cloned().zip(lists).map(|(name, list)| Ok((name, list?))).collect()
}

/// The Docker images of the commit that lack the commit's tag.
pub(super) fn missing(
    held: &BTreeMap<ImageName, BTreeSet<Tag>>,
    commit: &CommitSha,
    specs: &[ImageSpec],
) -> Vec<String> {
    let tag = commit.immutable_tag();
    let has_tag = |name: &ImageName| held.get(name).is_some_and(|tags| tags.contains(&tag));
    specs.iter().filter(|s| !has_tag(&s.name)).map(|s| s.name.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_with_a_slow_clock_counts_if_its_parent_is_new_enough() {
        assert_eq!(landed_since(&[50, 40, 30, 20], 30), 3);
        assert_eq!(landed_since(&[50, 0, 30, 20], 30), 3);
        assert_eq!(landed_since(&[0, 40, 20], 30), 2);
        assert_eq!(landed_since(&[20, 10], 30), 0);
        assert_eq!(landed_since(&[], 30), 0);
    }

    #[test]
    fn an_empty_list_is_valid_and_a_malformed_one_is_not() {
        let word = |text: &str| match parse(Some(text.as_bytes())) {
            Ok(specs) if specs.is_empty() => "empty",
            Ok(_) => "images",
            Err(_) => "invalid",
        };
        assert_eq!(word(r#"{"images":[{"service_name":"a","type":"Docker"}]}"#), "images");
        assert_eq!(word(r#"{"images":[{"service_name":"a","type":"AMI"}]}"#), "empty");
        assert_eq!(word(r#"{"images":[]}"#), "empty");
        assert_eq!(word("\u{feff}{\"images\":[]}"), "empty");
        assert_eq!(word(r#"{"images":[],"x":1}"#), "invalid");
        assert_eq!(word(r#"{"images":{}}"#), "invalid");
        assert_eq!(word("{}"), "invalid");
        assert_eq!(word(""), "invalid");
    }

    #[test]
    fn commits_dates_and_times_are_distinguished() {
        let sha = "8c1c06a1a89e8278937a7d22d8ba1a834bd4c8a1";
        assert_eq!(sha.parse(), Ok(Since::Commit(sha.parse().unwrap())));
        for (text, moment) in [
            ("2026-11-22", "2026-11-22T00:00:00Z"),
            ("2026-11-22T06:30:00Z", "2026-11-22T06:30:00Z"),
            ("2026-11-22T06:30:00+05:30", "2026-11-22T01:00:00Z"),
            ("2026-11-22 06:30:00-05:00", "2026-11-22T11:30:00Z"),
        ] {
            assert_eq!(text.parse(), Ok(Since::Time(moment.parse().unwrap())), "{text}");
        }
    }

    #[test]
    fn invalid_dates_are_rejected() {
        for text in [
            "",
            "yesterday",
            "8c1c06a",
            "HEAD",
            "20261122",
            "2026-13-01",
            "2026-02-30",
            "2026-11-22T06:30:00",
            "--all",
            "1700000000",
            "2 weeks ago",
        ] {
            assert!(text.parse::<Since>().is_err(), "{text:?} was taken");
        }
    }
}
