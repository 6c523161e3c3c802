//! The effect of each event on a batch. Each pair of a state and an event has an arm here, or is refused.

use std::time::Duration;

use log::Level;

use crate::base::{Error, ErrorKind};
use crate::llm::batch::BatchStage;

use super::event::{Effect, Effects, Event, Facts, ItemsSettled, Step, is_cut_off, next};
use super::state::Record;
use super::state::{Fence, Sending, State, Unknown};

/// Applies an event to a batch, and returns what else to do.
pub(crate) fn apply(record: &mut Record, event: Event, facts: &Facts) -> Effects {
    let mut change = Change {
        record,
        facts,
        effects: Effects::default(),
    };
    change.apply(event);
    change.effects
}

/// A batch with the event that changes it. Other files have the rules of each step.
pub(super) struct Change<'a> {
    pub record: &'a mut Record,
    pub facts: &'a Facts,
    pub effects: Effects,
}

impl Change<'_> {
    fn apply(&mut self, event: Event) {
        use State as S;
        match (self.record.state.clone(), event) {
            // In any state.
            (_, Event::TakenOver) => self.taken_over(),
            // A delayed list gets its time, however often the user cancels.
            (S::Unknown(Unknown { held: false, .. }), Event::Recheck) => {}
            (_, Event::Recheck) => self.wait(Duration::ZERO),
            (_, Event::Delayed(wait, why)) => {
                why.into_iter().for_each(|why| self.problem(why.to_owned()));
                self.wait(wait);
            }

            // Forming and sending.
            (S::Forming, Event::Written(written)) => self.written(written),
            // The local file had disappeared.
            (S::Sending(sending), Event::Written(written))
                if sending.input == BatchStage::Ready
                    && !(sending.sent && sending.creates(self.facts.uploads)) =>
            {
                self.written(written);
            }
            (S::Sending(sending), Event::Sending) if self.is_next(&Step::Submit) => {
                self.sending(sending, true);
            }
            (S::Sending(sending), Event::NotSent(wait)) if sending.sent => {
                self.sending(sending, false);
                wait.into_iter().for_each(|wait| self.wait(wait));
            }
            (S::Sending(sending), Event::Submitted(answer)) if sending.sent => {
                self.submitted(sending, answer);
            }

            // Searching.
            (S::Sending(Sending { input, sent, .. }), Event::Listed(found)) if sent => {
                let unknown = Unknown {
                    input,
                    ..Unknown::default()
                };
                self.listed(unknown, found);
            }
            (S::Unknown(unknown), Event::Listed(found)) => self.listed(unknown, found),
            (S::Unknown(unknown), Event::FileDeleted(answer)) => self.file_deleted(unknown, answer),
            (S::Unknown(unknown), Event::GivenUp) if self.is_next(&Step::GiveUp) => {
                self.not_created(&unknown);
            }
            (S::Forming | S::Sending(_), Event::GivenUp) if self.is_next(&Step::GiveUp) => {
                let file = self.record.file().map(str::to_owned);
                self.close();
                self.delete_file(file);
            }

            // At the provider.
            (S::Running(remote), Event::Cancelled(answer)) => self.cancelled(remote, answer),
            (S::Running(remote), Event::Status(Ok(status))) => self.on_status(remote, status),
            (S::Running(remote), Event::Status(Err(error))) => self.no_status(remote, &error),
            (S::Running(remote), Event::Collected(collected)) => self.collected(remote, collected),

            // Refused.
            (S::Sending(_) | S::Running(_), Event::Settled(settled)) => self.settled(settled),

            (_, event) => self.refuse(&event),
        }
    }

    /// Jobs of a refused batch were settled. The others are written anew.
    fn settled(&mut self, settled: Result<ItemsSettled, Error>) {
        match settled {
            Ok(ItemsSettled::NoSuchRequest(error)) => self.divide_or_call(error),
            Ok(ItemsSettled::Jobs(jobs)) => {
                let name = self.record.name();
                let text = format!("{jobs} jobs left batch {name}, which was refused");
                self.log(Level::Info, text);
                if jobs < self.record.intent.items {
                    return self.form_again();
                }
                // Nothing is billed for a refused batch.
                self.add(Effect::GiveBack);
                self.close();
            }
            Err(error) => self.failed(&error),
        }
    }

    /// Whether this is the next step. Only then may money be spent or jobs be returned.
    fn is_next(&self, step: &Step) -> bool {
        next(&self.record.state, self.facts) == *step
    }

    /// Reports an invalid event, which changes nothing.
    fn refuse(&mut self, event: &Event) {
        let (name, state) = (self.record.name(), self.record.state.name());
        let text = format!("batch {name}: {} is not valid while {state}", event.name());
        self.log(Level::Warn, text);
        self.effects.refused = true;
    }

    /// A new worker tries the due step. The due time is corrected if the clock was set back since. A delayed list
    /// keeps its time, however often a worker that reads it crashes.
    fn taken_over(&mut self) {
        let left = self.record.due.since(self.facts.now);
        // The user may have started this worker because the results are available, the provider is reachable, or it
        // accepts the API key now.
        let mut wait = Duration::ZERO;
        if let State::Unknown(unknown) = self.record.state.clone() {
            // The settings may have changed: a held batch is searched once more before it is on hold again, with a new
            // message. But the list that must show that nothing was created before the file was deleted keeps its time.
            if !unknown.held || unknown.fence == (Fence::Closed { confirmed: false }) {
                wait = left.min(self.facts.settings.reconcile_wait);
            }
            self.searching(unknown);
        }
        if self.record.id().is_none() {
            // Each worker has its own attempts.
            (self.record.failures, self.record.waits) = (0, 0);
        }
        self.wait(wait);
        let (name, provider) = (self.record.name(), &self.record.account.provider);
        let text = format!(
            "took over batch {name} of {provider} ({})",
            self.record.word()
        );
        self.log(Level::Info, text);
    }

    pub(super) fn add(&mut self, effect: Effect) {
        self.effects.list.push(effect);
    }

    pub(super) fn save(&mut self) {
        self.add(Effect::Save);
    }

    pub(super) fn close(&mut self) {
        if self.record.halt.take().is_some() {
            self.add(Effect::Release);
        }
        self.add(Effect::Close);
    }

    pub(super) fn log(&mut self, level: Level, text: String) {
        self.add(Effect::Log(level, text));
    }

    pub(super) fn wait(&mut self, wait: Duration) {
        self.record.due = self.facts.now.after(wait);
        self.effects.reschedules = true;
    }

    /// Deletes an unneeded input file at the provider.
    pub(super) fn delete_file(&mut self, file: Option<String>) {
        self.effects.list.extend(file.map(Effect::DeleteFile));
    }

    /// Records why it makes no progress, and logs that once.
    pub(super) fn problem(&mut self, why: String) {
        if self.record.problem.as_ref() != Some(&why) {
            let text = format!("batch {}: {why}", self.record.name());
            self.log(Level::Warn, text);
            self.record.problem = Some(why);
        }
    }

    /// Counts a failure, waits, and tries the same step again.
    pub(super) fn failed(&mut self, error: &Error) {
        self.record.failures = self.record.failures.saturating_add(1);
        self.retry(error);
    }

    /// Waits, and tries the same step again.
    pub(super) fn retry(&mut self, error: &Error) {
        if error.kind() == ErrorKind::Cancelled && self.facts.is_ending {
            return;
        }
        let failures = self.record.failures.max(1);
        let wait = self.facts.after_failures(failures, error.retry_after());
        self.problem(error.message().to_owned());
        self.wait(wait);
        // A batch that is polled first may pause the account each time, so that the others have no turn.
        let waits = !self.record.is_submitted() || is_cut_off(error);
        if failures >= AWAY && waits && !self.may_be_too_large(error) {
            self.away(error);
        }
        if failures >= UNREACHED
            && is_cut_off(error)
            && !self.facts.is_reached
            && self.record.is_unsent()
        {
            let why = format!(
                "{}; no server has been reached there: check the address and its port, and whether the server runs",
                error.message()
            );
            self.add(Effect::ReportCritical(error.clone().reworded(why)));
        }
        let shared = matches!(error.kind(), ErrorKind::Auth | ErrorKind::Quota);
        if shared || is_cut_off(error) {
            self.add(Effect::PauseAccount(error.clone()));
        }
        self.save();
    }

    /// The provider cannot be sent a batch for a while, which a worker that only submits does not wait for.
    pub(super) fn away(&mut self, error: &Error) {
        self.add(Effect::ReportHeld(error.clone()));
        let is_page = error.kind() == ErrorKind::Malformed && error.is_unreachable();
        // A batch that is there already is asked about until its provider is back.
        if is_page && !self.record.is_submitted() {
            self.add(Effect::ReportCritical(error.clone()));
        }
    }
}

/// After this many attempts in vain, and without any reply before, the address is probably wrong, too. A server that is
/// being started is up by then.
const UNREACHED: u32 = 2;

/// After this many attempts in a row to send a batch, its provider is away. If its queue had no room, although no other
/// batch is there, this batch itself is too large.
pub(in crate::queue::batch) const AWAY: u32 = 4;
