//! The one thread that decides for all batches of a worker.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, after, bounded, never, select};

use crate::base::cancel::Context;
use crate::base::clock::{Clock, Time};
use crate::base::error::Error;
use crate::base::id::ProcessId;
use crate::config::choices::OnUnknown;
use crate::engine::dispatch::ErrorPolicy;
use crate::engine::jitter::Jitter;
use crate::llm::batch::{BatchAccount, BatchClient};
use crate::queue::kinds::Kinds;
use crate::queue::store::{BatchNo, JobLane, JobStore, StoredBatch};

use super::context::BatchContext;
use super::control::{Post, client_of};
use super::machine::next::next;
use super::machine::record::{Phase, Record};
use super::settings::Shrunk;
use super::transfer::Transfers;

/// The store is looked through at most this often.
const LOOK: Duration = Duration::from_millis(200);
/// What could not be written is tried again after this long.
const AGAIN: Duration = Duration::from_secs(1);
/// How often what could not be written is tried again when the worker ends.
const LAST_TRIES: u32 = 5;
const BETWEEN_TRIES: Duration = Duration::from_millis(300);

/// A batch that this worker has.
pub(super) struct Open {
    pub batch: StoredBatch,
    pub record: Record,
    pub due: Time,
    /// A transfer thread has it.
    pub busy: bool,
    /// What that is to do would create it.
    pub creating: bool,
    /// Its results were asked for in vain since this worker has it.
    pub asked: bool,
    /// What is known of it could not be written down: no step is taken before it is.
    pub unsaved: Option<Unsaved>,
}

impl Open {
    /// Takes its next step now, unless that is to look for it in a list that is given time to show it.
    fn hurry(&mut self, now: Time) {
        if self.record.doubt.is_none_or(|doubt| doubt.held) {
            self.due = now;
        }
    }
}

/// What could not be written down of a batch.
pub(super) struct Unsaved {
    /// When it is tried again.
    again: Time,
    /// Why, for people.
    why: String,
}

pub(crate) struct Poller<'a> {
    pub(super) context: Arc<BatchContext>,
    pub(super) kinds: &'a Kinds,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) post: &'a Post,
    pub(super) ctx: &'a Context,
    pub(super) processes: &'a [ProcessId],
    pub(super) on_error: ErrorPolicy,
    pub(super) until_empty: bool,
    /// Told when something has changed that others wait for.
    pub(super) wake: &'a (dyn Fn() + Sync),
    pub(super) transfers: Transfers,
    pub(super) open: BTreeMap<BatchNo, Open>,
    pub(super) known: HashMap<BatchAccount, Arc<dyn BatchClient>>,
    /// When jobs that wait were first seen: more may be on their way.
    pub(super) seen: HashMap<(ProcessId, Arc<JobLane>), Time>,
    pub(super) shrunk: HashMap<(BatchAccount, Option<String>), Shrunk>,
    /// Lines found to be bad one after the other, while no batch of theirs was accepted.
    pub(super) culprits: HashMap<(Option<ProcessId>, Arc<JobLane>), u32>,
    /// Accounts that are left alone until then.
    pub(super) paused: HashMap<BatchAccount, (Time, u32)>,
    pub(super) jitter: Jitter,
    looked: Option<Time>,
    /// When the store is looked through although nothing was heard of it.
    pub(super) look_at: Option<Time>,
    /// Batches of accounts whose credential is not here.
    strange: Option<String>,
}

/// What a poller needs to begin.
pub(crate) struct Begin<'a> {
    pub context: Arc<BatchContext>,
    pub transfers: Transfers,
    pub kinds: &'a Kinds,
    pub post: &'a Post,
    pub ctx: &'a Context,
    pub processes: &'a [ProcessId],
    pub on_error: ErrorPolicy,
    pub until_empty: bool,
    pub wake: &'a (dyn Fn() + Sync),
    /// Of the jitter.
    pub seed: u64,
}

impl<'a> Poller<'a> {
    pub(crate) fn new(begin: Begin<'a>) -> Self {
        let Begin {
            context,
            transfers,
            kinds,
            post,
            ctx,
            processes,
            on_error,
            until_empty,
            wake,
            seed,
        } = begin;
        let clock = context.ends.clock.clone();
        Self {
            kinds,
            post,
            ctx,
            processes,
            on_error,
            until_empty,
            wake,
            transfers,
            open: BTreeMap::new(),
            known: HashMap::new(),
            seen: HashMap::new(),
            shrunk: HashMap::new(),
            culprits: HashMap::new(),
            paused: HashMap::new(),
            jitter: Jitter(seed),
            looked: None,
            look_at: None,
            strange: None,
            clock,
            context,
        }
    }

    /// Works until the context is cancelled, or `stop` is gone.
    pub(crate) fn run(mut self, stop: &Receiver<()>) {
        let (bell, ended) = bounded::<()>(1);
        let _on_cancel = self.ctx.on_cancel(move || {
            let _ = bell.try_send(());
        });
        self.sweep();
        let (rung, done) = (self.post.rung.clone(), self.transfers.done.clone());
        loop {
            self.settle_in();
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
                recv(ended) -> _ => {}
                recv(rung) -> _ => {}
                recv(wait) -> _ => {}
                recv(done) -> landed => if let Ok((no, result)) = landed {
                    self.landed(no, result);
                },
            }
        }
        self.last_words();
    }

    /// Takes note of what transfers have come to.
    pub(super) fn settle_in(&mut self) {
        while let Ok((no, result)) = self.transfers.done.try_recv() {
            self.landed(no, result);
        }
    }

    /// Does all that is due.
    pub(crate) fn turn(&mut self) {
        if self.post.changed.swap(false, Ordering::SeqCst) {
            let now = self.clock.now();
            self.open.values_mut().for_each(|open| open.hurry(now));
        }
        self.look();
        self.take_steps();
        self.orphaned_halves();
        self.tell();
    }

    /// Records what the transfers in flight come to; whoever has this batch next goes on from there.
    fn last_words(mut self) {
        let done = self.transfers.done.clone();
        while self.open.values().any(|open| open.busy) {
            let Ok((no, result)) = done.recv() else {
                break;
            };
            self.landed(no, result);
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
        self.tell();
    }

    /// When something is to be done next, as far as that is known.
    pub(crate) fn next_due(&self) -> Option<Time> {
        let idle = self
            .open
            .values()
            .filter(|open| !open.busy && open.unsaved.is_none());
        let waits = |open: &&Open| !matches!(open.record.phase, Phase::Suspect { .. });
        let due = idle.filter(waits).map(|open| {
            let pause = self.paused.get(&open.record.account);
            pause.map_or(open.due, |(until, _)| open.due.max(*until))
        });
        let unsaved = self.open.values().filter_map(|open| open.unsaved.as_ref());
        let due = due.chain(unsaved.map(|unsaved| unsaved.again));
        let again = self.post.news.load(Ordering::SeqCst);
        let again = again.then(|| self.looked.map_or(Time::ZERO, |at| at.after(LOOK)));
        due.chain(self.look_at).chain(again).min()
    }

    /// Looks through the store, if there may be something new.
    fn look(&mut self) {
        let now = self.clock.now();
        let fresh = self.looked.is_some_and(|at| now.since(at) < LOOK);
        let due = self.look_at.is_some_and(|at| at <= now);
        if fresh || !due && !self.post.news.load(Ordering::SeqCst) {
            return;
        }
        self.post.news.store(false, Ordering::SeqCst);
        self.looked = Some(now);
        self.look_at = None;
        let adopted = self.adopt();
        if adopted.is_ok() {
            self.tell();
        }
        // Who could not look knows of nothing that has come since.
        let blind = &self.context.outlook.blind;
        blind.store(adopted.is_err(), Ordering::SeqCst);
        let looked = adopted.and_then(|()| self.gather(now));
        if let Err(error) = looked {
            log::warn!("cannot look for batches: {error}");
            self.look_at = Some(now.after(AGAIN));
        }
        // Before jobs are moved into a new batch: whoever finds none waiting any more must know of it.
        self.tell();
    }

    /// Takes over what nobody has, and notices what was cancelled.
    fn adopt(&mut self) -> Result<(), Error> {
        let store = self.context.store.clone();
        let all = store.batches(None)?;
        let mut strange = None;
        let mut nobodys = false;
        for batch in &all {
            if let Some(open) = self.open.get_mut(&batch.no) {
                let newly = batch.is_stopped && batch.stopped_at > open.batch.stopped_at;
                open.batch = batch.clone();
                if newly {
                    open.hurry(self.clock.now());
                }
            }
            let own = batch.worker == Some(self.context.worker);
            // A change that is said to have failed may have taken effect.
            if own && !self.open.contains_key(&batch.no) {
                self.take_over(batch.clone());
            }
            nobodys |= batch.worker.is_none();
        }
        if nobodys {
            let (known, post) = (&mut self.known, self.post);
            let mut mine = |batch: &StoredBatch| {
                let Some(record) = Record::read(batch) else {
                    return false;
                };
                let unsent = record.is_unsent() && post.client.read().is_some();
                let have = unsent || client_of(known, post, &record.account).is_some();
                if !have {
                    strange = Some(record.account);
                }
                have
            };
            let wall = self.clock.wall();
            let taken =
                store.adopt_batches(self.context.worker, &mut mine, self.processes, wall)?;
            for batch in taken {
                self.take_over(batch);
            }
        }
        self.strange = strange.map(|account| {
            format!(
                "batches at {} wait for the key that they were made with ({}); if it was rotated: \
                 batchwright doctor --adopt-batches",
                account.provider, account.base_url
            )
        });
        Ok(())
    }

    fn take_over(&mut self, batch: StoredBatch) {
        let Some(mut record) = Record::read(&batch) else {
            return;
        };
        if let Some(doubt) = record.doubt.as_mut().filter(|doubt| doubt.held) {
            // It is looked for once more before it is called held, and that is said again.
            doubt.held = false;
            (record.problem, record.due) = (None, self.clock.wall());
        }
        // A clock that was set back in between must not put it off for long; but a list that lags gets
        // its time, however often whoever reads it dies.
        let settings = *self.post.settings.read();
        let longest = match record.doubt {
            Some(_) => settings.reconcile_wait,
            None => settings.poll(Duration::ZERO, None, 0.0),
        };
        let wait = record.due.since(self.clock.wall()).min(longest);
        let due = self.clock.now().after(wait);
        // What is done about those that are held may have been decided meanwhile, and whoever starts a
        // worker may know that results are there now: one more look, at once.
        let held = record.is_held() || record.uncollected.is_some();
        if let Some(doubt) = &mut record.doubt {
            doubt.held = false;
        }
        let due = if held { self.clock.now() } else { due };
        log::info!(
            "took over batch {} of {} ({})",
            record.id().unwrap_or(&record.intent.label),
            record.account.provider,
            record.word()
        );
        let open = Open {
            batch,
            record,
            due,
            busy: false,
            creating: false,
            asked: false,
            unsaved: None,
        };
        self.open.insert(open.batch.no, open);
    }

    /// Removes files of batches that are no more.
    fn sweep(&self) {
        // In this order: a batch is written down before its first file is.
        let files = self.context.spool.files();
        if let Ok(all) = self.context.store.batches(None) {
            let labels = all.iter().filter_map(Record::read);
            let labels: HashSet<String> = labels.map(|record| record.intent.label).collect();
            self.context.spool.sweep(files, &labels);
        }
    }

    /// The client that looks after a batch.
    pub(super) fn client(&mut self, account: &BatchAccount) -> Option<Arc<dyn BatchClient>> {
        client_of(&mut self.known, self.post, account)
    }

    fn take_steps(&mut self) {
        let now = self.clock.now();
        for no in self.unsaved(now) {
            self.save(no);
        }
        let due = |open: &Open| !open.busy && open.unsaved.is_none() && open.due <= now;
        let due = self.open.iter().filter(|(_, open)| due(open));
        let due: Vec<BatchNo> = due.map(|(no, _)| *no).collect();
        for no in due {
            if self.ctx.is_cancelled() {
                return;
            }
            // A client of the host's may panic; its batch waits then, and the others go on.
            let step = AssertUnwindSafe(|| self.take_step(no));
            if let Err(_cause) = catch_unwind(step) {
                #[cfg(test)]
                if _cause.is::<super::tests::fake_provider::Died>() {
                    std::panic::resume_unwind(_cause);
                }
                self.problem(no, "the client of the Batch API panicked".to_owned());
                self.wait(no, AGAIN * 10);
            }
            // What ended meanwhile is not kept waiting by calls for others.
            self.settle_in();
        }
    }

    fn take_step(&mut self, no: BatchNo) {
        let now = self.clock.now();
        let Some(open) = self.open.get(&no) else {
            return;
        };
        let account = open.record.account.clone();
        if self.is_elsewhere_now(no) {
            self.close(no);
            return;
        }
        let Some(client) = self.client(&account) else {
            let why =
                "its key is no longer here; if it was rotated: batchwright doctor --adopt-batches";
            self.problem(no, why.to_owned());
            return self.wait(no, AGAIN * 10);
        };
        if let Some((until, _)) = self.paused.get(&account)
            && *until > now
        {
            let until = *until;
            if let Some(open) = self.open.get_mut(&no) {
                open.due = until;
            }
            return;
        }
        let Some(open) = self.open.get(&no) else {
            return;
        };
        let stopped = open.batch.is_stopped;
        let policy = self.policy(stopped, client.uploads());
        let step = next(&open.record, stopped, client.uploads(), policy);
        self.carry_out(no, step, &client);
    }

    /// What is done about a batch that cannot be found. One that was cancelled, and can no longer come
    /// into being, is given up; else it may still run, and be paid for.
    pub(super) fn policy(&self, stopped: bool, uploads: bool) -> OnUnknown {
        match stopped && uploads {
            true => OnUnknown::Resubmit,
            false => self.post.settings.read().policy(uploads),
        }
    }

    /// Keeps a batch waiting.
    pub(super) fn wait(&mut self, no: BatchNo, wait: Duration) {
        let (now, wall) = (self.clock.now(), self.clock.wall());
        if let Some(open) = self.open.get_mut(&no) {
            open.due = now.after(wait);
            open.record.due = wall.after(wait);
        }
    }

    pub(super) fn problem(&mut self, no: BatchNo, why: String) {
        if let Some(open) = self.open.get_mut(&no)
            && open.record.problem.as_ref() != Some(&why)
        {
            let (record, label) = (&mut open.record, &open.batch.no);
            log::warn!(
                "batch {}: {why}",
                record
                    .id()
                    .map_or_else(|| label.0.to_string(), str::to_owned)
            );
            record.problem = Some(why);
        }
    }

    /// Batches of which something could not be written down that is to be tried again by then.
    fn unsaved(&self, by: Time) -> Vec<BatchNo> {
        let due = |open: &&Open| open.unsaved.as_ref().is_some_and(|what| what.again <= by);
        let due = self.open.values().filter(due);
        due.map(|open| open.batch.no).collect()
    }

    /// Writes down what is known of a batch. What cannot be written is not acted upon: it is written
    /// later, and no step is taken before.
    pub(super) fn save(&mut self, no: BatchNo) -> bool {
        let Some(open) = self.open.get(&no) else {
            return false;
        };
        let text = open.record.text();
        let wall = self.clock.wall();
        let saved = self
            .context
            .store
            .save_batch(self.context.worker, no, &text, wall);
        match saved {
            Ok(()) => {
                if let Some(open) = self.open.get_mut(&no) {
                    open.unsaved = None;
                }
                true
            }
            Err(error) => self.unwritten(no, &error),
        }
    }

    /// What was decided about a batch could not be written down.
    fn unwritten(&mut self, no: BatchNo, error: &Error) -> bool {
        if error.is_claim_lost() {
            // It is somebody else's now: this worker was taken for dead.
            log::warn!("batch {} is no longer this worker's: {error}", no.0);
            self.open.remove(&no);
            return false;
        }
        let again = self.clock.now().after(AGAIN);
        if let Some(open) = self.open.get_mut(&no) {
            let why = format!("cannot record where batch {} stands: {error}", no.0);
            if open.unsaved.as_ref().is_none_or(|known| known.why != why) {
                log::warn!("{why}");
            }
            open.unsaved = Some(Unsaved { again, why });
        }
        false
    }

    /// Says where all batches stand.
    pub(super) fn tell(&self) {
        let (mut handing, mut running, mut held, mut put_off) = (0, 0, 0, 0);
        let patience = self.post.settings.read().results_wait;
        let now = self.clock.now();
        let crowded = self.shrunk.iter().find(|(_, shrunk)| shrunk.pause > now);
        let crowded = crowded.map(|((account, _), _)| {
            format!(
                "too much is queued at {}; smaller batches follow",
                account.provider
            )
        });
        let mut trouble = self.strange.clone().or(crowded);
        for open in self.open.values() {
            if let Some(unsaved) = &open.unsaved {
                // Whoever ends now would leave it to others that know less of it.
                handing += 1;
                trouble = Some(unsaved.why.clone());
            }
            match &open.record {
                record if record.is_held() => held += 1,
                _ if open.is_put_off(patience) => put_off += 1,
                record if record.is_handed_over() => running += 1,
                _ => handing += 1,
            }
            if let (None, Some(problem)) = (&open.unsaved, open.record.trouble()) {
                trouble = Some(problem.to_owned());
            }
        }
        let outlook = &self.context.outlook;
        *outlook.trouble.lock() = trouble;
        outlook.tell(handing, running, held, put_off);
        if self.until_empty {
            (self.wake)();
        }
    }

    /// Whether nothing of a batch was sent, and new ones go to another account, or to none: so do its
    /// jobs.
    fn is_elsewhere_now(&self, no: BatchNo) -> bool {
        let Some(open) = self.open.get(&no) else {
            return false;
        };
        let current = self.post.client.read();
        let current = current.as_ref().map(|client| client.account());
        open.record.is_unsent() && current.as_ref() != Some(&open.record.account)
    }

    /// Ends what is no more. Tells whether that was possible.
    pub(super) fn close(&mut self, no: BatchNo) -> bool {
        let wall = self.clock.wall();
        match self
            .context
            .store
            .close_batch(self.context.worker, no, wall)
        {
            Ok(()) => {
                if let Some(open) = self.open.remove(&no) {
                    self.context.spool.drop_input(&open.record.intent.label);
                }
                (self.wake)();
                self.post.ring();
                true
            }
            Err(error) => self.unwritten(no, &error),
        }
    }

    /// The failure of a call that all batches of its account share.
    pub(super) fn critical(&self, error: &Error) {
        if self.on_error == ErrorPolicy::StopOnCriticalError {
            *self.context.outlook.critical.lock() = Some(error.clone());
            (self.wake)();
        }
    }

    pub(super) fn store(&self) -> &Arc<dyn JobStore> {
        &self.context.store
    }
}
