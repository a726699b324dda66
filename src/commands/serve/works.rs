//! Runs a job of the queue through the pipeline.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::cancel::Cancel;
use crate::cli::SiteArgs;
use crate::commands::build::change_of;
use crate::commands::session;
use crate::config::Config;
use crate::documents::DecisionDocument;
use crate::error::{Classify as _, Failure, Kind};
use crate::events::{Consumer, Events, RunEvent};
use crate::listener::Metrics;
use crate::pipeline::{self, BuildOptions, PushOptions, Ran};
use crate::progress::{Detail, Lines};
use crate::queue::{ClaimedJob, JobContext, JobResult, Store};

/// The waits before each retry of fetching a commit that is not available yet.
const PATIENCE: [Duration; 3] = [Duration::from_secs(3), Duration::from_secs(12), Duration::from_secs(40)];

/// The workers' configuration and tools; SIGHUP replaces the configuration as a whole.
pub(super) struct Works {
    config: RwLock<Arc<Config>>,
    metrics: Metrics,
    flags: SiteArgs,
    queue: Store,
}

impl Works {
    pub(super) fn new(config: Config, metrics: Metrics, flags: SiteArgs, queue: Store) -> Works {
        Works { config: RwLock::new(Arc::new(config)), metrics, flags, queue }
    }

    pub(super) fn queue(&self) -> &Store {
        &self.queue
    }

    pub(super) fn config(&self) -> Arc<Config> {
        Arc::clone(&*self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets the configuration for jobs that start from now on. Returns the previous one.
    pub(super) fn replace_config(&self, config: Config) -> Arc<Config> {
        let mut place = self.config.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *place, Arc::new(config))
    }

    /// The site for a job.
    pub(super) fn site(&self, events: &Events, cancel: &Cancel) -> Result<pipeline::Site, Failure> {
        session::site(&self.config(), &self.flags, events, cancel)
    }

    pub(super) fn run(&self, job: &ClaimedJob, context: &JobContext) -> JobResult {
        let log = context.log.clone();
        let events = Events::to(vec![
            Arc::new(Lines::to(Detail::Log, move |line| log.line(line))),
            Arc::new(Timings(self.metrics.clone())),
        ]);
        let result = self.run_pipeline(job, &events, &context.cancel);
        match result {
            Ok(outcome) => JobResult::Succeeded { outcome },
            Err(failure) => {
                events.note(failure.render().trim_end());
                result_of(&failure)
            }
        }
    }

    fn run_pipeline(&self, job: &ClaimedJob, events: &Events, cancel: &Cancel) -> Result<String, Failure> {
        let document: DecisionDocument = serde_json::from_str(&job.document)
            .classify(Kind::BadInput, || "the job's document cannot be read")?;
        let site = self.site(events, cancel)?;
        let change = pipeline::landed(&site, change_of(&document)?, &PATIENCE)?;
        if job.commit.is_none()
            && let Err(error) = self.queue.landed(job.id, &change.commit)
        {
            events.warn(&format!("the commit that landed is not kept with the job: {error}"));
        }
        let build = BuildOptions { patience: PATIENCE.to_vec(), ..BuildOptions::default() };
        let ran =
            pipeline::run(&site, &change, Some(&document.payload_sha256), &build, &PushOptions::default())?;
        match (ran.document, ran.failure) {
            (_, Some(failure)) => Err(failure),
            (Ran::Pushed(receipt), None) => serde_json::to_string(&receipt)
                .classify(Kind::Failed, || "the receipt cannot be kept with the job"),
            (Ran::Built(_), None) => Err(Failure::failed("the build ended without a push")),
        }
    }
}

/// Only environment failures are retried.
fn result_of(failure: &Failure) -> JobResult {
    let (code, error) = (failure.kind.code(), failure.one_line());
    match failure.kind {
        Kind::Environment => JobResult::Retry { code, error },
        Kind::Interrupted | Kind::Terminated => JobResult::Interrupted,
        Kind::Failed | Kind::Usage | Kind::NothingToBuild | Kind::BadInput | Kind::Refused => {
            JobResult::Failed { code, error }
        }
    }
}

/// Records the duration of each phase in the metrics.
struct Timings(Metrics);

impl Consumer for Timings {
    fn event(&self, event: &RunEvent<'_>) {
        match *event {
            RunEvent::Phase { phase, took } => self.0.phase(phase, took),
            RunEvent::Run { .. }
            | RunEvent::Planned { .. }
            | RunEvent::Started { .. }
            | RunEvent::Line { .. }
            | RunEvent::Ended { .. }
            | RunEvent::Warning(_)
            | RunEvent::Note(_) => {}
        }
    }
}
