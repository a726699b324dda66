//! A running child.

use std::os::unix::process::CommandExt as _;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::lines::Lines;
use super::{CommandError, Stream, Tool, children};
use crate::cancel::Cancel;

/// Between SIGTERM and SIGKILL. A docker client cancels its build within 0.2 s.
const GRACE: Duration = Duration::from_millis(700);
/// For output after the child has exited, when a grandchild still holds the pipe.
const DRAIN: Duration = Duration::from_millis(250);
/// How often a silent child is polled.
const TICK: Duration = Duration::from_millis(25);

/// A child in its own process group.
pub(super) struct Child {
    handle: duct::Handle,
    group: Option<Pid>,
    stdout: std::io::PipeReader,
    stderr: std::io::PipeReader,
}

impl Child {
    pub(super) fn start(tool: &Tool) -> Result<Child, CommandError> {
        let failed = |error| CommandError::Io { program: tool.program.to_string_lossy().into_owned(), error };
        let (stdout, child_stdout) = std::io::pipe().map_err(failed)?;
        let (stderr, child_stderr) = std::io::pipe().map_err(failed)?;
        for reader in [&stdout, &stderr] {
            rustix::io::ioctl_fionbio(reader, true).map_err(|e| failed(e.into()))?;
        }
        #[allow(clippy::disallowed_methods, reason = "the one place that spawns")]
        let expression = duct::cmd(&tool.program, &tool.args);
        let expression = match &tool.stdin {
            Some(bytes) => expression.stdin_bytes(bytes.clone()),
            None => expression.stdin_null(),
        };
        let expression = tool.dir.iter().fold(expression, |expression, dir| expression.dir(dir));
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
            .map_err(failed)?;
        let group = handle.pids().first().and_then(|pid| Pid::from_raw(i32::try_from(*pid).ok()?));
        group.inspect(|group| children::record(*group));
        Ok(Child { handle, group, stdout, stderr })
    }

    /// Reads until the child exits. After an error it may still run.
    pub(super) fn watch(
        &mut self,
        command: &str,
        cancel: &Cancel,
        lines: &mut Lines,
        on_line: &mut dyn FnMut(Stream, &str),
    ) -> Result<ExitStatus, CommandError> {
        let command = || command.to_owned();
        let failed = |error| CommandError::Io { program: command(), error };
        let mut open = [true, true];
        loop {
            if let Some(stop) = cancel.stopped() {
                return Err(CommandError::Stopped { command: command(), stop });
            }
            self.pump(&mut open, lines, on_line).map_err(failed)?;
            if let Some(cap) = lines.exceeded {
                return Err(CommandError::TooMuchOutput { command: command(), cap });
            }
            // With both pipes closed the child has exited or is about to, so waiting costs nothing.
            let waited =
                if open == [false, false] { self.handle.wait_timeout(TICK) } else { self.handle.try_wait() };
            let Some(output) = waited.map_err(failed)? else { continue };
            let (status, until) = (output.status, Instant::now() + DRAIN);
            while open != [false, false] && Instant::now() < until {
                if self.pump(&mut open, lines, on_line).is_err() {
                    break;
                }
            }
            if open != [false, false] {
                // A grandchild still runs and holds a pipe.
                self.signal(Signal::KILL);
            }
            return Ok(status);
        }
    }

    /// Waits up to [`TICK`] for output and reads it.
    fn pump(
        &mut self,
        open: &mut [bool; 2],
        lines: &mut Lines,
        on_line: &mut dyn FnMut(Stream, &str),
    ) -> std::io::Result<()> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let readers: [(Stream, &std::io::PipeReader); 2] =
            [(Stream::Stdout, &self.stdout), (Stream::Stderr, &self.stderr)];
        let readers: Vec<_> = readers.into_iter().filter(|(stream, _)| open[*stream as usize]).collect();
        if readers.is_empty() {
            return Ok(());
        }
        let mut fds: Vec<_> = readers.iter().map(|(_, pipe)| PollFd::new(*pipe, PollFlags::IN)).collect();
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(TICK.subsec_nanos()) };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for ((stream, pipe), fd) in readers.iter().zip(&fds) {
            if !fd.revents().is_empty() {
                open[*stream as usize] = lines.read(*pipe, *stream, on_line)?;
            }
        }
        Ok(())
    }

    /// Ends the process group: SIGTERM, then SIGKILL after [`GRACE`].
    pub(super) fn end(&mut self) {
        self.signal(Signal::TERM);
        let until = Instant::now() + GRACE;
        while self.group_lives() && Instant::now() < until {
            let _ = self.handle.wait_timeout(Duration::from_millis(10));
            std::thread::sleep(Duration::from_millis(5));
        }
        self.signal(Signal::KILL);
        // Reaps the child. Bounded, because a process in uninterruptible sleep survives SIGKILL.
        let _ = self.handle.wait_timeout(Duration::from_secs(2));
    }

    fn group_lives(&self) -> bool {
        self.group.is_some_and(|group| rustix::process::test_kill_process_group(group).is_ok())
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // An error means that the group has ended.
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            children::forget(group);
        }
    }
}

/// Makes the kernel end the child with the thread that started it, so that no build outlives a `kill -9` of swanci. SIGTERM
/// lets git remove its lock files and docker cancel its build. Sets the umask too.
#[allow(unsafe_code)]
fn before_exec(command: &mut std::process::Command, umask: Option<u32>) {
    // SAFETY: the closure runs between fork and exec and makes two async-signal-safe system calls, without allocations and
    // locks.
    unsafe {
        command.pre_exec(move || {
            if let Some(mask) = umask {
                rustix::process::umask(rustix::fs::Mode::from_bits_truncate(mask));
            }
            Ok(rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?)
        });
    }
}
