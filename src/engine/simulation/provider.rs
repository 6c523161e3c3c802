//! The provider of a simulated schedule: the result of each call, and the result of an aborted call.

use super::*;
use crate::base::verdict::Whom;

/// An end that only other calls can explain.
pub(super) fn unclear() -> Error {
    let error = Error::new(ErrorKind::Invalid, "a web page").with_status(404);
    error.with_sent(Sent::Answered).concerning(Whom::Unclear)
}

impl Scene {
    /// The provider's answer, decided when the call starts and delivered in any order.
    pub(super) fn answer(&mut self) -> Result<(), Error> {
        let wait = self.random.below(8);
        let error = |kind| Error::new(kind, "simulated").with_sent(Sent::Answered);
        let critical = self.critical_share;
        match self.random.below(100) {
            0..=9 => Err(error(ErrorKind::Transient).with_status(500)),
            10..=17 => Err(error(ErrorKind::RateLimited)
                .with_status(429)
                .with_retry_after((wait > 2).then(|| Duration::from_secs(wait)))),
            18..=20 => Err(error(ErrorKind::Transient)
                .with_sent(Sent::Maybe)
                .with_timed_out()),
            21..=22 => Err(error(ErrorKind::Malformed).with_sent(Sent::Maybe)),
            23 => Err(error(ErrorKind::Malformed)
                .with_sent(Sent::Maybe)
                .with_unusable_reply("<html>")),
            24 if wait < 4 => Err(unclear()),
            24 => Err(error(ErrorKind::Invalid).with_status(400)),
            25 => Err(error(ErrorKind::Invalid)
                .with_status(400)
                .with_unclassified()),
            26 => Err(error(ErrorKind::Blocked)),
            27 => Err(error(ErrorKind::Panic)),
            28..=29 => Err(error(ErrorKind::Transient)
                .with_sent(Sent::No)
                .with_unreachable()),
            n if n < 30 + critical => Err(error(match n % 3 {
                0 => ErrorKind::Auth,
                1 => ErrorKind::Quota,
                _ => ErrorKind::UnknownModel,
            })
            .with_status(401)),
            _ => Ok(()),
        }
    }

    pub(super) fn start(&mut self, call: Call<u32>) {
        let tries = call.ticket.tries.clone();
        let quota = call.ticket.quota();
        assert!(
            u32::from(tries.calls - tries.refused)
                <= 2 * u32::from(self.max_retries) + tries.step as u32,
            "item {} called {} times",
            call.ticket.task,
            tries.calls + 1
        );
        assert!(tries.attempt <= self.max_retries, "step tried too often");
        self.loading.check_start(&call.ticket);
        self.dispatcher
            .work
            .times
            .starts(call.ticket.task, self.now);
        let asked = self.put_off.get(&(call.ticket.task, tries.step));
        assert!(
            asked.is_none_or(|until| *until <= self.now),
            "called before the requested time"
        );
        if let Some(until) = self.paused_until.get(&quota) {
            assert!(
                quota == QuotaId::NONE || *until <= self.now,
                "call during a pause"
            );
        }
        assert!(
            !self.is_dead(quota, tries.step),
            "an unavailable quota was called"
        );
        if self.critical_seen {
            self.calls_after_critical += 1;
        }
        if let (Some(most), true) = (self.tuned, quota != QuotaId::NONE) {
            let flying = self.in_flight.values();
            let flying = flying.filter(|flying| flying.call.ticket.quota() == quota);
            assert!(flying.count() < most as usize, "more calls than the limit");
        }
        let in_flight = self.in_flight.values().filter(|in_flight| {
            let admitted =
                !matches!(&in_flight.result, Err(e) if e.kind() == ErrorKind::RateLimited);
            admitted && in_flight.call.ticket.quota() == quota
        });
        let refusal = self.parallel.refusal(quota, in_flight.count());
        let refusal = self.loading.refusal(quota, self.now).or(refusal);
        let refusal = self.outage.failure(tries.step, self.now).or(refusal);
        let mut result = match refusal {
            Some(refusal) => Err(refusal),
            None => self.answer(),
        };
        let fatal = self.random.chance(self.fatal_share);
        if fatal {
            result = Err(Error::new(ErrorKind::Invalid, "the task cannot be read"));
        }
        let takes = match self.random.below(10) {
            0 => 20_000,
            1..=3 => 0,
            _ => self.random.below(900),
        };
        self.started += 1;
        let mut at = self.now.after(Duration::from_millis(takes));
        if self.hanging.hangs(tries.step, self.now) && !fatal {
            at = self.now.after(self.hanging.timeout);
            let error = Error::new(ErrorKind::Transient, "no reply").with_timed_out();
            result = Err(error.with_sent(Sent::Maybe));
        }
        if let Some(deadline) = self.deadline.filter(|deadline| at >= *deadline)
            && !fatal
            && self.random.chance(70)
        {
            // A call may notice the deadline slightly before the dispatcher does, or after it.
            let early = self.random.below(3) * 1000;
            let late = Duration::from_nanos(self.random.below(3) * 1_000_000);
            at = Time::from_nanos(deadline.as_nanos().saturating_sub(early)).after(late);
            at = at.max(self.now);
            result = Err(self.ended(ErrorKind::DeadlineExceeded));
        }
        self.arrivals.push(Arrival(Reverse((at, self.started))));
        let in_flight = Flying {
            call,
            result,
            fatal,
            replies: self.replies.get(&quota).copied().unwrap_or_default(),
        };
        self.in_flight.insert(self.started, in_flight);
    }

    /// How a call ends whose context was cancelled.
    pub(super) fn ended(&mut self, kind: ErrorKind) -> Error {
        let sent = if self.random.chance(50) {
            Sent::Maybe
        } else {
            Sent::No
        };
        Error::new(kind, "ended by us").with_sent(sent)
    }

    /// Aborts the calls in flight, now or a little later.
    pub(super) fn abort(&mut self) {
        let mut ids: Vec<u64> = self.in_flight.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let error = self.ended(ErrorKind::Cancelled);
            let in_flight = self.in_flight.get_mut(&id).expect("the call is in flight");
            (in_flight.result, in_flight.fatal) = (Err(error), false);
            let at = Duration::from_millis(self.random.below(3));
            let at = self.now.after(at);
            self.arrivals.push(Arrival(Reverse((at, id))));
        }
    }

    pub(super) fn is_dead(&self, quota: QuotaId, step: u8) -> bool {
        self.dead_steps.contains(&step) || self.dead_quotas.contains(&quota)
    }

    pub(super) fn bury(&mut self, kind: ErrorKind, quota: QuotaId, step: u8) {
        match kind {
            ErrorKind::UnknownModel if quota != QuotaId::NONE => self.dead_quotas.push(quota),
            ErrorKind::UnknownModel => {}
            _ => self.dead_steps.push(step),
        }
    }
}
