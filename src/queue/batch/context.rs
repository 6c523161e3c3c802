//! State that the threads of the batch strategy share, and the accounts of its batches.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use crate::base::random::Random;
use crate::base::{Clock, Context, Error, ProcessId, Time};
use crate::llm::batch::{BatchAccount, BatchClient};
use crate::observe::jobs::{EndedJob, JobObserver};
use crate::queue::job::COMPLETION_KIND;
use crate::queue::kinds::{Kinds, WorkerSetup};
use crate::queue::store::{JobLane, Settlement, Store, WorkerId};

use super::machine::{Facts, Record};
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
            match error {
                None => overview.tally.lock().completed += 1,
                Some(_) => overview.tally.lock().failed += 1,
            }
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

/// Where the jobs of a batch wait if they are in no batch.
pub(crate) type Group = (Option<ProcessId>, Arc<JobLane>);

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
    pub tally: Mutex<Tally>,
    /// Why batches make no progress.
    pub trouble: Mutex<Option<String>>,
    /// A failure that affects all batches.
    pub critical: Mutex<Option<Error>>,
    /// Why batches are not sent for now.
    pub halted: Mutex<Option<Error>>,
    /// Whose jobs wait for that.
    pub halted_groups: Mutex<HashSet<Group>>,
}

/// What the batches of a worker have done.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    /// Batches that were created.
    pub created: u64,
    /// Batches that were closed, after all their results were stored.
    pub closed: u64,
    /// Jobs whose results were stored.
    pub completed: u64,
    /// Jobs that failed permanently.
    pub failed: u64,
    /// Requests that were sent again although the earlier batch may exist.
    pub possibly_paid_twice: u64,
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
pub(super) struct Accounts(HashMap<BatchAccount, Account>);

/// An account with batches.
#[derive(Default)]
pub(super) struct Account {
    pub client: Option<Arc<dyn BatchClient>>,
    /// End of its pause, because a failure affects all its batches.
    pub paused_until: Time,
    /// Consecutive pauses.
    pauses: u32,
    /// Its server has replied, with any status.
    pub is_reached: bool,
}

impl Accounts {
    pub(super) fn of(&mut self, account: &BatchAccount) -> &mut Account {
        self.0.entry(account.clone()).or_default()
    }

    /// The client for batches of an account: the one that created them, or one of the same address with another
    /// credential.
    pub(super) fn client(
        &mut self,
        setup: &WorkerSetup,
        account: &BatchAccount,
    ) -> Option<Arc<dyn BatchClient>> {
        let known = &mut self.of(account).client;
        if known.is_some() {
            return known.clone();
        }
        let is_near =
            |client: &Arc<dyn BatchClient>| client.account().is_at_the_same_address(account);
        let current = setup.batches.clone().filter(is_near);
        let is_own = |client: &Arc<dyn BatchClient>| client.account() == *account;
        let clients = setup.batch_clients.as_ref();
        let other = || clients.and_then(|clients| clients(account)).filter(is_near);
        let own = current.clone().filter(is_own);
        let client = own.or_else(other).or(current)?;
        if is_own(&client) {
            *known = Some(client.clone());
        }
        Some(client)
    }

    /// End of the pause of an account.
    pub(super) fn paused_until(&self, account: &BatchAccount) -> Time {
        let account = self.0.get(account);
        account.map_or(Time::ZERO, |account| account.paused_until)
    }
}

impl Account {
    /// Pauses it, longer each time.
    pub(super) fn pause(&mut self, error: &Error, facts: &Facts, now: Time) {
        if self.paused_until <= now {
            self.pauses += 1;
        }
        let wait = facts.after_failures(self.pauses, error.retry_after());
        self.paused_until = now.after(wait);
    }

    /// Ends its pause.
    pub(super) fn resume(&mut self) {
        (self.paused_until, self.pauses) = (Time::ZERO, 0);
    }
}

#[cfg(test)]
mod tests {
    use crate::base::ErrorKind;

    use super::super::machine::tests::examples::facts;
    use super::*;

    #[test]
    fn each_further_pause_of_an_account_is_longer_and_failures_within_one_count_once() {
        let facts = facts(true, None, false);
        let (mut account, mut now) = (Account::default(), Time::ZERO);
        let mut waits = Vec::new();
        for _ in 0..3 {
            for _ in 0..4 {
                let full = Error::new(ErrorKind::Quota, "full");
                account.pause(&full, &facts, now);
            }
            waits.push(account.paused_until.since(now));
            now = account.paused_until;
        }
        assert_eq!([waits[1], waits[2]], [2 * waits[0], 4 * waits[0]]);
    }
}
