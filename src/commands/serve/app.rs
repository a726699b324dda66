//! What `serve` does for the listener: deliveries go to the intake, and `/readyz` checks the queue and docker.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::commands::announce::Announcer;
use crate::error::Failure;
use crate::events::Events;
use crate::listener::{App, Delivered, DeliveryLine, Intake, RawDelivery, Stopper, Verdict};
use crate::queue::JobId;

use super::works::Works;

/// How long to reuse a response of `/readyz`.
const READY_FOR: Duration = Duration::from_secs(1);

pub(super) struct ServeApp {
    pub(super) intake: Intake,
    /// `--once`: the listener to stop with the first job.
    pub(super) stopper: OnceLock<Stopper>,
    pub(super) first_job: OnceLock<JobId>,
    works: Arc<Works>,
    announcer: Announcer,
    events: Events,
    /// The last check and its time.
    checked: Mutex<Option<(Instant, Result<(), String>)>>,
    checking: Mutex<()>,
}

impl ServeApp {
    pub(super) fn new(intake: Intake, works: Arc<Works>, announcer: Announcer, events: Events) -> ServeApp {
        let (stopper, first_job, checked, checking) = Default::default();
        ServeApp { intake, stopper, first_job, works, announcer, events, checked, checking }
    }

    fn check(&self) -> Result<(), Failure> {
        let cancel = Cancel::new().child(Some(Duration::from_secs(3)));
        self.works.queue.check_writable()?;
        self.works.site(&self.events, &cancel)?.docker.engine_version(&cancel)?;
        Ok(())
    }
}

impl App for ServeApp {
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

    /// Checks at most once a second, whatever the request rate, and for one request at a time: a docker that hangs must
    /// not block the threads for deliveries.
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
                return last
                    .map_or_else(|| Err("docker has not answered yet".to_owned()), |(_, ready)| ready);
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
