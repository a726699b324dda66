//! Turns a delivery into a job on disk: signature, payload, ping, allow-list, verdict, queue.
//!
//! [`crate::decide`] interprets the payload, for `serve` and `evaluate` alike: the same bytes, the same verdict.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use crate::decide::{self, BranchGlobs, Decision};
use crate::documents::DecisionWord;
use crate::forge::signature::{self, WebhookSecret};
use crate::forge::{self, Delivery, Event, Headers};
use crate::model::{ForgeName, RepoName};
use crate::queue::{JobState, NewJob, Store};

use super::answer::{Answer, Verdict};
use super::routes::{Delivered, RawDelivery};

/// The rules of one forge: a delivery with its signature may build only its own repositories.
pub struct ForgeRules {
    pub kind: ForgeName,
    pub url: String,
    /// `None`: deliveries of this forge are refused.
    pub secret: Option<WebhookSecret>,
    /// The allow-list, each repository with its branches.
    pub repositories: Vec<(RepoName, BranchGlobs)>,
}

/// The forges whose secret verifies the delivery, among those that can have sent it. At least one; several only if they
/// share a secret.
fn verify<'r>(rules: &'r [ForgeRules], raw: &RawDelivery<'_>) -> Result<Vec<&'r ForgeRules>, String> {
    let (mut verified, mut why) = (Vec::new(), None);
    for forge in rules.iter().filter(|forge| forge.kind.can_send(raw.headers)) {
        let Some(secret) = &forge.secret else {
            why.get_or_insert_with(|| format!("{} has no webhook secret", forge.url));
            continue;
        };
        match signature::verify(forge.kind, raw.headers, raw.body, raw.encoding, secret, SystemTime::now()) {
            Ok(()) => verified.push(forge),
            Err(wrong) => why = Some(wrong.to_owned()),
        }
    }
    if !verified.is_empty() {
        return Ok(verified);
    }
    Err(why.unwrap_or_else(|| {
        let sender = ForgeName::ALL.into_iter().find(|forge| forge.can_send(raw.headers));
        let sender = sender.map_or("a forge", ForgeName::title);
        format!("it comes from {sender}, and no [[forge]] of that kind is configured")
    }))
}

pub struct Intake {
    /// SIGHUP replaces them while `serve` runs.
    rules: RwLock<Arc<Vec<ForgeRules>>>,
    queue: Arc<Store>,
    /// `--once`: close after one job.
    only_one: bool,
    closed: AtomicBool,
}

impl Intake {
    pub fn new(rules: Vec<ForgeRules>, queue: Arc<Store>, only_one: bool) -> Intake {
        Intake { rules: RwLock::new(Arc::new(rules)), queue, only_one, closed: AtomicBool::new(false) }
    }

    pub fn replace_rules(&self, rules: Vec<ForgeRules>) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    /// Judges a delivery; a merge is on disk before this returns.
    pub fn deliver(&self, raw: &RawDelivery<'_>) -> Delivered {
        let rules = Arc::clone(&*self.rules.read().unwrap_or_else(PoisonError::into_inner));
        let verified = match verify(&rules, raw) {
            Ok(verified) => verified,
            Err(why) => return Answer { log: Some(why), ..Answer::unauthorized() }.into(),
        };
        let headers = Headers {
            event: raw.event,
            encoding: raw.encoding,
            forge: verified.first().map(|forge| forge.kind),
        };
        let delivery = match forge::parse(raw.body, headers) {
            Ok(delivery) => delivery,
            Err(error) => return Answer::new(Verdict::Malformed, error.to_string()).into(),
        };
        let repository = delivery.repository.as_ref().map(ToString::to_string);
        if matches!(delivery.event, Event::Ping) {
            return Delivered { repository, ..Answer::new(Verdict::Pong, "the webhook works").into() };
        }
        let decision = match decide(delivery, &verified) {
            Ok(decision) => decision,
            Err(why) => return Delivered { repository, ..Answer::new(Verdict::NotAllowed, why).into() },
        };
        let pull_request = decision.change.as_ref().and_then(|change| change.pull_request.as_ref());
        let pull_request = pull_request.map(|pull_request| pull_request.number);
        let answer = match decision.decision {
            DecisionWord::Build => self.queue(raw, decision),
            DecisionWord::Skip if decision.contradictory => {
                Answer::new(Verdict::Contradictory, decision.reason)
            }
            DecisionWord::Skip => Answer::new(Verdict::Skip, decision.reason),
        };
        Delivered { answer, repository, pull_request }
    }

    fn queue(&self, raw: &RawDelivery<'_>, decision: Decision) -> Answer {
        let reason = decision.reason.clone();
        let Some(job) = new_job(raw, decision) else {
            return Answer::new(Verdict::Malformed, "the merge names no forge or no branch");
        };
        if self.only_one && self.closed.swap(true, Ordering::SeqCst) {
            return Answer::new(Verdict::Unavailable, "this listener takes one merge and has it");
        }
        let accepted = self.queue.accept(&job);
        let queued = matches!(accepted, Ok((_, known)) if known.is_none_or(JobState::may_be_retried));
        if self.only_one && !queued {
            self.closed.store(false, Ordering::SeqCst);
        }
        match accepted {
            Ok((id, None)) => Answer::of_job(Verdict::Queued, id.0, reason),
            Ok((id, Some(_))) if queued => {
                let reason = format!("{reason}; its job had not succeeded and is queued again");
                Answer::of_job(Verdict::Queued, id.0, reason)
            }
            Ok((id, Some(state))) => {
                let why = format!("this merge has job {id}, which {}", state.verb());
                Answer::of_job(Verdict::Duplicate, id.0, why)
            }
            Err(error) => Answer {
                log: Some(error.to_string()),
                ..Answer::new(Verdict::Unavailable, "the queue cannot be written now")
            },
        }
    }
}

/// Decides by the branches of the delivery's repository; `Err` if it is not on the allow-list of a forge that sent it.
fn decide(delivery: Delivery, verified: &[&ForgeRules]) -> Result<Decision, String> {
    let Some(name) = &delivery.repository else {
        return Ok(decide::decide(delivery, &BranchGlobs::default()));
    };
    let senders = verified.iter().filter(|forge| forge.kind == delivery.forge);
    let mut allowed = senders.flat_map(|forge| forge.repositories.iter().map(move |entry| (forge, entry)));
    match allowed.find(|(_, (allowed, _))| allowed.same_as(name)) {
        Some((forge, (_, branches))) => Ok(decide::decide(delivery, branches).on(forge.kind, &forge.url)),
        None => Err(format!("the repository `{name}` is not on the allow-list")),
    }
}

/// The job for a merge; `None` if it names no forge or no branch.
fn new_job(raw: &RawDelivery<'_>, decision: Decision) -> Option<NewJob> {
    let document = decision.into_document(decide::payload_sha256(raw.body), false);
    let text = serde_json::to_string(&document).ok()?;
    let change = document.change?;
    let number = change.pull_request.as_ref().map(|pull_request| pull_request.number);
    Some(NewJob {
        forge: change.forge?,
        forge_url: change.forge_url,
        repository: change.repository,
        branch: change.branch?,
        commit: change.commit,
        pull_request: number.and_then(|number| i64::try_from(number).ok()),
        head: change.pull_request.and_then(|pull_request| pull_request.head),
        event: raw.event.unwrap_or("pull_request").chars().take(100).collect(),
        delivery_id: raw.delivery_id.map(|id| id.chars().take(200).collect()),
        document: text,
    })
}
