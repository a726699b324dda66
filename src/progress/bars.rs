//! Live bars on a terminal, and above them the lines of [`Lines`].

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::escape::escaped;
use crate::events::{Consumer, Event};

use super::{Detail, Lines, shown, write_stderr};

pub(crate) struct Bars {
    bars: MultiProgress,
    of_step: Mutex<HashMap<u64, ProgressBar>>,
    lines: Lines,
}

impl Bars {
    pub(crate) fn new() -> Bars {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(12));
        let above = bars.clone();
        let lines = Lines::to(Detail::Steps, move |line| above.suspend(|| write_stderr(line)));
        Bars { bars, of_step: Mutex::default(), lines }
    }
}

impl Consumer for Bars {
    fn event(&self, event: &Event<'_>) {
        let mut of_step = self.of_step.lock().unwrap_or_else(PoisonError::into_inner);
        match *event {
            Event::Started { id, step } => {
                let bar = self.bars.add(ProgressBar::new_spinner());
                let style = ProgressStyle::with_template(
                    "{spinner:.cyan} {prefix} {elapsed:.dim}\n  {wide_msg:.dim}",
                );
                // The template is a constant that parses; if it ever did not, the plain default is fine.
                bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
                bar.set_prefix(escaped(&step.to_string()));
                bar.enable_steady_tick(Duration::from_millis(120));
                of_step.insert(id, bar);
            }
            Event::Line { id, line, .. } => {
                let line = shown(line);
                if let Some(bar) = of_step.get(&id)
                    && !line.is_empty()
                {
                    bar.set_message(line);
                }
            }
            Event::Ended { id, .. } => {
                if let Some(bar) = of_step.remove(&id) {
                    bar.finish_and_clear();
                    self.bars.remove(&bar);
                }
            }
            Event::Run { .. } | Event::Phase { .. } | Event::Warning(_) | Event::Note(_) => {}
        }
        drop(of_step);
        self.lines.event(event);
    }
}
