//! Why a child failed.

use crate::cancel::Stop;

/// Commands are shortened and redacted.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The program did not start, or its output could not be read.
    #[error("cannot run `{program}`: {}", reason(.error))]
    Io { program: String, error: std::io::Error },
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

    pub fn tail(&self) -> &[String] {
        if let CommandError::Exit { tail, .. } = self { tail } else { &[] }
    }

    /// Whether the last lines contain one of these signs.
    pub(crate) fn has_sign(&self, signs: &str) -> bool {
        has_sign(&self.tail().join("\n"), signs)
    }

    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, CommandError::Io { error, .. } if error.kind() == std::io::ErrorKind::NotFound)
    }
}

/// Whether a text contains one of the signs, ignoring case. Signs are in lower case, separated by `|`.
pub(crate) fn has_sign(text: &str, signs: &str) -> bool {
    let text = text.to_lowercase();
    signs.split('|').any(|sign| text.contains(sign))
}

fn reason(error: &std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::NotFound {
        "it is not installed or not on the PATH".to_owned()
    } else {
        error.to_string()
    }
}

fn ending(code: Option<i32>) -> String {
    code.map_or_else(|| "was killed by a signal".to_owned(), |code| format!("ended with code {code}"))
}

/// The last two lines.
fn tail_text(tail: &[String]) -> String {
    let lines: Vec<&str> = tail.iter().map(|l| l.trim()).filter(|l| !l.is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(2)..];
    if last.is_empty() { String::new() } else { format!(": {}", last.join(" / ")) }
}
