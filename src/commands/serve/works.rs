//! One job of the queue, run through the pipeline.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::cancel::Cancel;
use crate::cli::{BuildArgs, RegistryArgs};
use crate::commands::build::change_of;
use crate::commands::session;
use crate::config::Config;
use crate::documents::DecisionDocument;
use crate::error::{Classify as _, Failure, Kind};
use crate::listener::{Metrics, Step};
use crate::pipeline::{self, BuildOptions, PushOptions, Ran};
use crate::progress::{LineSink, Progress, Style};
use crate::queue::{ClaimedJob, JobContext, JobLog, JobResult};

/// Before each further fetch of a commit that is not there yet: three times within a minute.
const PATIENCE: [Duration; 3] = [Duration::from_secs(3), Duration::from_secs(12), Duration::from_secs(40)];

/// What workers need to run a job, replaced as a whole by SIGHUP.
pub(super) struct Works {
    config: RwLock<Arc<Config>>,
    metrics: Metrics,
    flags: RegistryArgs,
}

impl Works {
    pub(super) fn new(config: Config, metrics: Metrics, flags: RegistryArgs) -> Works {
        Works { config: RwLock::new(Arc::new(config)), metrics, flags }
    }

    /// Jobs that start from here on run under this configuration. Returns the one before.
    pub(super) fn replace_config(&self, config: Config) -> Arc<Config> {
        let mut place = self.config.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *place, Arc::new(config))
    }

    /// Where and with what a job is carried out.
    pub(super) fn site(&self, progress: &Progress, cancel: &Cancel) -> Result<pipeline::Site, Failure> {
        let config = Arc::clone(&*self.config.read().unwrap_or_else(PoisonError::into_inner));
        session::site(&config, &self.flags, None::<&BuildArgs>, progress, cancel)
    }

    pub(super) fn run(&self, job: &ClaimedJob, context: &JobContext) -> JobResult {
        let progress = Progress::new(Style::Log(Arc::new(Log(context.log.clone()))));
        let result = self.run_pipeline(job, &progress, &context.cancel);
        match result {
            Ok(outcome) => JobResult::Succeeded { outcome },
            Err(failure) => {
                progress.say(failure.render().trim_end());
                result_of(&failure)
            }
        }
    }

    fn run_pipeline(
        &self,
        job: &ClaimedJob,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<String, Failure> {
        let document: DecisionDocument = serde_json::from_str(&job.document)
            .classify(Kind::BadInput, || "the job's document cannot be read")?;
        let site = self.site(progress, cancel)?;
        let change = pipeline::landed(&site, change_of(&document)?, &PATIENCE)?;
        let build = BuildOptions { patience: PATIENCE.to_vec(), ..BuildOptions::default() };
        let ran =
            pipeline::run(&site, &change, Some(&document.payload_sha256), &build, &PushOptions::default())?;
        if let Ran::Pushed(receipt) = &ran.document {
            let seconds = receipt.seconds;
            let parts = [
                (Step::Checkout, Some(seconds.checkout)),
                (Step::Build, Some(seconds.build)),
                (Step::Push, seconds.push),
            ];
            for (step, seconds) in parts {
                if let Some(seconds) = seconds {
                    self.metrics.step(step, Duration::from_secs_f64(seconds.max(0.0)));
                }
            }
        }
        match (ran.document, ran.failure) {
            (_, Some(failure)) => Err(failure),
            (Ran::Pushed(receipt), None) => serde_json::to_string(&receipt)
                .classify(Kind::Failed, || "the receipt cannot be kept with the job"),
            (Ran::Built(_), None) => Err(Failure::failed("the build ended without a push")),
        }
    }
}

/// Only what the environment did is tried again.
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

/// A job's log as a place for lines.
struct Log(JobLog);

impl LineSink for Log {
    fn line(&self, line: &str) {
        self.0.line(line);
    }
}
