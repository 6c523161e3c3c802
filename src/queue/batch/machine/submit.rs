//! Handing a batch over. Before a step that creates something it is written down that it is tried, and
//! after it what came of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::base::error::{Error, ErrorKind};
use crate::llm::batch::{BatchClient, BatchStage, is_unknown};
use crate::queue::store::BatchNo;

use super::super::poller::Poller;
use super::super::transfer::Task;
use super::record::{Doubt, Phase, Record};

/// An input file that its creation does not find is uploaded again this often.
const MOST_UPLOADS: u32 = 2;
/// Where batches are created one after the other, one is tried again after this long.
const NEXT: Duration = Duration::from_secs(1);

impl Poller<'_> {
    /// Creates a batch that can be told from others by little more than its time: one after the other.
    pub(in crate::queue::batch) fn create_alone(
        &mut self,
        no: BatchNo,
        client: &Arc<dyn BatchClient>,
    ) {
        match self.is_another_unsure(no) {
            Ok(false) => self.send(no, client, true),
            Ok(true) => self.wait(no, NEXT),
            Err(error) => {
                log::warn!("cannot look for batches: {error}");
                self.wait(no, Duration::from_secs(1));
            }
        }
    }

    /// Whether another batch of this account, of any worker, is being created or looked for.
    fn is_another_unsure(&self, no: BatchNo) -> Result<bool, Error> {
        let Some(own) = self.open.get(&no) else {
            return Ok(false);
        };
        let all = self.store().batches(None)?;
        // What a dead worker left undecided waits for somebody who takes it over, and may wait for long.
        let others = all
            .iter()
            .filter(|batch| batch.no != no && batch.worker.is_some());
        let unsure = |record: &Record| {
            record.account == own.record.account
                && record.tried
                && !record.is_held()
                && matches!(record.phase, Phase::Handing { .. })
        };
        Ok(others
            .filter_map(Record::read)
            .any(|record| unsure(&record)))
    }

    /// Takes a step that a transfer thread takes.
    pub(in crate::queue::batch) fn send(
        &mut self,
        no: BatchNo,
        client: &Arc<dyn BatchClient>,
        creating: bool,
    ) {
        let wall = self.clock.wall();
        if self.input_is_gone(no) {
            return;
        }
        let Some(record) = self.record(no) else {
            return;
        };
        let Phase::Handing { stage } = record.phase.clone() else {
            return;
        };
        record.tried = true;
        if creating {
            record.intent.begun = wall;
        }
        if self.save(no) && !(creating && self.is_beaten(no)) {
            self.hand_out(no, client, Task::Send(stage));
            if let Some(open) = self.open.get_mut(&no) {
                open.creating = creating;
            }
        } else if let Some(record) = self.record(no) {
            record.tried = false;
        }
    }

    /// Whether another one was written down as being created since nobody was: neither of the two goes on.
    fn is_beaten(&mut self, no: BatchNo) -> bool {
        if let Ok(false) = self.is_another_unsure(no) {
            return false;
        }
        if let Some(record) = self.record(no) {
            record.tried = false;
        }
        let jitter = self.jitter.next();
        self.wait(no, NEXT.mul_f64(1.0 + 5.0 * jitter));
        self.save(no);
        true
    }

    /// Writes the input anew when somebody has removed its file.
    fn input_is_gone(&mut self, no: BatchNo) -> bool {
        let Some(open) = self.open.get_mut(&no) else {
            return true;
        };
        if self.context.spool.input(&open.record.intent.label).exists() {
            return false;
        }
        open.record.phase = Phase::Packed;
        self.wait(no, Duration::ZERO);
        true
    }

    pub(in crate::queue::batch) fn create(&mut self, no: BatchNo, client: &Arc<dyn BatchClient>) {
        let wall = self.clock.wall();
        let Some(record) = self.record(no) else {
            return;
        };
        let Phase::Handing { stage } = record.phase.clone() else {
            return;
        };
        record.tried = true;
        // Where nothing but its time tells a batch from others, it is looked for around this one.
        record.intent.begun = wall;
        let intent = record.intent.clone();
        if !self.save(no) {
            if let Some(record) = self.record(no) {
                record.tried = false;
            }
            return;
        }
        let result = self.context.advance(&**client, &intent, &stage, self.ctx);
        self.sent(no, result, true);
    }

    /// What came of an upload or a creation.
    pub(in crate::queue::batch) fn sent(
        &mut self,
        no: BatchNo,
        result: Result<BatchStage, Error>,
        creating: bool,
    ) {
        let wall = self.clock.wall();
        let Some(record) = self.record(no) else {
            return;
        };
        match result {
            Ok(BatchStage::Created { id, file }) => {
                record.created = Some(wall);
                self.adopted(no, id, file);
                self.context.outlook.created.fetch_add(1, Ordering::SeqCst);
            }
            Ok(stage) => {
                record.phase = Phase::Handing { stage };
                record.tried = false;
                record.went_well();
                self.wait(no, Duration::ZERO);
                self.save(no);
            }
            Err(error) if error.kind() == ErrorKind::Cancelled && !is_unknown(&error) => {
                record.tried = false;
                self.save(no);
            }
            Err(error) if creating && is_unknown(&error) => {
                let why = format!("it is not known whether it was created ({error})");
                record.doubt = Some(Doubt::default());
                self.problem(no, why);
                self.wait(no, Duration::ZERO);
                self.save(no);
            }
            Err(error) => {
                record.tried = false;
                self.refused(no, creating, error);
            }
        }
    }

    /// The batch exists, under this id.
    pub(in crate::queue::batch) fn adopted(
        &mut self,
        no: BatchNo,
        id: String,
        file: Option<String>,
    ) {
        let first = self.post.settings.read().poll(Duration::ZERO, None, 0.0);
        let Some(record) = self.record(no) else {
            return;
        };
        log::info!(
            "batch {id} at {} holds {} requests",
            record.account.provider,
            record.intent.items
        );
        let file = file.or_else(|| record.file().map(str::to_owned));
        record.phase = Phase::Running { id, file };
        (record.tried, record.doubt) = (false, None);
        record.went_well();
        let account = record.account.clone();
        let (label, busy) = (record.intent.label.clone(), !record.spare.is_empty());
        self.wait(no, if busy { Duration::ZERO } else { first });
        self.paused.remove(&account);
        self.save(no);
        self.context.spool.drop_input(&label);
        (self.wake)();
    }

    /// The provider has refused an upload or a creation: nothing was created.
    fn refused(&mut self, no: BatchNo, creating: bool, error: Error) {
        let Some(record) = self.record(no) else {
            return;
        };
        record.failures += 1;
        let (failures, uploads) = (record.failures, record.uploads);
        let items = record.intent.items;
        let sent = matches!(&record.phase, Phase::Handing { stage } if *stage == BatchStage::Ready);
        let cut_off = sent && error.status().is_none() && !error.is_unreachable();
        let too_much = creating && self.is_too_much(no, failures);
        match error.kind() {
            // It is too large, or the provider has too much of ours: halves may pass.
            _ if error.is_too_large() => self.halve(no, &error),
            ErrorKind::RateLimited if too_much => {
                self.shrink(no);
                self.halve(no, &error);
            }
            // Who has enough of a body may hang up instead of saying so.
            ErrorKind::Transient if failures.is_multiple_of(6) && cut_off && items > 1 => {
                self.halve(no, &error);
            }
            ErrorKind::RateLimited | ErrorKind::Transient | ErrorKind::Malformed => {
                self.again(no, &error);
            }
            ErrorKind::Auth | ErrorKind::Quota => {
                self.critical(&error);
                self.again(no, &error);
            }
            // The input file is gone, which another upload mends.
            ErrorKind::Invalid if creating && error.is_not_found() && uploads < MOST_UPLOADS => {
                if let Some(record) = self.record(no) {
                    record.phase = Phase::Packed;
                    record.uploads += 1;
                }
                self.again(no, &error);
            }
            // Nothing at this address takes batches: no fault of the jobs.
            ErrorKind::Invalid if error.is_unreachable() => {
                self.critical(&error);
                self.again(no, &error);
            }
            // The provider's word. Anything else, such as a deadline, is no fault of the jobs.
            _ if error.status().is_some() => self.end_all(no, error),
            _ => self.again(no, &error),
        }
    }

    /// Whether a refusal for the pace may be one for the size: it comes again and again, although
    /// nothing of ours is queued there.
    fn is_too_much(&self, no: BatchNo, failures: u32) -> bool {
        let Some(own) = self.open.get(&no) else {
            return false;
        };
        let mut others = self.open.values().filter(|other| {
            other.record.account == own.record.account && other.record.id().is_some()
        });
        own.record.intent.items > 1 && failures.is_multiple_of(4) && others.next().is_none()
    }
}
