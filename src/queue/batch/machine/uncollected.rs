//! Results that a batch which has ended does not give out: they were paid for, so they are asked for
//! again, ever more rarely, for as long as it takes, and given up only when somebody says so.

use std::time::Duration;

use crate::queue::store::BatchNo;

use super::super::poller::{Open, Poller};
use super::record::{Ended, Phase, Uncollected};

impl Open {
    /// Whether whoever ends when all is done does without the results of this batch: they were asked for
    /// in vain, and will not be again before `patience` is over.
    pub(in crate::queue::batch) fn is_put_off(&self, patience: Duration) -> bool {
        let late = |what: &Uncollected| self.record.due > what.since.after(patience);
        self.asked && !self.busy && self.record.uncollected.as_ref().is_some_and(late)
    }
}

impl Poller<'_> {
    /// Its results, or some of them, were asked for in vain.
    pub(in crate::queue::batch) fn not_given_out(
        &mut self,
        no: BatchNo,
        why: String,
        asked: Option<Duration>,
    ) {
        let Some(open) = self.open.get(&no) else {
            return;
        };
        let known = open.record.uncollected.as_ref();
        // Whoever cancels what is known to be withheld does without it; who did before may not.
        let stopped_at = open.batch.stopped_at;
        if known.is_some_and(|known| stopped_at > Some(known.since)) {
            return self.give_results_up(no, &why);
        }
        self.put_off(no, why, asked);
    }

    /// Asks again later, and later each time.
    pub(in crate::queue::batch) fn put_off(
        &mut self,
        no: BatchNo,
        why: String,
        asked: Option<Duration>,
    ) {
        let (wall, jitter) = (self.clock.wall(), self.jitter.next());
        let settings = *self.post.settings.read();
        let Some(open) = self.open.get_mut(&no) else {
            return;
        };
        let record = &mut open.record;
        // Its files may have been named too early: where it stands is asked anew.
        if let Phase::Ended(Ended { id, file, .. }) = &record.phase {
            record.phase = Phase::Running {
                id: id.clone(),
                file: file.clone(),
            };
        }
        let known = record.uncollected.take();
        if known.as_ref().is_none_or(|known| known.why != why) {
            log::warn!(
                "batch {}: {why}; what was paid for stays there and is asked for again",
                record.id().unwrap_or(&record.intent.label)
            );
        }
        let since = known.map_or(wall, |known| known.since.min(wall));
        let uncollected = Uncollected { since, why };
        let kept_until = record.kept_until(&uncollected);
        record.fetches = record.fetches.saturating_add(1);
        let kept = kept_until.is_none_or(|until| wall < until);
        let wait = settings.fetch_again(record.fetches, kept, asked, jitter);
        (record.uncollected, record.problem) = (Some(uncollected), None);
        open.asked = true;
        self.wait(no, wait);
        self.save(no);
        (self.wake)();
    }

    fn give_results_up(&mut self, no: BatchNo, why: &str) {
        let Some(open) = self.open.get(&no) else {
            return;
        };
        let id = open.record.id().unwrap_or_default().to_owned();
        let file = self.file_of(no);
        if self.close(no) {
            log::warn!("the results of batch {id} are given up, though they were paid for: {why}");
            self.drop_file(file);
        }
    }
}
