//! What `serve` does for the listener and for the workers.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, TryLockError};
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::cli::{Serve, SiteArgs};
use crate::commands::announce::Announcer;
use crate::commands::build::change_of;
use crate::commands::session;
use crate::config::Config;
use crate::documents::DecisionDocument;
use crate::error::{Classify as _, Failure, Kind};
use crate::events::Events;
use crate::listener::{
    App, Delivered, DeliveryLine, ForgeRules, Intake, Metrics, RawDelivery, Stopper, Verdict,
};
use crate::pipeline::{self, BuildOptions, PushOptions, Ran};
use crate::progress::{Detail, Lines};
use crate::queue::{Ending, Handler, JobContext, JobId, JobRecord, JobState, Post, PostError, Store};

use super::posts;

/// The waits before each retry of fetching a commit that is not available yet.
const PATIENCE: [Duration; 3] = [Duration::from_secs(3), Duration::from_secs(12), Duration::from_secs(40)];
/// How long to reuse a response of `/readyz`.
const READY_FOR: Duration = Duration::from_secs(1);

pub(super) struct Service {
    /// SIGHUP replaces it as a whole.
    config: RwLock<Arc<Config>>,
    pub(super) flags: SiteArgs,
    pub(super) queue: Arc<Store>,
    pub(super) metrics: Metrics,
    pub(super) announcer: Announcer,
    pub(super) intake: Intake,
    /// `--once`: the listener to stop with the first job.
    pub(super) stopper: OnceLock<Stopper>,
    pub(super) first_job: OnceLock<JobId>,
    /// The last response of `/readyz` and its time.
    checked: Mutex<Option<(Instant, Result<(), String>)>>,
    checking: Mutex<()>,
}

impl Service {
    pub(super) fn new(
        config: Config,
        args: &Serve,
        rules: Vec<ForgeRules>,
        queue: Store,
        announcer: Announcer,
    ) -> Service {
        let queue = Arc::new(queue);
        let counted = Arc::clone(&queue);
        let metrics = Metrics::new(move || counted.stats().unwrap_or_default());
        let intake = Intake::new(rules, Arc::clone(&queue), args.once);
        let flags = SiteArgs { registry: args.registry.clone(), ..SiteArgs::default() };
        let config = RwLock::new(Arc::new(config));
        let (stopper, first_job, checked, checking) = Default::default();
        Service { config, flags, queue, metrics, announcer, intake, stopper, first_job, checked, checking }
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

    fn run_pipeline(&self, job: &JobRecord, events: &Events, cancel: &Cancel) -> Result<String, Failure> {
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

    fn check(&self) -> Result<(), Failure> {
        let cancel = Cancel::new().child(Some(Duration::from_secs(3)));
        self.queue.check_writable()?;
        self.site(&self.announcer.events, &cancel)?.docker.engine_version(&cancel)?;
        Ok(())
    }
}

impl Handler for Service {
    fn run(&self, job: &JobRecord, context: &JobContext) -> Result<String, Failure> {
        self.announcer.job(job, "started", &format!("started, attempt {}", job.attempt()));
        let log = Arc::clone(&context.log);
        let events = Events::to(vec![
            Arc::new(Lines::to(Detail::Log, move |line| log.line(line))),
            Arc::new(self.metrics.clone()),
        ]);
        self.run_pipeline(job, &events, &context.cancel)
            .inspect_err(|failure| events.note(failure.render().trim_end()))
    }

    fn post(&self, post: &Post, cancel: &Cancel) -> Result<(), PostError> {
        posts::send(&self.queue, &self.config(), post, cancel)
    }

    fn ended(&self, job: &JobRecord, ending: &Ending, took: Duration) {
        if ending.state == JobState::Queued && ending.wait.is_some() {
            self.metrics.retry();
        }
        self.announcer.ended(job, ending, took);
    }

    fn warn(&self, text: &str) {
        self.announcer.warn(text);
    }
}

impl App for Service {
    fn deliver(&self, raw: RawDelivery<'_>) -> Delivered {
        let delivered = self.intake.deliver(&raw);
        if let (Verdict::Queued, Some(job)) = (delivered.answer.verdict, delivered.answer.job)
            && let Some(stopper) = self.stopper.get()
            && self.first_job.set(JobId(job)).is_ok()
        {
            stopper.stop();
        }
        delivered
    }

    /// Checks at most once a second, regardless of the request rate, and for one request at a time: a docker that hangs
    /// must not block the threads for deliveries.
    fn ready(&self) -> Result<(), String> {
        let last = self.checked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((checked, ready)) = &last
            && checked.elapsed() < READY_FOR
        {
            return ready.clone();
        }
        let _checking = match self.checking.try_lock() {
            Ok(checking) => checking,
            Err(TryLockError::Poisoned(checking)) => checking.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return last.map_or(Err("docker has not answered yet".to_owned()), |(_, ready)| ready);
            }
        };
        let ready = self.check().map_err(|failure| failure.one_line());
        let checked = Some((Instant::now(), ready.clone()));
        *self.checked.lock().unwrap_or_else(PoisonError::into_inner) = checked;
        ready
    }

    fn log(&self, line: &DeliveryLine<'_>) {
        self.announcer.delivery(line);
    }
}
