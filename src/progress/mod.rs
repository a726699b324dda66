//! Shows the events of a run: live bars on a terminal, one plain line per step elsewhere, groups in a CI job, every line in
//! a job's log. All output of swanci passes through this module.

mod bars;
mod lines;
pub(crate) mod runner;

use std::io::Write as _;
use std::time::Duration;

use crate::escape::clean;

pub(crate) use bars::Bars;
pub(crate) use lines::{Detail, Lines};

/// `1.84s`, `2m03s`.
pub(crate) fn seconds(duration: Duration) -> String {
    let total = duration.as_secs();
    if total < 60 {
        format!("{:.2}s", duration.as_secs_f64())
    } else {
        format!("{}m{:02}s", total / 60, total % 60)
    }
}

/// Writes a line of `serve` to standard output. Ignores errors: a closed output must not stop `serve`.
pub(crate) fn write_stdout(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", shown(line));
    let _ = out.flush();
}

/// Writes a line for a person to standard error. Ignores errors.
pub(crate) fn write_stderr(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", runner::harmless(&shown(line)));
}

/// Writes a prompt without a line break.
pub(crate) fn prompt(text: &str) {
    let mut err = std::io::stderr().lock();
    let _ = write!(err, "{} ", shown(text)).and_then(|()| err.flush());
}

/// Removes secrets and control characters. Applied to everything that is printed or logged.
pub(crate) fn shown(text: &str) -> String {
    clean(&crate::redact::scrub(text)).trim_end().to_owned()
}

/// Writes lines for a CI runner unchanged, for example a secret to mask, and at once, so that no other line is between them.
pub(crate) fn write_commands(lines: &[String]) {
    let _ = writeln!(std::io::stderr().lock(), "{}", lines.join("\n"));
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::events::{Events, Step};

    fn log() -> (Events, Arc<Mutex<Vec<String>>>) {
        let kept: Arc<Mutex<Vec<String>>> = Arc::default();
        let sink = Arc::clone(&kept);
        let lines = Lines::to(Detail::Log, move |line| sink.lock().unwrap().push(line.to_owned()));
        (Events::to(vec![Arc::new(lines)]), kept)
    }

    fn build(image: &str) -> Step {
        Step::Build { image: image.to_owned() }
    }

    #[test]
    fn a_log_holds_every_line_of_a_step_and_how_it_ended() {
        let (events, kept) = log();
        let step = events.begin(build("httpd"));
        step.line("Step 1/2 : FROM scratch");
        step.failed("no such file");
        let lines = kept.lock().unwrap();
        assert_eq!(lines[..2], ["== build httpd", "  build httpd | Step 1/2 : FROM scratch"]);
        assert!(lines[2].starts_with("build httpd: FAILED ("), "{}", lines[2]);
    }

    #[test]
    fn text_from_outside_cannot_control_the_terminal() {
        let (events, kept) = log();
        let hostile = "\u{1b}[31mred\u{1b}[0m\u{7}\u{9b}2J\u{202e}\u{2028}x";
        events.warn(hostile);
        events.note(hostile);
        let step = events.begin(build(hostile));
        step.line(hostile);
        step.done(hostile);
        events.begin(build(hostile)).failed(hostile);
        let lines = kept.lock().unwrap();
        assert_eq!(lines.len(), 7, "{lines:?}");
        for line in &*lines {
            assert!(
                !line.contains(|c: char| c.is_control() || matches!(c, '\u{202e}' | '\u{2028}')),
                "{line:?}"
            );
        }
    }

    #[test]
    fn a_failed_step_shows_the_last_lines_of_its_own_output() {
        let kept: Arc<Mutex<Vec<String>>> = Arc::default();
        let sink = Arc::clone(&kept);
        let lines = Lines::to(Detail::Quiet, move |line| sink.lock().unwrap().push(line.to_owned()));
        let events = Events::to(vec![Arc::new(lines)]);
        let (a, b) = (events.begin(build("a")), events.begin(build("b")));
        a.line("of a");
        b.line("of b");
        b.done("built");
        a.failed("exit code 1");
        let lines = kept.lock().unwrap();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("| of a") && !lines[0].contains("of b"), "{}", lines[0]);
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(seconds(Duration::from_millis(1840)), "1.84s");
        assert_eq!(seconds(Duration::from_secs(123)), "2m03s");
    }
}
