//! Why a child did not end well, with what it said last.

use crate::cancel::Stop;

/// Why a child did not end well.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no such program.
    #[error("`{program}` is not installed or not on the PATH")]
    NotFound {
        /// The program.
        program: String,
    },
    /// The system would not start it.
    #[error("cannot start `{program}`")]
    Spawn {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It ended with an error.
    #[error("`{command}` {}{}", ending(*.code), tail_text(.tail))]
    Exit {
        /// The command line, shortened and redacted.
        command: String,
        /// Its exit code; `None` where a signal ended it.
        code: Option<i32>,
        /// Its last lines, redacted.
        tail: Vec<String>,
    },
    /// It was ended, because its time was up or somebody asked for it.
    #[error("`{command}` was stopped: {stop}")]
    Stopped {
        /// The command line, shortened and redacted.
        command: String,
        /// Why.
        stop: Stop,
    },
    /// It said more than anyone should read.
    #[error("`{command}` wrote more than {cap} bytes")]
    TooMuchOutput {
        /// The command line, shortened and redacted.
        command: String,
        /// The cap, bytes.
        cap: usize,
    },
}

impl CommandError {
    #[cfg(test)]
    pub(crate) fn exit_for_test(lines: &[&str]) -> CommandError {
        CommandError::Exit {
            command: "docker".into(),
            code: Some(1),
            tail: lines.iter().map(|line| (*line).to_owned()).collect(),
        }
    }

    /// The last lines that the child said; empty where it said nothing.
    pub fn tail(&self) -> &[String] {
        match self {
            CommandError::Exit { tail, .. } => tail,
            CommandError::NotFound { .. }
            | CommandError::Spawn { .. }
            | CommandError::Stopped { .. }
            | CommandError::TooMuchOutput { .. } => &[],
        }
    }

    /// Whether any of the last lines contains one of these texts, ignoring case.
    pub fn said(&self, texts: &[&str]) -> bool {
        let tail = self.tail().join("\n").to_lowercase();
        texts.iter().any(|text| tail.contains(&text.to_lowercase()))
    }
}

fn ending(code: Option<i32>) -> String {
    code.map_or_else(|| "was killed by a signal".to_owned(), |code| format!("ended with code {code}"))
}

/// The last lines, where there are few enough to stand in a message.
fn tail_text(tail: &[String]) -> String {
    let said: Vec<&str> = tail.iter().map(|l| l.trim()).filter(|l| !l.is_empty()).collect();
    let last = &said[said.len().saturating_sub(2)..];
    if last.is_empty() { String::new() } else { format!(": {}", last.join(" / ")) }
}
