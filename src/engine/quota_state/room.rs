//! For how many calls a worker fetches items from its store, and when for more.
//!
//! A fetch costs several statements, so none is made while no permit is near, and one fetch serves all permits of the next
//! second. Their items wait in the worker.

use std::time::Duration;

use crate::base::Time;

use super::super::bucket::Flow;
use super::{BUSY_FOR, Quota};

/// An item is fetched this long before its permit comes,
pub(crate) const AHEAD: Duration = Duration::from_millis(100);
/// or a little earlier, so that a worker that wakes for the fetch does not come too early.
pub(crate) const NEAR: Duration = Duration::from_millis(150);
/// One fetch serves the permits of this time.
const SPAN: Duration = Duration::from_secs(1);

/// The calls of a quota for which items may be fetched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Room {
    pub calls: usize,
    /// When there is more, if time is what is missing.
    pub more_at: Option<Time>,
    /// Whether the end of a call makes more.
    pub is_full: bool,
}

impl Room {
    /// That of tasks without a quota.
    pub(crate) const FREE: Room = Room {
        calls: usize::MAX,
        more_at: None,
        is_full: true,
    };
}

impl Quota {
    pub(in crate::engine) fn room(&mut self, now: Time) -> Room {
        let none = |until, is_full| Room {
            calls: 0,
            more_at: Some(until),
            is_full,
        };
        if let Some(until) = self.held_until(now) {
            let is_full = self.paused_until <= now && self.is_busy();
            let until = if is_full { now.after(BUSY_FOR) } else { until };
            return none(until, is_full);
        }
        let free = self.free();
        let flows = self.flows(now);
        let flows = || flows.iter().flatten();
        let wait = flows().map(|flow| flow.wait_for(1.0)).max();
        if let Some(wait) = wait.filter(|wait| *wait > NEAR) {
            return none(now.after(wait - AHEAD), false);
        }
        let permits = flows().map(|flow| flow.level + flow.per_second * SPAN.as_secs_f64());
        // An open quota has room for one call, whatever the rounding.
        let permits = permits.fold(f64::INFINITY, f64::min).floor().max(1.0);
        let more = flows().map(|flow| flow.wait_for(permits + 1.0)).max();
        let is_full = permits > free;
        Room {
            calls: permits.min(free).max(1.0) as usize,
            more_at: more
                .filter(|_| !is_full)
                .map(|more| now.after(more.saturating_sub(AHEAD))),
            is_full,
        }
    }

    /// The limits per time: of requests, and of tokens at the mean of calls so far.
    fn flows(&mut self, now: Time) -> [Option<Flow>; 2] {
        let mean = self.reserved.1 / self.reserved.0.max(1.0);
        let requests = match &mut self.requests {
            Some(bucket) => Some(bucket.flow(1.0, now)),
            None => self.pace.flow(now),
        };
        let tokens = self.tokens.as_mut().filter(|_| mean > 0.0);
        [requests, tokens.map(|bucket| bucket.flow(mean, now))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::limiter::{Gate, Limiter, Limits, QuotaKey};

    fn limiter(limits: Limits) -> (Limiter, crate::engine::limiter::QuotaId) {
        let limiter = Limiter::new();
        let quota = limiter.quota(QuotaKey::new(&["q"]), limits.known(), 0, Time::ZERO);
        (limiter, quota)
    }

    fn at(millis: u64) -> Time {
        Time::ZERO.after(Duration::from_millis(millis))
    }

    #[test]
    fn items_are_fetched_for_a_second_and_only_when_a_permit_is_near() {
        let limits = Limits::default().requests_per_minute(120.0).burst(1);
        let (limiter, quota) = limiter(limits);
        // One permit is there, and two come within a second.
        let room = limiter.room(quota, at(0));
        assert_eq!((room.calls, room.more_at), (3, Some(at(1_400))));
        assert!(matches!(
            limiter.try_acquire(quota, 1, None, at(0)),
            Gate::Go(_)
        ));
        let room = limiter.room(quota, at(0));
        assert_eq!((room.calls, room.more_at), (0, Some(at(400))));
        let room = limiter.room(quota, at(400));
        assert_eq!((room.calls, room.more_at), (2, Some(at(1_400))));
    }

    #[test]
    fn tokens_bound_what_is_fetched() {
        let (limiter, quota) = limiter(Limits::default().tokens_per_minute(60_000.0));
        let Gate::Go(permit) = limiter.try_acquire(quota, 500, Some(0), at(0)) else {
            panic!("no call starts")
        };
        // 9,500 tokens are left, and 1,000 come each second.
        assert_eq!(limiter.room(quota, at(0)).calls, 21);
        limiter.give_back(permit);
        let unlimited = Limiter::new();
        let free = unlimited.quota(QuotaKey::new(&["q"]), Limits::default().known(), 0, at(0));
        assert_eq!(unlimited.room(free, at(0)).calls, usize::MAX);
    }

    #[test]
    fn the_end_of_a_call_makes_room_where_calls_at_once_are_the_limit() {
        let limits = Limits::default().requests_per_minute(6_000.0).in_flight(1);
        let (limiter, quota) = limiter(limits);
        assert!(limiter.room(quota, at(0)).is_full);
        assert!(matches!(
            limiter.try_acquire(quota, 1, None, at(0)),
            Gate::Go(_)
        ));
        let room = limiter.room(quota, at(0));
        assert_eq!((room.calls, room.is_full), (0, true));
    }
}
