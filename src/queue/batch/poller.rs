//! The thread that decides for all batches of a worker.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, after, never, select};

use crate::base::random::Random;
use crate::base::{Clock, Context, ProcessId, Time};
use crate::engine::dispatch::ErrorPolicy;
use crate::queue::store::{BatchNo, JobLane, StoredBatch};

use super::context::{Accounts, BatchContext, BatchControl, Counts};
use super::machine::{Event, Record, Refusals};
use super::transfer::Transfers;

/// Minimum time between two scans of the store.
pub(super) const BETWEEN_SCANS: Duration = Duration::from_millis(200);
/// Time until a failed access to the store is retried.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Number of attempts to record unsaved state when the worker ends.
const LAST_TRIES: u32 = 5;
const BETWEEN_TRIES: Duration = Duration::from_millis(300);

/// A batch that this worker owns.
pub(super) struct OwnedBatch {
    pub batch: StoredBatch,
    pub record: Record,
    pub due: Time,
    /// Whether the provider takes input as a file, as its client last reported.
    pub uploads: bool,
    /// A transfer thread processes it.
    pub busy: bool,
    /// The most jobs of a half of a divided batch.
    pub most: Option<usize>,
    /// Its results were requested without success since this worker owns it.
    pub asked_in_vain: bool,
    /// State that could not be recorded: no step is taken before it is.
    pub unsaved: Option<Unsaved>,
}

impl OwnedBatch {
    /// A batch whose next step is due at this time.
    pub(super) fn new(batch: StoredBatch, record: Record, due: Time) -> Self {
        Self {
            batch,
            record,
            due,
            uploads: false,
            busy: false,
            most: None,
            asked_in_vain: false,
            unsaved: None,
        }
    }

    pub(super) fn label(&self) -> &str {
        &self.record.intent.label
    }

    pub(super) fn group(&self) -> Group {
        (self.batch.process_id, self.batch.lane.clone())
    }

    /// Whether a worker that ends when no job is left ends without the results of this batch: a request for them
    /// failed, and the next one is later than `patience`.
    fn is_put_off(&self, patience: Duration) -> bool {
        let uncollected = self.record.uncollected();
        let is_late = uncollected.is_some_and(|what| self.record.due > what.since.after(patience));
        self.asked_in_vain && !self.busy && is_late
    }
}

/// Where the jobs of a batch wait if they are in no batch.
pub(super) type Group = (Option<ProcessId>, Arc<JobLane>);

/// The state of a batch that could not be recorded.
pub(super) struct Unsaved {
    /// Time of the next attempt.
    pub retry_at: Time,
    /// The reason, as a message.
    pub why: String,
}

pub(crate) struct Poller<'a> {
    pub(super) options: PollerOptions<'a>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) batches: BTreeMap<BatchNo, OwnedBatch>,
    pub(super) accounts: Accounts,
    /// When waiting jobs were first seen: more may arrive.
    pub(super) seen: HashMap<Group, Time>,
    /// Sizes of the next batches of the jobs of divided ones.
    pub(super) halves: HashMap<Group, Vec<usize>>,
    /// Refusals in a row, without an accepted batch in between.
    pub(super) refusals: HashMap<Group, Refusals>,
    /// It was said that requests are called although their batch was asked for.
    pub(super) has_said_called: bool,
    pub(super) jitter: Random,
    /// Time of the last scan of the store.
    pub(super) scanned_at: Option<Time>,
    /// Time of the next scan without a notification.
    pub(super) scan_at: Option<Time>,
    /// Batches that their provider does not show to the present key, which did not create them.
    pub(super) hidden: HashSet<BatchNo>,
    /// Message about batches of accounts without an available credential.
    pub(super) missing_credentials: Option<String>,
}

/// What a poller is given at its start, and keeps.
pub(crate) struct PollerOptions<'a> {
    pub context: Arc<BatchContext>,
    pub transfers: Transfers,
    pub control: &'a BatchControl,
    pub ctx: &'a Context,
    pub processes: &'a [ProcessId],
    pub on_error: ErrorPolicy,
    pub until_empty: bool,
    /// The worker ends when everything is submitted.
    pub until_submitted: bool,
    /// Called when something has changed that others wait for.
    pub wake: &'a (dyn Fn() + Sync),
    /// Seed of the jitter.
    pub seed: u64,
}

impl<'a> Poller<'a> {
    pub(crate) fn new(options: PollerOptions<'a>) -> Self {
        Self {
            clock: options.context.clock.clone(),
            batches: BTreeMap::new(),
            accounts: Accounts::default(),
            seen: HashMap::new(),
            halves: HashMap::new(),
            refusals: HashMap::new(),
            has_said_called: false,
            jitter: Random(options.seed),
            scanned_at: None,
            scan_at: None,
            hidden: HashSet::new(),
            missing_credentials: None,
            options,
        }
    }

    /// Works until the context is cancelled, or the sender of `stop` is dropped.
    pub(crate) fn run(mut self, stop: &Receiver<()>) {
        let cancelled = self.options.ctx.cancel_signal();
        self.clock.on_jump(Box::new(self.options.control.waker()));
        self.sweep();
        let woken = self.options.control.woken.clone();
        let done = self.options.transfers.done.clone();
        loop {
            self.receive_answers();
            if self.options.ctx.is_cancelled() {
                break;
            }
            self.turn();
            let wait = self.next_due().and_then(|due| self.clock.real_wait(due));
            let wait = wait.map_or_else(never, |wait| after(wait.min(Duration::from_secs(60))));
            select! {
                recv(stop) -> _ => break,
                recv(cancelled.receiver) -> _ => {}
                recv(woken) -> _ => {}
                recv(wait) -> _ => {}
                recv(done) -> answer => if let Ok((no, event)) = answer {
                    self.receive(no, event);
                },
            }
        }
        self.drain_transfers();
    }

    /// Does everything that is due.
    pub(crate) fn turn(&mut self) {
        let control = self.options.control;
        if control.settings_changed.swap(false, Ordering::SeqCst) {
            for no in self.batches.keys().copied().collect::<Vec<_>>() {
                self.feed(no, Event::Recheck);
            }
        }
        self.scan_store();
        self.take_steps();
        self.report();
    }

    /// Records the outcomes of transfers in flight, so that the next owner continues from there.
    fn drain_transfers(mut self) {
        let done = self.options.transfers.done.clone();
        while self.batches.values().any(|open| open.busy) {
            let Ok((no, event)) = done.recv() else {
                break;
            };
            self.receive(no, event);
        }
        for _ in 0..LAST_TRIES {
            for no in self.unsaved(Time::FAR) {
                self.save(no);
            }
            if self.unsaved(Time::FAR).is_empty() {
                break;
            }
            thread::sleep(BETWEEN_TRIES);
        }
        self.report();
    }

    /// When the next step is due, if that is known.
    pub(crate) fn next_due(&self) -> Option<Time> {
        let all = || self.batches.values();
        let idle = all().filter(|open| !open.busy && open.unsaved.is_none());
        let due = idle.map(|open| {
            let paused = self.accounts.paused_until(&open.record.account);
            paused.map_or(open.due, |until| open.due.max(until))
        });
        let unsaved = all().filter_map(|open| open.unsaved.as_ref());
        let due = due.chain(unsaved.map(|unsaved| unsaved.retry_at));
        let changed = self.options.control.store_changed.load(Ordering::SeqCst);
        let scanned = self.scanned_at.map(|at| at.after(BETWEEN_SCANS));
        let look = changed.then(|| scanned.unwrap_or(Time::ZERO));
        due.chain(self.scan_at).chain(look).min()
    }

    /// Batches whose next step is due by then.
    pub(super) fn due(&self, by: Time) -> Vec<BatchNo> {
        let due = |open: &&OwnedBatch| !open.busy && open.unsaved.is_none() && open.due <= by;
        let due = self.batches.values().filter(due);
        due.map(|open| open.batch.no).collect()
    }

    /// Batches with unsaved state that is to be recorded by then.
    pub(super) fn unsaved(&self, by: Time) -> Vec<BatchNo> {
        let is_due = |what: &Unsaved| what.retry_at <= by;
        let due = |open: &&OwnedBatch| open.unsaved.as_ref().is_some_and(is_due);
        let due = self.batches.values().filter(due);
        due.map(|open| open.batch.no).collect()
    }

    /// Publishes the states of all batches.
    pub(super) fn report(&self) {
        let mut counts = Counts::default();
        let patience = self.options.context.setup().settings.batches.results_wait;
        let held = self.accounts.held(self.clock.now()).map(str::to_owned);
        let mut trouble = self.missing_credentials.clone().or(held);
        for open in self.batches.values() {
            if let Some(unsaved) = &open.unsaved {
                // If the worker ended now, its successor would not know this state.
                counts.submitting += 1;
                trouble = Some(unsaved.why.clone());
            } else if let Some(problem) = open.record.trouble() {
                trouble = Some(problem.to_owned());
            }
            match &open.record {
                record if record.is_held() => counts.held += 1,
                _ if open.is_put_off(patience) => counts.put_off += 1,
                record if record.is_submitted() => counts.running += 1,
                _ => counts.submitting += 1,
            }
        }
        let overview = &self.options.context.overview;
        *overview.trouble.lock() = trouble;
        *overview.counts.lock() = counts;
        if self.options.until_empty {
            (self.options.wake)();
        }
    }
}
