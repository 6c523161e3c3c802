//! Carrying out what is next for a batch, and what follows from its outcome.

use std::sync::Arc;
use std::time::Duration;

use crate::base::error::{Error, ErrorKind};
use crate::llm::batch::{BatchClient, BatchStage};
use crate::queue::store::BatchNo;

use super::machine::next::Step;
use super::machine::record::{Phase, Record};
use super::poller::Poller;
use super::transfer::{Done, Task};
use super::write_input::Packed;

impl Poller<'_> {
    pub(super) fn carry_out(&mut self, no: BatchNo, step: Step, client: &Arc<dyn BatchClient>) {
        match step {
            Step::Pack => self.pack(no, client),
            Step::Upload => self.send(no, client, false),
            // What travels within the creation is long, too.
            Step::Create if !client.uploads() => self.create_alone(no, client),
            Step::Create => self.create(no, client),
            Step::Look => self.search(no, client),
            Step::Fence => self.fence(no, client),
            Step::GiveUp => self.give_up(no),
            Step::CancelSpare => self.cancel_spare(no, client),
            Step::Cancel => self.cancel(no, client),
            Step::Poll => self.poll(no, client),
            Step::Collect => self.collect(no, client),
            Step::Wait => self.wait(no, Duration::from_secs(3600)),
        }
    }

    pub(super) fn record(&mut self, no: BatchNo) -> Option<&mut Record> {
        self.open.get_mut(&no).map(|open| &mut open.record)
    }

    pub(super) fn hand_out(&mut self, no: BatchNo, client: &Arc<dyn BatchClient>, task: Task) {
        if let Some(open) = self.open.get_mut(&no) {
            open.busy = true;
            open.creating = false;
            self.transfers.order(no, &open.record, client, task);
        }
    }

    fn pack(&mut self, no: BatchNo, client: &Arc<dyn BatchClient>) {
        let Some(record) = self.record(no) else {
            return;
        };
        let lane = (record.account.clone(), record.intent.model.clone());
        let limits = self.limits(&lane, client);
        self.hand_out(no, client, Task::Pack(limits));
    }

    fn packed(&mut self, no: BatchNo, packed: Packed) {
        if packed.items == 0 {
            self.close(no);
            return;
        }
        if let Some(record) = self.record(no) {
            (record.intent.items, record.intent.bytes) = (packed.items, packed.bytes);
            record.phase = Phase::Handing {
                stage: BatchStage::Ready,
            };
            record.went_well();
        }
        self.wait(no, Duration::ZERO);
        self.save(no);
    }

    /// A transfer thread is done.
    pub(super) fn landed(&mut self, no: BatchNo, result: Result<Done, Error>) {
        let Some(open) = self.open.get_mut(&no) else {
            return;
        };
        open.busy = false;
        let creating = std::mem::take(&mut open.creating);
        let looking = open.record.doubt.is_some();
        let sending = matches!(open.record.phase, Phase::Handing { .. });
        if let Some(error) = self.context.ends.refused.lock().take() {
            self.critical(&error);
        }
        let Some(open) = self.open.get_mut(&no) else {
            return;
        };
        match result {
            Ok(Done::Packed(packed)) => self.packed(no, packed),
            Ok(Done::Sent(stage)) => self.sent(no, Ok(stage), creating),
            Ok(Done::Collected(collected)) => self.collected(no, &collected),
            Ok(Done::Looked(found)) => self.looked(no, Ok(found)),
            Err(error) if looking => self.looked(no, Err(error)),
            Ok(Done::NoSuchLine(error)) => self.bisect(no, &error),
            Ok(Done::Failed(jobs)) => {
                log::info!("{jobs} jobs of batch {} ended with it", no.0);
                self.close(no);
            }
            Err(error) if sending => self.sent(no, Err(error), creating),
            Err(error) => {
                open.record.failures += 1;
                self.again(no, &error);
            }
        }
    }

    /// Waits, and tries the same step again.
    pub(super) fn again(&mut self, no: BatchNo, error: &Error) {
        if error.kind() == ErrorKind::Cancelled && self.ctx.is_cancelled() {
            return;
        }
        let jitter = self.jitter.next();
        let Some(record) = self.record(no) else {
            return;
        };
        let failures = record.failures.max(1);
        let account = record.account.clone();
        let settings = *self.post.settings.read();
        let wait = settings.again(failures, error.retry_after(), jitter);
        self.problem(no, error.message().to_owned());
        self.wait(no, wait);
        let shared = matches!(error.kind(), ErrorKind::Auth | ErrorKind::Quota);
        if shared || error.is_unreachable() && error.status().is_none() {
            // Who cannot be reached for one batch cannot be for the others.
            let now = self.clock.now();
            let (until, times) = self.paused.get(&account).copied().unwrap_or_default();
            let times = if until <= now { times + 1 } else { times };
            let wait = settings.again(times, error.retry_after(), jitter);
            self.paused.insert(account, (now.after(wait), times));
        }
        self.save(no);
    }

    /// All jobs of a batch end alike.
    pub(super) fn end_all(&mut self, no: BatchNo, error: Error) {
        let Some(account) = self.record(no).map(|record| record.account.clone()) else {
            return;
        };
        if let Some(client) = self.client(&account) {
            self.hand_out(no, &client, Task::FailAll(error));
        }
    }
}
