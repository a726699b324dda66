//! One line per step, as text: for pipes, for `--quiet`, and for a job's log.

use crate::escape::escaped;
use crate::events::{Consumer, RunEvent, StepEnd};
use crate::process::TAIL_LINES;

use super::{Tails, seconds, shown};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Only warnings and failures.
    Quiet,
    Steps,
    /// The output of the tools too.
    Verbose,
    /// All of it, for a file: a failure does not repeat what stands above it.
    Log,
}

pub(crate) struct Lines {
    detail: Detail,
    tails: Tails,
    write: Box<dyn Fn(&str) + Send + Sync>,
}

impl Lines {
    pub(crate) fn to(detail: Detail, write: impl Fn(&str) + Send + Sync + 'static) -> Lines {
        Lines { detail, tails: Tails::of(TAIL_LINES), write: Box::new(write) }
    }

    fn print(&self, text: &str) {
        (self.write)(&shown(text));
    }
}

impl Consumer for Lines {
    fn event(&self, event: &RunEvent<'_>) {
        let quiet = self.detail == Detail::Quiet;
        match *event {
            RunEvent::Started { step, .. } => match self.detail {
                Detail::Verbose => self.print(&format!("{} …", escaped(&step.to_string()))),
                Detail::Log => self.print(&format!("== {}", escaped(&step.to_string()))),
                Detail::Quiet | Detail::Steps => {}
            },
            RunEvent::Line { id, step, line } => {
                let line = shown(line);
                if line.is_empty() {
                    return;
                }
                match self.detail {
                    Detail::Verbose | Detail::Log => {
                        self.print(&format!("  {} | {line}", escaped(&step.to_string())));
                    }
                    Detail::Quiet | Detail::Steps => {}
                }
                if self.detail != Detail::Log {
                    self.tails.push(id, line);
                }
            }
            RunEvent::Ended { id, step, outcome, took } => {
                let tail = self.tails.take(id);
                let name = escaped(&step.to_string());
                match outcome {
                    StepEnd::Done { .. } if quiet => {}
                    StepEnd::Done { detail } => {
                        self.print(&format!("{name}: {} ({})", detail.trim_end(), seconds(took)));
                    }
                    StepEnd::Failed { .. } => {
                        let mut text = format!("{name}: FAILED ({})", seconds(took));
                        if !tail.is_empty() {
                            text.push_str(&format!("\n  its last {} lines:", tail.len()));
                            tail.iter().for_each(|line| text.push_str(&format!("\n  | {line}")));
                        }
                        self.print(&text);
                    }
                    StepEnd::Abandoned => {}
                }
            }
            RunEvent::Warning(text) => self.print(&format!("warning: {text}")),
            RunEvent::Note(text) if !quiet => self.print(text),
            RunEvent::Run { repository, commit } => match self.detail {
                Detail::Verbose | Detail::Log => self.print(&format!("commit {commit} of {repository}")),
                Detail::Quiet | Detail::Steps => {}
            },
            RunEvent::Note(_) | RunEvent::Planned { .. } | RunEvent::Phase { .. } => {}
        }
    }
}
