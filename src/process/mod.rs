//! The one place that spawns.
//!
//! A child runs in a process group of its own, with an environment that is stated, within a [`Cancel`] token. Its
//! lines are streamed and redacted, its output is captured up to a cap, and when it has to go its whole tree goes.

mod children;
mod environment;
mod error;
mod lines;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::cancel::{Cancel, Stop};
use crate::redact;

pub use children::{end_stale_children, kill_children, record_children_in};
pub use error::CommandError;
use lines::Lines;

/// How long a process group may take to end by itself after SIGTERM; then SIGKILL. A docker client cancels its
/// build within 0.2 s of the signal.
const GRACE: Duration = Duration::from_millis(700);
/// How long output is awaited after the child ended, for a grandchild that still holds the pipe.
const DRAIN: Duration = Duration::from_millis(250);
/// How often a silent child is looked at.
const TICK: Duration = Duration::from_millis(25);
/// The last lines that an error keeps.
pub const TAIL_LINES: usize = 40;
/// What is captured of standard output unless a caller says otherwise, bytes.
const CAPTURE_CAP: usize = 64 << 20;

/// Which of a child's outputs a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A program to be run, its arguments and its whole environment.
#[derive(Clone)]
pub struct Tool {
    program: OsString,
    args: Vec<OsString>,
    env: BTreeMap<OsString, OsString>,
    dir: Option<PathBuf>,
    stdin: Option<Vec<u8>>,
    /// How much of standard output is captured at most, bytes; `None` captures nothing.
    cap: Option<usize>,
    umask: Option<u32>,
}

/// What a child that ended well has said.
#[derive(Debug)]
pub struct Finished {
    /// Its standard output, up to the cap.
    pub stdout: Vec<u8>,
    /// Its last lines on both outputs, redacted.
    pub tail: Vec<String>,
}

impl Finished {
    /// Standard output as text without trailing white space.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }
}

/// Variables that every child gets: where things are, who the user is, how to reach the network. No `GIT_*`, no
/// `DOCKER_*`, nothing secret.
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
    /// A program with the inherited part of the environment and nothing on its standard input.
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

    /// docker, one of its plugins or of its credential helpers: with swanci's own environment, less what is secret or
    /// would change a build (`environment.rs` lists it).
    pub(crate) fn of_docker(program: impl AsRef<OsStr>) -> Tool {
        Tool { env: environment::for_docker(std::env::vars_os()), ..Tool::new(program) }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Tool {
        self.args.push(arg.as_ref().into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Tool {
        self.args.extend(args.into_iter().map(|a| a.as_ref().into()));
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Tool {
        self.env.insert(name.as_ref().into(), value.as_ref().into());
        self
    }

    /// Takes a variable away.
    #[must_use]
    pub(crate) fn without(mut self, name: &str) -> Tool {
        self.env.remove(OsStr::new(name));
        self
    }

    /// Hands on a variable of swanci's own environment where it is set.
    #[must_use]
    pub fn inherit(mut self, names: &[&str]) -> Tool {
        for name in names {
            if let Some(value) = std::env::var_os(name) {
                self.env.insert(name.into(), value);
            }
        }
        self
    }

    /// Runs in this directory.
    #[must_use]
    pub fn dir(mut self, dir: &Path) -> Tool {
        self.dir = Some(dir.to_owned());
        self
    }

    /// Gives these bytes on standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Tool {
        self.stdin = Some(bytes.into());
        self
    }

    /// Sets the umask of the child; swanci's own is inherited otherwise.
    #[must_use]
    pub(crate) fn umask(mut self, mask: u32) -> Tool {
        self.umask = Some(mask);
        self
    }

    /// Captures nothing: standard output may be of any length, and is only handed on.
    #[must_use]
    pub fn uncaptured(mut self) -> Tool {
        self.cap = None;
        self
    }

    /// The command line for people: redacted, one line, not too long.
    fn shown(&self) -> String {
        let name = Path::new(&self.program).file_name().unwrap_or(&self.program).to_string_lossy();
        let mut text = name.into_owned();
        for arg in &self.args {
            text.push(' ');
            text.extend(arg.to_string_lossy().chars().flat_map(char::escape_debug));
            if text.chars().count() > 72 {
                text = text.chars().take(72).collect::<String>() + "…";
                break;
            }
        }
        redact::scrub(&text).into_owned()
    }

    /// Runs to the end, silently.
    pub fn run(self, cancel: &Cancel) -> Result<Finished, CommandError> {
        self.stream(cancel, &mut |_, _| {})
    }

    /// Runs to the end; every line that it says is handed on, redacted, as soon as it is there.
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
        let outcome = child.watch(cancel, &mut lines, on_line);
        lines.flush(on_line);
        match outcome {
            Watched::Stopped(stop) => Err(CommandError::Stopped { command, stop }),
            Watched::TooMuch(cap) => Err(CommandError::TooMuchOutput { command, cap }),
            Watched::Io(source) => Err(CommandError::Spawn { program: command, source }),
            Watched::Ended(status) if status.success() => {
                Ok(Finished { stdout: lines.captured, tail: lines.tail.into() })
            }
            Watched::Ended(status) => {
                Err(CommandError::Exit { command, code: status.code(), tail: lines.tail.into() })
            }
        }
    }
}

impl fmt::Debug for Tool {
    /// Without the environment: it may hold a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

/// A child in a process group of its own.
struct Child {
    handle: duct::Handle,
    group: Option<Pid>,
    stdout: std::io::PipeReader,
    stderr: std::io::PipeReader,
    record: Option<children::Record>,
}

/// How a child's life went.
enum Watched {
    Ended(std::process::ExitStatus),
    Stopped(Stop),
    /// It wrote more than this number of bytes.
    TooMuch(usize),
    Io(std::io::Error),
}

impl Child {
    fn start(tool: &Tool) -> Result<Child, CommandError> {
        let program = tool.program.to_string_lossy().into_owned();
        let spawn_error = |source: std::io::Error| {
            if source.kind() == std::io::ErrorKind::NotFound {
                CommandError::NotFound { program: program.clone() }
            } else {
                CommandError::Spawn { program: program.clone(), source }
            }
        };
        let (stdout, child_stdout) = std::io::pipe().map_err(spawn_error)?;
        let (stderr, child_stderr) = std::io::pipe().map_err(spawn_error)?;
        for reader in [&stdout, &stderr] {
            rustix::io::ioctl_fionbio(reader, true).map_err(|e| spawn_error(e.into()))?;
        }
        #[allow(clippy::disallowed_methods, reason = "this is the one place that spawns")]
        let expression = duct::cmd(&tool.program, &tool.args);
        let expression = match &tool.stdin {
            Some(bytes) => expression.stdin_bytes(bytes.clone()),
            None => expression.stdin_null(),
        };
        let expression = match &tool.dir {
            Some(dir) => expression.dir(dir),
            None => expression,
        };
        let umask = tool.umask;
        let handle = expression
            .full_env(&tool.env)
            .stdout_file(child_stdout)
            .stderr_file(child_stderr)
            .unchecked()
            .before_spawn(move |command| {
                command.process_group(0);
                before_exec(command, umask);
                Ok(())
            })
            .start()
            .map_err(spawn_error)?;
        let group = handle.pids().first().and_then(|pid| Pid::from_raw(i32::try_from(*pid).ok()?));
        let record = group.map(children::Record::of);
        Ok(Child { handle, group, stdout, stderr, record })
    }

    /// Reads until the child ends, or until it has to go.
    fn watch(
        &mut self,
        cancel: &Cancel,
        lines: &mut Lines,
        on_line: &mut dyn FnMut(Stream, &str),
    ) -> Watched {
        let mut open = [true, true];
        loop {
            if let Some(stop) = cancel.stopped() {
                self.end();
                return Watched::Stopped(stop);
            }
            if let Err(error) = self.pump(&mut open, TICK, lines, on_line) {
                self.end();
                return Watched::Io(error);
            }
            if let Some(cap) = lines.exceeded {
                self.end();
                return Watched::TooMuch(cap);
            }
            // Both pipes at their end: the child is gone or about to go, so waiting costs nothing.
            let waited =
                if open == [false, false] { self.handle.wait_timeout(TICK) } else { self.handle.try_wait() };
            match waited {
                Ok(Some(output)) => {
                    let status = output.status;
                    let until = Instant::now() + DRAIN;
                    while open != [false, false] && Instant::now() < until {
                        if self.pump(&mut open, TICK, lines, on_line).is_err() {
                            break;
                        }
                    }
                    if open != [false, false] {
                        // A grandchild outlived it and holds a pipe: nothing of the tree may stay.
                        self.signal(Signal::KILL);
                    }
                    return Watched::Ended(status);
                }
                Ok(None) => {}
                Err(error) => {
                    self.end();
                    return Watched::Io(error);
                }
            }
        }
    }

    /// Waits up to `wait` for output and takes what is there.
    fn pump(
        &mut self,
        open: &mut [bool; 2],
        wait: Duration,
        lines: &mut Lines,
        on_line: &mut dyn FnMut(Stream, &str),
    ) -> std::io::Result<()> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(2);
        let mut which = Vec::with_capacity(2);
        if open[0] {
            fds.push(PollFd::new(&self.stdout, PollFlags::IN));
            which.push(Stream::Stdout);
        }
        if open[1] {
            fds.push(PollFd::new(&self.stderr, PollFlags::IN));
            which.push(Stream::Stderr);
        }
        if fds.is_empty() {
            return Ok(());
        }
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        for (stream, _) in which.into_iter().zip(ready).filter(|(_, ready)| *ready) {
            let (reader, index): (&mut dyn std::io::Read, usize) = match stream {
                Stream::Stdout => (&mut self.stdout, 0),
                Stream::Stderr => (&mut self.stderr, 1),
            };
            open[index] = lines.read(reader, stream, on_line)?;
        }
        Ok(())
    }

    /// Ends the whole process group: politely, then not.
    fn end(&mut self) {
        self.signal(Signal::TERM);
        let until = Instant::now() + GRACE;
        while self.group_lives() && Instant::now() < until {
            let _ = self.handle.wait_timeout(Duration::from_millis(10));
            std::thread::sleep(Duration::from_millis(5));
        }
        self.signal(Signal::KILL);
        // Reaps it. Bounded: after SIGKILL only a process in uninterruptible sleep stays.
        let _ = self.handle.wait_timeout(Duration::from_secs(2));
    }

    fn group_lives(&self) -> bool {
        self.group.is_some_and(|group| rustix::process::test_kill_process_group(group).is_ok())
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // An error means that the group is gone, which is what was wanted.
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            record.remove();
        }
    }
}

/// Lets the kernel end the child when the thread that started it ends: after a `kill -9` of swanci no build goes
/// on by itself. SIGTERM, so that git removes its lock files and docker cancels its build. Sets the child's umask.
#[allow(unsafe_code)]
fn before_exec(command: &mut std::process::Command, umask: Option<u32>) {
    // SAFETY: the closure runs between fork and exec and makes two async-signal-safe system calls; it allocates
    // nothing and touches no lock.
    unsafe {
        command.pre_exec(move || {
            if let Some(mask) = umask {
                rustix::process::umask(rustix::fs::Mode::from_bits_truncate(mask));
            }
            Ok(rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?)
        });
    }
}

#[cfg(test)]
mod tests;
