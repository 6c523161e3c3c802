//! A quota whose limits all machines share. A thread requests small shares of the limits through Redis before they
//! are used, so only the first call waits for a round trip.
//!
//! The buckets of such a quota do not refill by themselves: shares fill them. Without Redis, they refill at this OS
//! process's part of the limit.

use std::time::Duration;

use crate::base::{RateHints, Time};
use crate::hub::RedisHub;
use crate::hub::shares::{PartRequest, Share, ShareRequest};

use super::super::bucket::{Bucket, adopt_limit, is_minute};
use super::super::quota::{CallEnd, QuotaKey};
use super::super::shared_quota::LONGEST_PAUSE;
use super::Quota;
use super::others::Others;

/// Shares are requested for this duration of use.
const AHEAD: Duration = Duration::from_millis(200);
/// Shares that are unused for this long are returned.
const UNUSED: Duration = Duration::from_millis(300);
/// The use is measured over at least this time.
const MEASURED: Duration = Duration::from_millis(80);
/// Interval of checks whether a requested share has arrived, at first and at most.
const LOOK: (Duration, Duration) = (Duration::from_millis(3), Duration::from_millis(50));
/// Time after its last call in which a quota receives pauses and counts as used.
const ACTIVE: Duration = Duration::from_secs(2);
/// A pause that ends later by less than this is the known one.
const SAME: Duration = Duration::from_millis(5);

/// The shares of a quota.
pub(in crate::engine) struct Lease {
    pub(super) hub: RedisHub,
    key: QuotaKey,
    parts: [Part; 2],
    pub(super) others: Others,
    /// OS processes that use the quota, at the last exchange.
    processes: f64,
    /// Redis is unavailable.
    is_lost: bool,
    pub(super) last_use: Option<Time>,
    /// Since when a call has waited for a reply of Redis.
    waits_since: Option<Time>,
    /// Time of the last measurement of the use.
    measured: Time,
    /// End of the last pause that others know.
    known_pause: Time,
}

/// Shares of requests, or of tokens.
#[derive(Default)]
struct Part {
    had_share: bool,
    /// A received share, and when it may be used.
    coming: Option<(Time, f64)>,
    /// What a call needed and did not get.
    lacks: f64,
    /// Requests before this time are useless.
    not_before: Time,
    /// What had been reserved at the last measurement.
    reserved: f64,
    /// Recent use per second.
    pace: f64,
    /// What is left, as the provider reported it.
    left: Option<f64>,
}

impl Lease {
    pub(in crate::engine) fn new(hub: RedisHub, key: QuotaKey, now: Time) -> Self {
        Self {
            hub,
            key,
            parts: Default::default(),
            others: Others::default(),
            processes: 1.0,
            is_lost: false,
            last_use: None,
            waits_since: None,
            measured: now,
            known_pause: Time::ZERO,
        }
    }

    /// The part of the limit at which buckets refill by themselves.
    fn supply(&self) -> f64 {
        if self.is_lost {
            1.0 / self.processes
        } else {
            0.0
        }
    }

    pub(super) fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Requests an early exchange. Returns when to check for its answer.
    pub(super) fn look(&mut self, now: Time) -> Time {
        self.last_use = Some(now);
        self.hub.nudge();
        self.next_look(now)
    }

    fn next_look(&mut self, now: Time) -> Time {
        let waited = now.since(*self.waits_since.get_or_insert(now));
        now.after(waited.clamp(LOOK.0, LOOK.1))
    }

    /// Measures the use per second of requests and of tokens; `reserved` are the sums of all reservations.
    fn measure(&mut self, reserved: [f64; 2], in_flight: u32, now: Time) {
        let measured_for = now.since(self.measured);
        let measures = measured_for >= MEASURED;
        for (part, reserved) in self.parts.iter_mut().zip(reserved) {
            let used = reserved - part.reserved;
            if used > 0.0 || part.lacks > 0.0 || in_flight > 0 {
                self.last_use = Some(now);
            }
            if measures {
                let pace = used.max(0.0) / measured_for.as_secs_f64();
                (part.pace, part.reserved) = ((part.pace + pace) / 2.0, reserved);
            }
        }
        if measures {
            self.measured = now;
        }
    }

    /// Records that a call needs `need` more than there is. Returns when to check again.
    fn lack(&mut self, part: usize, need: f64, now: Time) -> Time {
        let look = self.next_look(now);
        let part = &mut self.parts[part];
        part.lacks = part.lacks.max(need);
        if let Some((at, _)) = part.coming {
            return at;
        }
        if now >= part.not_before {
            self.hub.nudge();
        }
        part.not_before.max(look)
    }
}

impl Quota {
    /// Shares the limits with all machines from now on.
    pub(in crate::engine) fn lease(&mut self, lease: Lease) {
        self.lease = Some(lease);
        self.hold_levels([None; 2]);
    }

    fn buckets(&mut self) -> [&mut Option<Bucket>; 2] {
        [&mut self.requests, &mut self.tokens]
    }

    pub(in crate::engine) fn levels(&self) -> [Option<f64>; 2] {
        [self.requests, self.tokens].map(|bucket| Some(bucket?.level))
    }

    /// Restores the levels after new limits became known: those give nothing by themselves.
    pub(in crate::engine) fn hold_levels(&mut self, before: [Option<f64>; 2]) {
        if self.lease.is_some() {
            for (bucket, before) in self.buckets().into_iter().zip(before) {
                if let (Some(bucket), None) = (bucket, before) {
                    bucket.level = bucket.level.min(0.0);
                }
            }
        }
    }

    /// Adds received shares that may be used now.
    pub(in crate::engine) fn take_shares(&mut self, now: Time) {
        let Self {
            lease: Some(lease),
            requests,
            tokens,
            ..
        } = self
        else {
            return;
        };
        let supply = lease.supply();
        for (bucket, part) in [requests, tokens].into_iter().zip(&mut lease.parts) {
            let Some(bucket) = bucket else { continue };
            bucket.refill(now);
            bucket.supply = supply;
            if let Some((_, given)) = part.coming.take_if(|(at, _)| *at <= now) {
                bucket.level = (bucket.level + given).min(bucket.capacity.max(given));
            }
        }
    }

    /// When to check again for the requests, or tokens, that a call lacks. `None` if the bucket refills by itself.
    pub(in crate::engine) fn await_share(
        &mut self,
        part: usize,
        need: f64,
        now: Time,
    ) -> Option<Time> {
        let lease = self.lease.as_mut()?;
        let at = lease.lack(part, need, now);
        (!lease.is_lost).then_some(at)
    }

    /// Records the end of a call for the other machines: reported limits, and a pause that follows. If the call could
    /// not be sent, the network of this machine may be the cause, so no pause is published.
    pub(in crate::engine) fn share_call_end(
        &mut self,
        ended: CallEnd,
        hints: &RateHints,
        now: Time,
    ) {
        let (in_flight, paused_until) = (f64::from(self.in_flight), self.paused_until);
        let Some(lease) = &mut self.lease else { return };
        if let Some(window) = hints.requests.filter(is_minute) {
            let left = window.remaining.map(|left| left as f64 - in_flight);
            lease.parts[0].left = left;
        }
        if ended == CallEnd::Unreachable {
            lease.known_pause = lease.known_pause.max(paused_until);
        }
        if paused_until > lease.known_pause.after(SAME) && paused_until > now {
            lease.hub.nudge();
        }
    }

    /// The next request to Redis, if one is needed; it also returns unused shares.
    pub(in crate::engine) fn ask_share(&mut self, now: Time) -> Option<ShareRequest> {
        self.take_shares(now);
        let reserved = [self.reserved.0, self.reserved.1];
        let (in_flight, paused_until) = (self.in_flight, self.paused_until);
        let has_replied = self.has_replied;
        let burst = self.given.burst;
        let Self {
            lease: Some(lease),
            requests,
            tokens,
            ..
        } = self
        else {
            return None;
        };
        lease.measure(reserved, in_flight, now);
        let unused_for = now.since(lease.last_use?);
        let is_new_pause = paused_until > lease.known_pause.after(SAME) && paused_until > now;
        let pause = if is_new_pause {
            paused_until.since(now)
        } else {
            Duration::ZERO
        };
        lease.known_pause = lease.known_pause.max(paused_until);
        let mut parts = [None; 2];
        for (at, bucket) in [requests, tokens].into_iter().enumerate() {
            let Some(bucket) = bucket else { continue };
            let part = &mut lease.parts[at];
            let whole = |amount: f64| match at {
                0 => amount.ceil(),
                _ => amount,
            };
            let lacks = std::mem::take(&mut part.lacks).min(bucket.capacity);
            let ahead = AHEAD.as_secs_f64();
            let grows = if lacks > 0.0 { 2.0 } else { 1.0 };
            let most = (bucket.per_second * ahead).min(bucket.capacity);
            let target = if unused_for < UNUSED {
                whole((part.pace * ahead * grows).min(most)).max(lacks)
            } else {
                0.0
            };
            let is_open = part.coming.is_none() && now >= part.not_before;
            let wanted = if is_open {
                whole((target - bucket.level - 1e-6).max(0.0))
            } else {
                0.0
            };
            let back = if lacks > 0.0 || lease.is_lost {
                0.0
            } else {
                (bucket.level - target).max(0.0)
            };
            bucket.level -= back;
            parts[at] = Some(PartRequest {
                per_second: bucket.per_second,
                reported: bucket.learned.map(|learned| learned.age(now)),
                capacity: bucket.capacity,
                wanted,
                back,
                first: if part.had_share { 0.0 } else { wanted },
                left: part.left.take(),
            });
        }
        let is_needed = |part: &PartRequest| part.wanted > 0.0 || part.back > 0.0;
        let is_active = unused_for < ACTIVE || parts.iter().flatten().any(is_needed);
        if !is_active && !is_new_pause && !lease.others.has_news() {
            return None;
        }
        let (outage, begins, probes) = lease.others.ask(in_flight, now);
        Some(ShareRequest {
            quota: lease.key.0,
            pause,
            has_replied,
            first_calls: if begins { burst } else { 0 },
            outage,
            probes,
            parts,
        })
    }

    pub(in crate::engine) fn receive_share(&mut self, share: &Share, now: Time) {
        let Some(lease) = &mut self.lease else { return };
        lease.waits_since = None;
        if std::mem::take(&mut lease.is_lost) {
            // What a bucket gained without a share was not assigned to this machine.
            for bucket in [&mut self.requests, &mut self.tokens].into_iter().flatten() {
                bucket.level = bucket.level.min(0.0);
            }
        }
        lease.processes = f64::from(share.processes).max(1.0);
        lease.others.receive(share.standing, now);
        for (part, given) in lease.parts.iter_mut().zip(&share.parts) {
            if given.granted > 0.0 {
                (part.coming, part.had_share) =
                    (Some((now.after(given.wait), given.granted)), true);
            } else if !given.wait.is_zero() {
                part.not_before = now.after(given.wait);
            }
        }
        if !share.pause.is_zero() && share.pause <= LONGEST_PAUSE {
            let until = now.after(share.pause);
            lease.known_pause = lease.known_pause.max(until);
            self.paused_until = self.paused_until.max(until);
        }
        let learned = share.parts.map(|part| part.learned);
        let (dropped, before) = (self.dropped, self.levels());
        for (part, bucket) in self.buckets().into_iter().enumerate() {
            if let Some((rate, age)) = learned[part] {
                adopt_limit(bucket, rate, age, dropped[part], now);
            }
        }
        self.hold_levels(before);
        self.take_shares(now);
    }

    /// Redis is unavailable: each of `workers` OS processes uses an equal part of the limit.
    pub(in crate::engine) fn lose_share(&mut self, workers: usize, now: Time) {
        if let Some(lease) = &mut self.lease
            && !lease.is_lost
        {
            lease.is_lost = true;
            lease.others.lose();
            lease.processes = lease.processes.max(workers as f64);
            // Shares that have not arrived yet are part of that.
            let buckets = [&mut self.requests, &mut self.tokens];
            for (bucket, part) in buckets.into_iter().zip(&lease.parts) {
                if let (Some(bucket), Some((_, given))) = (bucket, part.coming) {
                    bucket.level -= given;
                }
            }
        }
        self.take_shares(now);
    }
}

#[cfg(test)]
impl Quota {
    pub(in crate::engine) fn is_lost(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.is_lost)
    }
}
