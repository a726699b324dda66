//! The bytes of one request body. Small bodies are on the heap, large ones in their own memory mapping, so that their
//! memory returns to the system. On the heap it does not: in a measurement with glibc, 32 unsigned bodies of 25 MiB
//! left 300 MB resident, spread over the arenas of the threads.

use memmap2::{MmapMut, MmapOptions};

/// Larger bodies get their own mapping. Most deliveries are smaller.
const HEAP: usize = 32 * 1024;

/// A body that grows up to a known maximum.
#[derive(Debug, Default)]
pub(crate) struct BodyBytes {
    heap: Vec<u8>,
    mapped: Option<MmapMut>,
    len: usize,
}

impl BodyBytes {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Appends `more`; the whole never exceeds `most` bytes. `false` if there is not enough memory.
    #[must_use]
    pub(crate) fn extend(&mut self, more: &[u8], most: usize) -> bool {
        let end = self.len + more.len();
        if self.mapped.is_none() && end > HEAP {
            // Unwritten pages cost nothing, so the maximum is mapped once.
            let Some(mut mapped) = map(most.max(end)) else { return false };
            if let Some(start) = mapped.get_mut(..self.len) {
                start.copy_from_slice(&self.heap);
            }
            self.mapped = Some(mapped);
            self.heap = Vec::new();
        }
        match &mut self.mapped {
            Some(mapped) => match mapped.get_mut(self.len..end) {
                Some(space) => space.copy_from_slice(more),
                None => return false,
            },
            None => {
                self.heap.try_reserve(more.len()).is_ok().then(|| self.heap.extend_from_slice(more));
                if self.heap.len() != end {
                    return false;
                }
            }
        }
        self.len = end;
        true
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        match &self.mapped {
            Some(mapped) => mapped.get(..self.len).unwrap_or_default(),
            None => &self.heap,
        }
    }
}

fn map(len: usize) -> Option<MmapMut> {
    // No swap reservation, because most of the mapping is never written.
    MmapOptions::new().len(len).no_reserve_swap().map_anon().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_the_same_on_either_side_of_the_threshold() {
        let all: Vec<u8> = (0..3 * HEAP).map(|at| (at % 251) as u8).collect();
        for step in [1_000, HEAP - 1, HEAP, HEAP + 1, all.len()] {
            let mut body = BodyBytes::default();
            for piece in all.chunks(step) {
                assert!(body.extend(piece, all.len()));
            }
            assert!(body.as_slice() == all && body.len() == all.len(), "in steps of {step}");
        }
    }

    #[test]
    fn a_body_never_exceeds_its_maximum() {
        let mut body = BodyBytes::default();
        assert!(body.extend(&vec![1; HEAP + 10], HEAP + 10));
        assert!(!body.extend(&[1; 100_000], HEAP + 10));
        assert_eq!(body.len(), HEAP + 10);
    }
}
