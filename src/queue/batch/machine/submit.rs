//! Effect of writing the input of a batch, and of each step of its submission.

use std::time::Duration;

use log::Level;

use crate::base::{Error, ErrorKind};
use crate::llm::batch::{BatchStage, is_unknown};

use super::apply::Change;
use super::effect::{Effect, ItemEnds};
use super::event::Written;
use super::state::{Formed, Input, Owner, Reconciling, Remote, Running, State, Submitting};

/// How often an input file that disappeared before the creation is uploaded again.
const MOST_UPLOADS: u32 = 2;
/// After this many lost connections while the input is sent, the provider may be rejecting its size.
const HANG_UPS: u32 = 6;
/// After this many rate-limited submissions without another batch at the provider, this batch itself is too large.
const TOO_MUCH: u32 = 4;

impl Change<'_> {
    pub(super) fn input_written(&mut self, written: Result<Written, Error>) {
        let written = match written {
            Ok(written) if written.items == 0 => return self.close(),
            Ok(written) => written,
            Err(error) => return self.failed(&error),
        };
        let lost_files = match &self.record.state {
            State::Formed(formed) => formed.lost_files,
            _ => 0,
        };
        (self.record.intent.items, self.record.intent.bytes) = (written.items, written.bytes);
        self.record.state = State::Submitting(Submitting {
            input: Input::Local,
            sent: false,
            lost_files,
        });
        self.record.clear_failures();
        self.wait(Duration::ZERO);
        self.save();
    }

    pub(super) fn sending(&mut self, submitting: Submitting) {
        if submitting.creates(self.facts.uploads) {
            // If only its time identifies the batch, it is searched around this time.
            self.record.intent.begun = self.facts.now;
        }
        self.record.state = State::Submitting(Submitting {
            sent: true,
            ..submitting
        });
        self.save();
    }

    pub(super) fn not_sent(&mut self, submitting: Submitting) {
        self.record.state = State::Submitting(Submitting {
            sent: false,
            ..submitting
        });
        self.save();
    }

    /// Outcome of an upload or a creation.
    pub(super) fn submitted(&mut self, submitting: Submitting, answer: Result<BatchStage, Error>) {
        let creates = submitting.creates(self.facts.uploads);
        let error = match answer {
            Ok(stage) => return self.advanced(submitting, stage),
            Err(error) => error,
        };
        if creates && is_unknown(&error) {
            self.reconciling(Reconciling {
                input: submitting.input,
                ..Reconciling::default()
            });
            self.problem(format!("it is not known whether it was created ({error})"));
            self.wait(Duration::ZERO);
            return self.save();
        }
        if error.kind() == ErrorKind::Cancelled && self.facts.is_ending {
            return self.not_sent(submitting);
        }
        self.record.state = State::Submitting(Submitting {
            sent: false,
            ..submitting.clone()
        });
        self.record.failures = self.record.failures.saturating_add(1);
        self.on_refused(submitting, creates, error);
    }

    fn advanced(&mut self, submitting: Submitting, stage: BatchStage) {
        let input = match stage {
            BatchStage::Created { id, file } => {
                let file = file.or_else(|| submitting.input.file().map(str::to_owned));
                let owner = Owner::Ours {
                    cancel_asked: false,
                };
                let remote = self.created(id, file, owner);
                self.add(Effect::CountCreated);
                return self.running(remote, Vec::new());
            }
            BatchStage::Uploaded { file, time } => Input::Uploaded { file, time },
            BatchStage::Ready => Input::Local,
        };
        self.record.state = State::Submitting(Submitting {
            input,
            sent: false,
            ..submitting
        });
        self.record.clear_failures();
        self.wait(Duration::ZERO);
        self.save();
    }

    pub(super) fn created(&self, id: String, file: Option<String>, owner: Owner) -> Remote {
        Remote {
            id,
            file,
            created: self.facts.now,
            status: None,
            counts: None,
            owner,
            uncollected: None,
            fetches: 0,
        }
    }

    /// The batch exists, with this id.
    pub(super) fn running(&mut self, remote: Remote, duplicates: Vec<String>) {
        let text = format!(
            "batch {} at {} holds {} requests",
            remote.id, self.record.account.provider, self.record.intent.items
        );
        self.log(Level::Info, text);
        let first = self.facts.settings.poll(Duration::ZERO, None, 0.0);
        let wait = if duplicates.is_empty() {
            first
        } else {
            Duration::ZERO
        };
        self.record.state = State::Running(Running { remote, duplicates });
        self.record.clear_failures();
        self.wait(wait);
        self.add(Effect::ResumeAccount);
        self.save();
        self.add(Effect::DropInput);
        self.add(Effect::Wake);
    }

    /// The provider has rejected an upload or a creation, or was unreachable: nothing was created.
    fn on_refused(&mut self, submitting: Submitting, creates: bool, error: Error) {
        let (items, failures) = (self.record.intent.items, self.record.failures);
        let sends_input = submitting.input == Input::Local;
        let hung_up = sends_input && error.status().is_none() && !error.is_unreachable();
        match error.kind() {
            _ if error.is_too_large() => self.halve(error),
            // Repeated rate limiting without another batch at the provider means that this one is too large.
            ErrorKind::RateLimited
                if creates
                    && items > 1
                    && failures.is_multiple_of(TOO_MUCH)
                    && !self.facts.others_there =>
            {
                self.add(Effect::ReduceSize);
                self.halve(error);
            }
            // Some servers reset the connection instead of answering 413.
            ErrorKind::Transient if hung_up && items > 1 && failures.is_multiple_of(HANG_UPS) => {
                self.halve(error);
            }
            ErrorKind::RateLimited | ErrorKind::Transient | ErrorKind::Malformed => {
                self.retry(&error);
            }
            ErrorKind::Auth | ErrorKind::Quota => {
                self.add(Effect::ReportCritical(error.clone()));
                self.retry(&error);
            }
            // The input file has disappeared; another upload repairs that.
            ErrorKind::Invalid
                if creates && error.is_not_found() && submitting.lost_files < MOST_UPLOADS =>
            {
                self.record.state = State::Formed(Formed {
                    lost_files: submitting.lost_files + 1,
                });
                self.retry(&error);
            }
            // This address does not accept batches: the jobs are not the cause.
            ErrorKind::Invalid if error.is_unreachable() => {
                self.add(Effect::ReportCritical(error.clone()));
                self.retry(&error);
            }
            // A reply of the provider concerns the jobs; anything else, such as a deadline, does not.
            _ if error.status().is_some() => self.add(Effect::SettleItems(ItemEnds::All(error))),
            _ => self.retry(&error),
        }
    }

    /// It is too large, and is divided.
    fn halve(&mut self, error: Error) {
        if self.record.intent.items <= 1 {
            return self.add(Effect::SettleItems(ItemEnds::All(error)));
        }
        let file = self.record.file().map(str::to_owned);
        self.add(Effect::Divide);
        // Until the division is recorded, the whole batch is sent again.
        self.delete_file(file);
    }
}
