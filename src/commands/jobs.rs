//! `swanci jobs`: looks into the queue of a state directory, also while `serve` runs.

use std::io::Write;
use std::sync::Arc;

use serde_json::json;

use crate::cli::{Jobs, JobsCommand, JobsList};
use crate::error::{Classify as _, Failure, Kind};
use crate::escape::{escaped, shortened};
use crate::queue::{CancelOutcome, JobFilter, JobId, JobRecord, Store};

use super::Session;
use super::documents_io::{print, write_json};

/// Dispatches the subcommands; without one it lists.
pub(super) fn command(session: &Session, args: &Jobs, out: &mut dyn Write) -> Result<(), Failure> {
    let dir = std::path::absolute(&session.config.state_dir)
        .classify(Kind::Environment, || "the state directory has no absolute path")?;
    let queue = Store::open_existing(&dir, Arc::new(jiff::Timestamp::now))?;
    let all = JobsList::default();
    match args.command.as_ref() {
        None => list(&queue, &all, session.json, out),
        Some(JobsCommand::List(list_args)) => list(&queue, list_args, session.json, out),
        Some(JobsCommand::Show { id }) => show(&queue, JobId(*id), session.json, out),
        Some(JobsCommand::Log { id, follow }) => log(session, &queue, JobId(*id), *follow, out),
        Some(JobsCommand::Retry { id }) => {
            queue.retry(JobId(*id))?;
            said(out, session.json, *id, "queued", "is queued again")
        }
        Some(JobsCommand::Cancel { id }) => match queue.cancel(JobId(*id))? {
            CancelOutcome::Cancelled => said(out, session.json, *id, "cancelled", "is cancelled"),
            CancelOutcome::Requested => said(out, session.json, *id, "cancelling", "is being stopped"),
        },
    }
}

fn said(out: &mut dyn Write, as_json: bool, id: i64, word: &str, text: &str) -> Result<(), Failure> {
    if as_json {
        write_json(out, &json!({"schema": 1, "job": id, "outcome": word}))
    } else {
        print(out, &format!("job {id} {text}\n"))
    }
}

fn list(queue: &Store, args: &JobsList, as_json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let filter =
        JobFilter { state: args.state, repository: args.repository.as_ref().map(ToString::to_string) };
    let jobs = queue.list(&filter, args.limit)?;
    if as_json {
        return write_json(out, &json!({"schema": 1, "jobs": jobs}));
    }
    if jobs.is_empty() {
        return print(out, "no jobs\n");
    }
    let mut text = format!(
        "{:>6}  {:<9}  {:<20}  {:<12}  {:<20}  {}\n",
        "JOB", "STATE", "QUEUED", "COMMIT", "BRANCH", "REPOSITORY"
    );
    for job in &jobs {
        text.push_str(&format!(
            "{:>6}  {:<9}  {:<20}  {:<12}  {:<20}  {}\n",
            job.id.0,
            job.state.to_string(),
            whole_seconds(job.queued),
            job.commit.as_deref().map_or("-", |commit| commit.get(..12).unwrap_or(commit)),
            job.branch,
            job.repository
        ));
        if let Some(error) = &job.error {
            text.push_str(&format!("        {}\n", shortened(error, 140)));
        }
    }
    print(out, &text)
}

fn whole_seconds(time: jiff::Timestamp) -> String {
    jiff::Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

fn show(queue: &Store, id: JobId, as_json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let job = queue.get(id)?;
    let documents = queue.documents(id)?;
    let parsed = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap_or(json!(text));
    if as_json {
        let mut record =
            serde_json::to_value(&job).classify(Kind::Failed, || "the job cannot be written as JSON")?;
        if let Some(fields) = record.as_object_mut() {
            fields.insert("schema".to_owned(), json!(1));
            fields.insert("document".to_owned(), parsed(&documents.document));
            fields.insert(
                "receipt".to_owned(),
                documents.outcome.as_deref().map(parsed).unwrap_or(json!(null)),
            );
        }
        return write_json(out, &record);
    }
    print(out, &shown(&job, &queue.log_path(id).display().to_string()))
}

fn shown(job: &JobRecord, log: &str) -> String {
    let time = |t: Option<jiff::Timestamp>| t.map_or_else(|| "-".to_owned(), whole_seconds);
    let rows = [
        ("job", job.id.to_string()),
        ("state", job.state.to_string()),
        ("repository", job.repository.clone()),
        ("branch", job.branch.clone()),
        ("commit", job.commit.clone().unwrap_or_else(|| "-".to_owned())),
        ("delivery", job.delivery_id.clone().unwrap_or_else(|| "-".to_owned())),
        ("queued", time(Some(job.queued))),
        ("started", time(job.started)),
        ("finished", time(job.finished)),
        ("attempts", job.attempts.to_string()),
        ("next attempt", time(job.next_attempt)),
        ("exit code", job.exit_code.map_or_else(|| "-".to_owned(), |c| c.to_string())),
        ("error", job.error.clone().unwrap_or_else(|| "-".to_owned())),
        ("log", log.to_owned()),
    ];
    rows.iter().map(|(name, value)| format!("{name:<13} {}\n", escaped(value))).collect()
}

fn log(
    session: &Session,
    queue: &Store,
    id: JobId,
    follow: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    // An unknown job is told apart from one that has not said anything yet.
    queue.get(id)?;
    let mut sink = |bytes: &[u8]| out.write_all(bytes).and_then(|()| out.flush());
    if follow {
        return match queue.follow_log(id, &session.cancel, &mut sink)? {
            Ok(_) => Ok(()),
            Err(stop) => Err(stop.into()),
        };
    }
    queue.read_log(id, &mut sink)?;
    Ok(())
}
