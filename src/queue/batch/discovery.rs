//! Finding work: batches without an active worker, cancelled batches, and waiting jobs, of which batches are formed.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::base::{Error, ProcessId, Time};
use crate::llm::batch::BatchClient;
use crate::llm::params::RequestTask;
use crate::queue::host::JobQueue;
use crate::queue::job::COMPLETION_KIND;
use crate::queue::prompt_job::naming;
use crate::queue::store::{StoredBatch, WaitingJobs};
use crate::queue::worker_run::Registration;

use super::context::Group;
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
            self.report(self.clock.wall());
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
        self.report(self.clock.wall());
    }

    /// Takes over batches without an active worker, and notices cancellations.
    fn adopt(&mut self) -> Result<(), Error> {
        let context = self.options.context.clone();
        let (mut missing, mut any_unowned) = (None, false);
        for batch in context.store.batches(None)? {
            any_unowned |= batch.worker.is_none();
            if let Some(open) = self.batches.get_mut(&batch.no) {
                let (no, is_newly_stopped) = (batch.no, batch.stopped_at > open.batch.stopped_at);
                open.batch = batch;
                if is_newly_stopped {
                    self.tell(no, Event::Recheck);
                }
            } else if batch.worker == Some(context.worker) {
                // A change that was reported as failed may have taken effect.
                self.take_over(batch);
            }
        }
        if any_unowned {
            let (accounts, setup) = (&mut self.accounts, self.options.context.setup());
            let hidden = &self.hidden;
            let mut mine = |batch: &StoredBatch| {
                let Some(record) = Record::read(batch) else {
                    return false;
                };
                // Another key than the one that created it only asks for a batch by its id.
                let is_shown = record.id().is_some() && !hidden.contains(&batch.no);
                let client = accounts.client(&setup, &record.account);
                let have = record.is_unsent() && setup.batches.is_some()
                    || client.is_some_and(|client| is_shown || client.account() == record.account);
                if !have {
                    missing = Some(record.account);
                }
                have
            };
            let (store, processes) = (&context.store, &self.options.scope.processes);
            for batch in store.adopt_batches(context.worker, &mut mine, processes)? {
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
        let open = OwnedBatch::new(batch, record, &*self.clock);
        let known = self.refusals.entry(open.group()).or_default();
        if known.count < open.record.refusals.count {
            known.clone_from(&open.record.refusals);
        }
        self.batches.insert(no, open);
        self.tell(no, Event::TakenOver);
    }

    /// Deletes files of batches that no longer exist.
    pub(super) fn sweep(&self) {
        let context = &self.options.context;
        context.spool.sweep(|| {
            let all = context.store.batches(None)?;
            let records = all.iter().filter_map(Record::read);
            Ok(records.map(|record| record.intent.label).collect())
        });
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

impl WaitingJobs {
    pub(crate) fn group(&self) -> Group {
        (Some(self.process_id), self.lane.clone())
    }
}

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
        let waiting = store.waiting_jobs(COMPLETION_KIND, &self.options.scope.processes, wall)?;
        self.scan_at = None;
        let account = client.account();
        self.accounts.of(&account).client = Some(client.clone());
        let groups = waiting.iter().map(WaitingJobs::group);
        let halted = groups.filter(|group| self.halted_until(group, &account).is_some());
        let halted: HashSet<Group> = halted.collect();
        let none_waiting = halted.len() == waiting.len();
        overview.none_waiting.store(none_waiting, Ordering::SeqCst);
        overview.halted_groups.lock().clone_from(&halted);
        let mut seen = std::mem::take(&mut self.seen);
        // Counted once, because each of many processes may have a group.
        let is_submitting =
            |open: &&OwnedBatch| open.record.account == account && open.record.is_being_sent();
        let mut submitting = self.batches.values().filter(is_submitting).count();
        for group in waiting {
            if let Some(next) = group.next {
                self.scan_by(now.after(next.since(wall)));
            }
            if group.due == 0 {
                continue;
            }
            let place = group.group();
            if halted.contains(&place) {
                continue;
            }
            let since = seen.remove(&place).unwrap_or(now);
            let most = self.most_of(&place);
            let full = group.due >= most.unwrap_or(client.limits().requests as u64);
            let from = if full { since } else { since.after(LINGER) };
            if from <= now && submitting < MOST_SUBMITTED && !self.is_taken_care_of(&group) {
                self.start(&group, &*client)?;
                submitting += 1;
                // Jobs that do not fit go into the next batch.
                self.scan_by(if full { now } else { now.after(LINGER) });
                continue;
            }
            // Otherwise, the end of one of those batches wakes this thread.
            if from > now {
                self.scan_by(from);
            }
            self.seen.insert(place, since);
        }
        Ok(())
    }

    /// Scans the store then, if not earlier.
    fn scan_by(&mut self, at: Time) {
        self.scan_at = Some(self.scan_at.map_or(at, |known| known.min(at)));
    }

    /// Whether jobs of this group are being moved into a batch.
    fn is_taken_care_of(&self, group: &WaitingJobs) -> bool {
        self.batches.values().any(|open| {
            open.record.state == State::Forming
                && open.batch.process_id == Some(group.process_id)
                && open.batch.lane == group.lane
        })
    }

    fn start(&mut self, group: &WaitingJobs, client: &dyn BatchClient) -> Result<(), Error> {
        let (context, wall) = (&self.options.context, self.clock.wall());
        let model = client.model_for(&naming(RequestTask::Complete, &group.lane.name));
        let mut record = Record::new(client.account(), new_label(), model, wall);
        let place = group.group();
        record.most = self.most_of(&place);
        record.refusals = self.refusals.get(&place).cloned().unwrap_or_default();
        let (worker, text) = (context.worker, record.text());
        let no = context
            .store
            .open_batch(worker, group.process_id, &group.lane, &text, wall)?;
        let batch = StoredBatch {
            no,
            stopped_at: None,
            process_id: Some(group.process_id),
            lane: group.lane.clone(),
            worker: Some(worker),
            jobs: 0,
            record: String::new(),
            created_at: wall,
        };
        let open = OwnedBatch::new(batch, record, &*self.clock);
        self.batches.insert(no, open);
        Ok(())
    }

    /// The size of the next batch of a group, if a larger one was refused and its parts are not accepted yet.
    fn most_of(&self, group: &Group) -> Option<u64> {
        let own = self.batches.values().filter(|open| open.group() == *group);
        own.filter_map(|open| open.record.most).min()
    }
}
