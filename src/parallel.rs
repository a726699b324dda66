//! Maps items on a bounded number of threads.

use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};

/// Results are in the order of the items.
pub(crate) fn map<T: Sync, R: Send>(threads: usize, items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    if items.len() <= 1 || threads <= 1 {
        return items.iter().map(work).collect();
    }
    let remaining = Mutex::new(items.iter().enumerate());
    let next = || remaining.lock().unwrap_or_else(PoisonError::into_inner).next();
    let worker = || std::iter::from_fn(|| next().map(|(i, item)| (i, work(item)))).collect::<Vec<_>>();
    let mut results = Vec::with_capacity(items.len());
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads.min(items.len())).map(|_| scope.spawn(worker)).collect();
        for handle in handles {
            results.extend(handle.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
    });
    results.sort_unstable_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn results_keep_the_order_of_the_items() {
        let items: Vec<usize> = (0..100).collect();
        assert_eq!(super::map(4, &items, |i| i * 2), items.iter().map(|i| i * 2).collect::<Vec<_>>());
        assert_eq!(super::map(4, &[] as &[usize], |i| *i), Vec::<usize>::new());
    }
}
