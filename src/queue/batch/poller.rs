//! The one thread that decides for all batches of a worker.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, after, never, select};

use crate::base::cancel::Context;
use crate::base::clock::{Clock, Time};
use crate::base::id::ProcessId;
use crate::engine::dispatch::ErrorPolicy;
use crate::engine::jitter::Jitter;
use crate::queue::kinds::Kinds;
use crate::queue::store::{BatchNo, JobLane, StoredBatch};

use super::accounts::Accounts;
use super::context::BatchContext;
use super::control::BatchControl;
use super::machine::{Event, Record};
use super::overview::Counts;
use super::sizes::Sizes;
use super::transfer::Transfers;

/// The store is looked through at most this often.
pub(super) const BETWEEN_SCANS: Duration = Duration::from_millis(200);
/// What could not be read or written is tried again after this long.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How often what could not be written is tried again when the worker ends.
const LAST_TRIES: u32 = 5;
const BETWEEN_TRIES: Duration = Duration::from_millis(300);

/// A batch that this worker has.
pub(super) struct OwnedBatch {
    pub batch: StoredBatch,
    pub record: Record,
    pub due: Time,
    /// The input of its provider's batches travels as a file, as its client said last.
    pub uploads: bool,
    /// A transfer thread has it.
    pub busy: bool,
    /// Its results were asked for in vain since this worker has it.
    pub asked_in_vain: bool,
    /// What is known of it could not be written down: no step is taken before it is.
    pub unsaved: Option<Unsaved>,
}

impl OwnedBatch {
    pub(super) fn label(&self) -> &str {
        &self.record.intent.label
    }

    /// Whether whoever ends when all is done does without the results of this batch: they were asked for
    /// in vain, and will not be again before `patience` is over.
    fn is_put_off(&self, patience: Duration) -> bool {
        let uncollected = self.record.uncollected();
        let is_late = uncollected.is_some_and(|what| self.record.due > what.since.after(patience));
        self.asked_in_vain && !self.busy && is_late
    }
}

/// What could not be written down of a batch.
pub(super) struct Unsaved {
    /// When it is tried again.
    pub retry_at: Time,
    /// Why, for people.
    pub why: String,
}

pub(crate) struct Poller<'a> {
    pub(super) context: Arc<BatchContext>,
    pub(super) kinds: &'a Kinds,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) control: &'a BatchControl,
    pub(super) ctx: &'a Context,
    pub(super) processes: &'a [ProcessId],
    pub(super) on_error: ErrorPolicy,
    pub(super) until_empty: bool,
    /// Told when something has changed that others wait for.
    pub(super) wake: &'a (dyn Fn() + Sync),
    pub(super) transfers: Transfers,
    pub(super) batches: BTreeMap<BatchNo, OwnedBatch>,
    pub(super) accounts: Accounts,
    /// When jobs that wait were first seen: more may be on their way.
    pub(super) seen: HashMap<(ProcessId, Arc<JobLane>), Time>,
    pub(super) sizes: Sizes,
    /// Lines found to be bad one after the other, while no batch of theirs was accepted.
    pub(super) poison_lines: HashMap<(Option<ProcessId>, Arc<JobLane>), u32>,
    pub(super) jitter: Jitter,
    /// When the store was looked through last.
    pub(super) scanned_at: Option<Time>,
    /// When the store is looked through although nothing was heard of it.
    pub(super) scan_at: Option<Time>,
    /// Batches of accounts whose credential is not here.
    pub(super) missing_credentials: Option<String>,
}

/// What a poller needs to begin.
pub(crate) struct PollerOptions<'a> {
    pub context: Arc<BatchContext>,
    pub transfers: Transfers,
    pub kinds: &'a Kinds,
    pub control: &'a BatchControl,
    pub ctx: &'a Context,
    pub processes: &'a [ProcessId],
    pub on_error: ErrorPolicy,
    pub until_empty: bool,
    pub wake: &'a (dyn Fn() + Sync),
    /// Of the jitter.
    pub seed: u64,
}

impl<'a> Poller<'a> {
    pub(crate) fn new(options: PollerOptions<'a>) -> Self {
        let PollerOptions {
            context,
            transfers,
            kinds,
            control,
            ctx,
            processes,
            on_error,
            until_empty,
            wake,
            seed,
        } = options;
        let clock = context.settler.clock.clone();
        Self {
            kinds,
            control,
            ctx,
            processes,
            on_error,
            until_empty,
            wake,
            transfers,
            batches: BTreeMap::new(),
            accounts: Accounts::default(),
            seen: HashMap::new(),
            sizes: Sizes::default(),
            poison_lines: HashMap::new(),
            jitter: Jitter(seed),
            scanned_at: None,
            scan_at: None,
            missing_credentials: None,
            clock,
            context,
        }
    }

    /// Works until the context is cancelled, or `stop` is gone.
    pub(crate) fn run(mut self, stop: &Receiver<()>) {
        let cancelled = self.ctx.cancel_signal();
        self.clock.on_jump(Box::new(self.control.waker()));
        self.sweep();
        let (woken, done) = (self.control.woken.clone(), self.transfers.done.clone());
        loop {
            self.receive_answers();
            if self.ctx.is_cancelled() {
                break;
            }
            self.turn();
            let wait = match self.next_due() {
                Some(due) => match self.clock.real_wait(due) {
                    Some(wait) => after(wait.min(Duration::from_secs(60))),
                    None => never(),
                },
                None => never(),
            };
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

    /// Does all that is due.
    pub(crate) fn turn(&mut self) {
        if self.control.settings_changed.swap(false, Ordering::SeqCst) {
            for no in self.batches.keys().copied().collect::<Vec<_>>() {
                self.feed(no, Event::Hurried);
            }
        }
        self.scan_store();
        self.take_steps();
        self.orphaned_bisections();
        self.stop_unreached();
        self.report();
    }

    /// Records what the transfers in flight come to; whoever has this batch next goes on from there.
    fn drain_transfers(mut self) {
        let done = self.transfers.done.clone();
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

    /// When something is to be done next, as far as that is known.
    pub(crate) fn next_due(&self) -> Option<Time> {
        let idle = self
            .batches
            .values()
            .filter(|open| !open.busy && open.unsaved.is_none());
        let waits = |open: &&OwnedBatch| !open.record.is_bisecting();
        let due = idle.filter(waits).map(|open| {
            let paused = self.accounts.paused_until(&open.record.account);
            paused.map_or(open.due, |until| open.due.max(until))
        });
        let unsaved = self
            .batches
            .values()
            .filter_map(|open| open.unsaved.as_ref());
        let due = due.chain(unsaved.map(|unsaved| unsaved.retry_at));
        let changed = self.control.store_changed.load(Ordering::SeqCst);
        let look = changed.then(|| {
            self.scanned_at
                .map_or(Time::ZERO, |at| at.after(BETWEEN_SCANS))
        });
        let now = self.clock.now();
        let patience = self.accounts.never_reached().map(|(_, _, until)| until);
        let patience = patience.filter(|until| *until > now);
        due.chain(self.scan_at).chain(look).chain(patience).min()
    }

    /// Batches whose next step is due.
    pub(super) fn due(&self, by: Time) -> Vec<BatchNo> {
        let due = |open: &&OwnedBatch| !open.busy && open.unsaved.is_none() && open.due <= by;
        let due = self.batches.values().filter(due);
        due.map(|open| open.batch.no).collect()
    }

    /// Batches of which something could not be written down that is to be tried again by then.
    pub(super) fn unsaved(&self, by: Time) -> Vec<BatchNo> {
        let due = |open: &&OwnedBatch| {
            open.unsaved
                .as_ref()
                .is_some_and(|what| what.retry_at <= by)
        };
        let due = self.batches.values().filter(due);
        due.map(|open| open.batch.no).collect()
    }

    /// Says where all batches stand.
    pub(super) fn report(&self) {
        let mut counts = Counts::default();
        let patience = self.control.settings().results_wait;
        let crowded = self.sizes.crowded(self.clock.now());
        let crowded = crowded
            .map(|provider| format!("too much is queued at {provider}; smaller batches follow"));
        let mut trouble = self.missing_credentials.clone().or(crowded);
        for open in self.batches.values() {
            if let Some(unsaved) = &open.unsaved {
                // Whoever ends now would leave it to others that know less of it.
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
        let overview = &self.context.overview;
        *overview.trouble.lock() = trouble;
        overview.report(counts);
        if self.until_empty {
            (self.wake)();
        }
    }
}
