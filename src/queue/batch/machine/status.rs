//! Effect of polling a batch, and of cancelling it.

use std::time::Duration;

use log::Level;

use crate::base::{Error, ErrorKind, Sent};
use crate::config::choices::OnUnknown;
use crate::llm::batch::{BatchRefusal, BatchState, BatchStatus, ListedBatches};

use super::super::settings::LISTINGS;
use super::apply::Change;
use super::event::{Collected, Effect, Results, Step, next};
use super::state::{Fence, Remote, State, Uncollected, Unknown};

/// A cancelled batch that its provider did not know this many times is given up.
const MOST_UNKNOWN: u32 = 3;

impl Change<'_> {
    /// A batch that could not be cancelled may have ended. Before each further poll, the cancellation is tried again.
    pub(super) fn cancelled(&mut self, mut remote: Remote, answer: Result<(), Error>) {
        let id = &remote.id;
        match answer {
            Ok(()) => {
                self.log(Level::Info, format!("batch {id} is cancelled"));
                remote.cancel_asked = true;
                self.record.state = State::Running(remote);
                self.save();
            }
            Err(error) => {
                let text = format!("batch {id} could not be cancelled: {error}");
                self.log(Level::Debug, text);
            }
        }
    }

    pub(super) fn no_status(&mut self, remote: Remote, error: &Error) {
        if error.is_not_found() {
            if remote.uncollected.is_none() {
                // What failed before was something else.
                self.record.failures = 0;
            }
            self.record.failures = self.record.failures.saturating_add(1);
            return self.on_not_found(remote);
        }
        if matches!(error.kind(), ErrorKind::Auth | ErrorKind::Quota) {
            self.add(Effect::ReportCritical(error.clone()));
        }
        self.failed(error);
    }

    /// The provider does not know the batch any more under its account: it was deleted, or the API key belongs to
    /// another project now. It is not submitted again automatically.
    fn on_not_found(&mut self, remote: Remote) {
        // A new batch may not be visible everywhere yet.
        let is_settled = self.facts.now.since(remote.created) > self.facts.settings.reconcile_wait;
        if self.facts.is_stopped && is_settled && self.record.failures >= MOST_UNKNOWN {
            return self.close();
        }
        let why = format!(
            "{} does not know batch {}. Does the key belong to another project now? To give the \
             batch up: batchwright cancel",
            self.record.account.provider, remote.id
        );
        self.put_off(remote, why, None);
    }

    /// The provider has returned the state of a batch.
    pub(super) fn on_status(&mut self, mut remote: Remote, status: BatchStatus) {
        let word = status.state.as_str().to_owned();
        let has_changed = remote.status.as_ref() != Some(&word) || remote.counts != status.counts;
        remote.status = Some(word);
        remote.counts = status.counts.or(remote.counts);
        // A refused batch is shown as refused until its items are settled.
        self.record.state = State::Running(remote.clone());
        if !status.state.is_final() || matches!(status.state, BatchState::Refused(_)) {
            self.answered();
        }
        if !matches!(
            status.state,
            BatchState::Validating | BatchState::Refused(_)
        ) {
            self.accepted();
        }
        let is_completed = matches!(status.state, BatchState::Completed);
        // Providers bill the requests on which they worked before the end. If it is known how many results there must
        // be, one that is missing would be noticed.
        let is_counted = status.expected.is_some();
        let cut_off = |why| match not_reached(why) {
            error if is_counted => error.with_sent(Sent::No),
            error => error,
        };
        let why = match status.state {
            BatchState::Refused(refused) => return self.on_refused_batch(refused),
            BatchState::Validating | BatchState::Running | BatchState::Cancelling => {
                return self.goes_on(remote, status.poll_after, has_changed);
            }
            BatchState::Unknown(word) => {
                self.problem(format!("its state {word:?} is unknown to batchwright"));
                return self.goes_on(remote, status.poll_after, has_changed);
            }
            BatchState::Completed => {
                not_reached("the batch ended without a result for this request")
            }
            BatchState::Expired => {
                let id = &remote.id;
                let text =
                    format!("batch {id} expired; requests without an answer go into another batch");
                self.log(Level::Warn, text);
                cut_off("the batch expired before this request was worked on")
            }
            BatchState::Cancelled => {
                cut_off("the batch was cancelled before this request was worked on")
            }
            BatchState::Failed(error) => error.with_sent(Sent::Answered),
        };
        let results = Results {
            files: status.results,
            expected: status.expected,
            why,
            completed: is_completed,
        };
        if has_changed {
            self.save();
        }
        self.add(Effect::Collect(results));
    }

    /// Its input is valid, so earlier refusals were because of their requests.
    fn accepted(&mut self) {
        self.count(self.facts.refusals.forgotten());
        (self.record.most, self.record.waits) = (None, 0);
        if self.record.halt.take().is_some() {
            self.save();
            self.add(Effect::Release);
        }
    }

    /// The provider has answered as it should. That the batch has ended is not enough: if its results cannot be had, the
    /// waits must grow.
    fn answered(&mut self) {
        self.record.clear_failures();
        self.add(Effect::ResumeAccount);
    }

    fn goes_on(&mut self, mut remote: Remote, asked: Option<Duration>, has_changed: bool) {
        // Earlier replies that it had ended, or did not exist, were wrong.
        let known = remote.uncollected.take();
        let age = self.facts.now.since(remote.created);
        self.record.state = State::Running(remote);
        self.wait(self.facts.settings.poll(age, asked));
        if has_changed || known.is_some() {
            self.save();
        }
    }

    /// It was refused after its creation, before any of it was worked on: it is sent again, as another batch.
    fn on_refused_batch(&mut self, refusal: BatchRefusal) {
        let name = self.record.name();
        let text = format!("the provider refused batch {name}: {}", refusal.error);
        self.log(Level::Info, text);
        self.refused(refusal, true);
    }
}

/// Why a request that its provider did not process is sent again.
fn not_reached(why: &str) -> Error {
    Error::new(ErrorKind::Transient, why).with_sent(Sent::Answered)
}

// Effect of fetching the results of a batch. Missing results were billed: they are requested again with exponential
// backoff and without a limit, and abandoned only if the user cancels.

impl Change<'_> {
    pub(super) fn collected(&mut self, remote: Remote, collected: Result<Collected, Error>) {
        let collected = match collected {
            Ok(collected) => collected,
            Err(error) => return self.failed(&error),
        };
        self.answered();
        self.say_found(&remote.id, &collected);
        if collected.foreign {
            return self.foreign(remote);
        }
        if let Some(why) = collected.withheld {
            return self.withheld(remote, why, collected.asked);
        }
        if remote.presumed && collected.requests > 0 {
            self.add(Effect::CountCreated);
        }
        self.close();
    }

    fn say_found(&mut self, id: &str, found: &Collected) {
        // In a cancelled batch, requests without a result are expected.
        let missing = if self.facts.is_stopped {
            0
        } else {
            found.missing
        };
        let odd = found.duplicates + found.foreign_lines + found.broken + missing;
        let level = if odd > 0 { Level::Warn } else { Level::Info };
        let text = format!(
            "batch {id} has {} results, {} repeated lines, {} lines of unknown requests, {} lines that cannot be read, \
             and {missing} requests without a result",
            found.requests, found.duplicates, found.foreign_lines, found.broken
        );
        self.log(level, text);
    }

    /// It was identified only by its size and time, and its results show that it belongs to another program. So it is
    /// unknown again where ours is, and the user decides.
    fn foreign(&mut self, remote: Remote) {
        self.record.not_ours.push(remote.id.clone());
        let why = format!("batch {} belongs to another program", remote.id);
        self.log(
            Level::Warn,
            format!("{why}: its results contain no request of this queue"),
        );
        let mut unknown = Unknown::default();
        self.record.failures = 0;
        if self.facts.policy() == OnUnknown::Hold {
            unknown.listings = LISTINGS;
            self.held(unknown, &why);
        } else {
            self.searching(unknown);
        }
        self.wait(Duration::ZERO);
        self.save();
    }

    /// Some or all of its results are missing.
    fn withheld(&mut self, remote: Remote, why: String, asked: Option<Duration>) {
        // A user who cancels a batch whose results are known to be missing abandons them. A cancellation before that
        // does not.
        let known = remote.uncollected.as_ref();
        if known.is_none_or(|known| self.facts.stopped_at <= Some(known.since)) {
            return self.put_off(remote, why, asked);
        }
        self.close();
        let id = &remote.id;
        let text = format!("the billed results of batch {id} are abandoned: {why}");
        self.log(Level::Warn, text);
        self.delete_file(remote.file);
    }

    /// Requests the results again later, with growing waits.
    pub(super) fn put_off(&mut self, mut remote: Remote, why: String, asked: Option<Duration>) {
        let known = remote.uncollected.take();
        if known.as_ref().is_none_or(|known| known.why != why) {
            let id = &remote.id;
            let text = format!(
                "batch {id}: {why}; billed results stay at the provider and are requested again"
            );
            self.log(Level::Warn, text);
        }
        let now = self.facts.now;
        let since = known.map_or(now, |known| known.since.min(now));
        let uncollected = Uncollected { since, why };
        remote.fetches = remote.fetches.saturating_add(1);
        let is_kept = self.record.kept_until(&uncollected);
        let is_kept = is_kept.is_none_or(|until| now < until);
        let settings = &self.facts.settings;
        let wait = settings.fetch_again(remote.fetches, is_kept, asked);
        remote.uncollected = Some(uncollected);
        // The provider may have named its files too early, so its state is polled again.
        self.record.state = State::Running(remote);
        self.record.problem = None;
        self.wait(wait);
        self.save();
    }
}

// Effect of searching for a batch whose creation has an unknown outcome.

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
            // Before the record is written: a worker that dies in between finds them again.
            let cancel = duplicates.into_iter().map(Effect::CancelDuplicate);
            self.effects.list.extend(cancel);
        }
        let file = unknown.input.input_file().map(str::to_owned);
        let mut remote = self.created(id, file);
        if self.facts.uploads {
            self.add(Effect::CountCreated);
        } else {
            // Its results will show whether it belongs to this queue.
            remote.presumed = true;
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
        let is_read_again = matches!(next(&self.record.state, self.facts), Step::ReadList(_));
        let wait = if is_held || is_read_again {
            self.facts.settings.between_listings(is_held)
        } else {
            Duration::ZERO
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
                && error
                    .status()
                    .is_some_and(|status| status < 500 && status != 429)
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
