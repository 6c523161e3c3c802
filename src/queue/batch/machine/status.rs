//! Watching a batch at its provider: where it stands, how it ends, and its cancellation.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::base::error::{Error, ErrorKind};
use crate::llm::batch::{
    BatchAccount, BatchClient, BatchRefusal, BatchStage, BatchState, BatchStatus,
};
use crate::queue::store::BatchNo;

use super::super::collect::Collected;
use super::super::poller::Poller;
use super::super::settle_items::missing;
use super::super::transfer::Task;
use super::record::{Doubt, Ended, Phase, Why};

/// What a provider refuses this often is believed.
const MOST_CANCELS: u32 = 3;

impl Poller<'_> {
    /// Cancels one of the batches that were created beside this one.
    pub(in crate::queue::batch) fn cancel_spare(
        &mut self,
        no: BatchNo,
        client: &Arc<dyn BatchClient>,
    ) {
        let Some(record) = self.record(no) else {
            return;
        };
        let Some(spare) = record.spare.first().cloned() else {
            return;
        };
        let cancelled = client.cancel(&spare, self.ctx);
        let Some(record) = self.record(no) else {
            return;
        };
        match cancelled {
            Err(error) if !error.is_not_found() && record.failures < MOST_CANCELS => {
                record.failures += 1;
                self.again(no, &error);
            }
            result => {
                if let Err(error) = result {
                    log::warn!(
                        "batch {spare}, which nobody wants, could not be cancelled: {error}"
                    );
                }
                record.spare.remove(0);
                record.went_well();
                self.wait(no, Duration::ZERO);
                self.save(no);
            }
        }
    }

    pub(in crate::queue::batch) fn cancel(&mut self, no: BatchNo, client: &Arc<dyn BatchClient>) {
        let Some(id) = self.id_of(no) else {
            return;
        };
        match client.cancel(&id, self.ctx) {
            Ok(()) => {
                log::info!("batch {id} is cancelled");
                if let Some(record) = self.record(no) {
                    record.cancelled = true;
                    record.went_well();
                }
                self.wait(no, Duration::ZERO);
                self.save(no);
            }
            Err(error) if error.is_unreachable() && error.status().is_none() => {
                if let Some(record) = self.record(no) {
                    record.failures += 1;
                }
                self.again(no, &error);
            }
            // It may have ended all the same; the next look at it is preceded by another try.
            Err(error) => {
                log::debug!("batch {id} could not be cancelled: {error}");
                self.poll(no, client);
            }
        }
    }

    fn id_of(&self, no: BatchNo) -> Option<String> {
        self.open.get(&no)?.record.id().map(str::to_owned)
    }

    pub(in crate::queue::batch) fn poll(&mut self, no: BatchNo, client: &Arc<dyn BatchClient>) {
        let Some(id) = self.id_of(no) else {
            return;
        };
        let error = match client.status(&id, self.ctx) {
            Ok(status) => return self.stands(no, status),
            Err(error) => error,
        };
        let Some(record) = self.record(no) else {
            return;
        };
        record.failures += 1;
        if error.is_not_found() {
            return self.gone(no, &id);
        }
        if matches!(error.kind(), ErrorKind::Auth | ErrorKind::Quota) {
            self.critical(&error);
        }
        self.again(no, &error);
    }

    /// The provider knows a batch no more, with the account that it was made with: somebody has deleted
    /// it, or the key sees another project now. It is not bought again unasked.
    fn gone(&mut self, no: BatchNo, id: &str) {
        let reconcile_wait = self.post.settings.read().reconcile_wait;
        let wall = self.clock.wall();
        let Some(open) = self.open.get(&no) else {
            return;
        };
        let record = &open.record;
        // What was created a moment ago may not be seen everywhere yet.
        let age = wall.since(record.created());
        if open.batch.is_stopped && age > reconcile_wait && record.failures >= MOST_CANCELS {
            self.close(no);
            return;
        }
        let why = format!(
            "{} does not know batch {id}. Does the key belong to another project now? To give the \
             batch up: batchwright cancel",
            record.account.provider
        );
        self.put_off(no, why, None);
    }

    /// The provider says where a batch stands.
    fn stands(&mut self, no: BatchNo, status: BatchStatus) {
        let (wall, jitter) = (self.clock.wall(), self.jitter.next());
        let settings = *self.post.settings.read();
        let Some(record) = self.record(no) else {
            return;
        };
        let account = record.account.clone();
        let word = status.state.as_str().to_owned();
        let changed = record.state.as_ref() != Some(&word) || record.counts != status.counts;
        record.state = Some(word);
        record.counts = status.counts.or(record.counts);
        record.went_well();
        let age = wall.since(record.created());
        self.paused.remove(&account);
        if !matches!(
            status.state,
            BatchState::Validating | BatchState::Refused(_)
        ) {
            self.half_accepted(no);
        }
        let completed = matches!(status.state, BatchState::Completed);
        let why = match &status.state {
            BatchState::Validating
            | BatchState::Running
            | BatchState::Cancelling
            | BatchState::Unknown(_) => {
                if let BatchState::Unknown(word) = &status.state {
                    self.problem(
                        no,
                        format!("its state is {word:?}, which is not known here"),
                    );
                }
                // Whatever said that it has ended, or is not there, was wrong.
                let known = self.record(no).and_then(|record| record.uncollected.take());
                self.wait(no, settings.poll(age, status.poll_after, jitter));
                if changed || known.is_some() {
                    self.save(no);
                    (self.wake)();
                }
                return;
            }
            BatchState::Refused(refused) => return self.turned_down(no, refused.clone()),
            BatchState::Completed => missing(),
            BatchState::Expired => {
                let (id, counts) = (self.id_of(no).unwrap_or_default(), status.counts);
                let (done, all) = counts.map_or((0, 0), |counts| (counts.completed, counts.total));
                log::warn!(
                    "batch {id} expired with {done} of {all} answered; the rest goes into another one"
                );
                not_reached("the batch expired before this request was worked on")
            }
            BatchState::Cancelled => {
                not_reached("the batch was cancelled before this request was worked on")
            }
            BatchState::Failed(error) => error.clone(),
        };
        let Some(record) = self.record(no) else {
            return;
        };
        if let Phase::Running { id, file } = &record.phase {
            record.phase = Phase::Ended(Ended {
                id: id.clone(),
                file: file.clone(),
                results: status.results,
                expected: status.expected,
                why: Why::from(&why),
                completed,
            });
        }
        self.wait(no, Duration::ZERO);
        self.save(no);
    }

    /// The input file of a batch at its provider.
    pub(in crate::queue::batch) fn file_of(&self, no: BatchNo) -> Option<(BatchAccount, String)> {
        let record = &self.open.get(&no)?.record;
        Some((record.account.clone(), record.file()?.to_owned()))
    }

    /// Deletes the input file of a batch that was refused: its jobs travel in other ones.
    pub(in crate::queue::batch) fn drop_file(&mut self, file: Option<(BatchAccount, String)>) {
        if let Some((account, file)) = file
            && let Some(client) = self.client(&account)
            && let Err(error) = client.discard(&file, self.ctx)
        {
            log::debug!("the input file {file} stays at the provider: {error}");
        }
    }

    /// A batch was refused after its creation.
    fn turned_down(&mut self, no: BatchNo, refused: BatchRefusal) {
        match refused {
            BatchRefusal::Lines(lines) if !lines.is_empty() => {
                self.half_refused(no);
                let account = self.record(no).map(|record| record.account.clone());
                if let Some(client) = account.and_then(|account| self.client(&account)) {
                    self.hand_out(no, &client, Task::FailLines(lines));
                }
            }
            BatchRefusal::Lines(_) => {
                self.drop_file(self.file_of(no));
                let why = "the batch was refused for some of its lines, which are not named";
                self.bisect(no, &Error::new(ErrorKind::Invalid, why));
            }
            BatchRefusal::SomeLine(error) => {
                self.drop_file(self.file_of(no));
                self.bisect(no, &error);
            }
            BatchRefusal::TooMuchQueued(error) => {
                self.drop_file(self.file_of(no));
                self.too_much(no, &error);
            }
            BatchRefusal::Whole(error) => {
                self.half_refused(no);
                self.end_all(no, error);
            }
        }
    }

    pub(in crate::queue::batch) fn collect(&mut self, no: BatchNo, client: &Arc<dyn BatchClient>) {
        let Some(Phase::Ended(ended)) = self.record(no).map(|record| record.phase.clone()) else {
            return;
        };
        let most = self.post.settings.read().max_result_bytes;
        self.hand_out(no, client, Task::Collect(ended, most));
    }

    pub(in crate::queue::batch) fn collected(&mut self, no: BatchNo, collected: &Collected) {
        let stopped = self.open.get(&no).is_some_and(|open| open.batch.is_stopped);
        let Some(record) = self.record(no) else {
            return;
        };
        let id = record.id().unwrap_or_default().to_owned();
        // Of a batch that was cancelled that is no news.
        let missing = if stopped { 0 } else { collected.missing };
        for (n, what) in [
            (collected.duplicates, "repeated lines"),
            (collected.strangers, "lines of unknown requests"),
            (collected.broken, "lines that cannot be read"),
            (missing, "requests without a result"),
        ] {
            if n > 0 {
                log::warn!("batch {id}: {n} {what}");
            }
        }
        if collected.foreign {
            log::warn!("batch {id} is not ours: it holds none of our requests");
            record.not_ours.push(id);
            record.phase = Phase::Handing {
                stage: BatchStage::Ready,
            };
            (record.tried, record.doubt) = (true, Some(Doubt::default()));
            (record.state, record.counts, record.created) = (None, None, None);
            (record.fetches, record.failures, record.provisional) = (0, 0, false);
            record.uncollected = None;
            self.wait(no, Duration::ZERO);
            self.save(no);
            return;
        }
        if let Some(why) = &collected.withheld {
            return self.not_given_out(no, why.clone(), collected.asked);
        }
        if std::mem::take(&mut record.provisional) && collected.requests > 0 {
            self.context.outlook.created.fetch_add(1, Ordering::SeqCst);
        }
        log::info!("batch {id} is stored: {} results", collected.requests);
        self.close(no);
    }
}

fn not_reached(why: &str) -> Error {
    Error::new(ErrorKind::Transient, why)
}
