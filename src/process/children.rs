//! Records every running child on disk, so that after a `kill -9` the next `serve` can end those that still run.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::process::{Pid, Signal};

static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
/// The process groups of the running children.
static LIVE: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Records every child in this directory from now on. `serve` calls it once.
pub fn record_children_in(directory: &Path) -> std::io::Result<()> {
    crate::state_dir::create_below(directory)?;
    let _ = DIRECTORY.set(directory.to_owned());
    Ok(())
}

fn live() -> MutexGuard<'static, BTreeSet<i32>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn kill_children() {
    for group in live().iter().filter_map(|group| Pid::from_raw(*group)) {
        // An error means that the group has ended.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
}

/// Records a running child: in memory, and on disk as a file named after its process group with its start time, because
/// process ids are reused.
pub(super) fn record(group: Pid) {
    live().insert(group.as_raw_nonzero().get());
    if let (Some(path), Some(start)) = (path_of(group), start_time(group)) {
        let _ = crate::state_dir::write(&path, &start);
    }
}

pub(super) fn forget(group: Pid) {
    live().remove(&group.as_raw_nonzero().get());
    if let Some(path) = path_of(group) {
        let _ = fs::remove_file(path);
    }
}

fn path_of(group: Pid) -> Option<PathBuf> {
    Some(DIRECTORY.get()?.join(group.as_raw_nonzero().to_string()))
}

/// Ends the recorded process groups that still run, and returns their number.
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

/// Boot id and start time (proc(5), /proc/pid/stat, field 22).
fn start_time(pid: Pid) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(format!("{} {}", boot.trim(), after_name.split_whitespace().nth(19)?))
}
