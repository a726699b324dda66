//! The events of a run. The pipeline emits them, independently of their consumers: the display, a job's log, metrics.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::model::{CommitSha, RepoName};

/// Consumers must redact and escape the texts.
pub(crate) enum RunEvent<'a> {
    /// The run processes this commit, which has landed.
    Run { repository: &'a RepoName, commit: &'a CommitSha },
    /// The number of further steps.
    Planned { steps: usize },
    /// Steps run concurrently; `id` identifies a step.
    Started { id: u64, step: &'a Step },
    /// A line of output from a step's tool.
    Line { id: u64, step: &'a Step, line: &'a str },
    /// A step ended, after `took`.
    Ended { id: u64, step: &'a Step, outcome: StepEnd<'a>, took: Duration },
    /// A phase ended with all of its steps.
    Phase { phase: Phase, took: Duration },
    /// Shown even with `--quiet`.
    Warning(&'a str),
    /// Not shown with `--quiet`.
    Note(&'a str),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Checkout { commit: String },
    Compare,
    Build { image: String },
    Push { image: String },
    MoveTags,
    LookAt { branch: String, repository: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StepEnd<'a> {
    Done { detail: &'a str },
    Failed { why: &'a str },
    // By a signal or by the failure of another step.
    Abandoned,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Checkout,
    Build,
    Push,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Checkout { commit } => write!(f, "checkout {commit}"),
            Step::Compare => f.write_str("compare with the registry"),
            Step::Build { image } => write!(f, "build {image}"),
            Step::Push { image } => write!(f, "push {image}"),
            Step::MoveTags => f.write_str("move the tags"),
            Step::LookAt { branch, repository } => write!(f, "look at {branch} of {repository}"),
        }
    }
}

pub(crate) trait Consumer: Send + Sync {
    fn event(&self, event: &RunEvent<'_>);
}

/// Clones share the consumers.
#[derive(Clone)]
pub(crate) struct Events {
    consumers: Arc<[Arc<dyn Consumer>]>,
    steps: Arc<AtomicU64>,
}

impl Events {
    pub(crate) fn to(consumers: Vec<Arc<dyn Consumer>>) -> Events {
        Events { consumers: consumers.into(), steps: Arc::default() }
    }

    pub(crate) fn emit(&self, event: &RunEvent<'_>) {
        self.consumers.iter().for_each(|consumer| consumer.event(event));
    }

    pub(crate) fn warn(&self, text: &str) {
        self.emit(&RunEvent::Warning(text));
    }

    pub(crate) fn note(&self, text: &str) {
        self.emit(&RunEvent::Note(text));
    }

    pub(crate) fn begin(&self, step: Step) -> Running<'_> {
        let id = self.steps.fetch_add(1, Ordering::Relaxed);
        self.emit(&RunEvent::Started { id, step: &step });
        Running { events: self, id, step, begun: Instant::now(), ended: false }
    }
}

/// A running step. Dropping it abandons the step.
pub(crate) struct Running<'a> {
    events: &'a Events,
    id: u64,
    step: Step,
    begun: Instant,
    ended: bool,
}

impl Running<'_> {
    pub(crate) fn line(&self, line: &str) {
        self.events.emit(&RunEvent::Line { id: self.id, step: &self.step, line });
    }

    pub(crate) fn done(mut self, detail: &str) {
        self.end(StepEnd::Done { detail });
    }

    pub(crate) fn failed(mut self, why: &str) {
        self.end(StepEnd::Failed { why });
    }

    fn end(&mut self, outcome: StepEnd<'_>) {
        self.ended = true;
        let took = self.begun.elapsed();
        self.events.emit(&RunEvent::Ended { id: self.id, step: &self.step, outcome, took });
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.end(StepEnd::Abandoned);
        }
    }
}
