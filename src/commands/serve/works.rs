//! Runs a job of the queue through the pipeline.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::cancel::Cancel;
use crate::cli::{BuildArgs, RegistryArgs};
use crate::commands::build::change_of;
use crate::commands::session;
use crate::config::Config;
use crate::documents::DecisionDocument;
use crate::error::{Classify as _, Failure, Kind};
use crate::events::Events;
use crate::listener::Metrics;
use crate::pipeline::{self, BuildOptions, PushOptions, Ran};
use crate::progress::{Detail, Lines};
use crate::queue::{Ending, Handler, JobContext, JobRecord, Post, PostError, Store};

use super::posts;
use crate::commands::announce::Announcer;

/// The waits before each retry of fetching a commit that is not available yet.
const PATIENCE: [Duration; 3] = [Duration::from_secs(3), Duration::from_secs(12), Duration::from_secs(40)];

/// The workers' configuration and tools; SIGHUP replaces the configuration as a whole.
pub(super) struct Works {
    pub(super) config: RwLock<Arc<Config>>,
    pub(super) metrics: Metrics,
    pub(super) flags: RegistryArgs,
    pub(super) queue: Arc<Store>,
    pub(super) announcer: Announcer,
}

impl Works {
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
        session::site(&self.config(), &self.flags, None::<&BuildArgs>, events, cancel)
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
}

impl Handler for Works {
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
        if ending.wait.is_some() {
            self.metrics.retry();
        }
        self.announcer.ended(job, ending, took);
    }

    fn warn(&self, text: &str) {
        self.announcer.warn(text);
    }
}
