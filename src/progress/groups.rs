//! In a job of GitHub Actions: the output of each step is one group, written when the step ends, because steps run side by
//! side and the runner does not nest groups.

use crate::escape::escaped;
use crate::events::{Consumer, Event, Outcome};

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
    fn event(&self, event: &Event<'_>) {
        match *event {
            Event::Started { step, .. } => write_stderr(&format!("{} …", escaped(&step.to_string()))),
            Event::Line { id, line, .. } => {
                let line = shown(line);
                if !line.is_empty() {
                    self.tails.push(id, line);
                }
            }
            Event::Ended { id, step, outcome, took } => {
                let name = escaped(&step.to_string());
                match outcome {
                    Outcome::Done { detail } => {
                        self.write(id, &format!("{name}: {} ({})", detail.trim_end(), seconds(took)), None);
                    }
                    Outcome::Failed { why } => {
                        let error = runner::command("error", Some(&shown(&name)), &shown(why));
                        self.write(id, &format!("{name}: FAILED ({})", seconds(took)), Some(error));
                    }
                    Outcome::Abandoned => drop(self.tails.take(id)),
                }
            }
            Event::Warning(text) => write_stderr(&format!("warning: {text}")),
            Event::Note(text) => write_stderr(text),
            Event::Run { .. } | Event::Planned { .. } | Event::Phase { .. } => {}
        }
    }
}
