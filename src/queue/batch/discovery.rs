//! Finding work: batches without an active worker, cancelled batches, and waiting jobs, of which batches are formed.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::base::{Error, ProcessId, Time};
use crate::llm::batch::{BatchAccount, BatchClient};
use crate::llm::params::RequestTask;
use crate::queue::host::JobQueue;
use crate::queue::job::COMPLETION_KIND;
use crate::queue::prompt_job::naming;
use crate::queue::store::{StoredBatch, WaitingJobs};
use crate::queue::worker_run::Registration;

use super::machine::{Event, Record, State, new_label};
use super::poller::{BETWEEN_SCANS, OwnedBatch, Poller, RETRY_AFTER};

impl Poller<'_> {
    /// Reads the store if there may be something new.
    pub(super) fn scan_store(&mut self) {
        let now = self.clock.now();
        let scanned = self.scanned_at;
        let is_recent = scanned.is_some_and(|at| now.since(at) < BETWEEN_SCANS);
        let due = self.scan_at.is_some_and(|at| at <= now);
        let store_changed = &self.options.control.store_changed;
        if is_recent || !due && !store_changed.load(Ordering::SeqCst) {
            return;
        }
        store_changed.store(false, Ordering::SeqCst);
        self.scanned_at = Some(now);
        self.scan_at = None;
        let adopted = self.adopt();
        if adopted.is_ok() {
            self.report();
        }
        // A failed scan misses everything that is new.
        let not_scanned = &self.options.context.overview.not_scanned;
        not_scanned.store(adopted.is_err(), Ordering::SeqCst);
        let formed = adopted.and_then(|()| self.form_batches(now));
        if let Err(error) = formed {
            log::warn!("cannot look for batches: {error}");
            self.scan_at = Some(now.after(RETRY_AFTER));
        }
        // Reported before jobs are moved into a new batch: a thread that finds no waiting jobs any more must know of
        // the batch.
        self.report();
    }

    /// Takes over batches without an active worker, and notices cancellations.
    fn adopt(&mut self) -> Result<(), Error> {
        let store = self.options.context.store.clone();
        let all = store.batches(None)?;
        let mut missing = None;
        let mut any_unowned = false;
        for batch in &all {
            if let Some(open) = self.batches.get_mut(&batch.no) {
                let is_newly_stopped = batch.stopped_at > open.batch.stopped_at;
                open.batch = batch.clone();
                if is_newly_stopped {
                    self.feed(batch.no, Event::Recheck);
                }
            }
            let own = batch.worker == Some(self.options.context.worker);
            // A change that was reported as failed may have taken effect.
            if own && !self.batches.contains_key(&batch.no) {
                self.take_over(batch.clone());
            }
            any_unowned |= batch.worker.is_none();
        }
        if any_unowned {
            let (accounts, setup) = (&mut self.accounts, self.options.context.setup());
            let hidden = &self.hidden;
            let mut mine = |batch: &StoredBatch| {
                let Some(record) = Record::read(batch) else {
                    return false;
                };
                let unsent = record.is_unsent() && setup.batches.is_some();
                // Another key than the one that created it only asks for a batch by its id.
                let is_shown = record.id().is_some() && !hidden.contains(&batch.no);
                let client = accounts.client(&setup, &record.account);
                let have = unsent
                    || client.is_some_and(|client| is_shown || client.account() == record.account);
                if !have {
                    missing = Some(record.account);
                }
                have
            };
            let worker = self.options.context.worker;
            let taken = store.adopt_batches(worker, &mut mine, self.options.processes)?;
            for batch in taken {
                self.take_over(batch);
            }
        }
        self.missing_credentials = missing.map(|account| {
            format!(
                "batches at {} wait for the API key that created them ({})",
                account.provider, account.base_url
            )
        });
        Ok(())
    }

    fn take_over(&mut self, batch: StoredBatch) {
        let Some(record) = Record::read(&batch) else {
            return;
        };
        let no = batch.no;
        let open = OwnedBatch::new(batch, record, self.clock.now());
        self.batches.insert(no, open);
        self.feed(no, Event::TakenOver);
    }

    /// Deletes files of batches that no longer exist.
    pub(super) fn sweep(&self) {
        // In this order, because a batch is recorded before its first file is created.
        let files = self.options.context.spool.files();
        if let Ok(all) = self.options.context.store.batches(None) {
            let labels = all.iter().filter_map(Record::read);
            let labels: HashSet<String> = labels.map(|record| record.intent.label).collect();
            self.options.context.spool.sweep(files, &labels);
        }
    }
}

// Batches that were not sent, when nobody continues them.

impl JobQueue {
    /// Closes the batches of a process that were not sent and have no active worker: their jobs wait again, and can
    /// be cancelled.
    ///
    /// # Errors
    /// If the queue cannot be read or written.
    pub(crate) fn dissolve_unsent(&self, process: ProcessId) -> Result<(), Error> {
        let (store, clock) = (&self.store, &self.clock);
        let registration = Registration::new(store.clone(), clock.clone())?;
        let mut unsent = |batch: &StoredBatch| {
            let own = batch.process_id == Some(process);
            own && Record::read(batch).is_some_and(|record| record.is_unsent())
        };
        let worker = registration.worker;
        let batches = store.adopt_batches(worker, &mut unsent, &[process])?;
        for batch in batches {
            store.give_back(worker, batch.no, None, clock.wall())?;
            store.close_batch(worker, batch.no, clock.wall())?;
        }
        Ok(())
    }
}

// Which jobs form a batch together, and its size.

/// Jobs that arrive one by one have this long to become a batch.
const LINGER: Duration = Duration::from_millis(500);
/// Batches of one worker that are formed or submitted at once; other jobs wait in the queue.
const MOST_SUBMITTED: usize = 4;

impl Poller<'_> {
    /// Starts batches for waiting jobs.
    pub(super) fn form_batches(&mut self, now: Time) -> Result<(), Error> {
        let overview = self.options.context.overview.clone();
        overview.none_waiting.store(false, Ordering::SeqCst);
        let Some(client) = self.options.context.setup().batches.clone() else {
            return Ok(());
        };
        // The route also processes prompts whose batch has failed, so it is required.
        if self.options.context.kinds.prompt_route().is_none() {
            return Ok(());
        }
        let (store, wall) = (&self.options.context.store, self.clock.wall());
        let waiting = store.waiting_jobs(COMPLETION_KIND, self.options.processes, wall)?;
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
            let place = (Some(group.process_id), group.lane.clone());
            let since = seen.remove(&place).unwrap_or(now);
            let model = client.model_for(&naming(RequestTask::Complete, &group.lane.name));
            let halves = self.halves.get(&place);
            let is_divided = halves.is_some_and(|sizes| !sizes.is_empty());
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
            still.insert(place, since);
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
