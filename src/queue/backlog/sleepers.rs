//! Jobs that wait for other jobs. They keep no worker that ends with an empty queue, because nobody may run the others.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::base::JobId;
use crate::queue::batch::BatchOverview;

/// Looks of a waiting job after which it waits in vain, unless something else ends here meanwhile.
const LOOKS: u32 = 2;

/// The jobs of this worker that wait for others.
#[derive(Default)]
pub(crate) struct Sleepers {
    /// Number of other jobs that ended here.
    ends: u64,
    /// Counts the batches that ended.
    batches: Arc<BatchOverview>,
    /// The number of ends at the last look of each job, and the looks since then.
    looks: HashMap<JobId, (u64, u32)>,
}

impl Sleepers {
    pub(crate) fn new(batches: Arc<BatchOverview>) -> Self {
        Self {
            batches,
            ..Self::default()
        }
    }

    fn ends(&self) -> u64 {
        self.ends + self.batches.closed.load(Ordering::SeqCst)
    }

    /// A job has looked, and waits again.
    pub(crate) fn waits(&mut self, job: JobId) {
        let ends = self.ends();
        let (at, looks) = self.looks.entry(job).or_insert((ends, 0));
        if *at != ends {
            (*at, *looks) = (ends, 0);
        }
        *looks += 1;
    }

    /// A job has ended, for which others may wait.
    pub(crate) fn ended(&mut self, job: JobId) {
        self.ends += 1;
        self.looks.remove(&job);
    }

    /// Number of waiting jobs if all of them wait in vain.
    pub(crate) fn in_vain(&self) -> Option<u64> {
        let ends = self.ends();
        let vain = |(at, looks): &(u64, u32)| *at == ends && *looks >= LOOKS;
        let all = !self.looks.is_empty() && self.looks.values().all(vain);
        all.then_some(self.looks.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_waits_in_vain_if_nothing_ends_between_its_looks() {
        let job = |i| JobId::from_bytes([i; 16]);
        let mut sleepers = Sleepers::default();
        assert_eq!(sleepers.in_vain(), None);
        sleepers.waits(job(0));
        sleepers.ended(job(7));
        sleepers.waits(job(0));
        assert_eq!(sleepers.in_vain(), None);
        sleepers.waits(job(0));
        assert_eq!(sleepers.in_vain(), Some(1));
        sleepers.waits(job(1));
        assert_eq!(sleepers.in_vain(), None);
        sleepers.waits(job(1));
        assert_eq!(sleepers.in_vain(), Some(2));
        sleepers.ended(job(0));
        sleepers.waits(job(1));
        sleepers.waits(job(1));
        assert_eq!(sleepers.in_vain(), Some(1));
        // The jobs that it waits for may have been in that batch.
        sleepers.batches.closed.fetch_add(1, Ordering::SeqCst);
        assert_eq!(sleepers.in_vain(), None);
        sleepers.waits(job(1));
        sleepers.waits(job(1));
        assert_eq!(sleepers.in_vain(), Some(1));
    }
}
