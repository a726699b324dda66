//! Turns a delivery into a job on disk: signature, payload, ping, allow-list, verdict, queue.
//!
//! [`crate::decide`] interprets the payload, for `serve` and `evaluate` alike: the same bytes, the same verdict.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use crate::decide::{self, BranchGlobs};
use crate::documents::DecisionWord;
use crate::forge::signature::{self, WebhookSecret};
use crate::forge::{self, Encoding, Event, Headers};
use crate::model::{ForgeName, RepoName};
use crate::queue::{Accepted, JobId, JobState, NewJob, QueueError, Store};

use super::answer::{Answer, Verdict};
use super::routes::{App, ContentKind, Delivered, DeliveryLine, RawDelivery};

/// The rules for deliveries; SIGHUP replaces them while `serve` runs.
pub struct Rules {
    pub forges: Vec<ForgeRules>,
}

/// The rules of one forge: a delivery with its signature may build only its own repositories.
pub struct ForgeRules {
    pub kind: ForgeName,
    pub url: String,
    /// `None`: deliveries of this forge are refused.
    pub secret: Option<WebhookSecret>,
    /// The allow-list, each repository with its branches.
    pub repositories: Vec<(RepoName, BranchGlobs)>,
}

impl Rules {
    /// The forges whose secret verifies the delivery, among those that can have sent it. At least one; several only if
    /// they share a secret.
    fn verify(&self, delivery: &RawDelivery<'_>, encoding: Encoding) -> Result<Vec<&ForgeRules>, String> {
        let (mut verified, mut why) = (Vec::new(), None);
        let now = SystemTime::now();
        for forge in self.forges.iter().filter(|forge| forge.kind.can_send(delivery.headers)) {
            let Some(secret) = &forge.secret else {
                why.get_or_insert_with(|| format!("{} has no webhook secret", forge.url));
                continue;
            };
            match signature::verify(forge.kind, delivery.headers, delivery.body, encoding, secret, now) {
                Ok(()) => verified.push(forge),
                Err(error) => why = Some(error.to_string()),
            }
        }
        if !verified.is_empty() {
            return Ok(verified);
        }
        Err(why.unwrap_or_else(|| {
            let sender = ForgeName::ALL.into_iter().find(|forge| forge.can_send(delivery.headers));
            let sender = sender.map_or("a forge", ForgeName::title);
            format!("it comes from {sender}, and no [[forge]] of that kind is configured")
        }))
    }
}

/// Checks whether the rest of `serve` is ready.
pub type ReadyCheck = dyn Fn() -> Result<(), String> + Send + Sync;
/// Called for each job that a delivery queued.
pub type OnQueued = dyn Fn(JobId) + Send + Sync;
/// Called for each delivery.
pub type OnDelivery = dyn Fn(&DeliveryLine<'_>) + Send + Sync;

pub struct Intake {
    rules: RwLock<Arc<Rules>>,
    queue: Store,
    ready: Box<ReadyCheck>,
    on_queued: Box<OnQueued>,
    on_delivery: Box<OnDelivery>,
    /// `--once`: close after one job.
    only_one: bool,
    closed: AtomicBool,
}

impl Intake {
    /// With `only_one` it closes after the first job.
    pub fn new(
        rules: Rules,
        queue: Store,
        only_one: bool,
        ready: Box<ReadyCheck>,
        on_queued: Box<OnQueued>,
        on_delivery: Box<OnDelivery>,
    ) -> Intake {
        Intake {
            rules: RwLock::new(Arc::new(rules)),
            queue,
            ready,
            on_queued,
            on_delivery,
            only_one,
            closed: AtomicBool::new(false),
        }
    }

    pub fn replace_rules(&self, rules: Rules) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }
}

/// Hides the details from clients, who may be unauthenticated.
fn unavailable(error: &QueueError) -> Answer {
    let reason = match error {
        QueueError::Unavailable(_) | QueueError::Io { .. } | QueueError::Sql(_) => {
            "the queue cannot be written now"
        }
        QueueError::Corrupt { .. }
        | QueueError::NewerSchema { .. }
        | QueueError::OlderSchema { .. }
        | QueueError::Missing(_)
        | QueueError::Locked { .. }
        | QueueError::NotFound(_)
        | QueueError::NotRetried { .. }
        | QueueError::NotCancelled { .. }
        | QueueError::NotOwner(_) => "the queue does not work",
    };
    crate::progress::write_stderr(&format!("warning: a delivery was refused with 503: {error}"));
    Answer::new(Verdict::Unavailable, reason)
}

impl Intake {
    /// The merge that an authenticated delivery announces; `Err` is the response to any other delivery. Fills in
    /// `subject` as far as the payload is readable.
    fn judge(
        &self,
        delivery: &RawDelivery<'_>,
        subject: &mut (Option<String>, Option<u64>),
    ) -> Result<(NewJob, String), Answer> {
        let rules = Arc::clone(&*self.rules.read().unwrap_or_else(PoisonError::into_inner));
        let encoding = match delivery.content {
            ContentKind::Json => Encoding::Json,
            ContentKind::Form => Encoding::Form,
        };
        let verified = rules
            .verify(delivery, encoding)
            .map_err(|why| Answer { log: Some(why), ..Answer::unauthorized() })?;
        let malformed = |why: String| Answer::new(Verdict::Malformed, why);
        let forge = verified.first().map(|forge| forge.kind);
        let headers = Headers { event: delivery.event, encoding, forge };
        let read = forge::parse(delivery.body, headers).map_err(|error| malformed(error.to_string()))?;
        subject.0 = read.repository.as_ref().map(ToString::to_string);
        if matches!(read.event, Event::Ping) {
            return Err(Answer::new(Verdict::Pong, "the webhook works"));
        }
        let decision = match &read.repository {
            None => decide::decide(read, &BranchGlobs::default()),
            Some(name) => {
                let allowed =
                    verified.iter().filter(|forge| Some(forge.kind) == headers.forge).find_map(|forge| {
                        let (_, branches) =
                            forge.repositories.iter().find(|(allowed, _)| allowed.same_as(name))?;
                        Some((forge, branches))
                    });
                let Some((forge, branches)) = allowed else {
                    let why = format!("the repository `{name}` is not on the allow-list");
                    return Err(Answer::new(Verdict::NotAllowed, why));
                };
                decide::decide(read, branches).on(forge.kind, &forge.url)
            }
        };
        let pull_request = decision.change.as_ref().and_then(|change| change.pull_request.as_ref());
        subject.1 = pull_request.map(|pull_request| pull_request.number);
        let to_build = decision.change.clone().filter(|_| decision.decision == DecisionWord::Build);
        let Some(change) = to_build else {
            let verdict = if decision.contradictory { Verdict::Contradictory } else { Verdict::Skip };
            return Err(Answer::new(verdict, decision.reason));
        };
        let reason = decision.reason.clone();
        let document = decision.into_document(decide::payload_sha256(delivery.body), false);
        let document = serde_json::to_string(&document).map_err(|error| malformed(error.to_string()))?;
        let (Some(forge), Some(branch)) = (change.forge, change.branch) else {
            return Err(malformed("the merge names no forge or no branch".to_owned()));
        };
        let job = NewJob {
            forge,
            forge_url: change.forge_url,
            repository: change.repository,
            branch,
            commit: change.commit,
            pull_request: subject.1.and_then(|number| i64::try_from(number).ok()),
            head: change.pull_request.and_then(|pull_request| pull_request.head),
            event: delivery.event.unwrap_or("pull_request").chars().take(100).collect(),
            delivery_id: delivery.delivery_id.map(|id| id.chars().take(200).collect()),
            document,
        };
        Ok((job, reason))
    }

    fn accept(&self, job: NewJob, reason: String) -> Answer {
        if self.only_one && self.closed.swap(true, Ordering::SeqCst) {
            return Answer::new(Verdict::Unavailable, "this listener takes one merge and has it");
        }
        let accepted = self.queue.accept(job);
        let queued = matches!(accepted, Ok(Accepted::New(_) | Accepted::Requeued(_)));
        if self.only_one && !queued {
            self.closed.store(false, Ordering::SeqCst);
        }
        match accepted {
            Ok(Accepted::New(id)) => {
                (self.on_queued)(id);
                Answer::of_job(Verdict::Queued, id.0, reason)
            }
            Ok(Accepted::Requeued(id)) => {
                (self.on_queued)(id);
                let reason = format!("{reason}; its job had not succeeded and is queued again");
                Answer::of_job(Verdict::Queued, id.0, reason)
            }
            Ok(Accepted::Duplicate { id, state }) => {
                let stands = match state {
                    JobState::Queued => "is queued",
                    JobState::Running => "is running",
                    JobState::Succeeded => "has succeeded",
                    JobState::Failed => "has failed",
                    JobState::Cancelled => "was cancelled",
                };
                let why = format!("this merge has job {id}, which {stands}");
                Answer::of_job(Verdict::Duplicate, id.0, why)
            }
            Err(error) => unavailable(&error),
        }
    }
}

impl App for Intake {
    fn deliver(&self, delivery: RawDelivery<'_>) -> Delivered {
        let mut subject = (None, None);
        let answer = match self.judge(&delivery, &mut subject) {
            Ok((job, reason)) => self.accept(job, reason),
            Err(answer) => answer,
        };
        Delivered { answer, repository: subject.0, pull_request: subject.1 }
    }

    fn ready(&self) -> Result<(), String> {
        (self.ready)()
    }

    fn log(&self, line: &DeliveryLine<'_>) {
        (self.on_delivery)(line);
    }
}
