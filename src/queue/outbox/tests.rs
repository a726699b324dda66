use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;

use super::*;
use crate::queue::job::{Ending, JobState, NewJob};
use crate::queue::lock::ServeLock;

/// A store whose clock the test sets, in seconds, and what was posted about its jobs.
struct Fixture {
    dir: tempfile::TempDir,
    second: Arc<AtomicI64>,
    store: Option<Store>,
    posted: Vec<(PostKind, i64, JobState)>,
    warnings: Vec<String>,
    fails: Option<PostError>,
}

impl Fixture {
    fn new() -> Fixture {
        let mut fixture = Fixture {
            dir: tempfile::tempdir().unwrap(),
            second: Arc::new(AtomicI64::new(0)),
            store: None,
            posted: Vec::new(),
            warnings: Vec::new(),
            fails: None,
        };
        fixture.reopen();
        fixture.store().set_posts(true).unwrap();
        fixture
    }

    fn reopen(&mut self) {
        self.store = None;
        let lock = ServeLock::acquire(self.dir.path()).unwrap();
        let second = Arc::clone(&self.second);
        let clock = move || Timestamp::from_second(1_800_000_000 + second.load(Ordering::SeqCst)).unwrap();
        self.store = Some(Store::open(lock, Arc::new(clock)).unwrap());
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn accept(&self, branch: &str, commit: Option<u64>) -> JobId {
        let job = NewJob {
            forge: crate::model::ForgeName::Github,
            forge_url: None,
            repository: "o/r".parse().unwrap(),
            branch: branch.parse().unwrap(),
            commit: commit.map(|commit| format!("{:040x}", commit + 1).parse().unwrap()),
            pull_request: Some(7),
            head: Some(format!("{:040x}", 99).parse().unwrap()),
            event: "pull_request".to_owned(),
            delivery_id: None,
            document: "{}".to_owned(),
        };
        let (id, known) = self.store().accept(&job).unwrap();
        assert_eq!(known, None);
        id
    }

    fn run(&self, ending: &Ending) -> JobId {
        let job = self.store().claim(Duration::MAX / 4).unwrap().unwrap();
        self.store().end(job.id, ending).unwrap();
        job.id
    }

    /// Sends the posts that may be sent at this second; returns how long the remaining ones wait.
    fn post_at(&mut self, second: i64) -> Option<Duration> {
        self.second.store(second, Ordering::SeqCst);
        while let Some(post) = self.store().next_post().unwrap() {
            let sent = self.fails.clone().map_or(Ok(()), Err);
            if sent.is_ok() {
                self.posted.push((post.kind, post.job.id.0, post.job.state));
            }
            let warning = self.store().posted(&post, sent).unwrap();
            self.warnings.extend(warning);
        }
        let next: Option<i64> = self
            .store()
            .read(|conn| conn.query_row("SELECT min(not_before) FROM outbox", [], |row| row.get(0)))
            .unwrap();
        next.map(|next| Duration::from_millis((next - self.store().now()).unsigned_abs()))
    }

    fn fail(&mut self, pause: Option<Duration>) {
        self.fails = Some(PostError { error: "502".to_owned(), pause });
    }

    fn succeed(&mut self) {
        self.fails = None;
    }

    fn posted(&mut self) -> Vec<(PostKind, i64, JobState)> {
        std::mem::take(&mut self.posted)
    }
}

fn done() -> Ending {
    Ending { state: JobState::Succeeded, outcome: Some("{}".to_owned()), ..Ending::default() }
}

fn failed() -> Ending {
    Ending { state: JobState::Failed, exit_code: Some(1), error: Some("no".to_owned()), ..Ending::default() }
}

use PostKind::{Comment, Status};

#[test]
fn a_job_is_reported_when_it_is_queued_and_when_it_has_ended() {
    let mut fixture = Fixture::new();
    fixture.accept("main", Some(1));
    assert_eq!(fixture.post_at(0), None);
    assert_eq!(fixture.posted(), [(Status, 1, JobState::Queued)]);
    let again = Ending { wait: Some(Duration::ZERO), ..Ending::default() };
    fixture.run(&again);
    fixture.run(&Ending::default());
    fixture.post_at(1);
    assert_eq!(fixture.posted(), [], "it is still pending");
    fixture.run(&failed());
    fixture.post_at(2);
    assert_eq!(fixture.posted(), [(Status, 1, JobState::Failed), (Comment, 1, JobState::Failed)]);
    fixture.store().retry(JobId(1)).unwrap();
    fixture.post_at(3);
    assert_eq!(fixture.posted(), [(Status, 1, JobState::Queued)]);
    assert_eq!(fixture.store().unposted().unwrap(), 0);
}

#[test]
fn without_reports_the_outbox_stays_empty() {
    let fixture = Fixture::new();
    fixture.accept("main", Some(1));
    assert_eq!(fixture.store().unposted().unwrap(), 1);
    fixture.store().set_posts(false).unwrap();
    assert_eq!(fixture.store().unposted().unwrap(), 0);
    fixture.run(&done());
    fixture.accept("main", Some(2));
    assert_eq!(fixture.store().unposted().unwrap(), 0);
}

#[test]
fn a_newer_post_replaces_an_older_one_and_order_is_kept() {
    let mut fixture = Fixture::new();
    let one = fixture.accept("main", Some(1));
    fixture.store().cancel(one).unwrap();
    fixture.post_at(0);
    assert_eq!(fixture.posted(), [(Status, 1, JobState::Cancelled), (Comment, 1, JobState::Cancelled)]);

    // The same commit on another branch: what was not posted about the first job is out of date.
    fixture.fail(None);
    fixture.store().retry(one).unwrap();
    fixture.post_at(1);
    fixture.accept("release", Some(1));
    fixture.succeed();
    fixture.post_at(2);
    assert_eq!(fixture.posted(), [(Status, 2, JobState::Queued)]);
}

#[test]
fn a_commit_that_becomes_known_later_gets_its_pending_status_then() {
    let mut fixture = Fixture::new();
    let id = fixture.accept("main", None);
    fixture.post_at(0);
    assert_eq!(fixture.posted(), []);
    let job = fixture.store().claim(Duration::MAX / 4).unwrap().unwrap();
    fixture.store().landed(id, &format!("{:040x}", 5).parse().unwrap()).unwrap();
    fixture.post_at(1);
    assert_eq!(fixture.posted(), [(Status, 1, JobState::Running)]);
    fixture.store().landed(id, &format!("{:040x}", 6).parse().unwrap()).unwrap();
    fixture.store().end(job.id, &done()).unwrap();
    fixture.post_at(2);
    assert_eq!(fixture.posted().len(), 2);
    assert_eq!(fixture.store().get(id).unwrap().commit.unwrap(), format!("{:040x}", 5), "it landed once");
}

#[test]
fn a_failed_post_is_repeated_with_longer_waits_across_restarts() {
    let mut fixture = Fixture::new();
    fixture.accept("main", Some(1));
    fixture.fail(None);
    let first = fixture.post_at(0).unwrap();
    assert!((8.0..=12.0).contains(&first.as_secs_f64()), "{first:?}");
    let second = fixture.post_at(13).unwrap();
    assert!((24.0..=36.0).contains(&second.as_secs_f64()), "{second:?}");
    fixture.reopen();
    fixture.succeed();
    fixture.post_at(20);
    assert_eq!(fixture.posted(), [], "it still waits");
    fixture.post_at(50);
    assert_eq!(fixture.posted(), [(Status, 1, JobState::Queued)]);
    assert_eq!(fixture.warnings.len(), 1, "only the first failure is said");
}

#[test]
fn a_pause_that_the_server_asks_for_is_kept_up_to_half_an_hour() {
    let mut fixture = Fixture::new();
    fixture.accept("main", Some(1));
    fixture.fail(Some(Duration::from_secs(120)));
    assert_eq!(fixture.post_at(0), Some(Duration::from_secs(120)));
    fixture.fail(Some(Duration::from_secs(86_400)));
    assert_eq!(fixture.post_at(120), Some(LONGEST));
    // The clock is set back by a day: the wait is over.
    fixture.succeed();
    fixture.post_at(-86_400);
    assert_eq!(fixture.posted().len(), 1);
}

#[test]
fn a_post_that_fails_for_a_day_is_dropped_with_a_warning() {
    let mut fixture = Fixture::new();
    fixture.accept("main", Some(1));
    fixture.fail(None);
    let mut second = 0;
    while second < 90_000 {
        let Some(wait) = fixture.post_at(second) else { break };
        second += i64::try_from(wait.as_secs()).unwrap() + 1;
    }
    assert!((86_400..90_000).contains(&second), "{second}");
    let warnings = &fixture.warnings;
    assert_eq!(warnings.len(), 2);
    assert!(warnings[1].contains("the status about job 1 was not posted within a day"), "{warnings:?}");
    assert_eq!(fixture.store().unposted().unwrap(), 0);
}

#[test]
fn a_deleted_job_is_not_reported() {
    let fixture = Fixture::new();
    fixture.accept("main", Some(1));
    fixture.run(&done());
    fixture.second.store(10, Ordering::SeqCst);
    assert_eq!(fixture.store().delete_old(Duration::from_secs(1), 0).unwrap(), 1);
    assert_eq!(fixture.store().unposted().unwrap(), 0);
}
