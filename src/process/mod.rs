//! The one place that spawns. A child has its own process group, an explicit environment, and a [`Cancel`] token that ends
//! the whole group. Its output is redacted, streamed by lines, and captured up to a cap.

mod child;
mod children;
mod environment;
mod error;
mod lines;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::cancel::Cancel;
use crate::escape::shortened;
use crate::redact;

use child::Child;
pub use children::{end_stale_children, kill_children, record_children_in};
pub use error::CommandError;
pub(crate) use error::has_sign;
use lines::Lines;

/// The last lines that an error keeps.
pub const TAIL_LINES: usize = 40;
/// Bytes of standard output.
const CAPTURE_CAP: usize = 64 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

#[must_use]
#[derive(Clone)]
pub struct Tool {
    program: OsString,
    args: Vec<OsString>,
    env: BTreeMap<OsString, OsString>,
    dir: Option<PathBuf>,
    stdin: Option<Vec<u8>>,
    /// Bytes of standard output that are captured; `None` captures nothing.
    cap: Option<usize>,
    umask: Option<u32>,
}

/// The output of a child that succeeded.
#[derive(Debug)]
pub struct Finished {
    pub stdout: Vec<u8>,
    /// The last lines of both outputs, redacted.
    pub tail: Vec<String>,
}

impl Finished {
    /// Standard output as text without trailing white space.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }
}

/// Variables that every child inherits. No `GIT_*`, no `DOCKER_*`, no secrets.
const INHERITED: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TMPDIR",
    "TZ",
    "XDG_CONFIG_HOME",
    "XDG_CACHE_HOME",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "SSH_AUTH_SOCK",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

impl Tool {
    /// With the variables of [`INHERITED`] and an empty standard input.
    pub fn new(program: impl AsRef<OsStr>) -> Tool {
        let env = INHERITED
            .iter()
            .filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)))
            .chain([("LC_ALL".into(), "C.UTF-8".into())])
            .collect();
        Tool {
            program: program.as_ref().into(),
            args: Vec::new(),
            env,
            dir: None,
            stdin: None,
            cap: Some(CAPTURE_CAP),
            umask: None,
        }
    }

    /// docker or one of its credential helpers: with swanci's environment, except what is secret or would change a build
    /// (see `environment.rs`).
    pub(crate) fn of_docker(program: impl AsRef<OsStr>) -> Tool {
        Tool { env: environment::for_docker(std::env::vars_os()), ..Tool::new(program) }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Tool {
        self.args.push(arg.as_ref().into());
        self
    }

    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Tool {
        self.args.extend(args.into_iter().map(|a| a.as_ref().into()));
        self
    }

    /// The option before each of the values.
    pub(crate) fn each<V: AsRef<OsStr>>(self, option: &str, values: impl IntoIterator<Item = V>) -> Tool {
        values.into_iter().fold(self, |tool, value| tool.arg(option).arg(value))
    }

    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Tool {
        self.env.insert(name.as_ref().into(), value.as_ref().into());
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Tool {
        self.env.remove(OsStr::new(name));
        self
    }

    /// Also inherits these variables.
    pub fn inherit(mut self, names: &[&str]) -> Tool {
        for name in names {
            if let Some(value) = std::env::var_os(name) {
                self.env.insert(name.into(), value);
            }
        }
        self
    }

    pub fn dir(mut self, dir: &Path) -> Tool {
        self.dir = Some(dir.to_owned());
        self
    }

    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Tool {
        self.stdin = Some(bytes.into());
        self
    }

    /// Without it, the child inherits swanci's umask.
    pub(crate) fn umask(mut self, mask: u32) -> Tool {
        self.umask = Some(mask);
        self
    }

    /// For standard output of any length.
    pub fn uncaptured(mut self) -> Tool {
        self.cap = None;
        self
    }

    /// The command line for messages: redacted, on one line, shortened.
    fn shown(&self) -> String {
        let name = Path::new(&self.program).file_name().unwrap_or(&self.program).to_string_lossy();
        let mut text = name.into_owned();
        for arg in &self.args {
            text.push(' ');
            text.push_str(&arg.to_string_lossy());
        }
        // Redacted before it is cut, because a part of a secret is not recognized.
        shortened(&redact::scrub(&text), 72)
    }

    pub fn run(self, cancel: &Cancel) -> Result<Finished, CommandError> {
        self.stream(cancel, &mut |_, _| {})
    }

    /// Passes each line of output to `on_line` as soon as it arrives, redacted.
    pub fn stream(
        self,
        cancel: &Cancel,
        on_line: &mut dyn FnMut(Stream, &str),
    ) -> Result<Finished, CommandError> {
        let command = self.shown();
        if let Some(stop) = cancel.stopped() {
            return Err(CommandError::Stopped { command, stop });
        }
        let mut child = Child::start(&self)?;
        let mut lines = Lines::new(self.cap);
        let exited = child.watch(&command, cancel, &mut lines, on_line);
        if exited.is_err() {
            child.end();
        }
        lines.flush(on_line);
        let (status, tail) = (exited?, lines.tail.into());
        if status.success() {
            Ok(Finished { stdout: lines.captured, tail })
        } else {
            Err(CommandError::Exit { command, code: status.code(), tail })
        }
    }
}

impl fmt::Debug for Tool {
    /// Without the environment: it may hold a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

#[cfg(test)]
mod tests;
