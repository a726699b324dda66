//! Reads BuildKit's plain progress.

use std::collections::BTreeMap;

use super::error::STARTS;
use crate::escape::shortened;

/// The steps of a build (`#7 [3/4] RUN make`, `#7 0.512 output`, `#7 ERROR: …`), and the error that docker prints after the
/// output of a failed step, which is between lines of dashes.
#[derive(Default)]
pub(super) struct Steps {
    /// Name and last line of output by step number.
    steps: BTreeMap<u32, (String, String)>,
    failed: Option<u32>,
    /// The failed step by the heading of its output, which takes precedence.
    headed: Option<u32>,
    at: At,
    /// The first line of the error.
    pub(super) error: String,
    /// Its last line: an error has several when it quotes a command of several lines.
    pub(super) error_end: String,
}

#[derive(Default, Clone, Copy)]
enum At {
    #[default]
    Start,
    /// After a line of dashes: ` > ` starts the heading of a step's output.
    Dashes,
    Output,
    Error,
}

const MOST_STEPS: usize = 10_000;

impl Steps {
    pub(super) fn line(&mut self, line: &str) {
        self.error_line(line);
        let Some((number, rest)) = line.strip_prefix('#').and_then(|line| line.split_once(' ')) else {
            return;
        };
        let Ok(number) = number.parse::<u32>() else { return };
        if rest.starts_with("ERROR: ") {
            self.failed = Some(number);
        } else if let Some((time, output)) = rest.split_once(' ')
            && time.parse::<f64>().is_ok()
        {
            if let Some((_, last)) = self.steps.get_mut(&number)
                && !output.trim().is_empty()
            {
                *last = output.trim().to_owned();
            }
        } else if rest.starts_with('[') && self.steps.len() < MOST_STEPS {
            self.steps.entry(number).or_insert_with(|| (rest.to_owned(), String::new()));
        }
    }

    /// `step 3/4 RUN make exited with 1: <last line>`.
    pub(super) fn failed(&self, exit_code: i32) -> Option<String> {
        let (name, last) = self.steps.get(&self.headed.or(self.failed)?)?;
        let name = match name.strip_prefix('[').and_then(|name| name.split_once(']')) {
            Some((place, command)) => format!("step {} {}", place.trim(), command.trim()),
            None => name.clone(),
        };
        let text = format!("{} exited with {}", shortened(&name, 120), exit_code);
        Some(if last.is_empty() { text } else { format!("{text}: {}", shortened(last, 400)) })
    }

    fn error_line(&mut self, line: &str) {
        let is_frame = line.starts_with("------") && line.trim_end_matches('-').is_empty();
        match self.at {
            At::Output if is_frame => self.restart(At::Error),
            // The command may contain such a line too.
            At::Start | At::Dashes | At::Error if is_frame && is_of_step(&self.error) => self.at = At::Dashes,
            At::Start | At::Dashes | At::Error if is_frame => self.restart(At::Dashes),
            At::Dashes if line.starts_with(" > ") => {
                let name = line[3..].strip_suffix(':');
                let mut steps = self.steps.iter();
                self.headed = name.and_then(|name| Some(*steps.find(|(_, (step, _))| step == name)?.0));
                self.restart(At::Output);
            }
            At::Dashes | At::Error if !line.trim().is_empty() => {
                self.at = At::Error;
                let is_error = STARTS.iter().any(|start| line.starts_with(start));
                // Warnings may precede the error.
                if self.error.is_empty() || (is_error && !is_of_step(&self.error)) {
                    line.clone_into(&mut self.error);
                }
                line.clone_into(&mut self.error_end);
            }
            At::Start | At::Dashes | At::Output | At::Error => {}
        }
    }

    fn restart(&mut self, at: At) {
        self.at = at;
        self.error.clear();
        self.error_end.clear();
    }
}

/// What precedes and follows the command in BuildKit's error for a step: in Docker 20.10, and today.
const STEP_FAILED: [(&str, &str); 2] =
    [("executor failed running [", "]: "), ("process \"", "\" did not complete successfully: ")];

pub(super) fn is_of_step(line: &str) -> bool {
    STEP_FAILED.iter().any(|(before, _)| line.contains(before))
}

/// The part of a step's error after the command.
pub(super) fn behind_command(text: &str) -> Option<&str> {
    // The command may contain the other form.
    let places = STEP_FAILED.iter().filter_map(|(before, behind)| Some((text.find(before)?, behind)));
    let (_, behind) = places.min()?;
    Some(text.rsplit_once(behind)?.1)
}

pub(super) fn exit_code_of_step(text: &str) -> Option<i32> {
    if !is_of_step(text) {
        return None;
    }
    let code = behind_command(text)?.strip_prefix("exit code: ")?;
    code.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_the_failed_step_and_its_last_line() {
        let mut steps = Steps::default();
        for line in [
            "#5 [1/3] FROM docker.io/library/a",
            "#6 [build 2/3] RUN make all",
            "#6 0.101 first",
            "#6 0.202 cannot find x.h",
            "#6 0.300 ",
            "#6 ERROR: process \"/bin/sh -c make all\" did not complete successfully: exit code: 2",
        ] {
            steps.line(line);
        }
        assert_eq!(steps.failed(2).unwrap(), "step build 2/3 RUN make all exited with 2: cannot find x.h");
        assert_eq!(Steps::default().failed(1), None);
        // Output without a newline at its end hides the line of the error.
        let mut steps = Steps::default();
        for line in ["#6 [2/2] RUN x", "#6 0.1 why#6 ERROR: executor failed", "------", " > [2/2] RUN x:"] {
            steps.line(line);
        }
        assert!(steps.failed(1).unwrap().starts_with("step 2/2 RUN x exited with 1: why"));
    }

    #[test]
    fn the_exit_code_follows_the_command() {
        for (line, code) in [
            ("executor failed running [/bin/sh -c [ -e exit code: 9 ]: exit code: 8]: exit code: 1", Some(1)),
            (
                "process \"/bin/sh -c echo 'executor failed running [x]: exit code: 137'; exit 3\" did not complete successfully: exit code: 3",
                Some(3),
            ),
            (
                "executor failed running [/bin/sh -c echo 'process \"x\" did not complete successfully: exit code: 9'; exit 3]: exit code: 3",
                Some(3),
            ),
            (
                "process \"/bin/sh -c echo 'did not complete successfully: exit code: 137'; exit 1\" did not complete successfully: exit code: 1",
                Some(1),
            ),
            ("executor failed running [/bin/sh -c false]: exit code: 1", Some(1)),
            ("failed to compute cache key: exit code: 1", None),
            ("did not complete successfully", None),
        ] {
            assert_eq!(exit_code_of_step(line), code, "{line}");
        }
    }
}
