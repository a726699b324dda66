//! Builds a bounded number of images at a time, each after the local images that it is built on, while it is still being
//! found out which of them have to be built.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Every image is first undecided; then it is wanted, or it is not.
pub(super) struct Schedule {
    state: Mutex<State>,
    changed: Condvar,
    /// What each image has to wait for.
    after: Vec<Vec<usize>>,
}

struct State {
    undecided: BTreeSet<usize>,
    wanted: BTreeSet<usize>,
    /// Wanted and not begun.
    waiting: BTreeSet<usize>,
    finished: Vec<Option<bool>>,
}

impl Schedule {
    /// `after[i]` has to be finished before `i`, as far as it is wanted too.
    pub(super) fn new(undecided: BTreeSet<usize>, after: Vec<Vec<usize>>) -> Schedule {
        let finished = vec![None; after.len()];
        let (wanted, waiting) = (BTreeSet::new(), BTreeSet::new());
        Schedule {
            state: Mutex::new(State { undecided, wanted, waiting, finished }),
            changed: Condvar::new(),
            after,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whether an image is wanted.
    pub(super) fn decide(&self, i: usize, wanted: bool) {
        let mut state = self.lock();
        if state.undecided.remove(&i) && wanted {
            state.wanted.insert(i);
            state.waiting.insert(i);
        }
        self.changed.notify_all();
    }

    /// When this goes, also by a panic, whatever is still undecided is not wanted: nobody waits for ever.
    pub(super) fn deciding(&self) -> Deciding<'_> {
        Deciding(self)
    }

    /// Waits until something is wanted (`true`), or until nothing will be.
    pub(super) fn wait_for_work(&self) -> bool {
        let state = self.wait_while(|state| state.wanted.is_empty() && !state.undecided.is_empty());
        !state.wanted.is_empty()
    }

    /// Waits until all is decided, and returns what is wanted.
    pub(super) fn wait_until_decided(&self) -> BTreeSet<usize> {
        self.wait_while(|state| !state.undecided.is_empty()).wanted.clone()
    }

    fn wait_while(&self, condition: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        self.changed.wait_while(self.lock(), |state| condition(state)).unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `work(i, blocked)` once for each image that is wanted, on `jobs` threads. `blocked` names one that it had
    /// to wait for and that failed. `work` says whether it went well.
    pub(super) fn work(&self, jobs: usize, work: impl Fn(usize, Option<usize>) -> bool + Sync) {
        std::thread::scope(|scope| {
            for _ in 0..jobs.clamp(1, self.after.len().max(1)) {
                scope.spawn(|| self.worker(&work));
            }
        });
    }

    fn worker(&self, work: &(impl Fn(usize, Option<usize>) -> bool + Sync)) {
        let mut state = self.lock();
        loop {
            let settled = |i: &usize| {
                !state.undecided.contains(i) && (!state.wanted.contains(i) || state.finished[*i].is_some())
            };
            let ready = state.waiting.iter().copied().find(|i| self.after[*i].iter().all(settled));
            match ready {
                Some(i) => {
                    state.waiting.remove(&i);
                    let blocked = self.after[i].iter().copied().find(|b| state.finished[*b] == Some(false));
                    drop(state);
                    // A panic goes on as one, but not before the others know: they would wait for ever.
                    let went_well = catch_unwind(AssertUnwindSafe(|| work(i, blocked)));
                    state = self.lock();
                    state.finished[i] = Some(went_well.as_ref().is_ok_and(|well| *well));
                    self.changed.notify_all();
                    if let Err(panic) = went_well {
                        drop(state);
                        resume_unwind(panic);
                    }
                }
                None if state.waiting.is_empty() && state.undecided.is_empty() => return,
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// See [`Schedule::deciding`].
pub(super) struct Deciding<'a>(&'a Schedule);

impl Drop for Deciding<'_> {
    fn drop(&mut self) {
        self.0.lock().undecided.clear();
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(after: Vec<Vec<usize>>, wanted: &[usize]) -> Schedule {
        let schedule = Schedule::new((0..after.len()).collect(), after);
        wanted.iter().for_each(|i| schedule.decide(*i, true));
        drop(schedule.deciding());
        schedule
    }

    #[test]
    fn a_base_comes_first_and_its_failure_blocks_what_stands_on_it() {
        let log = Mutex::new(Vec::new());
        decided(vec![vec![2], vec![], vec![], vec![0]], &[0, 1, 2, 3]).work(3, |i, blocked| {
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
        let schedule = decided(vec![vec![], vec![0]], &[0, 1]);
        let ended = catch_unwind(AssertUnwindSafe(|| {
            schedule.work(2, |i, blocked| {
                assert!(i != 0, "on purpose");
                assert_eq!(blocked, Some(0));
                false
            });
        }));
        assert!(ended.is_err());
    }

    #[test]
    fn what_is_not_wanted_is_not_waited_for() {
        let count = Mutex::new(0);
        decided(vec![vec![1], vec![]], &[0]).work(2, |_, _| {
            *count.lock().unwrap() += 1;
            true
        });
        assert_eq!(count.into_inner().unwrap(), 1);
    }

    #[test]
    fn work_begins_before_all_is_decided_and_ends_when_it_is() {
        let schedule = Schedule::new(BTreeSet::from([0, 1, 2]), vec![vec![], vec![], vec![0, 1]]);
        let (began, begun) = std::sync::mpsc::channel();
        let log = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let schedule = &schedule;
            scope.spawn(move || {
                let _deciding = schedule.deciding();
                schedule.decide(2, true);
                schedule.decide(0, true);
                // 0 has begun although nothing is known of 1, and 2 waits for both.
                assert_eq!(begun.recv(), Ok(0));
                schedule.decide(1, true);
            });
            assert!(schedule.wait_for_work());
            schedule.work(2, |i, _| {
                let _ = began.send(i);
                log.lock().unwrap().push(i);
                true
            });
        });
        let log = log.into_inner().unwrap();
        assert_eq!((log.len(), log.last()), (3, Some(&2)), "{log:?}");
        assert_eq!(schedule.wait_until_decided(), BTreeSet::from([0, 1, 2]));
    }

    #[test]
    fn nobody_waits_for_a_decision_that_will_not_come() {
        let schedule = Schedule::new(BTreeSet::from([0]), vec![vec![]]);
        std::thread::scope(|scope| {
            scope.spawn(|| drop(schedule.deciding()));
            assert!(!schedule.wait_for_work());
            schedule.work(2, |_, _| true);
        });
    }
}
