//! Live bars on a terminal, below the output of [`Lines`].

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use console::Term;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

use crate::escape::escaped;
use crate::events::{Consumer, RunEvent};

use super::{Detail, Lines, shown, write_stderr};

/// The step, and the last line of its output.
const LINES_OF_A_BAR: usize = 2;
const REDRAW: Duration = Duration::from_millis(120);

pub(crate) struct Bars {
    bars: MultiProgress,
    live: Mutex<Live>,
    lines: Lines,
}

struct Live {
    /// The last line: the number of ended and planned steps.
    total: ProgressBar,
    shown: Vec<(u64, ProgressBar)>,
    /// Running steps that do not fit on the terminal, the oldest first.
    waiting: VecDeque<(u64, ProgressBar)>,
    begun: usize,
    ended: usize,
    planned: usize,
}

impl Bars {
    pub(crate) fn new() -> Bars {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::term_like_with_hz(
            Box::new(Resizable { term: Term::buffered_stderr(), drawn: Mutex::default() }),
            12,
        ));
        let above = bars.clone();
        let lines = Lines::to(Detail::Steps, move |line| above.suspend(|| write_stderr(line)));
        let total = ProgressBar::new_spinner().with_style(style("{msg:.dim}"));
        let live =
            Live { total, shown: Vec::new(), waiting: VecDeque::new(), begun: 0, ended: 0, planned: 0 };
        Bars { bars, live: Mutex::new(live), lines }
    }

    /// Shows as many steps as fit, and the total.
    fn arrange(&self, live: &mut Live) {
        // Half of the screen, so that the lines of ended steps remain visible.
        let most = (usize::from(Term::stderr().size().0) / (2 * LINES_OF_A_BAR)).max(1);
        while live.shown.len() < most
            && let Some((id, bar)) = live.waiting.pop_front()
        {
            let bar = self.bars.insert(live.shown.len(), bar);
            bar.enable_steady_tick(REDRAW);
            live.shown.push((id, bar));
        }
        let mut parts = Vec::new();
        if live.planned > 0 {
            parts.push(format!("{}/{}", live.ended, live.planned.max(live.begun)));
        }
        if !live.waiting.is_empty() {
            parts.push(format!("+{} more", live.waiting.len()));
        }
        // Adding it again makes it the last line.
        self.bars.remove(&live.total);
        if !parts.is_empty() && !live.shown.is_empty() {
            live.total = self.bars.add(live.total.clone());
            live.total.set_message(parts.join("  "));
        }
    }
}

/// All templates are valid constants.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

impl Consumer for Bars {
    fn event(&self, event: &RunEvent<'_>) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        match *event {
            RunEvent::Planned { steps } => {
                live.planned = live.begun + steps;
                self.arrange(&mut live);
            }
            RunEvent::Started { id, step } => {
                let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
                bar.set_style(style("{spinner:.cyan} {prefix} {elapsed:.dim}\n  {wide_msg:.dim}"));
                bar.set_prefix(escaped(&step.to_string()));
                live.begun += 1;
                live.waiting.push_back((id, bar));
                self.arrange(&mut live);
            }
            RunEvent::Line { id, line, .. } => {
                let line = shown(line);
                let mut bars = live.shown.iter().chain(&live.waiting);
                if let Some((_, bar)) = bars.find(|(of, _)| *of == id)
                    && !line.is_empty()
                {
                    bar.set_message(line);
                }
            }
            RunEvent::Ended { id, .. } => {
                live.ended += 1;
                if let Some(at) = live.shown.iter().position(|(of, _)| *of == id) {
                    let (_, bar) = live.shown.remove(at);
                    bar.finish_and_clear();
                    self.bars.remove(&bar);
                }
                live.waiting.retain(|(of, _)| *of != id);
                self.arrange(&mut live);
            }
            RunEvent::Run { .. } | RunEvent::Phase { .. } | RunEvent::Warning(_) | RunEvent::Note(_) => {}
        }
        drop(live);
        self.lines.event(event);
    }
}

/// A terminal that may be resized between two redraws, which wraps drawn lines into more lines.
#[derive(Debug)]
struct Resizable {
    term: Term,
    /// The width of what was drawn last, and its columns in total.
    drawn: Mutex<(usize, usize)>,
}

impl Resizable {
    /// The number of lines that wrapping added. Every drawn line fills the width.
    fn wrapped(&self) -> usize {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        let ((was, columns), now) = (*drawn, usize::from(self.width()));
        let lines = columns.checked_div(was).unwrap_or_default();
        *drawn = (now, 0);
        if now > 0 && was > now { lines * (was.div_ceil(now) - 1) } else { 0 }
    }
}

impl TermLike for Resizable {
    fn width(&self) -> u16 {
        self.term.size().1
    }

    fn height(&self) -> u16 {
        self.term.size().0
    }

    /// Begins every redraw.
    fn move_cursor_up(&self, lines: usize) -> io::Result<()> {
        let wrapped = self.wrapped();
        self.term.move_cursor_up(lines + wrapped)?;
        if wrapped > 0 {
            self.term.write_str("\r\x1b[J")?;
        }
        Ok(())
    }

    fn move_cursor_down(&self, lines: usize) -> io::Result<()> {
        self.term.move_cursor_down(lines)
    }

    fn move_cursor_right(&self, columns: usize) -> io::Result<()> {
        self.term.move_cursor_right(columns)
    }

    fn move_cursor_left(&self, columns: usize) -> io::Result<()> {
        self.term.move_cursor_left(columns)
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.term.write_line(text)
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        let columns = console::measure_text_width(text);
        self.drawn.lock().unwrap_or_else(PoisonError::into_inner).1 += columns;
        self.term.write_str(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.term.clear_line()
    }

    fn flush(&self) -> io::Result<()> {
        self.term.flush()
    }
}
