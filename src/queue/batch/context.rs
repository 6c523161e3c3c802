//! State that the threads of the batch strategy share, and the accounts of its batches.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use crate::base::random::Random;
use crate::base::{Clock, Context, Error, ErrorKind, Time};
use crate::llm::batch::{BatchAccount, BatchClient};
use crate::observe::jobs::{EndedJob, JobObserver};
use crate::queue::job::COMPLETION_KIND;
use crate::queue::kinds::{Kinds, WorkerSetup};
use crate::queue::store::{Settlement, Store, WorkerId};

use super::machine::{Facts, Record, is_cut_off};
use super::spool::Spool;

/// State that the threads of the batch strategy share.
pub(crate) struct BatchContext {
    pub store: Arc<Store>,
    pub worker: WorkerId,
    pub spool: Spool,
    pub kinds: Arc<Kinds>,
    pub clock: Arc<dyn Clock>,
    pub jitter: Mutex<Random>,
    /// A rejection that is not the job's fault and affects all others.
    pub refused: Mutex<Option<Error>>,
    pub overview: Arc<BatchOverview>,
    pub observer: Option<Arc<dyn JobObserver>>,
}

impl BatchContext {
    /// The setup of the worker, with the client for new batches; it has none under the `sync` strategy.
    pub(super) fn setup(&self) -> Arc<WorkerSetup> {
        self.kinds.setup.now()
    }

    /// Records ends of jobs of this batch.
    pub(crate) fn settle(&self, ends: &[Settlement], record: &Record) -> Result<(), Error> {
        if ends.is_empty() {
            return Ok(());
        }
        let wall = self.clock.wall();
        self.store.settle(ends, wall)?;
        let overview = &self.overview;
        for error in ends.iter().filter_map(|end| end.outcome.error_of_end()) {
            let count = error.map_or(&overview.completed, |_| &overview.failed);
            count.fetch_add(1, Ordering::SeqCst);
            if let Some(observer) = &self.observer {
                observer.on_job_end(&EndedJob {
                    ids: None,
                    kind: COMPLETION_KIND,
                    provider: Some(&record.account.provider),
                    error,
                    took: wall.since(record.created()),
                });
            }
        }
        Ok(())
    }
}

/// Fails once the worker ends; a deadline of single calls does not count.
pub(super) fn check(ctx: &Context) -> Result<(), Error> {
    if ctx.is_cancelled() {
        Err(Error::cancelled())
    } else {
        Ok(())
    }
}

// How other threads reach the poller: new clients and settings, and changes of the store.

/// Control channel of the poller.
pub(crate) struct BatchControl {
    pub(super) store_changed: AtomicBool,
    /// The new settings may decide about batches on hold.
    pub(crate) settings_changed: AtomicBool,
    waker: Sender<()>,
    pub(super) woken: Receiver<()>,
}

impl BatchControl {
    pub(crate) fn new() -> Self {
        let (waker, woken) = bounded(1);
        Self {
            store_changed: AtomicBool::new(true),
            settings_changed: AtomicBool::new(false),
            waker,
            woken,
        }
    }

    /// Wakes the poller while it exists.
    pub(super) fn waker(&self) -> impl Fn() + Send + Sync + use<> {
        let waker = self.waker.clone();
        move || {
            let _ = waker.try_send(());
        }
    }

    /// Makes the poller read the store.
    pub(crate) fn wake(&self) {
        self.store_changed.store(true, Ordering::SeqCst);
        let _ = self.waker.try_send(());
    }
}

// The state of a worker's batches, for its other threads.

/// Written by the poller, read by the worker.
#[derive(Debug, Default)]
pub(crate) struct BatchOverview {
    pub counts: Mutex<Counts>,
    /// The store was not scanned yet.
    pub not_scanned: AtomicBool,
    /// The last scan of the store found no job that waits for a batch, and no batch was closed since. Jobs of paused
    /// processes do not count.
    pub none_waiting: AtomicBool,
    /// Batches that were created.
    pub created: AtomicU64,
    /// Batches that were closed, after all their results were stored.
    pub closed: AtomicU64,
    /// Jobs whose results were stored.
    pub completed: AtomicU64,
    /// Jobs that failed permanently.
    pub failed: AtomicU64,
    /// Requests that were sent again although the earlier batch may exist.
    pub possibly_paid_twice: AtomicU64,
    /// Why batches make no progress.
    pub trouble: Mutex<Option<String>>,
    /// A failure that affects all batches.
    pub critical: Mutex<Option<Error>>,
}

/// Number of batches of a worker by state.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    /// Batches that are not at the provider yet.
    pub submitting: u64,
    /// Batches at the provider, or whose results are being stored.
    pub running: u64,
    /// Batches that wait for the user's decision.
    pub held: u64,
    /// Batches whose missing results are not waited for.
    pub put_off: u64,
}

impl BatchOverview {
    /// Whether batches are open: until everything is stored, or until everything is submitted.
    pub(crate) fn open(&self, until_submitted: bool) -> bool {
        let counts = *self.counts.lock();
        let not_scanned = self.not_scanned.load(Ordering::SeqCst);
        not_scanned || counts.submitting > 0 || !until_submitted && counts.running > 0
    }

    /// Whether this worker owns batches.
    pub(crate) fn has_batches(&self) -> bool {
        let counts = *self.counts.lock();
        counts.submitting + counts.running + counts.held + counts.put_off > 0
    }
}

// The accounts of batches: their clients, and their pauses.

/// The accounts of a worker's batches.
#[derive(Default)]
pub(super) struct Accounts {
    clients: HashMap<BatchAccount, Arc<dyn BatchClient>>,
    pauses: HashMap<BatchAccount, Pause>,
    /// Accounts that have no room for a new batch: until when, and why.
    holds: HashMap<BatchAccount, (Time, String)>,
    /// Accounts whose server has replied, with any status.
    reached: HashSet<BatchAccount>,
}

/// A pause of an account whose failure affects all its batches.
struct Pause {
    until: Time,
    /// Consecutive pauses.
    times: u32,
}

impl Accounts {
    /// The client for batches of an account: the one that created them, or one of the same address with another
    /// credential.
    pub(super) fn client(
        &mut self,
        setup: &WorkerSetup,
        account: &BatchAccount,
    ) -> Option<Arc<dyn BatchClient>> {
        if let Some(client) = self.clients.get(account) {
            return Some(client.clone());
        }
        let current = setup.batches.clone();
        let current = current.filter(|client| client.account().is_at_the_same_address(account));
        if let Some(own) = current.clone().filter(|own| own.account() == *account) {
            self.add(account.clone(), own.clone());
            return Some(own);
        }
        let clients = setup.batch_clients.as_ref();
        let client = clients
            .and_then(|clients| clients(account))
            .filter(|client| client.account().is_at_the_same_address(account))
            .or(current)?;
        if client.account() == *account {
            self.add(account.clone(), client.clone());
        }
        Some(client)
    }

    pub(super) fn add(&mut self, account: BatchAccount, client: Arc<dyn BatchClient>) {
        self.clients.insert(account, client);
    }

    /// End of the pause of an account.
    pub(super) fn paused_until(&self, account: &BatchAccount) -> Option<Time> {
        self.pauses.get(account).map(|pause| pause.until)
    }

    /// Pauses an account, longer each time.
    pub(super) fn pause(&mut self, account: BatchAccount, error: &Error, facts: &Facts, now: Time) {
        let pause = self.pauses.entry(account).or_insert(Pause {
            until: Time::ZERO,
            times: 0,
        });
        if pause.until <= now {
            pause.times += 1;
        }
        let wait = facts.after_failures(pause.times, error.retry_after());
        pause.until = now.after(wait);
    }

    /// Forms no batch of an account before this time.
    pub(super) fn hold(&mut self, account: BatchAccount, until: Time, why: String) {
        let known = self.holds.insert(account, (until, why.clone()));
        if known.is_none_or(|(_, known)| known != why) {
            log::warn!("{why}");
        }
    }

    /// Time before which no batch of an account is formed.
    pub(super) fn held_until(&self, account: &BatchAccount) -> Option<Time> {
        self.holds.get(account).map(|(until, _)| *until)
    }

    /// Why an account has no room for a new batch now.
    pub(super) fn held(&self, now: Time) -> Option<&str> {
        let mut held = self.holds.values().filter(|(until, _)| *until > now);
        held.next().map(|(_, why)| &**why)
    }

    /// Records the outcome of a call, for [`is_reached`](Self::is_reached).
    pub(super) fn note_call(&mut self, account: &BatchAccount, error: Option<&Error>) {
        if error.is_none_or(|error| error.kind() != ErrorKind::Cancelled && !is_cut_off(error)) {
            self.reached.insert(account.clone());
        }
    }

    /// Whether the server of an account has ever replied.
    pub(super) fn is_reached(&self, account: &BatchAccount) -> bool {
        self.reached.contains(account)
    }

    /// Ends the pause of an account.
    pub(super) fn resume(&mut self, account: &BatchAccount) {
        self.pauses.remove(account);
    }
}

#[cfg(test)]
mod tests {
    use super::super::machine::tests::examples::{facts, record, states};
    use super::*;

    #[test]
    fn each_further_pause_of_an_account_is_longer_and_failures_within_one_count_once() {
        let facts = Facts {
            jitter: 0.0,
            ..facts(true, None, false)
        };
        let account = record(states().remove(0)).account;
        let (mut accounts, mut now) = (Accounts::default(), Time::ZERO);
        let mut waits = Vec::new();
        for _ in 0..3 {
            for _ in 0..4 {
                let full = Error::new(ErrorKind::Quota, "full");
                accounts.pause(account.clone(), &full, &facts, now);
            }
            let until = accounts.paused_until(&account).unwrap();
            waits.push(until.since(now));
            now = until;
        }
        assert_eq!([waits[1], waits[2]], [2 * waits[0], 4 * waits[0]]);
    }
}
