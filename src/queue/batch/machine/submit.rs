//! Effect of writing the input of a batch, and of each step of its submission.

use std::time::Duration;

use log::Level;

use crate::base::{Error, ErrorKind};
use crate::llm::batch::{BatchRefusal, BatchStage, RequestName, is_unknown};
use crate::llm::providers::batch::refusal;

use super::super::settings::MOST_ASKED;
use super::apply::{AWAY, Change};
use super::event::{Effect, ItemEnds, Written};
use super::state::{Remote, Sending, State, Unknown};

/// How often an input file that disappeared before the creation is uploaded again.
const MOST_UPLOADS: u32 = 2;
/// After this many lost connections while the input is sent, the provider may be rejecting its size.
const HANG_UPS: u32 = 6;
/// A batch is held at once if the provider asks for a longer wait.
const SOON: Duration = Duration::from_secs(60);
/// This many alike refusals in a row, without an accepted batch, have another cause than a request.
const MOST_REFUSALS: u32 = 16;
/// A refused batch with fewer requests is not divided: they are called one by one.
pub(super) const FEWEST_DIVIDED: u64 = 100;

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
    pub(super) fn submitted(&mut self, sending: Sending, answer: Result<BatchStage, Error>) {
        let creates = sending.creates(self.facts.uploads);
        let error = match answer {
            Ok(stage) => return self.advanced(sending, stage),
            Err(error) => error,
        };
        if creates && is_unknown(&error) {
            // Each may be followed by a search that finds nothing, so these are not failures of one batch.
            let mut refusals = self.facts.refusals;
            refusals.unknown += 1;
            self.add(Effect::CountRefusals(refusals));
            if refusals.unknown >= AWAY {
                self.away(&error);
            }
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
        self.on_refused(creates, error);
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
        let mut refusals = self.facts.refusals;
        refusals.unknown = 0;
        self.add(Effect::CountRefusals(refusals));
        self.add(Effect::ResumeAccount);
        self.save();
        self.add(Effect::DropInput);
    }

    /// The provider has rejected an upload or a creation, or was unreachable: nothing was created.
    fn on_refused(&mut self, creates: bool, error: Error) {
        let (items, failures) = (self.record.intent.items, self.record.failures);
        if self.may_be_too_large(&error) && failures.is_multiple_of(HANG_UPS) {
            return self.halve(error);
        }
        let may_upload = creates && self.record.lost_files < MOST_UPLOADS;
        if may_upload && error.is_not_found() {
            return self.upload_again(&error);
        }
        // A reply of the provider may concern the jobs; anything else, such as a deadline, does not. Nor does a reply of
        // an address that accepts no batches.
        if error.status().is_none() || error.is_unreachable() {
            if matches!(
                error.kind(),
                ErrorKind::Invalid | ErrorKind::Auth | ErrorKind::Quota
            ) {
                self.add(Effect::ReportCritical(error.clone()));
            }
            return self.retry(&error);
        }
        // A queue without room for the only batch at the provider is too small for it.
        let is_alone =
            creates && items > 1 && failures.is_multiple_of(AWAY) && !self.facts.others_there;
        let is_soon = failures < AWAY && error.retry_after() <= Some(SOON);
        match refusal::of(error) {
            BatchRefusal::TooMuchQueued(error) if is_alone => {
                self.add(Effect::HoldAccount(error.clone()));
                self.halve(error);
            }
            BatchRefusal::Busy(error) if is_soon => self.retry(&error),
            BatchRefusal::TooMuchQueued(error)
            | BatchRefusal::Account(error)
            | BatchRefusal::Busy(error) => self.hold(error),
            BatchRefusal::TooLarge(error) => self.halve(error),
            BatchRefusal::Whole(error) if error.kind() == ErrorKind::Auth => {
                self.add(Effect::ReportCritical(error.clone()));
                self.retry(&error);
            }
            BatchRefusal::NoFile(error) if may_upload => self.upload_again(&error),
            refusal => self.refused(refusal),
        }
    }

    /// Some servers reset the connection instead of answering 413.
    pub(super) fn may_be_too_large(&self, error: &Error) -> bool {
        let hung_up = error.status().is_none() && !error.is_unreachable();
        let sends_input = self.record.is_unsent() && self.record.intent.items > 1;
        sends_input && hung_up && error.kind() == ErrorKind::Transient
    }

    /// The input file has disappeared, which another upload repairs.
    fn upload_again(&mut self, error: &Error) {
        self.record.lost_files += 1;
        self.record.state = State::Forming;
        self.retry(error);
    }

    /// The account has no room for the batch now, or its provider is away, which says nothing about its jobs. It is sent
    /// again each minute.
    fn hold(&mut self, error: Error) {
        self.problem(format!("{error}; it is tried again every minute"));
        let asked = error.retry_after().unwrap_or_default().min(MOST_ASKED);
        self.wait(self.facts.settings.hold().max(asked));
        self.add(Effect::ReportHeld(error));
        self.save();
    }

    /// It is too large, and is divided. A call shows whether a single request is.
    fn halve(&mut self, error: Error) {
        if self.record.intent.items <= 1 {
            return self.refused_unnamed(error);
        }
        self.divide();
    }

    /// Its jobs return to the queue, and the next two batches that are formed of them have half of its size. Nothing is
    /// billed for a refused batch.
    fn divide(&mut self) {
        let file = self.record.file().map(str::to_owned);
        self.delete_file(file);
        self.add(Effect::GiveBack);
        self.close();
        self.add(Effect::Divide);
    }

    /// The refusal of an input or a batch that concerns its requests. It is no verdict on those that it does not name.
    pub(super) fn refused(&mut self, refusal: BatchRefusal) {
        match refusal {
            BatchRefusal::Named(names) if !names.is_empty() => self.refused_by_name(names),
            BatchRefusal::Named(_) => {
                let why =
                    "the provider refused the batch for some of its requests and did not name them";
                self.refused_unnamed(Error::new(ErrorKind::Invalid, why));
            }
            BatchRefusal::TooLarge(error) => self.halve(error),
            BatchRefusal::Whole(error) => self.add(Effect::SettleItems(ItemEnds::All(error))),
            BatchRefusal::Unnamed(error)
            | BatchRefusal::NoFile(error)
            | BatchRefusal::TooMuchQueued(error)
            | BatchRefusal::Account(error)
            | BatchRefusal::Busy(error) => self.refused_unnamed(error),
        }
    }

    /// Named requests fail alone. All requests of a batch have one model, so that what is said about it applies to all.
    fn refused_by_name(&mut self, names: Vec<(RequestName, Error)>) {
        let (_, first) = &names[0];
        let model = self.record.intent.model.as_deref();
        let is_model = |error: &Error| {
            error.kind() == ErrorKind::UnknownModel
                && model.is_some_and(|model| error.message().contains(model))
        };
        if names.iter().all(|(_, error)| is_model(error)) {
            return self.add(Effect::SettleItems(ItemEnds::All(first.clone())));
        }
        let count = self.count(first);
        // A provider that names one request each time gets smaller batches after a while.
        if count >= MOST_REFUSALS && self.record.intent.items >= FEWEST_DIVIDED {
            return if count >= 2 * MOST_REFUSALS {
                self.applies_to_all(first.clone())
            } else {
                self.divide_or_call(first.clone())
            };
        }
        let text = format!(
            "the provider refused batch {} for {} of its requests, which fail; the others are sent again",
            self.record.name(),
            names.len()
        );
        self.log(Level::Warn, text);
        self.add(Effect::SettleItems(ItemEnds::Named(names)));
    }

    /// No request is named.
    fn refused_unnamed(&mut self, error: Error) {
        if self.count(&error) >= MOST_REFUSALS {
            self.applies_to_all(error);
        } else {
            self.divide_or_call(error);
        }
    }

    /// Counts a refusal, and returns how many alike ones there were in a row.
    fn count(&mut self, error: &Error) -> u32 {
        let refusals = self.facts.refusals.and(error);
        self.add(Effect::CountRefusals(refusals));
        refusals.count
    }

    fn applies_to_all(&mut self, error: Error) {
        let text = format!(
            "batches were refused in the same way again and again ({error}): the reason applies to all requests"
        );
        self.log(Level::Warn, text);
        self.add(Effect::SettleItems(ItemEnds::All(error)));
    }

    /// Both halves are sent, and what is refused in turn is called one by one once it is small.
    pub(super) fn divide_or_call(&mut self, error: Error) {
        let items = self.record.intent.items;
        if items < FEWEST_DIVIDED {
            return self.add(Effect::SettleItems(ItemEnds::Called(error)));
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
