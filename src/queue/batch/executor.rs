//! Executes the machine's decisions: takes the next step, passes the outcome to the machine, stores the record, and
//! executes the effects. Nothing is decided here.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::base::{Error, Mark};
use crate::engine::dispatch::ErrorPolicy;
use crate::llm::batch::BatchClient;
use crate::queue::store::BatchNo;

use super::collect::{collect, settle_items};
use super::machine::{Effect, Event, Facts, ItemEnds, Record, State, Step, apply, next};
use super::poller::{Group, OwnedBatch, Poller, RETRY_AFTER, Unsaved};
use super::spool::InputFile;
use super::transfer::{PANICKED, Transfer, caught};
use super::write_input::write_input;

/// Interval of attempts without the API key, or after a panic of the client.
const UNUSABLE: Duration = Duration::from_secs(10);
/// Interval of attempts if batches are created one after the other.
const NEXT_CREATION: Duration = Duration::from_secs(1);

/// Identity of a batch, for effects that run after it is closed.
struct About {
    record: Record,
    /// Where its jobs wait if they are in no batch.
    group: Group,
}

impl Poller<'_> {
    /// Takes the due steps of all batches.
    pub(super) fn take_steps(&mut self) {
        let now = self.clock.now();
        for no in self.unsaved(now) {
            self.save(no);
        }
        for no in self.due(now) {
            if self.options.ctx.is_cancelled() {
                return;
            }
            self.guarded(no, |poller| poller.take_step(no));
            // Finished transfers do not wait for calls of other batches.
            self.receive_answers();
        }
    }

    fn guarded(&mut self, no: BatchNo, work: impl FnOnce(&mut Self)) {
        if caught(|| work(self)).is_none() {
            self.feed(no, Event::Delayed(UNUSABLE, Some(PANICKED)));
        }
    }

    fn take_step(&mut self, no: BatchNo) {
        let Some(open) = self.batches.get(&no) else {
            return;
        };
        if self.is_elsewhere_now(&open.record) {
            self.feed(no, Event::GivenUp);
            return;
        }
        let account = open.record.account.clone();
        let Some(client) = self
            .accounts
            .client(&self.options.context.setup(), &account)
        else {
            let why = "its API key is not set";
            self.feed(no, Event::Delayed(UNUSABLE, Some(why)));
            return;
        };
        if client.account() != account {
            self.ask_with_another_key(no, &client);
            return;
        }
        let paused = self.accounts.paused_until(&account);
        let Some(open) = self.batches.get_mut(&no) else {
            return;
        };
        open.uploads = client.uploads();
        if let Some(until) = paused.filter(|until| *until > self.clock.now()) {
            open.due = until;
            return;
        }
        let state = open.record.state.clone();
        if let Some(facts) = self.facts(no) {
            self.act(no, next(&state, &facts), &client);
        }
    }

    /// If the key that created a batch is not there, the present key of the same address asks for the batch. If the
    /// provider shows it, it belongs to this key from now on; otherwise it waits, without an owner, for its own key.
    fn ask_with_another_key(&mut self, no: BatchNo, client: &Arc<dyn BatchClient>) {
        let Some(open) = self.batches.get_mut(&no) else {
            return;
        };
        let Some(id) = open.record.id().map(str::to_owned) else {
            self.leave(no);
            return;
        };
        let answer = client.status(&id, self.options.ctx);
        match &answer {
            Ok(_) => open.record.account = client.account(),
            Err(error) if error.is_not_found() => {
                self.leave(no);
                return;
            }
            Err(_) => {}
        }
        self.feed(no, Event::Status(answer));
    }

    /// Leaves a batch to a worker with the key that created it.
    fn leave(&mut self, no: BatchNo) {
        let context = &self.options.context;
        if let Err(error) = context.store.leave_batch(context.worker, no) {
            self.not_written(no, &error);
            return;
        }
        self.batches.remove(&no);
        self.hidden.insert(no);
        self.scan_at = Some(self.clock.now());
    }

    /// Whether nothing of a batch was sent, and new batches use another account or none. Then its jobs do too.
    fn is_elsewhere_now(&self, record: &Record) -> bool {
        let setup = self.options.context.setup();
        let current = setup.batches.as_ref().map(|client| client.account());
        record.is_unsent() && current.as_ref() != Some(&record.account)
    }

    /// Executes a step: short ones at once, long ones on a transfer thread.
    fn act(&mut self, no: BatchNo, step: Step, client: &Arc<dyn BatchClient>) {
        let event = match step {
            Step::WriteInput => {
                let mut limits = client.limits();
                let most = self.batches.get(&no).and_then(|open| open.most);
                limits.requests = limits.requests.min(most.unwrap_or(usize::MAX));
                return self.transfer(no, client, Event::Written, move |batch| {
                    write_input(batch, limits)
                });
            }
            Step::Upload | Step::Create => return self.submit(no, client),
            Step::ReadList(input) => match self.other_ids(no) {
                Ok(known) => {
                    return self.transfer(no, client, Event::Listed, move |batch| {
                        let intent = &batch.record.intent;
                        batch.client.find(intent, &input, &known, batch.ctx)
                    });
                }
                Err(error) => {
                    log::warn!("cannot look for batches: {error}");
                    Event::Delayed(RETRY_AFTER, None)
                }
            },
            Step::DeleteFile(file) => Event::FileDeleted(client.discard(&file, self.options.ctx)),
            Step::GiveUp => Event::GivenUp,
            Step::Cancel(id) => Event::Cancelled(client.cancel(&id, self.options.ctx)),
            Step::AskStatus(id) => Event::Status(client.status(&id, self.options.ctx)),
            Step::Collect(id, results) => {
                return self.transfer(no, client, Event::Collected, move |batch| {
                    collect(batch, &id, &results)
                });
            }
        };
        self.feed(no, event);
    }

    /// Uploads the input or creates the batch, after the record says so.
    fn submit(&mut self, no: BatchNo, client: &Arc<dyn BatchClient>) {
        let Some(open) = self.batches.get(&no) else {
            return;
        };
        let State::Sending(sending) = open.record.state.clone() else {
            return;
        };
        // If only their times distinguish batches, they are created one after the other.
        let creates_alone = sending.creates(open.uploads) && !open.uploads;
        if creates_alone && self.may_another_be_created(no) {
            self.feed(no, Event::Delayed(NEXT_CREATION, None));
            return;
        }
        if !self.feed(no, Event::Sending) {
            let open = self.batches.get(&no);
            if open.is_some_and(|open| open.unsaved.is_some()) {
                self.feed(no, Event::NotSent(None));
            }
            return;
        }
        if creates_alone && self.may_another_be_created(no) {
            // Lost the race: both were recorded at the same time, and neither continues.
            let wait = NEXT_CREATION.mul_f64(1.0 + 5.0 * self.jitter.share());
            self.feed(no, Event::NotSent(Some(wait)));
            return;
        }
        let stage = sending.input;
        self.transfer(no, client, Event::Submitted, move |batch| {
            let mut input = InputFile(batch.context.spool.input(batch.label()));
            let intent = &batch.record.intent;
            batch.client.advance(intent, &stage, &mut input, batch.ctx)
        });
    }

    /// Whether another batch of this account, of any worker, may be created at any moment.
    fn may_another_be_created(&self, no: BatchNo) -> bool {
        let Some(own) = self.batches.get(&no) else {
            return false;
        };
        let all = match self.options.context.store.batches(None) {
            Ok(all) => all,
            Err(error) => {
                log::warn!("cannot look for batches: {error}");
                return true;
            }
        };
        // A crashed worker's unfinished creation waits until it is taken over, which may take long.
        let mut others = all
            .iter()
            .filter(|batch| batch.no != no && batch.worker.is_some())
            .filter_map(Record::read);
        others.any(|other| other.account == own.record.account && other.may_be_created())
    }

    /// The ids of all other batches in this store, and of those that were adopted as this one by mistake.
    fn other_ids(&self, no: BatchNo) -> Result<HashSet<String>, Error> {
        let all = self.options.context.store.batches(None)?;
        let others = all.iter().filter(|batch| batch.no != no);
        let ids = others.filter_map(|other| Some(Record::read(other)?.id()?.to_owned()));
        let open = self.batches.get(&no);
        let not_ours = open.map_or(&[][..], |open| &open.record.not_ours);
        Ok(ids.chain(not_ours.iter().cloned()).collect())
    }

    fn transfer<T: 'static>(
        &mut self,
        no: BatchNo,
        client: &Arc<dyn BatchClient>,
        event: fn(Result<T, Error>) -> Event,
        work: impl FnOnce(&Transfer<'_>) -> Result<T, Error> + Send + 'static,
    ) {
        if let Some(open) = self.batches.get_mut(&no) {
            open.busy = true;
            let transfers = &self.options.transfers;
            transfers.order(no, &open.record, client, event, work);
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
        let Some(open) = self.batches.get_mut(&no) else {
            return;
        };
        open.busy = false;
        if let Some(error) = self.options.context.refused.lock().take() {
            self.report_critical(&error);
        }
        self.guarded(no, |poller| {
            poller.feed(no, event);
        });
    }

    /// Passes an event to the machine and executes the effects. Returns whether all succeeded.
    pub(super) fn feed(&mut self, no: BatchNo, event: Event) -> bool {
        let Some(facts) = self.facts(no) else {
            return false;
        };
        let Some(open) = self.batches.get_mut(&no) else {
            return false;
        };
        let about = About {
            record: open.record.clone(),
            group: open.group(),
        };
        let account = &about.record.account;
        match &event {
            Event::Submitted(answer) => self.accounts.note_call(account, answer.as_ref().err()),
            Event::Status(answer) => self.accounts.note_call(account, answer.as_ref().err()),
            Event::Listed(answer) => self.accounts.note_call(account, answer.as_ref().err()),
            _ => {}
        }
        let effects = apply(&mut open.record, event, &facts);
        if effects.refused {
            open.due = self.clock.now().after(RETRY_AFTER);
        } else if effects.reschedules {
            let wait = open.record.due.since(facts.now);
            open.due = self.clock.now().after(wait);
        }
        let done = effects.list.into_iter().try_fold(true, |done, effect| {
            let is_end = matches!(effect, Effect::GiveBack | Effect::Close);
            let is_done = self.carry_out(no, effect, &about, &facts);
            (is_done || !is_end).then_some(done && is_done)
        });
        !effects.refused && done.unwrap_or(false)
    }

    /// The facts for a decision about a batch.
    fn facts(&mut self, no: BatchNo) -> Option<Facts> {
        let open = self.batches.get(&no)?;
        let mut others = self.batches.values().filter(|other| {
            other.batch.no != no
                && other.record.account == open.record.account
                && other.record.id().is_some()
        });
        Some(Facts {
            now: self.clock.wall(),
            is_stopped: open.batch.stopped_at.is_some(),
            stopped_at: open.batch.stopped_at,
            is_elsewhere: self.is_elsewhere_now(&open.record),
            has_input: self.options.context.spool.input(open.label()).exists(),
            uploads: open.uploads,
            settings: self.options.context.setup().settings.batches,
            jitter: self.jitter.share(),
            is_ending: self.options.ctx.is_cancelled(),
            others_there: others.next().is_some(),
            is_reached: self.accounts.is_reached(&open.record.account),
            refusals: (self.refusals.get(&open.group()).copied()).unwrap_or_default(),
        })
    }

    /// Executes one effect. Returns whether it succeeded.
    fn carry_out(&mut self, no: BatchNo, effect: Effect, about: &About, facts: &Facts) -> bool {
        let (account, intent) = (&about.record.account, &about.record.intent);
        let client = self.accounts.client(&self.options.context.setup(), account);
        let overview = &self.options.context.overview;
        let now = self.clock.now();
        match effect {
            Effect::Log(level, text) => log::log!(level, "{text}"),
            Effect::Save => return self.save(no),
            Effect::GiveBack => return self.give_back(no),
            Effect::Close => return self.close(no),
            Effect::Divide => self.divide(about),
            Effect::Take(step) => {
                if let Some(client) = client {
                    self.act(no, step, &client);
                }
            }
            Effect::SettleItems(ends) => {
                if let ItemEnds::Called(error) = &ends {
                    self.say_called(&about.record, error);
                }
                if let Some(client) = client {
                    self.transfer(no, &client, Event::Settled, move |batch| {
                        settle_items(batch, ends)
                    });
                }
            }
            Effect::DeleteFile(file) => {
                if let Some(client) = client
                    && let Err(error) = client.discard(&file, self.options.ctx)
                {
                    log::debug!("the input file {file} stays at the provider: {error}");
                }
            }
            Effect::CancelDuplicate(id) => {
                if let Some(client) = client
                    && let Err(error) = client.cancel(&id, self.options.ctx)
                {
                    log::warn!("the superfluous batch {id} could not be cancelled: {error}");
                }
            }
            Effect::DropInput => self.options.context.spool.drop_input(&intent.label),
            Effect::PauseAccount(error) => self.accounts.pause(account.clone(), &error, facts, now),
            Effect::ResumeAccount => self.accounts.resume(account),
            Effect::ReportCritical(error) => self.report_critical(&error),
            Effect::ReportHeld(error) => {
                if self.options.until_submitted {
                    *overview.critical.lock() = Some(error);
                    (self.options.wake)();
                }
            }
            Effect::HoldAccount(error) => {
                let until = now.after(facts.settings.hold());
                let why = format!("{error}; it is tried again every minute");
                self.accounts.hold(account.clone(), until, why);
            }
            Effect::CountRefusals(refusals) => {
                self.refusals.insert(about.group.clone(), refusals);
            }
            Effect::ForgetRefusals => {
                self.refusals.remove(&about.group);
            }
            Effect::CountVainFetch => {
                if let Some(open) = self.batches.get_mut(&no) {
                    open.asked_in_vain = true;
                }
            }
            Effect::CountCreated => {
                overview.created.fetch_add(1, Ordering::SeqCst);
            }
            Effect::CountPossiblyPaidTwice(items) => {
                overview
                    .possibly_paid_twice
                    .fetch_add(items, Ordering::SeqCst);
            }
            Effect::Wake => (self.options.wake)(),
        }
        true
    }

    /// Has both halves of a refused batch sent.
    fn divide(&mut self, about: &About) {
        let items = about.record.intent.items;
        let half = usize::try_from(items.div_ceil(2)).unwrap_or(usize::MAX);
        let halves = self.halves.entry(about.group.clone()).or_default();
        halves.extend([half, half]);
    }

    /// Says once that calls are made, which cost more than a batch.
    fn say_called(&mut self, refused: &Record, error: &Error) {
        let level = if std::mem::replace(&mut self.has_said_called, true) {
            log::Level::Info
        } else {
            log::Level::Warn
        };
        log::log!(
            level,
            "{} refused a batch and named none of its {} requests ({error}); they are called one by one, at the price of \
             calls and within the budget, like all that is refused so in batches of less than 100",
            refused.account.provider,
            refused.intent.items
        );
    }

    /// Reports a failed call that affects all batches of its account.
    fn report_critical(&self, error: &Error) {
        if self.options.on_error == ErrorPolicy::StopOnCriticalError {
            *self.options.context.overview.critical.lock() = Some(error.clone());
            (self.options.wake)();
        }
    }

    /// Stores the record of a batch. Unsaved state is not acted upon: it is stored later, and no step is taken
    /// before.
    pub(super) fn save(&mut self, no: BatchNo) -> bool {
        let Some(open) = self.batches.get(&no) else {
            return false;
        };
        let text = open.record.text();
        let store = &self.options.context.store;
        match store.save_batch(self.options.context.worker, no, &text) {
            Ok(()) => {
                if let Some(open) = self.batches.get_mut(&no) {
                    open.unsaved = None;
                }
                true
            }
            Err(error) => self.not_written(no, &error),
        }
    }

    /// Returns the jobs of a batch for which nothing was billed, with what was reserved for them.
    fn give_back(&mut self, no: BatchNo) -> bool {
        let wall = self.clock.wall();
        let context = &self.options.context;
        match context.store.give_back(context.worker, no, None, wall) {
            Ok(_) => true,
            Err(error) => self.not_written(no, &error),
        }
    }

    /// Closes a batch.
    fn close(&mut self, no: BatchNo) -> bool {
        let is_unsent = |open: &OwnedBatch| open.record.is_unsent();
        if self.batches.get(&no).is_some_and(is_unsent) && !self.give_back(no) {
            return false;
        }
        let wall = self.clock.wall();
        let store = &self.options.context.store;
        match store.close_batch(self.options.context.worker, no, wall) {
            Ok(()) => {
                if let Some(open) = self.batches.remove(&no) {
                    let context = &self.options.context;
                    context.spool.drop_input(open.label());
                }
                let overview = &self.options.context.overview;
                overview.closed.fetch_add(1, Ordering::SeqCst);
                overview.none_waiting.store(false, Ordering::SeqCst);
                (self.options.wake)();
                self.options.control.wake();
                true
            }
            Err(error) => self.not_written(no, &error),
        }
    }

    /// Handles a failure to store a decision about a batch.
    fn not_written(&mut self, no: BatchNo, error: &Error) -> bool {
        if error.is_marked(Mark::ClaimLost) {
            // Another worker has it: this one was considered crashed.
            log::warn!("batch {} is no longer this worker's: {error}", no.0);
            self.batches.remove(&no);
            return false;
        }
        let retry_at = self.clock.now().after(RETRY_AFTER);
        if let Some(open) = self.batches.get_mut(&no) {
            let why = format!("cannot record the state of batch {}: {error}", no.0);
            if open.unsaved.as_ref().is_none_or(|known| known.why != why) {
                log::warn!("{why}");
            }
            open.unsaved = Some(Unsaved { retry_at, why });
        }
        false
    }
}
