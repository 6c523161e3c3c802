//! What must hold in every schedule of the simulation: during the run, and at its end.

use std::time::Duration;

use crate::base::{ErrorKind, Time};
use crate::engine::dispatch::{ErrorPolicy, StopReason};
use crate::engine::limiter::{Gate, QuotaId};

use super::Scene;
use super::model::Item;

impl Scene {
    /// With a free permit and a working output, every runnable item has been started.
    pub(super) fn check_no_stall(&self) {
        let work = &self.dispatcher.work;
        let counters = self.dispatcher.counters;
        let stopped = self.dispatcher.stop_reason().is_some();
        let held = self.in_flight.len() + work.unreleased;
        let free = counters.in_flight < self.concurrency;
        let asks = !self.io.is_empty();
        if stopped || work.full_disk || !free || asks || counters.in_flight != held {
            return;
        }
        // The limiter rounds its waits up to 50 microseconds.
        let a_moment_ago = Time::from_nanos(self.now.as_nanos().saturating_sub(100_000));
        let readable = work.source_until.min(work.breaks_at.unwrap_or(usize::MAX));
        for (i, item) in work.items.iter().enumerate() {
            let step = match item {
                Item::Fresh if i < readable => 0,
                Item::Waiting { due, step } if *due <= self.now => *step,
                _ => continue,
            };
            let class = work.class(i as u32);
            // Only steps that can still be called can delay items.
            let limited = (step..class.steps() as u8).any(|step| {
                let quota = class.quota(step);
                quota != QuotaId::NONE
                    && !self.is_dead(quota, step)
                    && !matches!(
                        self.limiter.peek(quota, 60, None, a_moment_ago),
                        Gate::Go(_)
                    )
            });
            let held = |step| {
                let held = self.dispatcher.held_until(&class, step, self.now);
                held.is_some()
            };
            let limited = limited || (step..class.steps() as u8).any(held);
            assert!(
                limited,
                "item {i} ({item:?}, {:?}) can run at {:?} with {} of {} in flight, yet it waits",
                class, self.now, counters.in_flight, self.concurrency
            );
        }
    }

    /// Each call in flight, and each outcome that was not taken yet, holds a permit. No other permits are held.
    pub(super) fn check_permits(&mut self) {
        let in_flight = self.dispatcher.counters.in_flight;
        assert!(in_flight <= self.permits, "more calls than permits");
        let work = &self.dispatcher.work;
        let held = self.in_flight.len() + work.unreleased;
        assert!(
            held <= in_flight,
            "{held} hold permits, {in_flight} counted"
        );
        // Ends that are being written still hold their permits.
        if self.dispatcher.settle_error().is_none() && self.io.is_empty() {
            assert_eq!(held, in_flight, "a permit was lost");
        }
        self.permits = self.concurrency.max(in_flight);
    }

    pub(super) fn check_end(&self) {
        let work = &self.dispatcher.work;
        let counters = self.dispatcher.counters;
        assert_eq!(counters.in_flight, 0);
        assert!(self.in_flight.is_empty(), "finished with calls in flight");
        assert!(self.calls_after_critical <= self.most_permits);
        let made = self.started - self.loading.waited;
        assert_eq!(counters.calls, made, "a wait was counted as a call");
        self.loading.check_pace(self.most_permits);
        assert_eq!(
            work.unreleased, 0,
            "finished before all outcomes were taken"
        );
        let failed = work.items.contains(&Item::Final { ok: false });
        match self.dispatcher.stop_reason() {
            None => {
                assert!(!self.fatal_seen && !work.broke, "a fault was ignored");
                for (i, item) in work.items.iter().enumerate() {
                    assert!(
                        matches!(item, Item::Final { .. } | Item::Unsent),
                        "item {i} is {item:?} at the end"
                    );
                }
                assert!(self.policy != ErrorPolicy::StopOnError || !failed);
            }
            Some(StopReason::ItemFailed(_)) => {
                assert!(self.policy == ErrorPolicy::StopOnError && failed);
            }
            Some(StopReason::Critical(error)) => {
                let is_unclear = error.status() == Some(404);
                let critical = error.kind().is_critical() || is_unclear;
                assert!(critical || error.kind() == ErrorKind::RateLimited);
            }
            Some(StopReason::AllAlike(error)) => {
                assert!(self.policy == ErrorPolicy::StopOnCriticalError);
                assert!(error.kind() == ErrorKind::Malformed || error.is_unclassified());
                assert!(work.answered.is_empty() || work.classes[0].steps() > 1);
            }
            Some(StopReason::Unreachable(error)) => {
                assert!(error.is_unreachable() || error.status().is_some_and(|s| s >= 500));
            }
            Some(StopReason::Cancelled | StopReason::SinkClosed) => assert!(self.stopped_by_us),
            Some(StopReason::DeadlineExceeded) => {
                let nearly = self.now.after(Duration::from_micros(3));
                assert!(self.deadline.is_some_and(|at| at <= nearly));
            }
            Some(StopReason::Fatal(_)) => assert!(self.fatal_seen || work.broke),
            Some(other) => panic!("unexpected end: {other}"),
        }
        // Every item is in one place: it is still in the source, or waits, or has its end.
        let mut waiting = 0;
        for (i, item) in work.items.iter().enumerate() {
            match item {
                Item::Fresh => assert!(i >= work.next, "item {i} was never read"),
                Item::Out => panic!("item {i} was dropped"),
                Item::Waiting { .. } => waiting += 1,
                Item::Final { .. } | Item::Unsent => {}
            }
        }
        assert_eq!(work.waiting.len(), waiting);
    }
}
