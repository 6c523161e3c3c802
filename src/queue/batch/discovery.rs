//! Finding work: batches without an active worker, cancelled batches, and waiting jobs.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use crate::base::{Error, ProcessId};
use crate::queue::host::JobQueue;
use crate::queue::store::StoredBatch;
use crate::queue::worker_run::Registration;

use super::machine::{Event, Record};
use super::poller::{BETWEEN_SCANS, OwnedBatch, Poller, RETRY_AFTER};

impl Poller<'_> {
    /// Reads the store if there may be something new.
    pub(super) fn scan_store(&mut self) {
        let now = self.clock.now();
        let is_recent = self
            .scanned_at
            .is_some_and(|at| now.since(at) < BETWEEN_SCANS);
        let due = self.scan_at.is_some_and(|at| at <= now);
        if is_recent || !due && !self.options.control.store_changed.load(Ordering::SeqCst) {
            return;
        }
        self.options
            .control
            .store_changed
            .store(false, Ordering::SeqCst);
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
                let is_newly_stopped = batch.is_stopped && batch.stopped_at > open.batch.stopped_at;
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
            let (accounts, control) = (&mut self.accounts, self.options.control);
            let hidden = &self.hidden;
            let mut mine = |batch: &StoredBatch| {
                let Some(record) = Record::read(batch) else {
                    return false;
                };
                let unsent = record.is_unsent() && control.client().is_some();
                // Another key than the one that created it only asks for a batch by its id.
                let is_shown = record.id().is_some() && !hidden.contains(&batch.no);
                let client = accounts.client(control, &record.account);
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
