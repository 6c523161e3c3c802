//! Which jobs form a batch together, and its size.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::base::{Error, Time};
use crate::llm::batch::{BatchAccount, BatchClient};
use crate::llm::request::Request;
use crate::queue::job::COMPLETION_KIND;
use crate::queue::store::{StoredBatch, WaitingJobs};

use super::machine::{Record, State, new_label};
use super::poller::{OwnedBatch, Poller};

/// Jobs that arrive one by one have this long to become a batch.
const LINGER: Duration = Duration::from_millis(500);
/// Batches of one worker that are formed or submitted at once; other jobs wait in the queue.
const MOST_SUBMITTED: usize = 4;

impl Poller<'_> {
    /// Starts batches for waiting jobs.
    pub(super) fn form_batches(&mut self, now: Time) -> Result<(), Error> {
        let overview = self.options.context.overview.clone();
        overview.none_waiting.store(false, Ordering::SeqCst);
        let Some(client) = self.options.control.client() else {
            return Ok(());
        };
        // The route also processes prompts whose batch has failed, so it is required.
        if self.options.kinds.prompt_route().is_none() {
            return Ok(());
        }
        let wall = self.clock.wall();
        let waiting = self.options.context.store.waiting_jobs(
            COMPLETION_KIND,
            self.options.processes,
            wall,
        )?;
        let is_empty = waiting.is_empty();
        self.scan_at = None;
        let has_started = self.start_batches(&client, waiting, now)?;
        let none = !has_started && is_empty;
        overview.none_waiting.store(none, Ordering::SeqCst);
        Ok(())
    }

    /// Starts batches for those of these jobs that need not wait for others. Returns whether it has started one.
    fn start_batches(
        &mut self,
        client: &Arc<dyn BatchClient>,
        waiting: Vec<WaitingJobs>,
        now: Time,
    ) -> Result<bool, Error> {
        let (wall, mut scan_at, mut has_started) = (self.clock.wall(), self.scan_at, false);
        let account = client.account();
        self.accounts.add(account.clone(), client.clone());
        let held = self.accounts.held_until(&account);
        let mut later = |at: Time| scan_at = Some(scan_at.map_or(at, |known| known.min(at)));
        let mut seen = std::mem::take(&mut self.seen);
        let mut still = std::collections::HashMap::new();
        // Counted once, because each of many processes may have a group.
        let is_submitting =
            |open: &&OwnedBatch| open.record.account == account && !open.record.is_submitted();
        let mut submitting = self.batches.values().filter(is_submitting).count();
        for group in waiting {
            if let Some(next) = group.next {
                later(now.after(next.since(wall)));
            }
            if group.due == 0 {
                continue;
            }
            let key = (group.process_id, group.lane.clone());
            let since = seen.remove(&key).unwrap_or(now);
            let named = Request {
                model: group.lane.name.clone(),
                ..Request::default()
            };
            let model = client.model_for(&named);
            let place = (Some(group.process_id), group.lane.clone());
            let is_divided = self
                .halves
                .get(&place)
                .is_some_and(|sizes| !sizes.is_empty());
            let full = is_divided || group.due >= client.limits().requests as u64;
            let linger = if full { since } else { since.after(LINGER) };
            let from = linger.max(held.unwrap_or(linger));
            if from > now {
                later(from);
            } else if submitting >= MOST_SUBMITTED || self.is_taken_care_of(&group) {
                // The end of one of those batches wakes this thread.
            } else {
                let batch = self.start(&group, account.clone(), model)?;
                // Jobs that do not fit go into the next batch.
                if !full {
                    later(now.after(LINGER));
                } else {
                    later(now);
                }
                self.batches.insert(batch.batch.no, batch);
                submitting += 1;
                has_started = true;
                continue;
            }
            still.insert(key, since);
        }
        self.seen = still;
        self.scan_at = scan_at;
        Ok(has_started)
    }

    /// Whether jobs of this group are being moved into a batch.
    fn is_taken_care_of(&self, group: &WaitingJobs) -> bool {
        self.batches.values().any(|open| {
            matches!(&open.record.state, State::Forming(forming) if !forming.is_filled)
                && open.batch.process_id == Some(group.process_id)
                && open.batch.lane == group.lane
        })
    }

    fn start(
        &mut self,
        group: &WaitingJobs,
        account: BatchAccount,
        model: Option<String>,
    ) -> Result<OwnedBatch, Error> {
        let wall = self.clock.wall();
        let record = Record::new(account, new_label(), model, wall);
        let store = &self.options.context.store;
        let text = record.text();
        let worker = self.options.context.worker;
        let no = store.open_batch(worker, group.process_id, &group.lane, &text, wall)?;
        let place = (Some(group.process_id), group.lane.clone());
        let most = self.halves.get_mut(&place).and_then(Vec::pop);
        let (process_id, lane) = place;
        let batch = StoredBatch {
            no,
            is_stopped: false,
            stopped_at: None,
            process_id,
            lane,
            worker: Some(worker),
            jobs: 0,
            record: String::new(),
            created_at: wall,
        };
        Ok(OwnedBatch {
            most,
            ..OwnedBatch::new(batch, record, self.clock.now())
        })
    }
}
