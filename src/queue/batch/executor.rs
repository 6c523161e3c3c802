//! Executes the machine's decisions: takes the next step, passes the outcome to the machine, stores the record, and
//! executes the effects. Nothing is decided here.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::base::{Error, Mark, Time};
use crate::engine::dispatch::ErrorPolicy;
use crate::llm::batch::{BatchAccount, BatchClient, BatchRefusal};
use crate::queue::store::{BatchNo, StoredBatch};

use super::collect::{collect, settle_items};
use super::context::Group;
use super::machine::{AWAY, Effect, Event, Facts, ItemEnds, Record, State, Step, apply, next};
use super::poller::{OwnedBatch, Poller, RETRY_AFTER};
use super::transfer::{PANICKED, Transfer, caught, discard};
use super::write_input::write_input;

/// Interval of attempts without the API key, or after a panic of the client.
const UNUSABLE: Duration = Duration::from_secs(10);
/// The most requests of a process that are called, at the price of calls, because their batch was refused.
const MOST_CALLED: u64 = 99;
/// Interval of attempts if batches are created one after the other.
const NEXT_CREATION: Duration = Duration::from_secs(1);

impl Poller<'_> {
    /// Takes the due steps of all batches.
    pub(super) fn take_steps(&mut self) {
        let now = self.clock.now();
        for no in self.due(now) {
            if self.options.ctx.is_cancelled() {
                return;
            }
            self.with(no, Self::take_step);
            // Finished transfers do not wait for calls of other batches.
            self.receive_answers();
        }
    }

    /// Works on a batch, which is not among the others meanwhile. If the client panics, the batch waits.
    pub(super) fn with(&mut self, no: BatchNo, work: impl FnOnce(&mut Self, &mut OwnedBatch)) {
        let Some(mut open) = self.batches.remove(&no) else {
            return;
        };
        if caught(|| work(self, &mut open)).is_none() {
            self.feed(&mut open, Event::Delayed(UNUSABLE, Some(PANICKED)));
        }
        if !open.is_gone {
            self.batches.insert(no, open);
        }
    }

    /// Passes an event to a batch.
    pub(super) fn tell(&mut self, no: BatchNo, event: Event) {
        self.with(no, |poller, open| {
            poller.feed(open, event);
        });
    }

    fn take_step(&mut self, open: &mut OwnedBatch) {
        if open.unsaved.is_some() {
            return self.save_late(open);
        }
        if self.is_elsewhere_now(&open.record) {
            self.feed(open, Event::GivenUp);
            return;
        }
        let Some(client) = self.client(open) else {
            let why = "its API key is not set";
            self.feed(open, Event::Delayed(UNUSABLE, Some(why)));
            return;
        };
        if client.account() != open.record.account {
            return self.ask_with_another_key(open, &*client);
        }
        open.uploads = client.uploads();
        let paused_until = self.accounts.paused_until(&open.record.account);
        if paused_until > self.clock.now() {
            open.due = paused_until;
            return;
        }
        let step = next(&open.record.state, &self.facts(open));
        self.act(open, step, &*client);
    }

    fn client(&mut self, open: &OwnedBatch) -> Option<Arc<dyn BatchClient>> {
        let setup = self.options.context.setup();
        self.accounts.client(&setup, &open.record.account)
    }

    /// If the key that created a batch is not there, the present key of the same address asks for the batch. If the
    /// provider shows it, it belongs to this key from now on; otherwise it waits, without an owner, for its own key.
    fn ask_with_another_key(&mut self, open: &mut OwnedBatch, client: &dyn BatchClient) {
        let Some(id) = open.record.id() else {
            return self.leave(open);
        };
        let answer = client.status(id, self.options.ctx);
        match &answer {
            Ok(_) => open.record.account = client.account(),
            Err(error) if error.is_not_found() => return self.leave(open),
            Err(_) => {}
        }
        self.feed(open, Event::Status(answer));
    }

    /// Leaves a batch to a worker with the key that created it.
    fn leave(&mut self, open: &mut OwnedBatch) {
        let context = &self.options.context;
        let left = context.store.leave_batch(context.worker, open.batch.no);
        if self.is_stored(open, left) {
            open.is_gone = true;
            self.hidden.insert(open.batch.no);
            self.scan_at = Some(self.clock.now());
        }
    }

    /// Whether nothing of a batch was sent, and new batches use another account or none. Then its jobs do too.
    fn is_elsewhere_now(&self, record: &Record) -> bool {
        let setup = self.options.context.setup();
        let current = setup.batches.as_ref().map(|client| client.account());
        record.is_unsent() && current.as_ref() != Some(&record.account)
    }

    /// Executes a step: short ones at once, long ones on a transfer thread.
    fn act(&mut self, open: &mut OwnedBatch, step: Step, client: &dyn BatchClient) {
        let ctx = self.options.ctx;
        let event = match step {
            Step::WriteInput => {
                let mut limits = client.limits();
                let most = open.record.most.unwrap_or(u64::MAX);
                limits.requests = limits.requests.min(most as usize);
                let work = move |batch: &Transfer<'_>| write_input(batch, limits);
                return self.transfer(open, Event::Written, work);
            }
            Step::Submit => return self.submit(open),
            Step::ReadList(input) => match self.other_ids(open) {
                Ok(known) => {
                    return self.transfer(open, Event::Listed, move |batch| {
                        let intent = &batch.record.intent;
                        batch.client.find(intent, &input, &known, batch.ctx)
                    });
                }
                Err(error) => {
                    log::warn!("cannot look for batches: {error}");
                    Event::Delayed(RETRY_AFTER, None)
                }
            },
            Step::DeleteFile(file) => Event::FileDeleted(client.discard(&file, ctx)),
            Step::GiveUp => Event::GivenUp,
            Step::Cancel(id) => {
                self.feed(open, Event::Cancelled(client.cancel(&id, ctx)));
                if open.is_gone {
                    return;
                }
                Event::Status(client.status(&id, ctx))
            }
            Step::AskStatus(id) => Event::Status(client.status(&id, ctx)),
        };
        self.feed(open, event);
    }

    /// Uploads the input or creates the batch, after the record says so.
    fn submit(&mut self, open: &mut OwnedBatch) {
        let State::Sending(sending) = open.record.state.clone() else {
            return;
        };
        if open.record.halt.is_none()
            && let Some(until) = self.halted_until(&open.group(), &open.record.account)
        {
            // The trial of a halted batch may be on its way.
            open.due = until.max(self.clock.now().after(Duration::from_secs(1)));
            return;
        }
        // If only their times distinguish batches, they are created one after the other.
        let creates_alone = sending.creates(open.uploads) && !open.uploads;
        if creates_alone && self.may_another_be_created(open) {
            self.feed(open, Event::Delayed(NEXT_CREATION, None));
            return;
        }
        if !self.feed(open, Event::Sending) {
            if open.unsaved.is_some() {
                self.feed(open, Event::NotSent(None));
            }
            return;
        }
        if creates_alone && self.may_another_be_created(open) {
            // Lost the race: both were recorded at the same time, and neither continues.
            let share = self.options.context.jitter.lock().share();
            let wait = NEXT_CREATION.mul_f64(1.0 + 5.0 * share);
            self.feed(open, Event::NotSent(Some(wait)));
            return;
        }
        let stage = sending.input;
        let submitted = |answer: Result<Result<_, BatchRefusal>, Error>| {
            Event::Submitted(answer.unwrap_or_else(|error| Err(error.into())))
        };
        self.transfer(open, submitted, move |batch| {
            let mut input = batch.context.spool.input(batch.label());
            let intent = &batch.record.intent;
            Ok(batch.client.advance(intent, &stage, &mut input, batch.ctx))
        });
    }

    /// Whether another batch of this account, of any worker, may be created at any moment.
    fn may_another_be_created(&self, own: &OwnedBatch) -> bool {
        let account = &own.record.account;
        let others = self.others(own).inspect_err(|error| {
            log::warn!("cannot look for batches: {error}");
        });
        // A crashed worker's unfinished creation waits until it is taken over, which may take long.
        let mut may = others.iter().flatten().filter(|(other, batch)| {
            batch.worker.is_some() && other.account == *account && other.may_be_created()
        });
        others.is_err() || may.next().is_some()
    }

    /// All other batches in this store.
    fn others(&self, own: &OwnedBatch) -> Result<Vec<(Record, StoredBatch)>, Error> {
        let mut all = self.options.context.store.batches(None)?;
        all.retain(|batch| batch.no != own.batch.no);
        let read = |batch| Some((Record::read(&batch)?, batch));
        Ok(all.into_iter().filter_map(read).collect())
    }

    /// The ids of all other batches in this store, and of those that were adopted as this one by mistake.
    fn other_ids(&self, own: &OwnedBatch) -> Result<HashSet<String>, Error> {
        let others = self.others(own)?.into_iter();
        let ids = others.filter_map(|(record, _)| Some(record.id()?.to_owned()));
        Ok(ids.chain(own.record.not_ours.iter().cloned()).collect())
    }

    fn transfer<T: 'static>(
        &mut self,
        open: &mut OwnedBatch,
        event: fn(Result<T, Error>) -> Event,
        work: impl FnOnce(&Transfer<'_>) -> Result<T, Error> + Send + 'static,
    ) {
        if let Some(client) = self.client(open) {
            open.busy = true;
            let transfers = &self.options.transfers;
            transfers.order(open.batch.no, &open.record, client, event, work);
        }
    }

    /// Receives the outcomes of transfers.
    pub(super) fn receive_answers(&mut self) {
        while let Ok((no, event)) = self.options.transfers.done.try_recv() {
            self.receive(no, event);
        }
    }

    /// A transfer thread has finished.
    pub(super) fn receive(&mut self, no: BatchNo, event: Event) {
        let refused = self.options.context.refused.lock().take();
        if let Some(error) = refused {
            self.report_critical(error);
        }
        self.with(no, |poller, open| {
            open.busy = false;
            poller.feed(open, event);
        });
    }

    /// Passes an event to the machine and executes the effects. Returns whether all succeeded.
    pub(super) fn feed(&mut self, open: &mut OwnedBatch, event: Event) -> bool {
        let mut facts = self.facts(open);
        if event.is_refusal() {
            facts.callable = self.callable(open);
        }
        self.accounts.of(&open.record.account).is_reached |= event.is_reply();
        let effects = apply(&mut open.record, event, &facts);
        if effects.refused {
            open.due = self.clock.now().after(RETRY_AFTER);
        } else if effects.reschedules {
            let wait = open.record.due.since(facts.now);
            open.due = self.clock.now().after(wait);
        }
        let done = effects.list.into_iter().try_fold(true, |done, effect| {
            let is_end = matches!(effect, Effect::GiveBack | Effect::Close);
            let is_done = self.carry_out(open, effect, &facts);
            (is_done || !is_end && !open.is_gone).then_some(done && is_done)
        });
        !effects.refused && done.unwrap_or(false)
    }

    /// The facts for a decision about a batch.
    fn facts(&mut self, open: &OwnedBatch) -> Facts {
        let account = &open.record.account;
        let mut others = self.batches.values().map(|other| &other.record);
        Facts {
            now: self.clock.wall(),
            is_stopped: open.batch.stopped_at.is_some(),
            stopped_at: open.batch.stopped_at,
            is_elsewhere: self.is_elsewhere_now(&open.record),
            has_input: self.options.context.spool.input(open.label()).exists(),
            uploads: open.uploads,
            settings: self.options.context.setup().settings.batches,
            is_ending: self.options.ctx.is_cancelled(),
            others_there: others.any(|other| other.account == *account && other.id().is_some()),
            is_reached: self.accounts.of(account).is_reached,
            refusals: (self.refusals.get(&open.group()).cloned()).unwrap_or_default(),
            callable: 0,
        }
    }

    /// How many more requests of the process of a batch may be called because their batch was refused. The store does not
    /// know those whose results were taken from it.
    fn callable(&mut self, open: &OwnedBatch) -> u64 {
        let Some(process) = open.batch.process_id else {
            return 0;
        };
        let stored = self.options.context.store.called_jobs(process);
        let known = self.called.entry(process).or_default();
        *known = stored.map_or(MOST_CALLED, |stored| stored.max(*known));
        MOST_CALLED.saturating_sub(*known)
    }

    /// When a batch of this group at this account may be sent, if one was refused for a reason that they share.
    pub(super) fn halted_until(&self, group: &Group, account: &BatchAccount) -> Option<Time> {
        let is_shared = |open: &&OwnedBatch| match &open.record.halt {
            Some(halt) if halt.of_account => open.record.account == *account,
            Some(_) => open.group() == *group,
            None => false,
        };
        let shared = self.batches.values().filter(is_shared);
        shared.map(|open| open.due).max()
    }

    /// Executes one effect. Returns whether it succeeded.
    fn carry_out(&mut self, open: &mut OwnedBatch, effect: Effect, facts: &Facts) -> bool {
        let account = open.record.account.clone();
        let overview = &self.options.context.overview;
        let now = self.clock.now();
        match effect {
            Effect::Log(level, text) => log::log!(level, "{text}"),
            Effect::Save => return self.save(open),
            Effect::GiveBack => return self.give_back(open),
            Effect::Close => return self.close(open),
            Effect::SettleItems(ends) => {
                if let ItemEnds::Called(error) = &ends {
                    self.say_called(&open.record, error);
                    let called = open
                        .batch
                        .process_id
                        .map(|id| self.called.entry(id).or_default());
                    called
                        .into_iter()
                        .for_each(|called| *called += open.record.intent.items);
                }
                self.transfer(open, Event::Settled, move |batch| settle_items(batch, ends));
            }
            Effect::Collect(results) => {
                self.transfer(open, Event::Collected, move |batch| {
                    collect(batch, &results)
                });
            }
            Effect::DeleteFile(file) => {
                if let Some(client) = self.client(open) {
                    discard(&*client, &file, self.options.ctx);
                }
            }
            Effect::CancelDuplicate(id) => {
                if let Some(client) = self.client(open)
                    && let Err(error) = client.cancel(&id, self.options.ctx)
                {
                    log::warn!("the superfluous batch {id} could not be cancelled: {error}");
                }
            }
            Effect::DropInput => self.options.context.spool.drop_input(open.label()),
            Effect::PauseAccount(error) => self.accounts.of(&account).pause(&error, facts, now),
            Effect::ResumeAccount => self.accounts.of(&account).resume(),
            Effect::ReportCritical(error) => self.report_critical(error),
            Effect::ReportHeld(error) => {
                // What goes to another account is submitted first.
                let others = self.batches.values().map(|other| &other.record);
                let mut sent = others.filter(|new| new.account != account && new.failures < AWAY);
                if self.options.scope.until_submitted && sent.all(Record::is_submitted) {
                    self.end_with(error);
                }
            }
            Effect::CountRefusals => {
                let refusals = open.record.refusals.clone();
                self.refusals.insert(open.group(), refusals);
            }
            Effect::Release => {
                let others = self.batches.values_mut();
                let others = others.filter(|other| {
                    other.record.account == account && !other.record.is_submitted()
                });
                others.for_each(|other| other.due = now);
                self.scan_at = Some(now);
            }
            Effect::CountCreated => overview.tally.lock().created += 1,
            Effect::CountPossiblyPaidTwice(items) => {
                overview.tally.lock().possibly_paid_twice += items;
            }
        }
        true
    }

    /// Says once that calls are made, which cost more than a batch.
    fn say_called(&mut self, refused: &Record, error: &Error) {
        if !std::mem::replace(&mut self.has_said_called, true) {
            log::warn!(
                "{} refused a batch of {} requests without naming one ({error}); they are called one by one, at the \
                 price of calls and within the budget, like all that is refused so in batches of less than 100",
                refused.account.provider,
                refused.intent.items
            );
        }
    }

    /// Reports a failed call that affects all batches of its account.
    fn report_critical(&self, error: Error) {
        if self.options.on_error == ErrorPolicy::StopOnCriticalError {
            self.end_with(error);
        }
    }

    /// Ends the worker.
    fn end_with(&self, error: Error) {
        *self.options.context.overview.critical.lock() = Some(error);
        (self.options.wake)();
    }

    /// Stores a record that could not be stored before.
    pub(super) fn save_late(&mut self, open: &mut OwnedBatch) {
        if open.unsaved.is_some() && self.save(open) {
            let wait = open.record.due.since(self.clock.wall());
            open.due = self.clock.now().after(wait);
        }
    }

    /// Stores the record of a batch.
    fn save(&mut self, open: &mut OwnedBatch) -> bool {
        let (context, no, text) = (&self.options.context, open.batch.no, open.record.text());
        let saved = context.store.save_batch(context.worker, no, &text);
        (self.options.wake)();
        self.is_stored(open, saved)
    }

    /// Returns the jobs of a batch for which nothing was billed, with what was reserved for them.
    fn give_back(&mut self, open: &mut OwnedBatch) -> bool {
        let (context, no, wall) = (&self.options.context, open.batch.no, self.clock.wall());
        let returned = context.store.give_back(context.worker, no, None, wall);
        self.is_stored(open, returned.map(drop))
    }

    /// Closes a batch.
    fn close(&mut self, open: &mut OwnedBatch) -> bool {
        if open.record.is_unsent() && !self.give_back(open) {
            return false;
        }
        let (context, no, wall) = (&self.options.context, open.batch.no, self.clock.wall());
        let closed = context.store.close_batch(context.worker, no, wall);
        if !self.is_stored(open, closed) {
            return false;
        }
        open.is_gone = true;
        context.spool.drop_input(open.label());
        context.overview.tally.lock().closed += 1;
        context.overview.none_waiting.store(false, Ordering::SeqCst);
        (self.options.wake)();
        self.options.control.wake();
        true
    }

    /// Whether a decision about a batch was stored. State that could not be stored is stored later, and no step is taken
    /// before.
    fn is_stored(&self, open: &mut OwnedBatch, stored: Result<(), Error>) -> bool {
        let (no, known) = (open.batch.no.0, open.unsaved.take());
        let Err(error) = stored else {
            return true;
        };
        if error.is_marked(Mark::ClaimLost) {
            // Another worker has it: this one was considered crashed.
            log::warn!("batch {no} is no longer this worker's: {error}");
            open.is_gone = true;
            return false;
        }
        let why = format!("cannot record the state of batch {no}: {error}");
        if known.is_none_or(|known| known != why) {
            log::warn!("{why}");
        }
        open.unsaved = Some(why);
        open.due = self.clock.now().after(RETRY_AFTER);
        false
    }
}
