//! One line per step, as text: for pipes, for `--quiet`, and for a job's log. In a job of GitHub Actions, one group per
//! step, written when the step ends, because steps run concurrently and groups cannot be nested.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use crate::escape::escaped;
use crate::events::{Consumer, RunEvent, StepEnd};
use crate::process::TAIL_LINES;

use super::{runner, seconds, shown, write_commands};

/// The oldest lines of a longer group are dropped.
const GROUP_LINES: usize = 5_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Only warnings and failures.
    Quiet,
    Steps,
    /// The output of the tools too.
    Verbose,
    /// All of it, for a file: a failure does not repeat the lines above it.
    Log,
    /// For a runner of GitHub Actions.
    Groups,
}

pub(crate) struct Lines {
    detail: Detail,
    /// The last lines of each running step.
    tails: Mutex<HashMap<u64, VecDeque<String>>>,
    write: Box<dyn Fn(&str) + Send + Sync>,
}

impl Lines {
    pub(crate) fn to(detail: Detail, write: impl Fn(&str) + Send + Sync + 'static) -> Lines {
        Lines { detail, tails: Mutex::default(), write: Box::new(write) }
    }

    fn print(&self, text: &str) {
        (self.write)(&shown(text));
    }

    fn keep(&self, id: u64, line: String) {
        let limit = if self.detail == Detail::Groups { GROUP_LINES } else { TAIL_LINES };
        let mut tails = self.tails.lock().unwrap_or_else(PoisonError::into_inner);
        let tail = tails.entry(id).or_default();
        if tail.len() == limit {
            tail.pop_front();
        }
        tail.push_back(line);
    }

    fn take(&self, id: u64) -> VecDeque<String> {
        self.tails.lock().unwrap_or_else(PoisonError::into_inner).remove(&id).unwrap_or_default()
    }

    fn ended(&self, name: &str, outcome: StepEnd<'_>, took: &str, tail: &VecDeque<String>) {
        let (result, error) = match outcome {
            StepEnd::Abandoned => return,
            StepEnd::Done { .. } if self.detail == Detail::Quiet => return,
            StepEnd::Done { detail } => (detail.trim_end(), None),
            StepEnd::Failed { why } => ("FAILED", Some(why)),
        };
        let mut text = format!("{name}: {result} ({took})");
        if self.detail == Detail::Groups {
            return write_group(&shown(&text), tail, error.map(|why| (name, why)));
        }
        if error.is_some() && !tail.is_empty() {
            text.push_str(&format!("\n  its last {} lines:", tail.len()));
            tail.iter().for_each(|line| text.push_str(&format!("\n  | {line}")));
        }
        self.print(&text);
    }
}

/// Writes a group at once, so that it contains no other line.
fn write_group(title: &str, lines: &VecDeque<String>, error: Option<(&str, &str)>) {
    let mut block = Vec::with_capacity(lines.len() + 3);
    if lines.is_empty() {
        block.push(runner::harmless(title).into_owned());
    } else {
        block.push(runner::command("group", None, title));
        block.extend(lines.iter().map(|line| runner::harmless(line).into_owned()));
        block.push(runner::command("endgroup", None, ""));
    }
    block.extend(error.map(|(name, why)| runner::command("error", Some(&shown(name)), &shown(why))));
    write_commands(&block);
}

impl Consumer for Lines {
    fn event(&self, event: &RunEvent<'_>) {
        match *event {
            RunEvent::Started { step, .. } => match self.detail {
                Detail::Verbose | Detail::Groups => self.print(&format!("{} …", escaped(&step.to_string()))),
                Detail::Log => self.print(&format!("== {}", escaped(&step.to_string()))),
                Detail::Quiet | Detail::Steps => {}
            },
            RunEvent::Line { id, step, line } => {
                let line = shown(line);
                if line.is_empty() {
                    return;
                }
                if matches!(self.detail, Detail::Verbose | Detail::Log) {
                    self.print(&format!("  {} | {line}", escaped(&step.to_string())));
                }
                if self.detail != Detail::Log {
                    self.keep(id, line);
                }
            }
            RunEvent::Ended { id, step, outcome, took } => {
                self.ended(&escaped(&step.to_string()), outcome, &seconds(took), &self.take(id));
            }
            RunEvent::Warning(text) => self.print(&format!("warning: {text}")),
            RunEvent::Note(text) if self.detail != Detail::Quiet => self.print(text),
            RunEvent::Run { repository, commit } if matches!(self.detail, Detail::Verbose | Detail::Log) => {
                self.print(&format!("commit {commit} of {repository}"));
            }
            RunEvent::Run { .. } | RunEvent::Note(_) | RunEvent::Planned { .. } | RunEvent::Phase { .. } => {}
        }
    }
}
