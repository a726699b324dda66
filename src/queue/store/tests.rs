//! The store's SQL on a real database, without threads.

use std::sync::atomic::{AtomicI64, Ordering};

use rusqlite::StatementStatus;

use super::*;

const LONGEST: Duration = Duration::from_secs(600);

/// A store with a clock that the test sets, in seconds.
struct Fixture {
    dir: tempfile::TempDir,
    second: Arc<AtomicI64>,
    store: Store,
}

fn clock(second: &Arc<AtomicI64>) -> Clock {
    let second = Arc::clone(second);
    Arc::new(move || Timestamp::from_second(1_800_000_000 + second.load(Ordering::SeqCst)).unwrap())
}

impl Fixture {
    fn new() -> Fixture {
        let (dir, second) = (tempfile::tempdir().unwrap(), Arc::new(AtomicI64::new(0)));
        let lock = ServeLock::acquire(dir.path()).unwrap();
        let store = Store::open(lock, clock(&second)).unwrap();
        Fixture { dir, second, store }
    }

    fn at(&self, second: i64) -> &Store {
        self.second.store(second, Ordering::SeqCst);
        &self.store
    }

    fn new_job(&self, repository: &str, commit: u64) -> JobId {
        let (id, known) = self.store.accept(&job(repository, commit)).unwrap();
        assert_eq!(known, None);
        id
    }

    fn claim_at(&self, second: i64) -> Option<(JobId, u32)> {
        self.at(second).claim(LONGEST).unwrap().map(|job| (job.id, job.attempt()))
    }
}

fn job(repository: &str, commit: u64) -> NewJob {
    NewJob {
        forge: crate::model::ForgeName::Github,
        forge_url: None,
        repository: repository.parse().unwrap(),
        branch: "main".parse().unwrap(),
        commit: Some(format!("{:040x}", commit + 1).parse().unwrap()),
        pull_request: Some(7),
        head: None,
        event: "pull_request".to_owned(),
        delivery_id: None,
        document: "{}".to_owned(),
    }
}

fn cancelled() -> Ending {
    Ending { state: JobState::Cancelled, ..Ending::default() }
}

/// Inserts `jobs` ended jobs in 50 lanes with one statement.
fn history(conn: &Connection, jobs: u32) {
    conn.execute(
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
         INSERT INTO jobs (lane, forge, repository, branch, commit_sha, merge_key, event, document, state, created_at,
                           queued_at, finished_at)
         SELECT 'github:o/r' || (n % 50), 'github', 'o/r' || (n % 50), 'old', printf('%040x', n), printf('%040x', n),
                'e', '{}', iif(n % 3, 'succeeded', 'failed'), n, n, n FROM n",
        [jobs],
    )
    .unwrap();
}

/// SQLite virtual machine steps of one search for the next job: a cost independent of the machine's load.
fn steps(conn: &Connection) -> i32 {
    let mut next = conn.prepare(NEXT).unwrap();
    let found: Option<i64> = next.query_row([0, 600_000], |row| row.get(0)).optional().unwrap();
    assert!(found.is_some(), "a claim that finds nothing proves nothing");
    next.get_status(StatementStatus::VmStep)
}

#[test]
fn a_duplicate_uses_up_no_job_number() {
    let fixture = Fixture::new();
    let first = fixture.new_job("a/b", 1);
    assert_eq!(fixture.store.accept(&job("a/b", 1)).unwrap(), (first, Some(JobState::Queued)));
    assert_eq!((first, fixture.new_job("a/b", 2)), (JobId(1), JobId(2)));
}

#[test]
fn a_claim_costs_the_same_after_a_hundred_thousand_jobs() {
    let costs = [100, 100_000].map(|ended| {
        let fixture = Fixture::new();
        history(&fixture.store.database().conn, ended);
        fixture.new_job("o/r1", 1);
        steps(&fixture.store.database().conn)
    });
    assert_eq!(costs[0], costs[1]);
    assert!(costs[0] < 100, "{} steps", costs[0]);
}

#[test]
fn jobs_of_a_lane_run_one_at_a_time_and_in_order() {
    let fixture = Fixture::new();
    let (first, second) = (fixture.new_job("Owner/Name", 1), fixture.new_job("owner/NAME", 2));
    let other = fixture.new_job("a/b", 3);
    let take = || fixture.claim_at(1).map(|(id, _)| id);
    assert_eq!((take(), take(), take()), (Some(first), Some(other), None));
    let done = Ending { state: JobState::Succeeded, outcome: Some("{}".to_owned()), ..Ending::default() };
    assert_eq!(fixture.at(2).end(first, &done).unwrap(), Some(JobState::Succeeded));
    assert_eq!((take(), take()), (Some(second), None));
}

#[test]
fn a_backoff_delays_no_other_job_and_ends_on_time() {
    let fixture = Fixture::new();
    let (first, second) = (fixture.new_job("a/b", 1), fixture.new_job("a/b", 2));
    assert_eq!(fixture.claim_at(1), Some((first, 1)));
    let retry = Ending { wait: Some(Duration::from_secs(98)), ..Ending::default() };
    assert_eq!(fixture.at(2).end(first, &retry).unwrap(), Some(JobState::Queued));
    assert_eq!(fixture.claim_at(3), Some((second, 1)));
    assert_eq!(fixture.at(4).end(second, &cancelled()).unwrap(), Some(JobState::Cancelled));
    assert_eq!(fixture.claim_at(99), None);
    assert_eq!(fixture.claim_at(100), Some((first, 2)));
}

#[test]
fn a_clock_that_was_set_back_does_not_prolong_a_backoff() {
    let fixture = Fixture::new();
    let id = fixture.new_job("a/b", 1);
    assert!(fixture.claim_at(0).is_some());
    let retry = Ending { wait: Some(Duration::from_secs(60)), ..Ending::default() };
    assert_eq!(fixture.at(0).end(id, &retry).unwrap(), Some(JobState::Queued));
    assert_eq!(fixture.claim_at(59), None);
    assert_eq!(fixture.claim_at(-365 * 24 * 3600), Some((id, 2)));
}

#[test]
fn a_renewed_lease_keeps_its_job_and_an_expired_one_releases_it() {
    let fixture = Fixture::new();
    let id = fixture.new_job("a/b", 1);
    let other = Store::open_existing(fixture.dir.path(), clock(&fixture.second)).unwrap();
    assert_eq!(fixture.claim_at(0), Some((id, 1)));
    assert_eq!(fixture.at(50).renew_leases().unwrap(), [id]);
    fixture.at(100);
    assert_eq!(other.renew_leases().unwrap(), []);
    assert_eq!(other.claim(LONGEST).unwrap(), None);
    // The clock alone does not take a job from a live process.
    assert_eq!(fixture.at(1_000).renew_leases().unwrap(), [id]);
    fixture.at(2_000);
    assert_eq!(other.renew_leases().unwrap(), []);
    assert_eq!(other.claim(LONGEST).unwrap().map(|job| (job.id, job.attempt())), Some((id, 1)));
    assert_eq!(fixture.store.renew_leases().unwrap(), []);
    assert_eq!(fixture.store.end(id, &cancelled()).unwrap(), None);
    assert_eq!(other.get(id).unwrap().interruptions, 1);
}

#[test]
fn a_merge_without_a_commit_is_identified_by_its_pull_request_and_head() {
    let fixture = Fixture::new();
    let head = |digit: &str| Some(digit.repeat(40).parse().unwrap());
    let merge = |number, head| NewJob { commit: None, pull_request: Some(number), head, ..job("a/b", 1) };
    let accept = |job| fixture.store.accept(&job).unwrap();
    assert_eq!(accept(merge(1, head("a"))), (JobId(1), None));
    assert_eq!(accept(merge(1, head("a"))), (JobId(1), Some(JobState::Queued)));
    for other in [merge(2, head("a")), merge(1, head("b")), job("a/b", 1)] {
        assert_eq!(accept(other).1, None);
    }
    assert_eq!(fixture.store.get(JobId(1)).unwrap().commit, None);
    assert_eq!(fixture.store.claim(LONGEST).unwrap().unwrap().pull_request, Some(1));
}
