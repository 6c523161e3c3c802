//! Effect of searching for a batch whose creation has an unknown outcome.

use std::time::Duration;

use log::Level;

use crate::base::Error;
use crate::config::choices::OnUnknown;
use crate::llm::batch::ListedBatches;

use super::super::settings::LISTINGS;
use super::apply::Change;
use super::effect::Effect;
use super::state::{Fence, Owner, Reconciling, State};

/// After this many refusals to delete an input file, the file stays.
const MOST_REFUSALS: u32 = 3;

impl Change<'_> {
    /// Continues the search; the batch is no longer on hold.
    pub(super) fn reconciling(&mut self, reconciling: Reconciling) {
        if self.record.is_held() {
            self.record.problem = None;
        }
        self.record.state = State::Reconciling(reconciling);
    }

    /// Outcome of reading the provider's list.
    pub(super) fn listed(&mut self, reconciling: Reconciling, found: Result<ListedBatches, Error>) {
        match found {
            Ok(ListedBatches::One(id)) => self.found(reconciling, id, Vec::new()),
            Ok(ListedBatches::Many(mut ids)) if !ids.is_empty() => {
                let first = ids.remove(0);
                self.found(reconciling, first, ids);
            }
            Ok(ListedBatches::None | ListedBatches::Many(_)) => self.not_found(reconciling, None),
            Ok(ListedBatches::Undecidable(why)) => self.not_found(reconciling, Some(why)),
            Err(error) => {
                if !self.record.is_held() {
                    self.reconciling(reconciling);
                }
                self.failed(&error);
            }
        }
    }

    fn found(&mut self, reconciling: Reconciling, id: String, duplicates: Vec<String>) {
        if !duplicates.is_empty() {
            let (provider, more) = (&self.record.account.provider, duplicates.len());
            let text =
                format!("{provider} has {more} further batches for batch {id}; cancelling them");
            self.log(Level::Warn, text);
        }
        let owner = if self.facts.uploads {
            self.log(Level::Info, format!("batch {id} was created after all"));
            self.add(Effect::CountCreated);
            Owner::Ours {
                cancel_asked: false,
            }
        } else {
            let text = format!(
                "batch {id} may be the one: its results will show whether it belongs to this queue"
            );
            self.log(Level::Info, text);
            Owner::Presumed {
                not_ours: reconciling.not_ours,
            }
        };
        let file = reconciling.input.file().map(str::to_owned);
        let remote = self.created(id, file, owner);
        self.running(remote, duplicates);
    }

    /// The batch is not listed, or several candidates cannot be distinguished.
    fn not_found(&mut self, mut reconciling: Reconciling, undecidable: Option<String>) {
        self.record.failures = 0;
        // Candidates that cannot be distinguished yet will be once they have ended.
        if undecidable.is_none() || reconciling.listings + 1 < LISTINGS {
            reconciling.listings = reconciling.listings.saturating_add(1);
        }
        if let Fence::Closed { confirmed } = &mut reconciling.fence {
            *confirmed = undecidable.is_none();
        }
        let is_undecided = undecidable.is_some() && reconciling.listings + 1 >= LISTINGS;
        let is_open_for_good =
            matches!(reconciling.fence, Fence::Open { refusals } if refusals >= MOST_REFUSALS);
        let stays = self.facts.policy() == OnUnknown::Hold && reconciling.listings >= LISTINGS;
        let is_decided = reconciling.listings >= LISTINGS
            || matches!(reconciling.fence, Fence::Closed { confirmed: true });
        let is_held = is_undecided || is_open_for_good || stays;
        if is_held {
            let why = match undecidable {
                Some(why) => why,
                None if is_open_for_good => "its input file cannot be deleted there".to_owned(),
                None => "it is not in the provider's list".to_owned(),
            };
            self.held(reconciling, &why);
        } else {
            self.reconciling(reconciling);
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

    fn held(&mut self, reconciling: Reconciling, why: &str) {
        let (provider, intent) = (&self.record.account.provider, &self.record.intent);
        let items = intent.items;
        let minutes = self.facts.now.since(intent.begun).as_secs() / 60;
        let problem = format!(
            "{provider} may or may not have created a batch of {items} requests {minutes} min ago \
             ({why}); it is on hold, so that nothing is billed twice. To send it again \
             anyway: batchwright config set batch.on_unknown resubmit"
        );
        self.record.state = State::Held(reconciling);
        self.problem(problem);
    }

    /// Outcome of deleting its input file, which prevents a delayed creation.
    pub(super) fn file_deleted(&mut self, reconciling: Reconciling, answer: Result<(), Error>) {
        let error = match answer {
            Ok(()) => {
                self.reconciling(Reconciling {
                    fence: Fence::Closed { confirmed: false },
                    ..reconciling
                });
                self.record.failures = 0;
                // It may have been created just before, and a delayed list shows it later.
                self.wait(self.facts.settings.reconcile_wait);
                return self.save();
            }
            Err(error) => error,
        };
        if let State::Reconciling(reconciling) | State::Held(reconciling) = &mut self.record.state {
            // It may have appeared in the meantime: the list is read again before the next attempt.
            reconciling.listings = LISTINGS - 1;
            if let Fence::Open { refusals } = &mut reconciling.fence
                && error.is_rejected()
            {
                *refusals = refusals.saturating_add(1);
            }
        }
        self.failed(&error);
    }

    /// It was not created, or the user accepts the risk that it was: its jobs return to the queue.
    pub(super) fn not_created(&mut self, reconciling: &Reconciling) {
        let items = self.record.intent.items;
        let is_open = matches!(reconciling.fence, Fence::Open { .. });
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
