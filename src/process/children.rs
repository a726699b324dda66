//! A record on disk of every running child, so that a `serve` that starts after a `kill -9` can end what the one
//! before it left running.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::process::{Pid, Signal};

static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();

/// From now on every child is recorded in this directory. Said once, by `serve`, which holds the state directory.
pub fn record_children_in(directory: &Path) -> std::io::Result<()> {
    fs::create_dir_all(directory)?;
    let _ = DIRECTORY.set(directory.to_owned());
    Ok(())
}

/// The record of one child: a file named after its process group that holds its start time, because numbers of
/// processes are used again.
pub(super) struct Record(PathBuf);

impl Record {
    pub(super) fn of(group: Pid) -> Option<Record> {
        let path = DIRECTORY.get()?.join(group.as_raw_nonzero().to_string());
        fs::write(&path, start_time(group)?).ok()?;
        Some(Record(path))
    }

    pub(super) fn remove(self) {
        let _ = fs::remove_file(self.0);
    }
}

/// Ends the process groups that are recorded in this directory and still are what was recorded. Returns how many.
pub fn end_stale_children(directory: &Path) -> usize {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let mut ended = 0;
    for entry in entries.flatten() {
        let group = entry.file_name().to_str().and_then(|n| n.parse().ok()).and_then(Pid::from_raw);
        let recorded = fs::read_to_string(entry.path()).unwrap_or_default();
        if let Some(group) = group
            && start_time(group).is_some_and(|now| now == recorded)
            && rustix::process::kill_process_group(group, Signal::KILL).is_ok()
        {
            ended += 1;
        }
        let _ = fs::remove_file(entry.path());
    }
    ended
}

/// Boot id and start time of a process (proc(5), /proc/pid/stat, field 22).
fn start_time(pid: Pid) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(format!("{} {}", boot.trim(), after_name.split_whitespace().nth(19)?))
}
