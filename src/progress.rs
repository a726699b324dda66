//! What happens while swanci works, and how a person sees it: live bars on a terminal, one plain line a step
//! elsewhere, every line in a job's log.

use std::collections::VecDeque;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::ci;
use crate::escape::{clean, escaped};
use crate::process::TAIL_LINES;

/// Lines of one step that are kept for its group in the log of a CI job; the oldest go first.
const GROUP_LINES: usize = 5_000;

/// Where lines go that are kept: a job's log.
pub(crate) trait LineSink: Send + Sync {
    /// Takes one line, without its end.
    fn line(&self, line: &str);
}

/// How progress is shown.
#[derive(Clone)]
pub(crate) enum Style {
    /// Live bars on standard error.
    Bars,
    /// One plain line a step on standard error; with `verbose` also what the tools say.
    Plain {
        /// Show the tools' lines too.
        verbose: bool,
    },
    /// In a job of GitHub Actions: what the tools said stands in a group for each step, written when the step ends.
    Groups,
    /// Only warnings and errors.
    Quiet,
    /// Every line into a log.
    Log(Arc<dyn LineSink>),
}

/// A handle on the one display; clones share it.
#[derive(Clone)]
pub(crate) struct Progress(Arc<Shared>);

struct Shared {
    style: Style,
    bars: MultiProgress,
}

impl Progress {
    /// A display of this style.
    pub(crate) fn new(style: Style) -> Progress {
        let target = match style {
            Style::Bars => ProgressDrawTarget::stderr_with_hz(12),
            Style::Plain { .. } | Style::Groups | Style::Quiet | Style::Log(_) => {
                ProgressDrawTarget::hidden()
            }
        };
        Progress(Arc::new(Shared { style, bars: MultiProgress::with_draw_target(target) }))
    }

    /// Begins a step, as `build httpd`.
    pub(crate) fn step(&self, name: &str) -> Step {
        let name = escaped(name);
        let bar = match &self.0.style {
            Style::Bars => {
                let bar = self.0.bars.add(ProgressBar::new_spinner());
                let style = ProgressStyle::with_template(
                    "{spinner:.cyan} {prefix} {elapsed:.dim}\n  {wide_msg:.dim}",
                );
                // The template is a constant that parses; if it ever did not, the plain default is fine.
                bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
                bar.set_prefix(name.clone());
                bar.enable_steady_tick(Duration::from_millis(120));
                Some(bar)
            }
            Style::Plain { verbose: true } | Style::Groups => {
                self.print(&format!("{name} …"));
                None
            }
            Style::Log(_) => {
                self.print(&format!("== {name}"));
                None
            }
            Style::Plain { verbose: false } | Style::Quiet => None,
        };
        Step { progress: self.clone(), name, bar, begun: Instant::now(), tail: Mutex::new(VecDeque::new()) }
    }

    /// Whether only warnings and errors are wanted.
    pub(crate) fn is_quiet(&self) -> bool {
        match self.0.style {
            Style::Quiet => true,
            Style::Bars | Style::Plain { .. } | Style::Groups | Style::Log(_) => false,
        }
    }

    /// Something that a person should know.
    pub(crate) fn warn(&self, text: &str) {
        match &self.0.style {
            Style::Quiet => write_stderr(&format!("warning: {text}")),
            Style::Bars | Style::Plain { .. } | Style::Groups | Style::Log(_) => {
                self.print(&format!("warning: {text}"))
            }
        }
    }

    /// A plain sentence, as the closing summary; not in quiet.
    pub(crate) fn say(&self, text: &str) {
        self.print(text);
    }

    fn print(&self, line: &str) {
        match &self.0.style {
            // Above the bars. A failure to draw is no reason to stop a build.
            Style::Bars => self.0.bars.suspend(|| write_stderr(line)),
            Style::Plain { .. } | Style::Groups => write_stderr(line),
            Style::Quiet => {}
            Style::Log(sink) => sink.line(&shown(line)),
        }
    }
}

/// A step that is under way.
pub(crate) struct Step {
    progress: Progress,
    name: String,
    bar: Option<ProgressBar>,
    begun: Instant,
    tail: Mutex<VecDeque<String>>,
}

impl Step {
    /// What the tool under the step has just said.
    pub(crate) fn line(&self, line: &str) {
        let line = shown(line);
        if line.is_empty() {
            return;
        }
        if let Some(bar) = &self.bar {
            bar.set_message(line.clone());
        }
        match &self.progress.0.style {
            Style::Plain { verbose: true } | Style::Log(_) => {
                self.progress.print(&format!("  {} | {line}", self.name))
            }
            Style::Bars | Style::Plain { verbose: false } | Style::Groups | Style::Quiet => {}
        }
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = if matches!(self.progress.0.style, Style::Groups) { GROUP_LINES } else { TAIL_LINES };
        if tail.len() == kept {
            tail.pop_front();
        }
        tail.push_back(line);
    }

    /// It ended well; `detail` says what came of it.
    pub(crate) fn done(self, detail: &str) {
        self.close();
        let text = format!("{}: {} ({})", self.name, detail.trim_end(), seconds(self.begun.elapsed()));
        if matches!(self.progress.0.style, Style::Groups) {
            self.group(&text, None);
        } else {
            self.progress.print(&text);
        }
    }

    /// It failed: the last lines that were said are shown, so that nobody has to run it again to see them.
    pub(crate) fn failed(self, why: &str) {
        self.close();
        if matches!(self.progress.0.style, Style::Groups) {
            let text = format!("{}: FAILED ({})", self.name, seconds(self.begun.elapsed()));
            self.group(&text, Some(why));
            return;
        }
        let tail = std::mem::take(&mut *self.tail.lock().unwrap_or_else(PoisonError::into_inner));
        let mut text = format!("{}: FAILED ({})", self.name, seconds(self.begun.elapsed()));
        // A log has the lines already.
        if !matches!(self.progress.0.style, Style::Log(_)) && !tail.is_empty() {
            text.push_str(&format!("\n  its last {} lines:", tail.len()));
            for line in tail {
                text.push_str(&format!("\n  | {line}"));
            }
        }
        match &self.progress.0.style {
            Style::Quiet => write_stderr(&text),
            Style::Bars | Style::Plain { .. } | Style::Groups | Style::Log(_) => self.progress.print(&text),
        }
    }

    /// All that the step said, as one group: steps run side by side, and the runner knows no group within another.
    fn group(&self, title: &str, failed: Option<&str>) {
        let lines = std::mem::take(&mut *self.tail.lock().unwrap_or_else(PoisonError::into_inner));
        let mut block = Vec::with_capacity(lines.len() + 3);
        if lines.is_empty() {
            block.push(ci::harmless(&shown(title)).into_owned());
        } else {
            block.push(ci::command("group", None, &shown(title)));
            block.extend(lines.iter().map(|line| ci::harmless(line).into_owned()));
            block.push(ci::command("endgroup", None, ""));
        }
        if let Some(why) = failed {
            block.push(ci::command("error", Some(&shown(&self.name)), &shown(why)));
        }
        write_commands(&block);
    }

    fn close(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            self.progress.0.bars.remove(bar);
        }
    }
}

impl Drop for Step {
    /// A step that was abandoned by an error leaves no bar behind.
    fn drop(&mut self) {
        self.close();
    }
}

/// `1.84s`, `2m03s`.
pub(crate) fn seconds(duration: Duration) -> String {
    let total = duration.as_secs();
    if total < 60 {
        format!("{:.2}s", duration.as_secs_f64())
    } else {
        format!("{}m{:02}s", total / 60, total % 60)
    }
}

/// One line of `serve`'s own, on standard output. A closed standard output is no reason to stop serving.
pub(crate) fn write_stdout(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", shown(line));
    let _ = out.flush();
}

/// One line for a person, on standard error. A closed standard error is no reason to stop.
pub(crate) fn write_stderr(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", ci::harmless(&shown(line)));
}

/// What may stand on a terminal and in a log: no secret, no control character. Everything that is printed or logged
/// comes through here.
pub(crate) fn shown(text: &str) -> String {
    clean(&crate::redact::scrub(text)).trim_end().to_owned()
}

/// Lines for a CI runner, as they are: commands, a secret that it is to mask. In one piece, so that no other line comes
/// between.
pub(crate) fn write_commands(lines: &[String]) {
    let _ = writeln!(std::io::stderr().lock(), "{}", lines.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<String>>);
    impl LineSink for Kept {
        fn line(&self, line: &str) {
            self.0.lock().unwrap().push(line.to_owned());
        }
    }

    #[test]
    fn a_log_holds_every_line_of_a_step_and_how_it_ended() {
        let kept = Arc::new(Kept::default());
        let progress = Progress::new(Style::Log(kept.clone()));
        let step = progress.step("build httpd");
        step.line("Step 1/2 : FROM scratch");
        step.failed("no such file");
        let lines = kept.0.lock().unwrap();
        assert_eq!(lines[..2], ["== build httpd", "  build httpd | Step 1/2 : FROM scratch"]);
        assert!(lines[2].starts_with("build httpd: FAILED ("), "{}", lines[2]);
    }

    #[test]
    fn a_strangers_text_cannot_paint_on_the_terminal() {
        let kept = Arc::new(Kept::default());
        let progress = Progress::new(Style::Log(kept.clone()));
        let hostile = "\u{1b}[31mred\u{1b}[0m\u{7}\u{9b}2J\u{202e}\u{2028}x";
        progress.warn(hostile);
        progress.say(hostile);
        let step = progress.step(hostile);
        step.line(hostile);
        step.done(hostile);
        progress.step(hostile).failed(hostile);
        let lines = kept.0.lock().unwrap();
        assert_eq!(lines.len(), 7, "{lines:?}");
        for line in &*lines {
            assert!(
                !line.contains(|c: char| c.is_control() || matches!(c, '\u{202e}' | '\u{2028}')),
                "{line:?}"
            );
        }
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(seconds(Duration::from_millis(1840)), "1.84s");
        assert_eq!(seconds(Duration::from_secs(123)), "2m03s");
    }
}
