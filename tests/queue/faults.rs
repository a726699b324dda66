//! kill -9, a full disk, a damaged or foreign database, a second `serve`.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use swanci::queue::{JobId, JobState, ServeLock, Store};
use tempfile::TempDir;

use super::{accept, ended, job, lock, open, options, start, succeeded, system, until};
use crate::support::program::is_root;

#[test]
fn a_second_serve_is_refused_and_the_error_names_the_first() {
    let dir = TempDir::new().unwrap();
    let first = open(dir.path());
    let error = lock(dir.path()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&format!("process {} on 127.0.0.1:8080", std::process::id())), "{text}");
    assert_eq!(error.kind.code(), 6);
    drop(first);
    assert!(lock(dir.path()).is_ok());
}

#[test]
fn a_damaged_database_is_refused_and_not_modified() {
    let dir = TempDir::new().unwrap();
    let queue = open(dir.path());
    for commit in 0..200 {
        accept(&queue, "a/b", commit);
    }
    drop(queue);
    let path = dir.path().join("queue.db");
    let sound = fs::read(&path).unwrap();
    let mut header = sound.clone();
    header[..16].copy_from_slice(b"not a database!!");
    let mut pages = sound.clone();
    let length = pages.len();
    pages[4096 * 2..length - 4096].fill(0xa5);
    for damaged in [header, pages] {
        fs::write(&path, &damaged).unwrap();
        let error = Store::open(lock_soon(dir.path()), system()).unwrap_err();
        assert!(error.to_string().contains("queue.db is damaged: "), "{error}");
        assert!(error.hint.unwrap().contains("catchup"));
        assert!(fs::read(&path).unwrap() == damaged, "the file was changed");
    }
    fs::write(&path, &sound).unwrap();
    assert_eq!(open(dir.path()).stats().unwrap().count(JobState::Queued), 200);
}

/// A queue with ten jobs in the write-ahead log and none in the database, as after a kill -9.
fn unfolded(dir: &Path) {
    let queue = open(dir);
    for commit in 0..10 {
        accept(&queue, "a/b", commit);
    }
    let copy = TempDir::new().unwrap();
    for file in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    drop(queue);
    for file in fs::read_dir(copy.path()).unwrap().map(Result::unwrap) {
        fs::copy(file.path(), dir.join(file.file_name())).unwrap();
    }
    assert!(fs::metadata(dir.join("queue.db-wal")).unwrap().len() > 0);
}

/// A process that another test has just forked holds the lock until its exec.
fn lock_soon(dir: &Path) -> ServeLock {
    let mut taken = None;
    until("the lock is free", || {
        taken = lock(dir).ok();
        taken.is_some()
    });
    taken.unwrap()
}

#[test]
fn a_database_or_log_that_was_emptied_truncated_damaged_removed_or_replaced_is_refused() {
    type Loss = fn(&Path);
    let losses: [(&str, Loss); 9] = [
        ("log removed", |dir| fs::remove_file(dir.join("queue.db-wal")).unwrap()),
        ("log emptied", |dir| fs::write(dir.join("queue.db-wal"), "").unwrap()),
        ("log cut", |dir| {
            let log = fs::OpenOptions::new().write(true).open(dir.join("queue.db-wal")).unwrap();
            log.set_len(log.metadata().unwrap().len() / 2).unwrap();
        }),
        ("log damaged", |dir| {
            let mut log = fs::read(dir.join("queue.db-wal")).unwrap();
            let middle = log.len() / 2;
            log[middle..middle + 100].fill(0xa5);
            fs::write(dir.join("queue.db-wal"), log).unwrap();
        }),
        ("database removed", |dir| fs::remove_file(dir.join("queue.db")).unwrap()),
        ("database emptied", |dir| fs::write(dir.join("queue.db"), "").unwrap()),
        ("both removed", |dir| {
            for name in ["queue.db", "queue.db-wal", "queue.db-shm"] {
                fs::remove_file(dir.join(name)).unwrap();
            }
        }),
        ("an empty database", |dir| {
            for name in ["queue.db", "queue.db-wal", "queue.db-shm"] {
                fs::remove_file(dir.join(name)).unwrap();
            }
            let conn = rusqlite::Connection::open(dir.join("queue.db")).unwrap();
            conn.execute_batch("CREATE TABLE other (x)").unwrap();
        }),
        ("another queue", |dir| {
            let other = TempDir::new().unwrap();
            drop(open(other.path()));
            for name in ["queue.db-wal", "queue.db-shm"] {
                fs::remove_file(dir.join(name)).unwrap();
            }
            fs::copy(other.path().join("queue.db"), dir.join("queue.db")).unwrap();
        }),
    ];
    for (what, lose) in losses {
        let dir = TempDir::new().unwrap();
        unfolded(dir.path());
        lose(dir.path());
        // SQLite may add an empty log.
        let files = || {
            let all = ["queue.db", "queue.db-wal", "queue.mark"].map(|name| fs::read(dir.path().join(name)));
            all.map(Result::unwrap_or_default)
        };
        let before = files();
        for round in 0..2 {
            let error = Store::open(lock_soon(dir.path()), system()).unwrap_err();
            assert!(error.to_string().contains(" is damaged: "), "{what}, start {round}: {error}");
            assert!(error.hint.unwrap().contains("queue.mark"), "{what}");
            let beside = Store::open_existing(dir.path(), system()).unwrap_err();
            assert!(beside.to_string().contains(" is damaged: "), "{what}: {beside}");
        }
        assert!(files() == before, "{what}: the files were changed");
        // Follow the hint.
        for name in ["queue.db", "queue.db-wal", "queue.db-shm", "queue.mark"] {
            let _ = fs::remove_file(dir.path().join(name));
        }
        let anew = Store::open(lock_soon(dir.path()), system()).unwrap();
        assert_eq!(anew.stats().unwrap().count(JobState::Queued), 0);
    }
    let dir = TempDir::new().unwrap();
    unfolded(dir.path());
    let whole = Store::open(lock_soon(dir.path()), system()).unwrap();
    assert_eq!(whole.stats().unwrap().count(JobState::Queued), 10, "nothing was lost, so nothing is refused");
}

#[test]
fn only_the_owner_can_read_the_files_of_a_queue() {
    use std::os::unix::fs::PermissionsExt as _;
    let above = TempDir::new().unwrap();
    let dir = above.path().join("state");
    let queue = open(&dir);
    let id = accept(&queue, "a/b", 1);
    let (_pool, _events) = start(&queue, options(1), |_, context| {
        context.log.line("hello");
        succeeded()
    });
    ended(&queue, id);
    let mut seen = Vec::new();
    let mut look = |path: &Path| {
        let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
        seen.push(path.file_name().unwrap().to_str().unwrap().to_owned());
    };
    look(&dir);
    for place in [&dir, &dir.join("logs")] {
        fs::read_dir(place).unwrap().for_each(|file| look(&file.unwrap().path()));
    }
    for name in ["queue.db", "queue.db-wal", "queue.db-shm", "queue.mark", "serve.lock", "ballast", "1.log"] {
        assert!(seen.iter().any(|seen| seen == name), "{name}: {seen:?}");
    }
}

#[test]
fn a_database_of_a_newer_swanci_is_refused() {
    let dir = TempDir::new().unwrap();
    drop(open(dir.path()));
    let conn = rusqlite::Connection::open(dir.path().join("queue.db")).unwrap();
    conn.pragma_update(None, "user_version", 999).unwrap();
    drop(conn);
    let error = Store::open(lock_soon(dir.path()), system()).unwrap_err();
    assert!(error.to_string().contains("is of a newer swanci (schema 999; "), "{error}");
    let error = Store::open_existing(dir.path(), system()).unwrap_err();
    assert!(error.to_string().contains("is of a newer swanci (schema 999; "), "{error}");
    let empty = TempDir::new().unwrap();
    let error = Store::open_existing(empty.path(), system()).unwrap_err();
    assert!(error.to_string().starts_with("there is no queue in "), "{error}");
}

const CHILD: &str = "SWANCI_TEST_QUEUE_CHILD";

/// Accepts and runs jobs until it is killed; prints the acknowledged ones on standard output.
fn child(dir: &Path, round: &str) {
    let queue = open(dir);
    let (_pool, _events) = start(&queue, options(2), |_, _| {
        thread::sleep(Duration::from_millis(1));
        succeeded()
    });
    let round: u64 = round.parse().unwrap();
    thread::scope(|scope| {
        for lane in 0..4_u64 {
            let queue = &queue;
            scope.spawn(move || {
                for n in 0.. {
                    let commit = (round * 10 + lane) * 1_000_000 + n;
                    let id = accept(queue, &format!("o/r{lane}"), commit);
                    std::io::stdout().write_all(format!("ack {id} {lane} {commit}\n").as_bytes()).unwrap();
                }
            });
        }
    });
}

#[test]
fn acknowledged_deliveries_survive_kill_9() {
    // This test starts itself as the process to kill.
    if let Ok(spec) = std::env::var(CHILD) {
        let (round, dir) = spec.split_once(':').unwrap();
        return child(Path::new(dir), round);
    }
    let dir = TempDir::new().unwrap();
    let mut acknowledged: Vec<(JobId, String)> = Vec::new();
    let mut resumed = 0;
    for round in 0..25_u32 {
        let before = acknowledged.len();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "queue::faults::acknowledged_deliveries_survive_kill_9", "--nocapture"])
            .env(CHILD, format!("{round}:{}", dir.path().display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap());
        let stop_after = 1 + fastrand::usize(..60);
        let mut take = |text: &str| {
            let words: Vec<&str> = text.split_whitespace().collect();
            // Ignores the test runner's lines, and a line that the kill truncated.
            if text.ends_with('\n')
                && let [.., "ack", id, _, commit] = words[..]
            {
                acknowledged.push((
                    JobId(id.parse().unwrap()),
                    format!("{:040x}", commit.parse::<u64>().unwrap() + 1),
                ));
            }
            acknowledged.len() - before
        };
        let mut line = String::new();
        loop {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "the child of round {round} ended by itself");
            if take(&line) >= stop_after {
                break;
            }
        }
        process.kill().unwrap();
        process.wait().unwrap();
        let mut rest = String::new();
        lines.read_to_string(&mut rest).unwrap();
        rest.split_inclusive('\n').for_each(|line| {
            take(line);
        });
        let left_running = Store::open_existing(dir.path(), system()).unwrap().stats().unwrap();
        let queue = open(dir.path());
        let now = queue.stats().unwrap();
        assert_eq!(now.count(JobState::Running), 0, "the new serve has taken over the running jobs");
        resumed += left_running.count(JobState::Running);
    }
    let queue = open(dir.path());
    assert!(acknowledged.len() >= 25);
    for (id, commit) in &acknowledged {
        let record = queue.get(*id).unwrap_or_else(|e| panic!("acknowledged and lost: {e}"));
        assert_eq!(record.commit.as_ref(), Some(commit));
        assert!(matches!(record.state, JobState::Queued | JobState::Succeeded));
        assert!(record.attempts <= 1 && (record.state == JobState::Succeeded) == (record.attempts == 1));
    }
    assert!(resumed > 0, "no round left a job running, so nothing was tested");
}

/// A small file system, unmounted when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new(size: &str) -> SmallDisk {
        let dir = TempDir::new().unwrap();
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "swanci-test"])
            .arg(dir.path())
            .status()
            .unwrap();
        assert!(done.success(), "this test has to mount a tmpfs: run it as root");
        SmallDisk(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

fn fill(path: &Path) {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    for chunk in [4096, 512, 1] {
        while file.write_all(&vec![0; chunk]).is_ok() {}
    }
}

#[test]
fn on_a_full_disk_new_jobs_are_refused_running_ones_finish_and_the_queue_recovers() {
    if !is_root() {
        return;
    }
    let disk = SmallDisk::new("10m");
    let dir = disk.0.path();
    let queue = open(dir);
    let mut ids: Vec<JobId> = (0..20).map(|n| accept(&queue, &format!("o/r{n}"), n)).collect();
    let gate = Arc::new(Barrier::new(9));
    let meet = Arc::clone(&gate);
    let held: HashSet<JobId> = ids[..8].iter().copied().collect();
    let (_pool, _events) = start(&queue, options(8), move |job, context| {
        if held.contains(&job.id) {
            meet.wait(); // all eight are running
            meet.wait(); // and the disk is full
        }
        context.log.line("the log of a job must not fail it");
        succeeded()
    });
    gate.wait();
    fill(&dir.join("filler"));
    let mut refused = None;
    for n in 100..2000 {
        match queue.accept(&job("o/late", n)) {
            Ok((id, known)) => {
                assert_eq!(known, None);
                ids.push(id);
            }
            Err(error) => {
                refused = Some((n, error));
                break;
            }
        }
    }
    let (refused, error) = refused.expect("a disk without a free byte took 1900 jobs");
    assert!(error.to_string().starts_with("the queue cannot be written: "), "{error}");
    assert!(queue.check_writable().is_err());
    gate.wait();
    for id in ids[..8].iter().copied() {
        assert_eq!(
            ended(&queue, id).state,
            JobState::Succeeded,
            "a running job is finished on the full disk"
        );
        fill(&dir.join("filler")); // and keep it full
    }
    fs::remove_file(dir.join("filler")).unwrap();
    until("the queue accepts jobs again", || queue.check_writable().is_ok());
    ids.push(accept(&queue, "o/late", refused));
    for id in &ids {
        assert_eq!(ended(&queue, *id).state, JobState::Succeeded);
    }
    assert_eq!(queue.list(None, None, 5000).unwrap().len(), ids.len());
    drop(_pool);
    let conn = rusqlite::Connection::open(dir.join("queue.db")).unwrap();
    let sound: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
}
