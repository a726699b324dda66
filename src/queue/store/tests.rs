//! What the queue's SQL promises, on a real database without threads.

use rusqlite::StatementStatus;

use super::*;
use crate::queue::schema;

const LONGEST: Duration = Duration::from_secs(600);
const LEASE: Duration = Duration::from_secs(60);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn job(repository: &str, commit: u64) -> NewJob {
    NewJob {
        forge: crate::model::ForgeName::Github,
        repository: repository.parse().unwrap(),
        branch: "main".parse().unwrap(),
        commit: format!("{:040x}", commit + 1).parse().unwrap(),
        event: "pull_request".to_owned(),
        delivery_id: None,
        document: "{}".to_owned(),
    }
}

fn new(conn: &Connection, repository: &str, commit: u64) -> JobId {
    match accept(conn, &job(repository, commit), at(0)).unwrap() {
        Accepted::New(id) => id,
        other @ (Accepted::Duplicate { .. } | Accepted::Requeued(_)) => panic!("{other:?}"),
    }
}

fn open() -> (tempfile::TempDir, Connection) {
    let dir = tempfile::tempdir().unwrap();
    let conn = schema::open_for_serve(dir.path()).unwrap();
    (dir, conn)
}

/// `jobs` ended jobs in 50 lanes, written by one statement.
fn history(conn: &Connection, jobs: u32) {
    conn.execute(
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
         INSERT INTO jobs (lane, forge, repository, branch, commit_sha, event, document, state, created_at,
                           queued_at, finished_at)
         SELECT 'github:o/r' || (n % 50), 'github', 'o/r' || (n % 50), 'old', printf('%040x', n), 'e', '{}',
                iif(n % 3, 'succeeded', 'failed'), n, n, n FROM n",
        [jobs],
    )
    .unwrap();
}

/// Steps of SQLite's virtual machine that a claim takes: its cost, whatever the machine is doing.
fn steps(conn: &Connection) -> i32 {
    let mut next = conn.prepare(NEXT).unwrap();
    let found: Option<i64> = next.query_row([], |row| row.get(0)).optional().unwrap();
    assert!(found.is_some(), "a claim that finds nothing proves nothing");
    let due = DUE.iter().zip([at(0), at(600)]).map(|(sql, bound)| {
        let mut due = conn.prepare(sql).unwrap();
        due.execute([bound.as_millisecond()]).unwrap();
        due.get_status(StatementStatus::VmStep)
    });
    next.get_status(StatementStatus::VmStep) + due.sum::<i32>()
}

#[test]
fn a_claim_costs_the_same_after_a_hundred_thousand_jobs() {
    let (_dir, conn) = open();
    history(&conn, 100);
    new(&conn, "o/r1", 1);
    let before = steps(&conn);
    let (_dir, conn) = open();
    history(&conn, 100_000);
    new(&conn, "o/r1", 1);
    assert_eq!(steps(&conn), before);
    assert!(before < 400, "{before} steps");
}

#[test]
fn a_claim_costs_the_same_behind_a_long_queue_of_a_busy_lane() {
    let (_dir, conn) = open();
    let cost = |queued: std::ops::Range<u64>| {
        for commit in queued {
            new(&conn, "busy/one", commit);
        }
        steps(&conn)
    };
    new(&conn, "busy/one", 9_000_000);
    assert!(claim(&conn, "me", at(0), LEASE, LONGEST).unwrap().is_some());
    new(&conn, "other/one", 9_000_001);
    let few = cost(0..10);
    assert_eq!(cost(10..5_000), few);
}

#[test]
fn a_claim_reads_only_the_indexes_of_what_has_not_ended() {
    let (_dir, conn) = open();
    for sql in [NEXT, DUE[0], DUE[1]] {
        let mut plan = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let lines: Vec<String> = {
            let parameters = vec![0; plan.parameter_count()];
            let rows = plan.query_map(rusqlite::params_from_iter(parameters), |row| row.get(3)).unwrap();
            rows.map(Result::unwrap).collect()
        };
        let touched: Vec<&String> = lines.iter().filter(|line| line.contains(" jobs")).collect();
        assert!(!touched.is_empty(), "{lines:?}");
        let partial =
            |line: &str| ["jobs_ready", "jobs_waiting", "jobs_running"].iter().any(|i| line.contains(i));
        assert!(touched.iter().all(|line| partial(line)), "{lines:?}");
    }
}

#[test]
fn jobs_of_a_lane_come_one_at_a_time_and_in_order() {
    let (_dir, conn) = open();
    let (first, second) = (new(&conn, "Owner/Name", 1), new(&conn, "owner/NAME", 2));
    let other = new(&conn, "a/b", 3);
    let take = || claim(&conn, "me", at(1), LEASE, LONGEST).unwrap().map(|job| job.id);
    assert_eq!((take(), take(), take()), (Some(first), Some(other), None));
    let done = Ending::Succeeded { outcome: "{}".to_owned() };
    assert_eq!(end(&conn, first, "me", &done, at(2)).unwrap(), Ok(JobState::Succeeded));
    assert_eq!((take(), take()), (Some(second), None));
}

#[test]
fn a_backoff_holds_up_nobody_and_ends_in_time() {
    let (_dir, conn) = open();
    let (first, second) = (new(&conn, "a/b", 1), new(&conn, "a/b", 2));
    let take =
        |second| claim(&conn, "me", at(second), LEASE, LONGEST).unwrap().map(|job| (job.id, job.attempt));
    assert_eq!(take(1), Some((first, 1)));
    let retry = Ending::Retry { code: 6, error: "down".to_owned(), not_before: at(100) };
    assert_eq!(end(&conn, first, "me", &retry, at(2)).unwrap(), Ok(JobState::Queued));
    assert_eq!(take(3), Some((second, 1)));
    assert_eq!(end(&conn, second, "me", &Ending::Cancelled, at(4)).unwrap(), Ok(JobState::Cancelled));
    assert_eq!(take(99), None);
    assert_eq!(take(100), Some((first, 2)));
}

#[test]
fn a_clock_that_was_set_back_does_not_prolong_a_backoff() {
    let (_dir, conn) = open();
    let id = new(&conn, "a/b", 1);
    assert!(claim(&conn, "me", at(0), LEASE, LONGEST).unwrap().is_some());
    let retry = Ending::Retry { code: 6, error: "down".to_owned(), not_before: at(60) };
    assert_eq!(end(&conn, id, "me", &retry, at(0)).unwrap(), Ok(JobState::Queued));
    assert_eq!(claim(&conn, "me", at(59), LEASE, LONGEST).unwrap(), None);
    let year_ago = at(-365 * 24 * 3600);
    assert_eq!(claim(&conn, "me", year_ago, LEASE, LONGEST).unwrap().map(|job| job.id), Some(id));
}

#[test]
fn only_the_owner_ends_an_attempt() {
    let (_dir, conn) = open();
    let id = new(&conn, "a/b", 1);
    let denied = |from| Ok(Err(Denied::Illegal { from, to: JobState::Cancelled }));
    assert_eq!(end(&conn, id, "me", &Ending::Cancelled, at(1)), denied(JobState::Queued));
    assert!(claim(&conn, "me", at(0), LEASE, LONGEST).unwrap().is_some());
    assert_eq!(end(&conn, id, "another", &Ending::Cancelled, at(1)), denied(JobState::Running));
    assert_eq!(
        retry(&conn, id, at(1)).unwrap(),
        Err(Denied::Illegal { from: JobState::Running, to: JobState::Queued })
    );
    assert_eq!(end(&conn, id, "me", &Ending::Cancelled, at(1)), Ok(Ok(JobState::Cancelled)));
    assert_eq!(end(&conn, JobId(99), "me", &Ending::Cancelled, at(1)), Ok(Err(Denied::NotFound)));
}

#[test]
fn a_retry_of_a_job_that_was_cancelled_meanwhile_is_its_cancellation() {
    let (_dir, conn) = open();
    let id = new(&conn, "a/b", 1);
    assert!(claim(&conn, "me", at(0), LEASE, LONGEST).unwrap().is_some());
    assert_eq!(cancel(&conn, id, at(1)).unwrap(), Ok(CancelOutcome::Requested));
    assert_eq!(to_cancel(&conn).unwrap(), [id]);
    let retry = Ending::Retry { code: 6, error: "down".to_owned(), not_before: at(60) };
    assert_eq!(end(&conn, id, "me", &retry, at(2)).unwrap(), Ok(JobState::Cancelled));
    assert_eq!(to_cancel(&conn).unwrap(), []);
}

#[test]
fn what_a_dead_serve_left_running_is_queued_again_and_no_attempt() {
    let (_dir, conn) = open();
    let (one, two) = (new(&conn, "a/one", 1), new(&conn, "a/two", 2));
    for _ in 0..2 {
        assert!(claim(&conn, "dead", at(0), LEASE, LONGEST).unwrap().is_some());
    }
    assert_eq!(cancel(&conn, two, at(1)).unwrap(), Ok(CancelOutcome::Requested));
    assert_eq!(recover(&conn, at(2)).unwrap(), 2);
    let record = |id| get(&conn, id).unwrap().unwrap();
    assert_eq!(
        (record(one).state, record(one).attempts, record(one).interruptions),
        (JobState::Queued, 0, 1)
    );
    assert_eq!(record(two).state, JobState::Cancelled);
}

#[test]
fn the_old_and_the_many_expire_and_what_has_not_ended_never() {
    let (_dir, conn) = open();
    history(&conn, 30); // ended at 1 … 30 ms after the epoch
    let queued = new(&conn, "a/b", 1);
    let ids = |before, keep| {
        let before = Timestamp::from_millisecond(before).unwrap();
        let mut ids: Vec<i64> = expired(&conn, before, keep, 100).unwrap().iter().map(|id| id.0).collect();
        ids.sort_unstable();
        ids
    };
    assert_eq!(ids(11, 1000), (1..=10).collect::<Vec<_>>());
    assert_eq!(ids(0, 25), (1..=5).collect::<Vec<_>>());
    assert_eq!(ids(4, 25), (1..=5).collect::<Vec<_>>());
    assert_eq!(ids(0, 30), Vec::<i64>::new());
    assert_eq!(forget(&conn, &[JobId(1), queued]).unwrap(), 1);
    assert!(get(&conn, queued).unwrap().is_some());
}

#[test]
fn a_number_is_never_used_twice() {
    let (_dir, conn) = open();
    let id = new(&conn, "a/b", 1);
    assert_eq!(cancel(&conn, id, at(1)).unwrap(), Ok(CancelOutcome::Cancelled));
    assert_eq!(forget(&conn, &[id]).unwrap(), 1);
    assert!(new(&conn, "a/b", 1) > id);
}
