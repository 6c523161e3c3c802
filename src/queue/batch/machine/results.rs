//! Effect of fetching the results of a batch. Missing results were billed: they are requested again with exponential
//! backoff and without a limit, and abandoned only if the user cancels.

use std::time::Duration;

use log::Level;

use crate::base::Error;
use crate::config::choices::OnUnknown;

use super::super::settings::LISTINGS;
use super::apply::Change;
use super::effect::Effect;
use super::event::Collected;
use super::state::{Collecting, Remote, State, Uncollected, Unknown};

impl Change<'_> {
    pub(super) fn collected(&mut self, ended: Collecting, collected: Result<Collected, Error>) {
        let collected = match collected {
            Ok(collected) => collected,
            Err(error) => return self.failed(&error),
        };
        let remote = ended.remote;
        self.say_what_is_odd(&remote.id, &collected);
        if collected.foreign {
            return self.foreign(remote);
        }
        if let Some(why) = collected.withheld {
            return self.withheld(remote, why, collected.asked);
        }
        if remote.presumed.is_some() && collected.requests > 0 {
            self.add(Effect::CountCreated);
        }
        let (id, requests) = (&remote.id, collected.requests);
        self.log(
            Level::Info,
            format!("batch {id} is stored: {requests} results"),
        );
        self.close();
    }

    fn say_what_is_odd(&mut self, id: &str, collected: &Collected) {
        // In a cancelled batch, requests without a result are expected.
        let missing = if self.facts.is_stopped {
            0
        } else {
            collected.missing
        };
        for (n, what) in [
            (collected.duplicates, "repeated lines"),
            (collected.foreign_lines, "lines of unknown requests"),
            (collected.broken, "lines that cannot be read"),
            (missing, "requests without a result"),
        ] {
            if n > 0 {
                self.log(Level::Warn, format!("batch {id}: {n} {what}"));
            }
        }
    }

    /// It was identified only by its size and time, and its results show that it belongs to another program. So it is
    /// unknown again where ours is, and the user decides.
    fn foreign(&mut self, remote: Remote) {
        let mut not_ours = remote.presumed.unwrap_or_default();
        not_ours.push(remote.id.clone());
        let why = format!("batch {} belongs to another program", remote.id);
        self.log(
            Level::Warn,
            format!("{why}: its results contain no request of this queue"),
        );
        let mut unknown = Unknown {
            not_ours,
            ..Unknown::default()
        };
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
        let (settings, jitter) = (&self.facts.settings, self.facts.jitter);
        let wait = settings.fetch_again(remote.fetches, is_kept, asked, jitter);
        remote.uncollected = Some(uncollected);
        // The provider may have named its files too early, so its state is polled again.
        self.record.state = State::Running(remote);
        self.record.problem = None;
        self.wait(wait);
        self.add(Effect::CountVainFetch);
        self.save();
        self.add(Effect::Wake);
    }
}
