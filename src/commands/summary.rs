//! The summaries on a terminal, in place of documents. Pure: a document → text.

use std::collections::{BTreeMap, BTreeSet};

use crate::documents::{
    BuiltDocument, DecisionDocument, DecisionWord, Image, ImageStatus, MoveOutcome, PushOutcome, Receipt,
    Verdict,
};
use crate::escape::{escaped, shortened};
use crate::model::{BranchName, Change, CommitSha, RepoName, Tag};
use crate::pipeline::catchup::{CatchupDocument, CatchupOutcome, CaughtUp};
use crate::pipeline::verify::Verification;

/// Characters of a reason or an error in a row.
const REASON: usize = 200;

pub(super) fn decision(document: &DecisionDocument, next: Option<&str>) -> String {
    let (word, unknown_commit, next) = match document.decision {
        DecisionWord::Build => ("build", "the commit is found on the branch", next),
        DecisionWord::Skip => ("skip", "", None),
    };
    let mut text = format!("{word}: {}\n", escaped(&document.reason));
    if let Some(change) = &document.change {
        let commit = change.commit.as_ref().map_or(unknown_commit, CommitSha::short);
        text.push_str(&format!(
            "  {}\n",
            place(&change.repository, change.branch.as_ref(), commit).trim_end()
        ));
        if let Some(pr) = &change.pull_request {
            let title = pr.title.as_deref().unwrap_or_default();
            let author = pr.author.as_deref().map(|author| format!(" ({author})")).unwrap_or_default();
            text.push_str(&format!("  #{} {}{}\n", pr.number, shortened(title, 54), shortened(&author, 18)));
        }
    }
    for rule in document.rules.iter().flatten() {
        let verdict = match rule.verdict {
            Verdict::Pass => "pass",
            Verdict::Skip => "skip",
        };
        text.push_str(&format!("  {verdict}  {:<14}  {}\n", rule.rule, shortened(&rule.detail, REASON)));
    }
    text + &next.map(|next| format!("next: {next}\n")).unwrap_or_default()
}

/// The summary of a skip that passes through.
pub(super) fn skipped(reason: &str) -> String {
    format!("skip: {}\n", escaped(reason))
}

pub(super) fn built(document: &BuiltDocument, next: Option<&str>) -> String {
    let rows: Vec<[String; 3]> = document
        .images
        .iter()
        .map(|image| {
            let reason = || shortened(image.reason.as_deref().unwrap_or_default(), REASON);
            let detail = match image.status {
                ImageStatus::Built if document.registry.is_none() => local_name(image),
                ImageStatus::Built => format!("{:.2}s", image.seconds.unwrap_or_default()),
                ImageStatus::Unchanged | ImageStatus::Skipped | ImageStatus::Planned => reason(),
                ImageStatus::Failed => String::new(),
            };
            [escaped(&image.name), word(image.status).to_owned(), detail]
        })
        .collect();
    let next = next.map(|next| format!("next: {next}\n")).unwrap_or_default();
    format!("{}: {}\n{}{next}", place_of(&document.change), counted(&document.images), table(&rows))
}

fn local_name(image: &Image) -> String {
    match (&image.repository, &image.immutable_tag) {
        (Some(repository), Some(tag)) => repository.tagged(tag).to_string(),
        (None, _) | (_, None) => String::new(),
    }
}

fn counted(images: &[Image]) -> String {
    use ImageStatus::{Built, Failed, Planned, Skipped, Unchanged};
    let count = |status| images.iter().filter(|image| image.status == status).count();
    let parts = [Built, Planned, Unchanged, Skipped, Failed].into_iter().filter_map(|status| {
        let count = count(status);
        (count > 0).then(|| format!("{count} {}", word(status)))
    });
    parts.collect::<Vec<_>>().join(", ")
}

fn word(status: ImageStatus) -> &'static str {
    if status == ImageStatus::Planned { "to build" } else { status.as_str() }
}

pub(super) fn receipt(receipt: &Receipt) -> String {
    let pulls = pulls(receipt);
    let seconds = receipt.seconds.checkout + receipt.seconds.build + receipt.seconds.push.unwrap_or_default();
    let failed = receipt.outcome == PushOutcome::Failed;
    let result = match (failed, pulls.len()) {
        (true, _) => "the push failed".to_owned(),
        (false, 0) => "nothing to push".to_owned(),
        (false, count) => format!("{} in the registry ({seconds:.1}s)", images(count)),
    };
    let mut text = format!("{}: {result}\n", place_of(&receipt.change));
    let mut notes = Vec::new();
    for image in &receipt.images {
        if let (ImageStatus::Skipped, Some(reason)) = (image.status, &image.reason) {
            notes.push(format!("{}: skipped: {reason}", image.name));
        }
        notes.extend(image.note.iter().map(|note| format!("{}: {note}", image.name)));
        for moved in image.moved.iter().flatten() {
            let outcome = match moved.outcome {
                MoveOutcome::Moved | MoveOutcome::Already => None,
                MoveOutcome::Superseded => Some("stays where it is: a newer commit holds it"),
                MoveOutcome::Restored => Some("put back, because another tag could not be moved"),
                MoveOutcome::Left => Some("new, and left, because another tag could not be moved"),
            };
            for note in outcome.into_iter().chain(moved.note.as_deref()) {
                notes.push(format!("{}:{}: {note}", image.name, moved.tag));
            }
        }
    }
    notes.iter().for_each(|note| text.push_str(&format!("  {}\n", shortened(note, REASON))));
    if !failed {
        // Last, so that they remain on the screen.
        pulls.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
    }
    text
}

/// How to pull each pushed image: by the first tag that refers to it.
pub(super) fn pulls(receipt: &Receipt) -> Vec<String> {
    let pushed = receipt.images.iter().filter(|image| image.digest.is_some());
    pushed.filter_map(|image| pull_commands(image).into_iter().next()).collect()
}

/// By each moving tag that refers to the image, else by the immutable one.
pub(super) fn pull_commands(image: &Image) -> Vec<String> {
    let standing =
        image.moved.iter().flatten().filter(|moved| moved.outcome.is_in_place()).map(|moved| &moved.tag);
    let mut tags: Vec<&Tag> = standing.collect();
    if tags.is_empty() {
        tags.extend(&image.immutable_tag);
    }
    let repositories = tags.iter().zip(std::iter::repeat(image.repository.as_ref()));
    repositories.filter_map(|(tag, name)| Some(format!("docker pull {}", name?.tagged(tag)))).collect()
}

pub(super) fn verification(document: &Verification) -> String {
    let names: BTreeSet<&str> = document.images.iter().map(|image| image.name.as_str()).collect();
    let (all, names) = (document.images.len(), names.len());
    let tags = |count: usize| if count == 1 { "1 tag".to_owned() } else { format!("{count} tags") };
    let drifted: Vec<_> = document.images.iter().filter(|image| image.has_drifted()).collect();
    if drifted.is_empty() {
        return format!("{} of {} intact\n", tags(all), images(names));
    }
    let rows: Vec<[String; 3]> = drifted
        .iter()
        .map(|image| {
            let found = match &image.found {
                None => "gone".to_owned(),
                Some(found) => format!("changed to {found}"),
            };
            [format!("{}:{}", image.name, image.tag), found, String::new()]
        })
        .collect();
    format!("{} of {} of {} drifted\n{}", drifted.len(), tags(all), images(names), table(&rows))
}

pub(super) fn catchup(document: &CatchupDocument) -> String {
    let mut text = String::new();
    let same = |a: &CaughtUp, b: &CaughtUp| (&a.repository, &a.branch) == (&b.repository, &b.branch);
    for branch in document.commits.chunk_by(same) {
        let (mut counts, mut rows) = (BTreeMap::<&str, usize>::new(), Vec::new());
        for commit in branch {
            let (word, is_news) = match commit.outcome {
                CatchupOutcome::Present => ("present", false),
                CatchupOutcome::Empty => ("empty", false),
                CatchupOutcome::Built => ("built", true),
                CatchupOutcome::Finished => ("finished", true),
                CatchupOutcome::Failed => ("failed", true),
                CatchupOutcome::FailedBefore => ("failed before", true),
                CatchupOutcome::Planned => ("to build", true),
                CatchupOutcome::Invalid => ("invalid", true),
            };
            *counts.entry(word).or_default() += 1;
            if is_news {
                let why = commit.error.as_ref().or(commit.reason.as_ref());
                let why = why.map(|why| shortened(why, REASON)).unwrap_or_default();
                rows.push([commit.commit.short().to_owned(), word.to_owned(), why]);
            }
        }
        let counts: Vec<String> = counts.iter().map(|(word, count)| format!("{count} {word}")).collect();
        let (CaughtUp { repository, branch, .. }, counts) = (&branch[0], counts.join(", "));
        text.push_str(&format!("{repository} {branch}: {counts}\n{}", table(&rows)));
    }
    if document.busy {
        text.push_str("busy: another catchup of the same repository is running\n");
    } else if text.is_empty() {
        text.push_str("no branch to look at\n");
    }
    text
}

fn place_of(change: &Change) -> String {
    place(&change.repository, change.branch.as_ref(), change.commit.short())
}

fn place(repository: &RepoName, branch: Option<&BranchName>, commit: &str) -> String {
    match branch {
        Some(branch) => format!("{repository} {branch} {commit}"),
        None => format!("{repository} {commit}"),
    }
}

pub(super) fn images(count: usize) -> String {
    if count == 1 { "1 image".to_owned() } else { format!("{count} images") }
}

/// Aligned, indented columns.
fn table(rows: &[[String; 3]]) -> String {
    let width = |i: usize| rows.iter().map(|row| console::measure_text_width(&row[i])).max().unwrap_or(0);
    let (first, second) = (width(0).min(40), width(1));
    let line = |row: &[String; 3]| format!("  {:<first$}  {:<second$}  {}", row[0], row[1], row[2]);
    rows.iter().map(|row| format!("{}\n", line(row).trim_end())).collect()
}

/// The typed command with `followed_by` appended, or only a hint if it read standard input.
pub(super) fn typed(arguments: impl Iterator<Item = String>, followed_by: &str) -> String {
    let arguments: Vec<String> = arguments.skip(1).filter(|argument| argument != "--dry-run").collect();
    if arguments.iter().any(|argument| argument == "-") {
        return format!("append `{followed_by}`");
    }
    let words: Vec<String> = arguments.iter().map(|argument| shell_word(argument)).collect();
    format!("swanci {} {followed_by}", words.join(" "))
}

/// Quotes a text for the shell.
pub(super) fn shell_word(text: &str) -> String {
    let plain =
        |c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | ':' | '=' | ',' | '@');
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests;
