//! Runs images a bounded number at a time, each after the local images that it is built on.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Condvar, Mutex, PoisonError};

struct State {
    waiting: BTreeSet<usize>,
    finished: Vec<Option<bool>>,
}

/// Calls `work(i, blocked)` once for each of `wanted`, on `jobs` threads, after everything in `after[i]` (as far as it
/// is wanted too) has finished. `blocked` names one that failed. `work` says whether it went well.
pub(super) fn in_order(
    jobs: usize,
    wanted: &BTreeSet<usize>,
    after: &[Vec<usize>],
    work: impl Fn(usize, Option<usize>) -> bool + Sync,
) {
    let state = Mutex::new(State { waiting: wanted.clone(), finished: vec![None; after.len()] });
    let changed = Condvar::new();
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    let worker = || {
        let mut guard = lock();
        loop {
            let ready = guard
                .waiting
                .iter()
                .copied()
                .find(|i| after[*i].iter().all(|b| !wanted.contains(b) || guard.finished[*b].is_some()));
            match ready {
                Some(i) => {
                    guard.waiting.remove(&i);
                    let blocked = after[i].iter().copied().find(|b| guard.finished[*b] == Some(false));
                    drop(guard);
                    // A panic goes on as one, but not before the others know: they would wait for ever.
                    let went_well = catch_unwind(AssertUnwindSafe(|| work(i, blocked)));
                    guard = lock();
                    guard.finished[i] = Some(went_well.as_ref().is_ok_and(|well| *well));
                    changed.notify_all();
                    if let Err(panic) = went_well {
                        drop(guard);
                        resume_unwind(panic);
                    }
                }
                None if guard.waiting.is_empty() => return,
                None => guard = changed.wait(guard).unwrap_or_else(PoisonError::into_inner),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, wanted.len().max(1)) {
            scope.spawn(worker);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_comes_first_and_its_failure_blocks_what_stands_on_it() {
        let log = Mutex::new(Vec::new());
        let after = [vec![2], vec![], vec![], vec![0]];
        in_order(3, &BTreeSet::from([0, 1, 2, 3]), &after, |i, blocked| {
            log.lock().unwrap().push((i, blocked));
            i != 2 && blocked.is_none()
        });
        let log = log.into_inner().unwrap();
        let at = |i: usize| log.iter().position(|(j, _)| *j == i).unwrap();
        assert!(at(2) < at(0) && at(0) < at(3));
        assert_eq!(log[at(0)].1, Some(2));
        assert_eq!(log[at(3)].1, Some(0));
        assert_eq!(log[at(1)].1, None);
    }

    #[test]
    fn a_panic_ends_the_work_and_keeps_nobody_waiting() {
        let after = [vec![], vec![0]];
        let ended = catch_unwind(|| {
            in_order(2, &BTreeSet::from([0, 1]), &after, |i, blocked| {
                assert!(i != 0, "on purpose");
                assert_eq!(blocked, Some(0));
                false
            });
        });
        assert!(ended.is_err());
    }

    #[test]
    fn what_is_not_wanted_is_not_waited_for() {
        let count = Mutex::new(0);
        in_order(2, &BTreeSet::from([0]), &[vec![1], vec![]], |_, _| {
            *count.lock().unwrap() += 1;
            true
        });
        assert_eq!(count.into_inner().unwrap(), 1);
    }
}
