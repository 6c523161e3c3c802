//! Effect of searching for a batch whose creation has an unknown outcome.

use std::time::Duration;

use log::Level;

use crate::base::Error;
use crate::config::choices::OnUnknown;
use crate::llm::batch::ListedBatches;

use super::super::settings::LISTINGS;
use super::apply::Change;
use super::event::Effect;
use super::state::{Fence, State, Unknown};

/// After this many refusals to delete an input file, the file stays.
const MOST_REFUSALS: u32 = 3;

impl Change<'_> {
    /// Continues the search; the batch is no longer on hold.
    pub(super) fn searching(&mut self, unknown: Unknown) {
        if self.record.is_held() {
            self.record.problem = None;
        }
        let held = false;
        self.record.state = State::Unknown(Unknown { held, ..unknown });
    }

    /// Outcome of reading the provider's list.
    pub(super) fn listed(&mut self, unknown: Unknown, found: Result<ListedBatches, Error>) {
        match found {
            Ok(ListedBatches::One(id)) => self.found(unknown, id, Vec::new()),
            Ok(ListedBatches::Many(mut ids)) if !ids.is_empty() => {
                let first = ids.remove(0);
                self.found(unknown, first, ids);
            }
            Ok(ListedBatches::None | ListedBatches::Many(_)) => self.not_found(unknown, None),
            Ok(ListedBatches::Undecidable(why)) => self.not_found(unknown, Some(why)),
            Err(error) => {
                if !self.record.is_held() {
                    self.searching(unknown);
                }
                self.failed(&error);
            }
        }
    }

    fn found(&mut self, unknown: Unknown, id: String, duplicates: Vec<String>) {
        if !duplicates.is_empty() {
            let (provider, more) = (&self.record.account.provider, duplicates.len());
            let text =
                format!("{provider} has {more} further batches for batch {id}; cancelling them");
            self.log(Level::Warn, text);
            // Before the record is written: whoever dies in between finds them again.
            let cancel = duplicates.into_iter().map(Effect::CancelDuplicate);
            self.effects.list.extend(cancel);
        }
        let file = unknown.input.file().map(str::to_owned);
        let mut remote = self.created(id, file);
        let id = &remote.id;
        if self.facts.uploads {
            self.log(Level::Info, format!("batch {id} was created after all"));
            self.add(Effect::CountCreated);
        } else {
            let text = format!(
                "batch {id} may be the one: its results will show whether it belongs to this queue"
            );
            self.log(Level::Info, text);
            remote.presumed = Some(unknown.not_ours);
        }
        self.running(remote);
    }

    /// The batch is not listed, or several candidates cannot be distinguished.
    fn not_found(&mut self, mut unknown: Unknown, undecidable: Option<String>) {
        self.record.failures = 0;
        // Candidates that cannot be distinguished yet will be once they have ended.
        if undecidable.is_none() || unknown.listings + 1 < LISTINGS {
            unknown.listings = unknown.listings.saturating_add(1);
        }
        if let Fence::Closed { confirmed } = &mut unknown.fence {
            *confirmed = undecidable.is_none();
        }
        let is_undecided = undecidable.is_some() && unknown.listings + 1 >= LISTINGS;
        let is_open_for_good =
            matches!(unknown.fence, Fence::Open { refusals } if refusals >= MOST_REFUSALS);
        let stays = self.facts.policy() == OnUnknown::Hold && unknown.listings >= LISTINGS;
        let is_decided = unknown.listings >= LISTINGS
            || matches!(unknown.fence, Fence::Closed { confirmed: true });
        let is_held = is_undecided || is_open_for_good || stays;
        if is_held {
            let why = match undecidable {
                Some(why) => why,
                None if is_open_for_good => "its input file cannot be deleted there".to_owned(),
                None => "it is not in the provider's list".to_owned(),
            };
            self.held(unknown, &why);
        } else {
            self.searching(unknown);
        }
        let settings = &self.facts.settings;
        let wait = if is_decided && !is_held {
            Duration::ZERO
        } else {
            settings.between_listings(is_held)
        };
        self.wait(wait);
        self.save();
    }

    pub(super) fn held(&mut self, unknown: Unknown, why: &str) {
        let (provider, intent) = (&self.record.account.provider, &self.record.intent);
        let items = intent.items;
        let minutes = self.facts.now.since(intent.begun).as_secs() / 60;
        let problem = format!(
            "{provider} may or may not have created a batch of {items} requests {minutes} min ago \
             ({why}); it is on hold, so that nothing is billed twice. To send it again \
             anyway: batchwright config set batch.on_unknown resubmit"
        );
        let held = true;
        self.record.state = State::Unknown(Unknown { held, ..unknown });
        self.problem(problem);
    }

    /// Outcome of deleting its input file, which prevents a delayed creation.
    pub(super) fn file_deleted(&mut self, unknown: Unknown, answer: Result<(), Error>) {
        let error = match answer {
            Ok(()) => {
                self.searching(Unknown {
                    fence: Fence::Closed { confirmed: false },
                    ..unknown
                });
                self.record.failures = 0;
                // It may have been created just before, and a delayed list shows it later.
                self.wait(self.facts.settings.reconcile_wait);
                return self.save();
            }
            Err(error) => error,
        };
        if let State::Unknown(unknown) = &mut self.record.state {
            // It may have appeared in the meantime: the list is read again before the next attempt.
            unknown.listings = LISTINGS - 1;
            if let Fence::Open { refusals } = &mut unknown.fence
                && error.is_rejected()
            {
                *refusals = refusals.saturating_add(1);
            }
        }
        self.failed(&error);
    }

    /// It was not created, or the user accepts the risk that it was: its jobs return to the queue.
    pub(super) fn not_created(&mut self, unknown: &Unknown) {
        let items = self.record.intent.items;
        let is_open = matches!(unknown.fence, Fence::Open { .. });
        if !is_open {
            self.add(Effect::GiveBack);
        }
        self.close();
        if is_open && !self.facts.is_stopped {
            self.add(Effect::CountPossiblyPaidTwice(items));
            let text = format!("{items} requests are sent again, and may be paid twice");
            self.log(Level::Warn, text);
        } else {
            let text = format!("a batch of {items} requests was not created");
            self.log(Level::Info, text);
        }
    }
}
