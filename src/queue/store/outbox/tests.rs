use std::sync::Mutex;
use std::sync::atomic::AtomicI64;

use jiff::Timestamp;

use super::*;
use crate::queue::job::{Accepted, JobState, NewJob};
use crate::queue::lock::ServeLock;
use crate::queue::store::{Ending, Retention};

/// A store whose clock the test sets, in seconds, and what was posted about its jobs.
struct Fixture {
    dir: tempfile::TempDir,
    second: Arc<AtomicI64>,
    store: Option<Store>,
    posted: Arc<Mutex<Vec<(PostKind, i64, JobState)>>>,
    warnings: Arc<Mutex<Vec<String>>>,
    fails: Arc<Mutex<Option<PostError>>>,
}

impl Fixture {
    fn new() -> Fixture {
        let mut fixture = Fixture {
            dir: tempfile::tempdir().unwrap(),
            second: Arc::new(AtomicI64::new(0)),
            store: None,
            posted: Arc::default(),
            warnings: Arc::default(),
            fails: Arc::default(),
        };
        fixture.reopen();
        fixture.store().set_posts(true).unwrap();
        fixture
    }

    fn reopen(&mut self) {
        self.store = None;
        let lock = ServeLock::acquire(self.dir.path(), None, Timestamp::now()).unwrap();
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
        match self.store().accept(job).unwrap() {
            Accepted::New(id) => id,
            other @ (Accepted::Duplicate { .. } | Accepted::Requeued(_)) => panic!("{other:?}"),
        }
    }

    fn run(&self, ending: &Ending) -> JobId {
        let job = self.store().claim(Duration::MAX / 4).unwrap().unwrap();
        self.store().end(job.id, ending).unwrap();
        job.id
    }

    /// Posts what may be posted at this second, as the thread does; returns how long what is left waits.
    fn post_at(&self, second: i64) -> Option<Duration> {
        self.second.store(second, Ordering::SeqCst);
        let (fails, posted) = (Arc::clone(&self.fails), Arc::clone(&self.posted));
        let poster = move |post: &Post| match &*fails.lock().unwrap() {
            Some(failed) => Err(failed.clone()),
            None => {
                posted.lock().unwrap().push((post.kind, post.job.id.0, post.job.state));
                Ok(())
            }
        };
        let warnings = Arc::clone(&self.warnings);
        let warn = move |text: &str| warnings.lock().unwrap().push(text.to_owned());
        let outbox = Outbox::new(self.store(), &Cancel::new(), Box::new(poster), Box::new(warn));
        loop {
            let Some(post) = self.store().next_post().unwrap() else {
                let now = self.store().now();
                let next = self.store().read(|conn| {
                    conn.query_row("SELECT min(not_before) FROM outbox", [], |row| {
                        row.get::<_, Option<i64>>(0)
                    })
                });
                return next.unwrap().map(|next| Duration::from_millis((next - now).unsigned_abs()));
            };
            outbox.attempt(&post).unwrap();
        }
    }

    fn fail(&self, pause: Option<Duration>) {
        *self.fails.lock().unwrap() = Some(PostError { error: "502".to_owned(), pause });
    }

    fn succeed(&self) {
        *self.fails.lock().unwrap() = None;
    }

    fn posted(&self) -> Vec<(PostKind, i64, JobState)> {
        std::mem::take(&mut *self.posted.lock().unwrap())
    }
}

fn done() -> Ending {
    Ending::Succeeded { outcome: "{}".to_owned() }
}

fn failed() -> Ending {
    Ending::Failed { code: 1, error: "no".to_owned() }
}

use PostKind::{Comment, Status};

#[test]
fn a_job_is_reported_when_it_is_queued_and_when_it_has_ended() {
    let fixture = Fixture::new();
    fixture.accept("main", Some(1));
    assert_eq!(fixture.post_at(0), None);
    assert_eq!(fixture.posted(), [(Status, 1, JobState::Queued)]);
    let again = Ending::Retry { code: 6, error: "x".to_owned(), wait: Duration::ZERO };
    fixture.run(&again);
    fixture.run(&Ending::Interrupted);
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
fn nothing_is_kept_to_be_posted_where_nobody_wants_it() {
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
fn a_newer_post_takes_the_place_of_an_older_one_and_order_is_kept() {
    let fixture = Fixture::new();
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
    let fixture = Fixture::new();
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
fn what_fails_is_tried_again_with_longer_waits_across_restarts() {
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
    assert_eq!(fixture.warnings.lock().unwrap().len(), 1, "only the first failure is said");
}

#[test]
fn a_server_that_asks_for_a_pause_gets_it_and_no_wait_is_longer_than_half_an_hour() {
    let fixture = Fixture::new();
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
fn what_was_not_posted_within_a_day_is_dropped_with_a_warning() {
    let fixture = Fixture::new();
    fixture.accept("main", Some(1));
    fixture.fail(None);
    let mut second = 0;
    while second < 90_000 {
        let Some(wait) = fixture.post_at(second) else { break };
        second += i64::try_from(wait.as_secs()).unwrap() + 1;
    }
    assert!((86_400..90_000).contains(&second), "{second}");
    let warnings = fixture.warnings.lock().unwrap();
    assert_eq!(warnings.len(), 2);
    assert!(warnings[1].contains("the status about job 1 was not posted within a day"), "{warnings:?}");
    assert_eq!(fixture.store().unposted().unwrap(), 0);
}

#[test]
fn a_forgotten_job_is_not_reported() {
    let fixture = Fixture::new();
    fixture.accept("main", Some(1));
    fixture.run(&done());
    fixture.second.store(10, Ordering::SeqCst);
    let none = Retention { age: Duration::from_secs(1), count: 0 };
    assert_eq!(fixture.store().enforce(none).unwrap(), 1);
    assert_eq!(fixture.store().unposted().unwrap(), 0);
}

#[test]
fn there_is_a_thread_only_while_there_is_something_to_post() {
    let fixture = Fixture::new();
    let (sent, received) = std::sync::mpsc::channel();
    let sent = Mutex::new(sent);
    let post = move |post: &Post| {
        sent.lock().unwrap().send((post.job.id, thread::current().name().map(str::to_owned))).unwrap();
        Ok(())
    };
    let warn = |text: &str| panic!("{text}");
    let outbox = Outbox::new(fixture.store(), &Cancel::new(), Box::new(post), Box::new(warn));
    outbox.look().unwrap();
    assert!(!outbox.busy.load(Ordering::SeqCst));
    let id = fixture.accept("main", Some(1));
    outbox.look().unwrap();
    let posted = received.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(posted, (id, Some("outbox".to_owned())));
    while outbox.busy.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(fixture.store().unposted().unwrap(), 0);
}
