//! Effect of a rate-limited call: a lower rate, fewer calls in flight, or a pause of the quota.

use std::time::Duration;

use crate::base::Time;

use super::{Permit, Quota, Search};

/// Minimum pause as a part of the pause without a requested wait: 50 ms at first.
const PART_OF_OWN: u32 = 20;
/// Longest requested wait for which a lower rate is preferred to a pause.
const BRIEF: Duration = Duration::from_secs(1);
/// Fewer calls in flight than this measure a rate only roughly.
const FEW: u32 = 32;

impl Quota {
    pub(super) fn refused(
        &mut self,
        permit: Permit,
        wait: Option<Duration>,
        used_up: bool,
        now: Time,
    ) {
        // The provider replied, so the limit before the first reply is no longer needed.
        self.has_replied = true;
        let others = self.in_flight;
        let asked = wait.map(|wait| now.after(wait));
        if permit.cut_epoch != self.cut_epoch {
            return self.refused_late(permit, asked, now);
        }
        self.asked_until = asked;
        let unanswered = others == 0 && self.replies == permit.replies;
        let was_accepted = self.accepted_peak > 0 && permit.in_flight <= self.accepted_peak;
        if !used_up && self.pace.is_outlier() {
            if unanswered {
                self.pause(now);
            }
            return;
        }
        let first = self.unanswered_cuts == 0;
        let searching = self.is_searching();
        let passes_window = self.passes_window(permit);
        let is_single_call =
            unanswered && permit.in_flight == 1 && first && self.accepted_peak == 0;
        let limits = self.pace.is_used(now) || self.pace.is_starting();
        let for_rate = self.guesses_rate()
            && (searching || was_accepted || is_single_call || limits && !passes_window);
        if for_rate {
            self.pace.refused(permit.begun, now);
        }
        let paced = for_rate && self.pace.rate.is_some();
        let slower = paced && first && wait.is_none_or(|wait| wait <= BRIEF);
        let asked_often = wait.is_some() && self.unanswered_cuts > 3;
        self.unanswered_cuts += 1;
        if used_up || !slower && (unanswered || asked_often) {
            if !for_rate {
                self.pace.mark(permit.begun);
            }
            // With a known rate, the bucket limits the calls after the pause.
            match self.streak {
                _ if self.requests.is_some() => {}
                0 => self.window.pause(others),
                // Rejected again without an answer between: one call probes the quota.
                _ => self.window.narrow(),
            }
            return self.pause(now);
        }
        if paced {
            self.window.accepted = None;
        } else if passes_window && limits {
            self.window.found_at(self.accepted_peak);
        } else if self.window.cut(others) && self.guesses_rate() {
            self.pace.refused(permit.begun, now);
            self.window.accepted = None;
        } else {
            self.pace.mark(permit.begun);
        }
        if searching {
            self.search = Search::Over;
            let paced = others.max(self.pace.in_flight());
            self.window.found_at(paced.max(self.window.best()));
        }
        self.next_cut_epoch();
        self.waits_for_reply = !slower;
    }

    /// Whether more calls were in flight than were accepted since the last rejection, and not because the rate grows
    /// fast.
    fn passes_window(&self, permit: Permit) -> bool {
        self.accepted_peak > 0 && permit.in_flight > self.accepted_peak && !self.pace.is_returning()
    }

    /// A call was rejected that had started before the last rejection was known.
    fn refused_late(&mut self, permit: Permit, asked: Option<Time>, now: Time) {
        let others = self.in_flight;
        self.asked_until = self.asked_until.max(asked);
        self.window.refused_before_the_cut();
        self.pace.refused_too(permit.begun);
        if !self.waits_for_reply {
            // The requested wait counts if this wave has caused a pause, or if nothing is answered.
            let unanswered = others == 0 && self.replies == permit.replies;
            let pause = asked.filter(|_| unanswered || self.paused_until > now);
            self.paused_until = self.paused_until.max(pause.unwrap_or_default());
        } else if others == 0 {
            self.window.pause_after_cut();
            self.pause(now);
        }
    }

    /// Pauses the whole quota for the requested time, and longer each time while nothing is answered: some providers
    /// request no wait, milliseconds, or a time in the past.
    fn pause(&mut self, now: Time) {
        let own = self.next_pause();
        if let Some(bucket) = &mut self.requests {
            bucket.refill(now);
            bucket.level = bucket.level.min(0.0);
        }
        let least = if self.asked_until.is_some() || self.pace.rate.is_some() {
            own / PART_OF_OWN
        } else {
            own
        };
        let until = self.asked_until.unwrap_or_default().max(now.after(least));
        self.pace.skip(until.since(self.paused_until.max(now)));
        self.paused_until = self.paused_until.max(until);
    }

    /// The first answer after the first rejection. If only a few calls in flight were accepted, they measure a rate
    /// roughly, and the search for the rate starts there.
    pub(super) fn search_rate(&mut self, now: Time) {
        let found = self.window.best();
        let begins = self.search == Search::Ahead && self.pace.mark.is_some();
        if begins && self.guesses_rate() && found < FEW {
            self.search = Search::On;
            self.pace.start(found, now);
        }
    }

    pub(super) fn is_searching(&self) -> bool {
        self.search == Search::On && self.pace.is_starting()
    }
}
