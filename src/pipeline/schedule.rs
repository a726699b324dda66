//! Runs a limited number of builds at a time, each after its local bases.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Condvar, Mutex, PoisonError};

struct Progress {
    waiting: BTreeSet<usize>,
    finished: BTreeSet<usize>,
}

/// Calls `work` once for each of the `wanted`, on `jobs` threads. The wanted ones in `after[i]` finish before `i`
/// starts.
pub(super) fn in_order(
    jobs: usize,
    wanted: &BTreeSet<usize>,
    after: &[Vec<usize>],
    work: impl Fn(usize) + Sync,
) {
    let left = Mutex::new(Progress { waiting: wanted.clone(), finished: BTreeSet::new() });
    let changed = Condvar::new();
    let worker = || {
        let mut state = left.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.waiting.is_empty() {
            let settled = |i: &usize| !wanted.contains(i) || state.finished.contains(i);
            let Some(i) = state.waiting.iter().copied().find(|i| after[*i].iter().all(settled)) else {
                state = changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.waiting.remove(&i);
            drop(state);
            // The other threads are notified before the panic resumes; otherwise they would wait forever.
            let worked = catch_unwind(AssertUnwindSafe(|| work(i)));
            state = left.lock().unwrap_or_else(PoisonError::into_inner);
            state.finished.insert(i);
            changed.notify_all();
            if let Err(panic) = worked {
                drop(state);
                resume_unwind(panic);
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
    fn a_base_is_built_first() {
        let log = Mutex::new(Vec::new());
        let after = [vec![2], vec![], vec![], vec![0]];
        in_order(3, &BTreeSet::from([0, 1, 2, 3]), &after, |i| log.lock().unwrap().push(i));
        let log = log.into_inner().unwrap();
        let at = |i: usize| log.iter().position(|j| *j == i).unwrap();
        assert!(log.len() == 4 && at(2) < at(0) && at(0) < at(3), "{log:?}");
    }

    #[test]
    fn an_unrequested_base_does_not_delay_the_image() {
        let log = Mutex::new(Vec::new());
        in_order(2, &BTreeSet::from([0]), &[vec![1], vec![]], |i| log.lock().unwrap().push(i));
        assert_eq!(log.into_inner().unwrap(), [0]);
    }

    #[test]
    fn a_panic_stops_all_threads() {
        let ended = catch_unwind(AssertUnwindSafe(|| {
            in_order(2, &BTreeSet::from([0, 1]), &[vec![], vec![0]], |i| assert!(i != 0, "on purpose"));
        }));
        assert!(ended.is_err());
    }
}
