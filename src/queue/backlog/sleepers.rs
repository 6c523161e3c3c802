//! Jobs that wait for other jobs. They keep no worker that ends with an empty queue, because nobody may run the others.

use std::collections::HashMap;

use crate::base::JobId;

/// Looks of a waiting job after which it waits in vain, unless something else ends here meanwhile.
const LOOKS: u32 = 2;

/// The jobs of this worker that wait for others.
#[derive(Default)]
pub(crate) struct Sleepers {
    /// Number of other ends.
    ends: u64,
    /// The number of ends at the last look of each job, and the looks since then.
    looks: HashMap<JobId, (u64, u32)>,
}

impl Sleepers {
    /// A job has looked, and waits again.
    pub(crate) fn waits(&mut self, job: JobId) {
        let (at, looks) = self.looks.entry(job).or_insert((self.ends, 0));
        if *at != self.ends {
            (*at, *looks) = (self.ends, 0);
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
        let vain = |(at, looks): &(u64, u32)| *at == self.ends && *looks >= LOOKS;
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
    }
}
