//! Why a child failed.

use crate::cancel::Stop;

/// Commands are shortened and redacted.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("`{program}` is not installed or not on the PATH")]
    NotFound { program: String },
    #[error("cannot start `{program}`")]
    Spawn {
        program: String,
        #[source]
        source: std::io::Error,
    },
    #[error("`{command}` {}{}", ending(*.code), tail_text(.tail))]
    Exit {
        command: String,
        /// `None` after a signal.
        code: Option<i32>,
        /// The last lines of output, redacted.
        tail: Vec<String>,
    },
    #[error("`{command}` was stopped: {stop}")]
    Stopped { command: String, stop: Stop },
    /// `cap` in bytes.
    #[error("`{command}` wrote more than {cap} bytes")]
    TooMuchOutput { command: String, cap: usize },
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

    /// The last lines of output.
    pub fn tail(&self) -> &[String] {
        if let CommandError::Exit { tail, .. } = self { tail } else { &[] }
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

/// The last two lines.
fn tail_text(tail: &[String]) -> String {
    let said: Vec<&str> = tail.iter().map(|l| l.trim()).filter(|l| !l.is_empty()).collect();
    let last = &said[said.len().saturating_sub(2)..];
    if last.is_empty() { String::new() } else { format!(": {}", last.join(" / ")) }
}
