//! Finding the line that fails a whole batch, when the provider does not name it.
//!
//! The batch is not sent again whole. Half of it is: when that half is accepted the line is in the
//! other one, which is halved in turn without being sent; when it is refused the line is there, and
//! what is left over goes back to the queue, to be sent in one batch when the line is found. So each
//! line that is found costs about as many submissions as the batch's size has binary digits.

use crate::base::error::Error;
use crate::queue::store::BatchNo;

use super::machine::record::{Phase, Record, Why, new_label};
use super::poller::{Open, Poller};

/// So many bad lines in a row, without a batch that was accepted, are no bad lines.
const MOST_CULPRITS: u32 = 3;

impl Poller<'_> {
    /// A batch was refused for a line of it that nobody names.
    pub(super) fn bisect(&mut self, no: BatchNo, error: &Error) {
        // What the other half held may be sound.
        self.half_refused(no);
        let Some(open) = self.open.get(&no) else {
            return;
        };
        let place = (open.batch.process_id, open.batch.lane.clone());
        let culprits = self.culprits.get(&place).copied().unwrap_or(0);
        if open.record.intent.items <= 1 {
            self.culprits.insert(place, culprits + 1);
            return self.end_all(no, error.clone());
        }
        if culprits >= MOST_CULPRITS {
            // It is not for a line.
            return self.end_all(no, error.clone());
        }
        log::warn!(
            "batch {} was refused for one of its {} requests, which is not named ({error}); \
             looking for it",
            open.record.id().unwrap_or("?"),
            open.record.intent.items
        );
        self.split(no, &Why::from(error));
    }

    /// Sends the first half of a batch; the second one waits for what is said of it.
    fn split(&mut self, no: BatchNo, why: &Why) {
        let Some((half, at)) = self.divide(no) else {
            return;
        };
        let Some(open) = self.open.get(&no) else {
            return;
        };
        let mut rest = open.record.clone();
        rest.phase = Phase::Suspect {
            half: half.intent.label.clone(),
            why: why.clone(),
        };
        (rest.state, rest.counts, rest.created) = (None, None, None);
        rest.intent.items -= half.intent.items;
        self.part(no, at, half, rest);
    }

    /// A batch that is too large as a whole becomes two.
    pub(super) fn halve(&mut self, no: BatchNo, error: &Error) {
        let Some(open) = self.open.get(&no) else {
            return;
        };
        if open.record.intent.items <= 1 {
            return self.end_all(no, error.clone());
        }
        let file = self.file_of(no);
        let Some((half, at)) = self.divide(no) else {
            return;
        };
        let Some(open) = self.open.get(&no) else {
            return;
        };
        let mut rest = open.record.clone();
        rest.phase = Phase::Packed;
        (rest.tried, rest.failures) = (false, 0);
        rest.intent.items -= half.intent.items;
        self.part(no, at, half, rest);
        // As long as it is not written down that there are two, the whole is sent again.
        if self.file_of(no).is_none() {
            self.drop_file(file);
        }
    }

    /// The record of a first half, and the key of the first job of the second one.
    fn divide(&mut self, no: BatchNo) -> Option<(Record, i64)> {
        let wall = self.clock.wall();
        let open = self.open.get(&no)?;
        let record = &open.record;
        let items = record.intent.items / 2;
        let label = new_label();
        let mut half = Record::new(
            record.account.clone(),
            label,
            record.intent.model.clone(),
            wall,
        );
        half.phase = Phase::Packed;
        half.intent.items = items;
        match self.nth(no, items) {
            Ok(Some(at)) => Some((half, at)),
            Ok(None) => {
                // Somebody has taken jobs out of it: what is left is sent as any other.
                self.close(no);
                None
            }
            Err(error) => {
                self.again(no, &error);
                None
            }
        }
    }

    /// The key of the job behind so many others of a batch.
    fn nth(&self, no: BatchNo, mut n: u64) -> Result<Option<i64>, Error> {
        let mut after = None;
        loop {
            let jobs = self.store().batch_jobs(no, after, 1000, 8 << 20)?;
            let Some(last) = jobs.last() else {
                return Ok(None);
            };
            if let Some(job) = usize::try_from(n).ok().and_then(|n| jobs.get(n)) {
                return Ok(Some(job.receipt.job));
            }
            n -= jobs.len() as u64;
            after = Some(last.receipt.job);
        }
    }

    fn part(&mut self, no: BatchNo, at: i64, half: Record, rest: Record) {
        let wall = self.clock.wall();
        let (worker, texts) = (self.context.worker, (half.text(), rest.text()));
        let split = self
            .store()
            .split_batch(worker, no, at, &texts.0, &texts.1, wall);
        match split {
            Ok(new) => {
                let Some(open) = self.open.get_mut(&no) else {
                    return;
                };
                open.record = rest;
                open.due = self.clock.now();
                let (process, lane) = (open.batch.process_id, open.batch.lane.clone());
                let half = self.opened(new, half, process, lane, worker);
                self.open.insert(new, half);
            }
            Err(error) => self.again(no, &error),
        }
    }

    /// The batch whose first half this one is.
    fn whole_of(&self, no: BatchNo) -> Option<BatchNo> {
        let label = &self.open.get(&no)?.record.intent.label;
        let is_whole = |open: &&Open| matches!(&open.record.phase, Phase::Suspect { half, .. } if half == label);
        self.open.values().find(is_whole).map(|open| open.batch.no)
    }

    /// This batch was accepted: if it is the first half of another one, the bad line is in the second.
    pub(super) fn half_accepted(&mut self, no: BatchNo) {
        if let Some(open) = self.open.get(&no) {
            let place = (open.batch.process_id, open.batch.lane.clone());
            self.culprits.remove(&place);
        }
        if let Some(model) = self.open.get(&no).map(|open| {
            (
                open.record.account.clone(),
                open.record.intent.model.clone(),
            )
        }) {
            self.room_again(&model);
        }
        let Some(whole) = self.whole_of(no) else {
            return;
        };
        let Some(open) = self.open.get(&whole) else {
            return;
        };
        let Phase::Suspect { why, .. } = open.record.phase.clone() else {
            return;
        };
        match open.record.intent.items <= 1 {
            true => self.end_all(whole, why.error()),
            false => self.split(whole, &why),
        }
    }

    /// This batch was refused, or never came about: of the other half nothing is known.
    pub(super) fn half_refused(&mut self, no: BatchNo) {
        if let Some(whole) = self.whole_of(no) {
            self.close(whole);
        }
    }

    /// Halves whose other half is gone, as after a crash: nothing is known of them.
    pub(super) fn orphaned_halves(&mut self) {
        let labels: Vec<String> = self.open.values().map(label_of).collect();
        let orphaned = self.open.values().filter(|open| {
            matches!(&open.record.phase, Phase::Suspect { half, .. } if !labels.contains(half))
        });
        let orphaned: Vec<BatchNo> = orphaned
            .filter(|open| !open.busy)
            .map(|open| open.batch.no)
            .collect();
        for no in orphaned {
            self.close(no);
        }
    }
}

fn label_of(open: &Open) -> String {
    open.record.intent.label.clone()
}
