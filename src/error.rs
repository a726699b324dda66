//! Errors that end a command: kinds, exit codes, and how they are printed.
//!
//! Functions whose callers distinguish errors return a small enum of their own, which converts into a [`Failure`].

use std::fmt;

/// Why a command failed. Of several failures the first in this order determines the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SIGINT.
    Interrupted,
    /// SIGTERM.
    Terminated,
    /// The command line is wrong.
    Usage,
    /// A payload, images.json, document or configuration is malformed.
    BadInput,
    /// Signature, allow-list or proof of merge.
    Refused,
    /// A build, a push or a verification failed.
    Failed,
    /// git, docker or the registry is missing, unreachable or full; another run may help.
    Environment,
    /// `evaluate` alone: there is nothing to build.
    NothingToBuild,
}

impl Kind {
    /// The exit code.
    pub const fn code(self) -> u8 {
        match self {
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::NothingToBuild => 3,
            Kind::BadInput => 4,
            Kind::Refused => 5,
            Kind::Environment => 6,
            Kind::Interrupted => 130,
            Kind::Terminated => 143,
        }
    }

    /// The kind of several failures.
    pub fn and(self, other: Kind) -> Kind {
        self.min(other)
    }
}

/// An error that ends a command: what failed, its causes, and what a person can do about it.
#[derive(Debug)]
pub struct Failure {
    /// Determines the exit code.
    pub kind: Kind,
    /// What failed, with its chain of causes.
    pub error: anyhow::Error,
    /// What a person can do about it.
    pub hint: Option<String>,
}

impl Failure {
    pub fn new(kind: Kind, error: impl Into<anyhow::Error>) -> Failure {
        Failure { kind, error: error.into(), hint: None }
    }

    /// Adds what a person can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// Adds what failed as a consequence.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display + Send + Sync + 'static) -> Failure {
        self.error = self.error.context(context);
        self
    }

    /// Exit code 1.
    pub fn failed(message: impl fmt::Display) -> Failure {
        Failure::new(Kind::Failed, anyhow::anyhow!("{message}"))
    }

    /// Exit code 2.
    pub fn usage(message: impl fmt::Display) -> Failure {
        Failure::new(Kind::Usage, anyhow::anyhow!("{message}"))
    }

    /// Exit code 4.
    pub fn bad_input(message: impl fmt::Display) -> Failure {
        Failure::new(Kind::BadInput, anyhow::anyhow!("{message}"))
    }

    /// Exit code 5.
    pub fn refused(message: impl fmt::Display) -> Failure {
        Failure::new(Kind::Refused, anyhow::anyhow!("{message}"))
    }

    /// Exit code 6.
    pub fn environment(message: impl fmt::Display) -> Failure {
        Failure::new(Kind::Environment, anyhow::anyhow!("{message}"))
    }

    /// What failed and why on one line, for a document's `error` field.
    pub fn one_line(&self) -> String {
        format!("{:#}", self.error).lines().collect::<Vec<_>>().join(" / ")
    }

    /// The text for a person: `error:`, `caused by:` lines, and a `hint:`.
    pub fn render(&self) -> String {
        let mut text = format!("error: {}\n", self.error);
        for cause in self.error.chain().skip(1) {
            text.push_str(&format!("caused by: {cause}\n"));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("hint: {hint}\n"));
        }
        text
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

/// Turns an error of any type into a [`Failure`].
pub trait Classify<T> {
    fn classify<C: fmt::Display + Send + Sync + 'static>(
        self,
        kind: Kind,
        context: impl FnOnce() -> C,
    ) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> Classify<T> for Result<T, E> {
    fn classify<C: fmt::Display + Send + Sync + 'static>(
        self,
        kind: Kind,
        context: impl FnOnce() -> C,
    ) -> Result<T, Failure> {
        self.map_err(|e| Failure { kind, error: e.into().context(context()), hint: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_speaks_only_when_everything_failed_by_it() {
        assert_eq!(Kind::Environment.and(Kind::Environment), Kind::Environment);
        assert_eq!(Kind::Environment.and(Kind::Failed), Kind::Failed);
        assert_eq!(Kind::Failed.and(Kind::Refused), Kind::Refused);
        assert_eq!(Kind::BadInput.and(Kind::Refused), Kind::BadInput);
        assert_eq!(Kind::Failed.and(Kind::Terminated), Kind::Terminated);
    }

    #[test]
    fn an_error_is_rendered_with_its_causes_and_a_way_out() {
        let failure = Failure::environment("connection refused").context("cannot reach the registry");
        assert_eq!(
            failure.hint("start it").render(),
            "error: cannot reach the registry\ncaused by: connection refused\nhint: start it\n"
        );
    }
}
