//! What replies and rejections teach about the limits of a quota, and when learned limits are dropped.

use crate::base::{RateHints, Time};

use super::super::bucket::{is_minute, learn_window, token_capacity};
use super::{FIRST_OUTPUT_GUESS, Permit, Quota};

impl Quota {
    pub(super) fn learn(&mut self, permit: Permit, hints: &RateHints, now: Time) {
        // The reported remainder does not include calls that started later. Before the first reply, earlier calls may
        // be missing as well.
        let later = (
            self.reserved.0 - permit.reserved.0,
            self.reserved.1 - permit.reserved.1,
        );
        let in_flight = f64::from(self.in_flight);
        let burst = f64::from(self.given.burst);
        if hints.requests.is_some_and(|window| is_minute(&window)) {
            self.pace.rate = None;
        }
        if let (None, Some(window)) = (self.given.requests_per_minute, hints.requests) {
            let unseen = if self.requests.is_some() {
                later.0
            } else {
                in_flight
            };
            learn_window(&mut self.requests, window, unseen, now, |limit| {
                burst.min(limit.max(1.0))
            });
        }
        if let (None, Some(window)) = (self.given.tokens_per_minute, hints.tokens) {
            let unseen = if self.tokens.is_some() {
                later.1
            } else {
                in_flight * self.output.unwrap_or(FIRST_OUTPUT_GUESS)
            };
            learn_window(&mut self.tokens, window, unseen, now, token_capacity);
        }
        // If the server reports a used-up allowance, calls wait for it, whatever rate is configured.
        for window in [hints.requests, hints.tokens].into_iter().flatten() {
            if let (Some(0), Some(reset)) = (window.remaining, window.reset)
                && !is_minute(&window)
            {
                self.paused_until = self.paused_until.max(now.after(reset));
            }
        }
    }

    /// A call was answered: limits that replies have not reported for long are dropped.
    pub(super) fn drop_unreported(&mut self, hints: &RateHints, now: Time) {
        let limits = [
            ("requests", &mut self.requests, hints.requests),
            ("tokens", &mut self.tokens, hints.tokens),
        ];
        for (unit, bucket, window) in limits {
            let is_reported = window.is_some_and(|window| is_minute(&window));
            if let Some(dropped) = bucket
                && !is_reported
                && dropped.is_outdated(now)
            {
                log::info!(
                    "replies no longer report a limit of {:.0} {unit} per minute: it is dropped",
                    dropped.minute()
                );
                *bucket = None;
            }
        }
    }
}
