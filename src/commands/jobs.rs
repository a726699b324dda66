//! `swanci jobs`: lists and changes the queue of a state directory, also while `serve` runs.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use crate::cli::{JobsCommand, JobsList};
use crate::documents::{DecisionDocument, Receipt};
use crate::error::{Classify as _, Failure, Kind};
use crate::escape::{escaped, shortened};
use crate::progress::seconds;
use crate::queue::{self, JobId, JobRecord, JobState, Store};

use super::Session;
use super::documents_io::show;
use super::session::state_dir;

/// Jobs in a list without `--limit`.
const LISTED: u32 = 50;

/// Without a subcommand, lists the jobs.
pub(super) fn command(session: &Session, command: Option<JobsCommand>) -> Result<(), Failure> {
    let dir = state_dir(&session.config)?;
    let queue = Store::open_existing(&dir, Arc::new(Timestamp::now))?;
    let serve_lives = queue::is_served(&dir);
    let changed = |id: JobId, outcome: &str, text: &str| {
        let document = json!({"schema": 1, "job": id.0, "outcome": outcome});
        show(session.json, &document, || format!("job {id} {text}\n"))
    };
    match command.unwrap_or(JobsCommand::List(JobsList::default())) {
        JobsCommand::List(args) => {
            let repository = args.repository.as_ref().map(|name| name.as_str());
            let jobs = queue.list(args.state, repository, args.limit.unwrap_or(LISTED))?;
            let records = jobs.iter().map(|job| record(job, serve_lives)).collect::<Result<Vec<_>, _>>()?;
            let text = || listed(&jobs, serve_lives, Timestamp::now());
            show(session.json, &json!({"schema": 1, "jobs": records}), text)
        }
        JobsCommand::Show { id } => show_job(session, &queue, id, serve_lives),
        JobsCommand::Log { id, follow } => log(session, &queue, id, follow),
        JobsCommand::Retry { id } => {
            queue.retry(id)?;
            changed(id, "queued", "is queued again")
        }
        JobsCommand::Cancel { id } => match queue.cancel(id)? {
            true => changed(id, "cancelled", "is cancelled"),
            false => changed(id, "cancelling", "is being stopped"),
        },
    }
}

fn record(job: &JobRecord, serve_lives: bool) -> Result<serde_json::Value, Failure> {
    let mut record =
        serde_json::to_value(job).classify(Kind::Failed, || "the job cannot be written as JSON")?;
    record["interrupted"] = json!(is_interrupted(job, serve_lives));
    Ok(record)
}

/// The `serve` that started it has ended, and the next one runs it again.
fn is_interrupted(job: &JobRecord, serve_lives: bool) -> bool {
    job.state == JobState::Running && !serve_lives
}

fn state(job: &JobRecord, serve_lives: bool) -> &'static str {
    if is_interrupted(job, serve_lives) { "interrupted" } else { job.state.as_str() }
}

/// Columns of the list.
const WIDTH: usize = 80;

fn listed(jobs: &[JobRecord], serve_lives: bool, now: Timestamp) -> String {
    if jobs.is_empty() {
        return "no jobs\n".to_owned();
    }
    let row = |id: &str, state: &str, pr: &str, age: &str, took: &str, repository: &str| {
        let line = format!("{id:>5}  {state:<11}  {pr:<7}  {age:>4}  {took:>6}  {repository}");
        format!("{}\n", shortened(&line, WIDTH - 1).trim_end())
    };
    let mut text = row("JOB", "STATE", "PR", "AGE", "TOOK", "REPOSITORY");
    for job in jobs {
        let pr = job.pull_request.map(|number| format!("#{number}")).unwrap_or_default();
        let took = took(job, serve_lives, now).map(duration).unwrap_or_default();
        let id = job.id.to_string();
        let age = age(job.queued, now);
        text.push_str(&row(&id, state(job, serve_lives), &pr, &age, &took, &job.repository));
        if let Some(error) = &job.error {
            text.push_str(&format!("       {}\n", shortened(error, WIDTH - 8)));
        }
    }
    text
}

/// `45s`, `12m`, `3h`, `5d`.
fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(since).as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Duration of the last attempt so far.
fn took(job: &JobRecord, serve_lives: bool, now: Timestamp) -> Option<Duration> {
    let started = job.started?;
    let end = match job.state {
        JobState::Running if serve_lives => now,
        JobState::Running | JobState::Queued => return None,
        JobState::Succeeded | JobState::Failed | JobState::Cancelled => job.finished?,
    };
    Duration::try_from(end.duration_since(started)).ok()
}

/// `1.84s`, `2m03s`, `3h05m`.
fn duration(took: Duration) -> String {
    let minutes = took.as_secs() / 60;
    if minutes < 60 { seconds(took) } else { format!("{}h{:02}m", minutes / 60, minutes % 60) }
}

fn show_job(session: &Session, queue: &Store, id: JobId, serve_lives: bool) -> Result<(), Failure> {
    let job = queue.get(id)?;
    let parsed = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap_or(json!(text));
    let mut record = record(&job, serve_lives)?;
    record["schema"] = json!(1);
    record["document"] = parsed(&job.document);
    record["receipt"] = job.outcome.as_deref().map(parsed).unwrap_or_default();
    show(session.json, &record, || {
        let decision: Option<DecisionDocument> = serde_json::from_str(&job.document).ok();
        let receipt: Option<Receipt> =
            job.outcome.as_deref().and_then(|text| serde_json::from_str(text).ok());
        let log = queue.log_path(id).display().to_string();
        shown(&job, decision.as_ref(), receipt.as_ref(), &log, serve_lives, Timestamp::now())
    })
}

fn shown(
    job: &JobRecord,
    decision: Option<&DecisionDocument>,
    receipt: Option<&Receipt>,
    log: &str,
    serve_lives: bool,
    now: Timestamp,
) -> String {
    let id = job.id;
    let mut rows: Vec<(&str, String)> = vec![("job", id.to_string())];
    let interrupted = is_interrupted(job, serve_lives).then_some(": the next serve runs it again");
    rows.push(("state", format!("{}{}", state(job, serve_lives), interrupted.unwrap_or_default())));
    rows.push(("repository", job.repository.clone()));
    let pr = decision.and_then(|d| d.change.as_ref()).and_then(|change| change.pull_request.as_ref());
    if let Some(pr) = pr {
        let title = shortened(pr.title.as_deref().unwrap_or_default(), 42);
        let author = pr.author.as_ref().map(|author| format!(" ({author})")).unwrap_or_default();
        rows.push(("pull request", format!("#{} {title}{author}", pr.number)));
        rows.extend(pr.url.clone().map(|url| ("", url)));
    }
    rows.push(("branch", job.branch.clone()));
    rows.extend(job.commit.clone().map(|commit| ("commit", commit)));
    rows.extend(job.delivery_id.clone().map(|delivery| ("delivery", delivery)));
    let time = |time: Timestamp| format!("{time:.0} ({} ago)", age(time, now));
    rows.push(("queued", time(job.queued)));
    rows.extend(job.started.map(|started| ("started", time(started))));
    rows.extend(job.finished.map(|finished| ("finished", time(finished))));
    rows.extend(job.next_attempt.map(|next| ("next attempt", format!("{next:.0}"))));
    rows.extend(took(job, serve_lives, now).map(|took| ("took", duration(took))));
    if job.attempts > 1 {
        rows.push(("attempts", job.attempts.to_string()));
    }
    for (i, image) in receipt.iter().flat_map(|receipt| &receipt.images).enumerate() {
        let tags = image.moved.iter().flatten().filter(|moved| moved.outcome.is_in_place());
        let tags: Vec<&str> = tags.map(|moved| moved.tag.as_str()).collect();
        let reason = image.reason.as_deref().unwrap_or_default();
        let detail = if tags.is_empty() { reason.to_owned() } else { tags.join(", ") };
        let status = image.status.as_str();
        rows.push((if i == 0 { "images" } else { "" }, format!("{} {status} {detail}", image.name)));
    }
    rows.extend(job.error.clone().map(|error| ("cause", error)));
    rows.extend(job.exit_code.filter(|code| *code != 0).map(|code| ("exit code", code.to_string())));
    rows.push(("log", log.to_owned()));
    let mut text: String =
        rows.iter().map(|(name, value)| format!("{name:<12}  {}\n", escaped(value).trim_end())).collect();
    text.push_str(&format!("next: swanci jobs log {id}"));
    if job.state.may_be_retried() {
        text.push_str(&format!(", swanci jobs retry {id}"));
    }
    text + "\n"
}

fn log(session: &Session, queue: &Store, id: JobId, follow: bool) -> Result<(), Failure> {
    // Distinguishes an unknown job from one without output.
    queue.get(id)?;
    let (mut out, mut is_closed) = (std::io::stdout(), false);
    let mut sink = |bytes: &[u8]| {
        let written = out.write_all(bytes).and_then(|()| out.flush());
        written.inspect_err(|_| is_closed = true)
    };
    let read = if follow {
        queue.follow_log(id, &session.cancel, &mut sink).map(drop)
    } else {
        queue.read_log(id, &mut sink)
    };
    if is_closed { Err(Failure::failed("standard output is closed")) } else { read }
}

#[cfg(test)]
mod tests;
