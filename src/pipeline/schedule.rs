//! Runs a limited number of builds at a time, each after its local bases.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Condvar, Mutex, PoisonError};

/// Calls `work` once for each of the `wanted`, on `jobs` threads. The wanted ones in `after[i]` finish before `i`
/// starts.
pub(super) fn in_order(
    jobs: usize,
    wanted: &BTreeSet<usize>,
    after: &[Vec<usize>],
    work: impl Fn(usize) + Sync,
) {
    // The images that are not finished, and whether they have begun.
    let unfinished: Mutex<BTreeMap<usize, bool>> = Mutex::new(wanted.iter().map(|i| (*i, false)).collect());
    let changed = Condvar::new();
    let worker = || {
        let mut left = unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        while left.values().any(|begun| !begun) {
            let is_ready = |i: &usize| after[*i].iter().all(|base| !left.contains_key(base));
            let mut waiting = left.iter().filter(|(_, begun)| !**begun).map(|(i, _)| *i);
            let Some(i) = waiting.find(is_ready) else {
                left = changed.wait(left).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            left.insert(i, true);
            drop(left);
            // The other threads are notified before the panic resumes; otherwise they would wait forever.
            let worked = catch_unwind(AssertUnwindSafe(|| work(i)));
            left = unfinished.lock().unwrap_or_else(PoisonError::into_inner);
            left.remove(&i);
            changed.notify_all();
            if let Err(panic) = worked {
                drop(left);
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
