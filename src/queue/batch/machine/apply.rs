//! The effect of each event on a batch. Each pair of a state and an event has an arm here, or is refused.

use std::time::Duration;

use log::Level;

use crate::base::{Error, ErrorKind};

use super::effect::{Effect, Effects};
use super::event::{Event, Facts, ItemsSettled};
use super::next::{Step, next};
use super::record::Record;
use super::state::{Fence, Formed, Reconciling, State, Submitting};

/// Interval of attempts without the API key, or after a panic of the client.
const UNUSABLE: Duration = Duration::from_secs(10);

/// The steps that send something.
const SUBMISSIONS: [Step; 2] = [Step::Upload, Step::Create];

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
    /// More than 80 lines, because one match lists every valid pair of a state and an event, as the diagram of
    /// [`State`] does.
    fn apply(&mut self, event: Event) {
        use State as S;
        match (self.record.state.clone(), event) {
            // In any state.
            (_, Event::TakenOver) => self.taken_over(),
            // A delayed list gets its time, however often the user cancels.
            (S::Reconciling(_), Event::RecheckNow) => {}
            (_, Event::RecheckNow) => self.wait(Duration::ZERO),
            (_, Event::Postponed(wait)) => self.wait(wait),
            (_, Event::Panicked) => self.unusable("the client of the Batch API panicked"),
            (_, Event::NoKey) => self.unusable("its API key is not set"),
            (_, Event::AccountChanged) if self.record.is_unsent() => self.close(),

            // Forming and submitting.
            (S::Forming | S::Formed(_), Event::InputWritten(written)) => {
                self.input_written(written)
            }
            (S::Submitting(submitting), Event::InputRemoved) if self.is_next(&SUBMISSIONS) => {
                self.record.state = S::Formed(Formed {
                    lost_files: submitting.lost_files,
                });
                self.wait(Duration::ZERO);
                self.save();
            }
            (S::Submitting(submitting), Event::Sending) if self.is_next(&SUBMISSIONS) => {
                self.sending(submitting);
            }
            (S::Submitting(submitting), Event::NotSent(wait)) if submitting.sent => {
                self.not_sent(submitting);
                wait.into_iter().for_each(|wait| self.wait(wait));
            }
            (S::Submitting(submitting), Event::Submitted(answer)) if submitting.sent => {
                self.submitted(submitting, answer);
            }

            // Reconciling.
            (S::Submitting(Submitting { input, sent, .. }), Event::Listed(found)) if sent => {
                let reconciling = Reconciling {
                    input,
                    ..Reconciling::default()
                };
                self.listed(reconciling, found);
            }
            (S::Reconciling(reconciling) | S::Held(reconciling), Event::Listed(found)) => {
                self.listed(reconciling, found);
            }
            (S::Reconciling(reconciling) | S::Held(reconciling), Event::FileDeleted(answer)) => {
                self.file_deleted(reconciling, answer);
            }
            (S::Reconciling(reconciling) | S::Held(reconciling), Event::GivenUp)
                if self.is_next(&[Step::GiveUp]) =>
            {
                self.not_created(&reconciling);
            }
            (S::Forming | S::Formed(_) | S::Submitting(_), Event::GivenUp)
                if self.is_next(&[Step::GiveUp]) =>
            {
                let file = self.record.file().map(str::to_owned);
                self.close();
                self.delete_file(file);
            }

            // At the provider.
            (S::Running(running), Event::DuplicateCancelled(answer)) => {
                self.duplicate_cancelled(running, answer);
            }
            (S::Running(running), Event::CancelAnswered(answer)) => {
                self.cancel_answered(running, answer);
            }
            (S::Running(running), Event::StatusAnswered(Ok(status))) => {
                self.on_status(running, status);
            }
            (S::Running(running), Event::StatusAnswered(Err(error))) => {
                self.no_status(running, &error);
            }
            (S::Ended(ended), Event::Collected(collected)) => self.collected(ended, collected),

            // Settling jobs, and division.
            (
                S::Submitting(_) | S::Running(_),
                Event::ItemsSettled(Ok(ItemsSettled::NoSuchRequest(error))),
            ) => {
                self.divide_or_call(error);
            }
            (
                S::Submitting(_) | S::Running(_),
                Event::ItemsSettled(Ok(ItemsSettled::Jobs(jobs))),
            ) => {
                let text = format!(
                    "{jobs} jobs left batch {}, which was refused",
                    self.record.name()
                );
                self.log(Level::Info, text);
                // Nothing is billed for a refused batch.
                self.add(Effect::GiveBack);
                self.close();
            }
            (S::Submitting(_) | S::Running(_), Event::ItemsSettled(Err(error))) => {
                self.failed(&error);
            }
            (S::Submitting(_) | S::Running(_), Event::NotDivided(Some(error))) => {
                self.retry(&error);
            }
            // Jobs were removed from it; the rest is sent like any other batch.
            (S::Submitting(_) | S::Running(_), Event::NotDivided(None)) => self.close(),

            (_, event) => self.refuse(&event),
        }
    }

    /// Whether one of these is the next step. Only then may money be spent or jobs be returned.
    fn is_next(&self, steps: &[Step]) -> bool {
        steps.contains(&next(&self.record.state, self.facts))
    }

    /// Reports an invalid event, which changes nothing.
    fn refuse(&mut self, event: &Event) {
        let (name, state) = (self.record.name(), self.record.state.name());
        let text = format!("batch {name}: {} is not valid while {state}", event.name());
        self.effects.log(Level::Warn, text);
        self.effects.refused = true;
    }

    /// A new worker tries the due step. The due time is corrected if the clock was set back since. A delayed list
    /// keeps its time, however often a worker that reads it crashes.
    fn taken_over(&mut self) {
        let settings = &self.facts.settings;
        let left = self.record.due.since(self.facts.now);
        let poll = settings.poll(Duration::ZERO, None, 0.0);
        let wait = match &self.record.state {
            State::Held(reconciling) => {
                let reconciling = reconciling.clone();
                // The list that must show that nothing was created before the file was deleted keeps its time too.
                let wait = match reconciling.fence {
                    Fence::Closed { confirmed: false } => left.min(settings.reconcile_wait),
                    _ => Duration::ZERO,
                };
                // The settings may have changed: the batch is searched once more before it is on hold again, with a
                // new message.
                self.reconciling(reconciling);
                wait
            }
            State::Reconciling(_) => left.min(settings.reconcile_wait),
            // The user may have started this worker because the results are available now.
            _ if self.record.uncollected().is_some() => Duration::ZERO,
            // Or because the provider is reachable now, or accepts the API key.
            _ if self.record.is_unsent() => Duration::ZERO,
            _ => left.min(poll),
        };
        self.wait(wait);
        let (name, provider) = (self.record.name(), &self.record.account.provider);
        let text = format!(
            "took over batch {name} of {provider} ({})",
            self.record.word()
        );
        self.effects.log(Level::Info, text);
    }

    fn unusable(&mut self, why: &str) {
        self.problem(why.to_owned());
        self.wait(UNUSABLE);
    }

    pub(super) fn add(&mut self, effect: Effect) {
        self.effects.add(effect);
    }

    pub(super) fn save(&mut self) {
        self.add(Effect::Save);
    }

    pub(super) fn close(&mut self) {
        self.add(Effect::Close);
    }

    pub(super) fn log(&mut self, level: Level, text: String) {
        self.effects.log(level, text);
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
        if failures >= WEB_PAGES
            && error.kind() == ErrorKind::Malformed
            && error.is_unreachable()
            && matches!(
                self.record.state,
                State::Submitting(_) | State::Reconciling(_)
            )
        {
            self.add(Effect::ReportCritical(error.clone()));
        }
        let shared = matches!(error.kind(), ErrorKind::Auth | ErrorKind::Quota);
        if shared || is_cut_off(error) {
            self.add(Effect::PauseAccount(error.clone()));
        }
        self.save();
    }
}

/// After this many web pages in a row, the address is probably wrong. Until then, the page may be one for maintenance.
const WEB_PAGES: u32 = 4;

/// The provider is unreachable, so the other batches of its account would fail too.
pub(crate) fn is_cut_off(error: &Error) -> bool {
    error.is_unreachable() && error.status().is_none()
}
