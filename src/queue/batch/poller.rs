//! The thread that decides for all batches of a worker.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, after, never, select};

use crate::base::{Clock, Context, Error, ProcessId, Time, Timestamp};
use crate::engine::dispatch::ErrorPolicy;
use crate::queue::controls::Scope;
use crate::queue::store::{BatchNo, StoredBatch};

use super::context::{Accounts, BatchContext, BatchControl, Counts, Group};
use super::machine::{Event, Record, Refusals, Uncollected};
use super::transfer::Transfers;

/// Minimum time between two scans of the store.
pub(super) const BETWEEN_SCANS: Duration = Duration::from_millis(200);
/// Time until a failed access to the store is retried.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// When a worker ends, it tries for this time to store the last states, with this time between two attempts.
const LAST_TRIES: Duration = Duration::from_millis(1_500);
const BETWEEN_TRIES: Duration = Duration::from_millis(300);

/// A batch that this worker owns.
pub(super) struct OwnedBatch {
    pub batch: StoredBatch,
    pub record: Record,
    pub due: Time,
    /// When this worker took it over.
    taken: Timestamp,
    /// Whether the provider takes input as a file, as its client last reported.
    pub uploads: bool,
    /// A transfer thread processes it.
    pub busy: bool,
    /// Its state could not be recorded, for this reason: no step is taken before it is.
    pub unsaved: Option<String>,
    /// It is closed, or belongs to another worker now.
    pub is_gone: bool,
}

impl OwnedBatch {
    /// A batch whose next step is due now.
    pub(super) fn new(batch: StoredBatch, record: Record, clock: &dyn Clock) -> Self {
        Self {
            batch,
            record,
            due: clock.now(),
            taken: clock.wall(),
            uploads: false,
            busy: false,
            unsaved: None,
            is_gone: false,
        }
    }

    pub(super) fn label(&self) -> &str {
        &self.record.intent.label
    }

    pub(super) fn group(&self) -> Group {
        (self.batch.process_id, self.batch.lane.clone())
    }

    /// Whether a worker that ends when no job is left ends without the results of this batch: they were requested in
    /// vain, and the next request is later than `patience`. A batch that was just taken over is due now. One whose state
    /// could not be read has a problem: it was not asked for its results yet, and gets as much time for that.
    fn is_put_off(&self, patience: Duration, now: Timestamp) -> bool {
        let is_late = |what: &Uncollected| {
            let begun = match self.record.problem {
                None => what.since,
                Some(_) => what.since.max(self.taken),
            };
            self.record.due > begun.after(patience).max(now)
        };
        !self.busy && self.record.uncollected().is_some_and(is_late)
    }
}

pub(crate) struct Poller<'a> {
    pub(super) options: PollerOptions<'a>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) batches: BTreeMap<BatchNo, OwnedBatch>,
    pub(super) accounts: Accounts,
    /// When waiting jobs were first seen: more may arrive.
    pub(super) seen: HashMap<Group, Time>,
    /// Refusals in a row, without an accepted batch in between.
    pub(super) refusals: HashMap<Group, Refusals>,
    /// Requests that are called one by one because their batch was refused.
    pub(super) called: HashMap<ProcessId, u64>,
    /// It was said that requests are called although their batch was asked for.
    pub(super) has_said_called: bool,
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
    pub scope: Scope,
    pub on_error: ErrorPolicy,
    /// Called when something has changed that others wait for.
    pub wake: &'a (dyn Fn() + Sync),
}

impl<'a> Poller<'a> {
    pub(crate) fn new(options: PollerOptions<'a>) -> Self {
        Self {
            clock: options.context.clock.clone(),
            batches: BTreeMap::new(),
            accounts: Accounts::default(),
            seen: HashMap::new(),
            refusals: HashMap::new(),
            called: HashMap::new(),
            has_said_called: false,
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
                self.tell(no, Event::Recheck);
            }
        }
        self.scan_store();
        self.take_steps();
        self.report(self.clock.wall());
    }

    /// Records the outcomes of transfers in flight, so that the next owner continues from there.
    pub(super) fn drain_transfers(mut self) {
        let done = self.options.transfers.done.clone();
        while self.batches.values().any(|open| open.busy) {
            let Ok((no, event)) = done.recv() else {
                break;
            };
            self.receive(no, event);
        }
        let until = Instant::now() + LAST_TRIES;
        loop {
            for no in self.due(Time::FAR) {
                self.with(no, Self::save_late);
            }
            let is_saved = self.batches.values().all(|open| open.unsaved.is_none());
            if is_saved || self.options.ctx.is_aborted() || Instant::now() > until {
                break;
            }
            thread::sleep(BETWEEN_TRIES);
        }
        // What was put off stays so: its next step may have become due since the worker decided to end.
        self.report(Timestamp(0));
    }

    /// When the next step is due, if that is known.
    pub(crate) fn next_due(&self) -> Option<Time> {
        let idle = self.batches.values().filter(|open| !open.busy);
        let due = idle.map(|open| match open.unsaved {
            // The provider is not asked for that.
            Some(_) => open.due,
            None => open
                .due
                .max(self.accounts.paused_until(&open.record.account)),
        });
        let changed = self.options.control.store_changed.load(Ordering::SeqCst);
        let scanned = self.scanned_at.map(|at| at.after(BETWEEN_SCANS));
        let look = changed.then(|| scanned.unwrap_or(Time::ZERO));
        due.chain(self.scan_at).chain(look).min()
    }

    /// Batches whose next step is due by then.
    pub(super) fn due(&self, by: Time) -> Vec<BatchNo> {
        let due = |open: &&OwnedBatch| !open.busy && open.due <= by;
        let due = self.batches.values().filter(due);
        due.map(|open| open.batch.no).collect()
    }

    /// Publishes the states of all batches. A step that is due by `wall` is about to be taken.
    pub(super) fn report(&self, wall: Timestamp) {
        let mut counts = Counts::default();
        let patience = self.options.context.setup().settings.batches.results_wait();
        let mut trouble = self.missing_credentials.clone();
        let mut halted = None;
        for open in self.batches.values() {
            if let Some(why) = &open.unsaved {
                // If the worker ended now, its successor would not know this state.
                counts.submitting += 1;
                trouble = Some(why.clone());
            } else if let Some(problem) = open.record.trouble() {
                trouble = Some(problem.to_owned());
            }
            match &open.record {
                record if record.is_held() => counts.held += 1,
                // It waits for its next try.
                Record {
                    halt: Some(halt), ..
                } if open.record.is_halted() && !open.busy && open.record.due > wall => {
                    halted = open.record.trouble().map(|why| Error::new(halt.kind, why));
                }
                // It waits for another one that does.
                record
                    if record.halt.is_none()
                        && !record.is_submitted()
                        && !open.busy
                        && self
                            .halted_until(&open.group(), &record.account)
                            .is_some_and(|until| until > self.clock.now()) => {}
                _ if open.is_put_off(patience, wall) => counts.put_off += 1,
                record if record.is_submitted() => counts.running += 1,
                _ => counts.submitting += 1,
            }
        }
        let overview = &self.options.context.overview;
        *overview.trouble.lock() = trouble;
        *overview.halted.lock() = halted;
        *overview.counts.lock() = counts;
        if self.options.scope.until_empty || self.options.scope.until_submitted {
            (self.options.wake)();
        }
    }
}
