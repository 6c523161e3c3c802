//! Effect of writing the input of a batch, and of each step of its submission.

use std::time::Duration;

use log::Level;

use crate::base::{Error, ErrorKind};
use crate::llm::batch::{BatchRefusal, BatchStage, RefusalOutcome, is_unknown};

use super::apply::{AWAY, Change};
use super::event::{Effect, ItemEnds, Written};
use super::state::{Halt, Refusals, Remote, Sending, State, Unknown};

/// How often an input file that disappeared before the creation is uploaded again.
const MOST_UPLOADS: u32 = 2;
/// After this many lost connections while the input is sent, the provider may be rejecting its size.
const HANG_UPS: u32 = 6;
/// A worker that only submits does not wait for longer than this.
const SOON: Duration = Duration::from_secs(60);
/// This many alike refusals in a row, without an accepted batch, have another cause than a request.
const MOST_REFUSALS: u32 = 16;
/// A refused batch with fewer requests is not divided: they are called one by one.
const FEWEST_DIVIDED: u64 = 100;

impl Change<'_> {
    pub(super) fn written(&mut self, written: Result<Written, Error>) {
        let written = match written {
            Ok(written) if written.items == 0 => return self.close(),
            Ok(written) => written,
            Err(error) => return self.failed(&error),
        };
        (self.record.intent.items, self.record.intent.bytes) = (written.items, written.bytes);
        self.record.state = State::Sending(Sending::default());
        self.record.clear_failures();
        self.wait(Duration::ZERO);
        self.save();
    }

    /// The next step is about to be sent, or was not.
    pub(super) fn sending(&mut self, sending: Sending, sent: bool) {
        if sent && sending.creates(self.facts.uploads) {
            // If only its time identifies the batch, it is searched around this time.
            self.record.intent.begun = self.facts.now;
        }
        self.record.state = State::Sending(Sending { sent, ..sending });
        self.save();
    }

    /// Outcome of an upload or a creation.
    pub(super) fn submitted(&mut self, sending: Sending, answer: Result<BatchStage, BatchRefusal>) {
        let creates = sending.creates(self.facts.uploads);
        let mut refusal = match answer {
            Ok(stage) => return self.advanced(sending, stage),
            Err(refusal) => refusal,
        };
        let error = &refusal.error;
        if creates && is_unknown(error) {
            // Each may be followed by a search that finds nothing, so these are not failures of one batch.
            let mut refusals = self.facts.refusals.clone();
            refusals.unknown += 1;
            if refusals.unknown >= AWAY {
                self.away(error);
            }
            self.count(refusals);
            self.searching(Unknown {
                input: sending.input,
                ..Unknown::default()
            });
            self.problem(format!("it is not known whether it was created ({error})"));
            self.wait(Duration::ZERO);
            return self.save();
        }
        if error.kind() == ErrorKind::Cancelled && self.facts.is_ending {
            return self.sending(sending, false);
        }
        let sent = false;
        self.record.state = State::Sending(Sending { sent, ..sending });
        self.record.failures = self.record.failures.saturating_add(1);
        if self.may_be_too_large(error) && self.record.failures.is_multiple_of(HANG_UPS) {
            refusal.outcome = RefusalOutcome::TooLarge;
        } else if error.status().is_none() && matches!(refusal.outcome, RefusalOutcome::Wait { .. })
        {
            // There was no reply, which does not concern the jobs.
            return self.retry(error);
        }
        self.refused(refusal, creates);
    }

    fn advanced(&mut self, sending: Sending, stage: BatchStage) {
        let input = match stage {
            BatchStage::Created { id, file } => {
                let file = file.or_else(|| sending.input.input_file().map(str::to_owned));
                let remote = self.created(id, file);
                self.add(Effect::CountCreated);
                return self.running(remote);
            }
            input => input,
        };
        self.record.state = State::Sending(Sending { input, sent: false });
        self.record.clear_failures();
        self.wait(Duration::ZERO);
        self.save();
    }

    pub(super) fn created(&self, id: String, file: Option<String>) -> Remote {
        Remote {
            id,
            file,
            created: self.facts.now,
            ..Remote::default()
        }
    }

    /// The batch exists, with this id.
    pub(super) fn running(&mut self, remote: Remote) {
        let text = format!(
            "batch {} at {} holds {} requests",
            remote.id, self.record.account.provider, self.record.intent.items
        );
        self.log(Level::Info, text);
        self.record.state = State::Running(remote);
        self.record.clear_failures();
        self.wait(self.facts.settings.poll(Duration::ZERO, None));
        let mut refusals = self.facts.refusals.clone();
        refusals.unknown = 0;
        self.count(refusals);
        self.add(Effect::ResumeAccount);
        self.save();
        self.add(Effect::DropInput);
    }

    /// Some servers reset the connection instead of answering 413.
    pub(super) fn may_be_too_large(&self, error: &Error) -> bool {
        let hung_up = error.status().is_none() && !error.is_unreachable();
        let sends_input = self.record.is_unsent() && self.record.intent.items > 1;
        sends_input && hung_up && error.kind() == ErrorKind::Transient
    }

    /// The number of alike refusals of batches of its jobs.
    pub(super) fn count(&mut self, refusals: Refusals) {
        self.record.refusals = refusals;
        self.add(Effect::CountRefusals);
    }

    /// An upload or a creation was refused, or a batch before any of it was worked on: nothing was billed, and it is no
    /// verdict on requests that it does not name.
    pub(super) fn refused(&mut self, refusal: BatchRefusal, creates: bool) {
        let BatchRefusal {
            outcome,
            error,
            code,
        } = refusal;
        if self.facts.is_stopped {
            self.leave_remote();
            self.wait(Duration::ZERO);
            return self.save();
        }
        if let RefusalOutcome::Wait { room } = outcome {
            return self.hold(error, room);
        }
        let is_named = matches!(&outcome, RefusalOutcome::Named(names) if !names.is_empty());
        let refusals = self
            .facts
            .refusals
            .and(self.record, &error, &code, is_named);
        let is_often = refusals.count >= MOST_REFUSALS;
        self.count(refusals);
        let items = self.record.intent.items;
        let may_upload = creates && self.record.lost_files < MOST_UPLOADS;
        match outcome {
            RefusalOutcome::Named(names) if is_named => {
                // A provider that names one request each time gets smaller batches after a while.
                if is_often {
                    self.record.most = Some(items.div_ceil(2));
                }
                let text = format!(
                    "the provider refused batch {} for {} of its requests, which fail; the others are sent again",
                    self.record.name(),
                    names.len()
                );
                self.log(Level::Warn, text);
                self.add(Effect::SettleItems(ItemEnds::Named(names)));
            }
            RefusalOutcome::Stops { of_account } => self.halt(&error, of_account),
            _ if is_often => self.halt(&error, false),
            RefusalOutcome::NoFile if may_upload => {
                self.record.lost_files += 1;
                self.form_again();
                self.retry(&error);
            }
            RefusalOutcome::NoFile => self.halt(&error, false),
            RefusalOutcome::TooLarge if items > 1 => self.divide(),
            RefusalOutcome::TooLarge => self.call(error),
            _ => self.divide_or_call(error),
        }
    }

    /// No batch of its model, or of its account, is sent for now. It is tried again by the next worker, or later.
    fn halt(&mut self, error: &Error, of_account: bool) {
        let tries = self.record.halt.as_ref().map_or(0, |halt| halt.tries) + 1;
        self.leave_remote();
        let kind = error.kind();
        self.record.halt = Some(Halt {
            kind,
            of_account,
            tries,
        });
        let wait = self.facts.settings.halted(tries);
        let hours = wait.as_secs() / 3600;
        self.problem(format!(
            "{error}; no batch is sent until that is mended: the next command tries one, and a worker after {hours} h"
        ));
        self.wait(wait);
        self.save();
    }

    /// The account has no room for the batch now, or its provider is away, which says nothing about its jobs. It is sent
    /// again ever later, and its file is used again.
    fn hold(&mut self, error: Error, room: bool) {
        self.record.waits = self.record.waits.saturating_add(1);
        let waits = self.record.waits;
        let is_alone = room && !self.facts.others_there;
        // A queue without room for the only batch at the provider is too small for it.
        if is_alone && waits >= AWAY {
            if self.record.intent.items < FEWEST_DIVIDED {
                self.add(Effect::ReportHeld(error.clone()));
            }
            return match self.record.intent.items {
                0 | 1 => self.call(error),
                _ => self.divide(),
            };
        }
        self.leave_remote();
        self.problem(format!(
            "{error}; it is tried again ever later, at least every 30 minutes"
        ));
        let asked = error.retry_after();
        self.wait(self.facts.settings.room(waits, asked));
        let passes = is_alone || !matches!(error.status(), None | Some(400..408 | 410..425));
        if waits >= AWAY || asked > Some(SOON) || !passes {
            self.add(Effect::ReportHeld(error));
        }
        self.save();
    }

    /// A batch that was refused after its creation is not this one any more, but its file is.
    fn leave_remote(&mut self) {
        if let State::Running(remote) = self.record.state.clone() {
            self.record.not_ours.push(remote.id);
            let file = |file| BatchStage::Uploaded { file, time: None };
            self.record.state = State::Sending(Sending {
                input: remote.file.map_or(BatchStage::Ready, file),
                sent: false,
            });
        }
    }

    /// Its jobs are written anew, without those that are settled, or half of them: its file is not used again.
    pub(super) fn form_again(&mut self) {
        self.leave_remote();
        self.record.state = State::Forming;
        self.record.waits = 0;
        self.record.clear_failures();
        self.wait(Duration::ZERO);
        self.save();
    }

    /// Half of its jobs return to the queue, and go into another one of this size.
    fn divide(&mut self) {
        let file = self.record.file().map(str::to_owned);
        self.delete_file(file);
        self.record.most = Some(self.record.intent.items.div_ceil(2));
        self.form_again();
    }

    /// Its requests are called one by one, where that is allowed: a call shows whether a request is at fault.
    fn call(&mut self, error: Error) {
        let items = self.record.intent.items;
        if items <= self.facts.callable {
            self.add(Effect::SettleItems(ItemEnds::Called(error)));
        } else if items > 1 {
            self.divide();
        } else {
            self.add(Effect::SettleItems(ItemEnds::All(error)));
        }
    }

    /// Both halves are sent, and what is refused in turn is called one by one once it is small.
    pub(super) fn divide_or_call(&mut self, error: Error) {
        let items = self.record.intent.items;
        if items < FEWEST_DIVIDED {
            return self.call(error);
        }
        let name = self.record.name();
        let text = format!(
            "the provider refused batch {name} of {items} requests without naming one ({error}); both halves of it are \
             sent"
        );
        self.log(Level::Warn, text);
        self.divide();
    }
}
