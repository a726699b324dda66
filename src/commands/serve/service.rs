//! What the threads of `serve` share: configuration, queue and metrics.

use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError};
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::cli::SiteArgs;
use crate::commands::announce::Announcer;
use crate::commands::build::change_of;
use crate::commands::session;
use crate::config::Config;
use crate::documents::DecisionDocument;
use crate::error::{Classify as _, Failure, Kind};
use crate::events::{Consumer, Events, RunEvent};
use crate::listener::Metrics;
use crate::pipeline::{self, BuildOptions, PushOptions, Ran};
use crate::progress::{Detail, Lines};
use crate::queue::{ClaimedJob, JobContext, JobEvent, JobResult, Store};

/// The waits before each retry of fetching a commit that is not available yet.
const PATIENCE: [Duration; 3] = [Duration::from_secs(3), Duration::from_secs(12), Duration::from_secs(40)];
/// How long to reuse a response of `/readyz`.
const READY_FOR: Duration = Duration::from_secs(1);

pub(super) struct Service {
    /// SIGHUP replaces it as a whole.
    config: RwLock<Arc<Config>>,
    pub(super) flags: SiteArgs,
    pub(super) queue: Store,
    pub(super) metrics: Metrics,
    pub(super) announcer: Announcer,
    pub(super) cancel: Cancel,
    /// The last response of `/readyz`.
    ready: Mutex<Option<(Instant, Result<(), String>)>>,
    /// Held while readiness is checked.
    checking: Mutex<()>,
}

impl Service {
    pub(super) fn new(
        config: Config,
        flags: SiteArgs,
        queue: Store,
        announcer: Announcer,
        cancel: Cancel,
    ) -> Service {
        let (config, metrics) = (RwLock::new(Arc::new(config)), Metrics::new());
        let (ready, checking) = Default::default();
        Service { config, flags, queue, metrics, announcer, cancel, ready, checking }
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
            Arc::new(self.metrics.clone()),
        ]);
        match self.run_pipeline(job, &events, &context.cancel) {
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

    pub(super) fn observe(&self, job: Option<&ClaimedJob>, event: &JobEvent) {
        if matches!(event, JobEvent::Retrying { .. }) {
            self.metrics.retry();
        }
        self.announcer.job(job, event);
    }

    /// Checks the queue and docker at most once a second, whatever the request rate, and one request at a time: a
    /// docker that hangs must not block the threads for deliveries.
    pub(super) fn ready(&self) -> Result<(), String> {
        let last = self.ready.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((checked, answer)) = &last
            && checked.elapsed() < READY_FOR
        {
            return answer.clone();
        }
        let _checking = match self.checking.try_lock() {
            Ok(checking) => checking,
            Err(TryLockError::Poisoned(checking)) => checking.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return last.map_or(Err("docker has not answered yet".to_owned()), |(_, answer)| answer);
            }
        };
        let cancel = Cancel::new().child(Some(Duration::from_secs(3)));
        let answer = || -> Result<String, Failure> {
            self.queue.check_writable()?;
            Ok(self.site(&self.announcer.events, &cancel)?.docker.engine_version(&cancel)?)
        };
        let answer = answer().map(drop).map_err(|failure| failure.one_line());
        *self.ready.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), answer.clone()));
        answer
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

/// Records the duration of each phase.
impl Consumer for Metrics {
    fn event(&self, event: &RunEvent<'_>) {
        match *event {
            RunEvent::Phase { phase, took } => self.phase(phase, took),
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
