//! In a job of GitHub Actions: the output of each step is one group, written when the step ends, because steps run side by
//! side and the runner does not nest groups.

use crate::escape::escaped;
use crate::events::{Consumer, RunEvent, StepEnd};

use super::{Tails, runner, seconds, shown, write_commands, write_stderr};

/// The oldest lines of a longer step are dropped.
const GROUP_LINES: usize = 5_000;

pub(crate) struct Groups {
    tails: Tails,
}

impl Groups {
    pub(crate) fn new() -> Groups {
        Groups { tails: Tails::of(GROUP_LINES) }
    }

    /// In one piece, so that no other line comes between.
    fn write(&self, id: u64, title: &str, error: Option<String>) {
        let lines = self.tails.take(id);
        let mut block = Vec::with_capacity(lines.len() + 3);
        if lines.is_empty() {
            block.push(runner::harmless(&shown(title)).into_owned());
        } else {
            block.push(runner::command("group", None, &shown(title)));
            block.extend(lines.iter().map(|line| runner::harmless(line).into_owned()));
            block.push(runner::command("endgroup", None, ""));
        }
        block.extend(error);
        write_commands(&block);
    }
}

impl Consumer for Groups {
    fn event(&self, event: &RunEvent<'_>) {
        match *event {
            RunEvent::Started { step, .. } => write_stderr(&format!("{} …", escaped(&step.to_string()))),
            RunEvent::Line { id, line, .. } => {
                let line = shown(line);
                if !line.is_empty() {
                    self.tails.push(id, line);
                }
            }
            RunEvent::Ended { id, step, outcome, took } => {
                let name = escaped(&step.to_string());
                match outcome {
                    StepEnd::Done { detail } => {
                        self.write(id, &format!("{name}: {} ({})", detail.trim_end(), seconds(took)), None);
                    }
                    StepEnd::Failed { why } => {
                        let error = runner::command("error", Some(&shown(&name)), &shown(why));
                        self.write(id, &format!("{name}: FAILED ({})", seconds(took)), Some(error));
                    }
                    StepEnd::Abandoned => drop(self.tails.take(id)),
                }
            }
            RunEvent::Warning(text) => write_stderr(&format!("warning: {text}")),
            RunEvent::Note(text) => write_stderr(text),
            RunEvent::Run { .. } | RunEvent::Planned { .. } | RunEvent::Phase { .. } => {}
        }
    }
}
