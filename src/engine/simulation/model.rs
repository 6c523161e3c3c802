//! The random numbers and the work of the simulation: a list of items that knows the place of each item and fails if an
//! item is in a wrong place; and servers that load their model.

use std::collections::HashMap;
use std::time::Duration;

use crate::base::{Error, ErrorKind, Sent, Time};

use crate::engine::availability::{Availability, MAX_LOADING};
use crate::engine::limiter::QuotaId;
use crate::engine::quota::Class;
use crate::engine::route::Tries;
use crate::engine::waiting::Waiting;
use crate::engine::work::{Cost, SettleIo, Settled, Take, TakeIo, Ticket, Work};

pub(crate) struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub(crate) fn warm(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..4 {
            random.next();
        }
        random
    }
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n.max(1)
    }
    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What the model knows of each item; the invariants are checked when it changes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Item {
    Fresh,
    Out,
    Waiting { due: Time, step: u8 },
    Final { ok: bool },
    Unsent,
}

/// State of a claim, if there is a store.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Look {
    None,
    Asked,
    UnderWay,
    Back,
}

pub(super) struct ModelWork {
    pub items: Vec<Item>,
    pub classes: Vec<Class>,
    /// The first item that was never read from the source.
    pub next: usize,
    pub waiting: Waiting<(u32, Tries)>,
    pub times: TimeModel,
    pub source_until: usize,
    /// The source fails instead of returning this item.
    pub breaks_at: Option<usize>,
    pub broke: bool,
    /// When a step of a quota last answered.
    pub answered: HashMap<(QuotaId, u8), Time>,
    /// With a deadline, an item may fail early.
    pub may_give_up: bool,
    pub full_disk: bool,
    pub defers: bool,
    /// Whether requests to the store are sent without the lock.
    pub has_store: bool,
    /// A claim that was requested, or has returned.
    pub look: Look,
    /// Outcomes that hold their permits until they are taken.
    pub unreleased: usize,
}

impl ModelWork {
    pub(super) fn class(&self, item: u32) -> Class {
        self.classes[item as usize % self.classes.len()].clone()
    }
    fn ticket(&self, item: u32, tries: Tries) -> Ticket<u32> {
        Ticket {
            task: item,
            order: item.into(),
            cost: Cost {
                input: 10 + item % 50,
                output_cap: item.is_multiple_of(3).then_some(64),
            },
            class: self.class(item),
            tries,
        }
    }
    /// Number of items that the source returns in total.
    fn end(&self) -> usize {
        self.breaks_at.unwrap_or(self.items.len())
    }
    pub(super) fn source_open(&self) -> bool {
        self.source_until < self.items.len() && !self.broke
    }
}

impl Work for ModelWork {
    type Task = u32;
    type Done = ();

    fn has_store(&self) -> bool {
        self.has_store
    }

    fn keep(&mut self, done: &mut Vec<Settled<u32, ()>>) {
        if self.has_store {
            let (mut kept, left) = done
                .drain(..)
                .partition(|settled| matches!(settled, Settled::Later(_, Time::ZERO, None)));
            *done = left;
            self.settle(&mut kept, Time::ZERO)
                .expect("the item needs no write");
        }
    }

    fn settle_io(&mut self, _: &[Settled<u32, ()>], _: Time) -> Option<SettleIo<Self>> {
        Some(Box::new(|| {
            Box::new(|work: &mut Self, done, now| work.settle(done, now))
        }))
    }

    fn take_io(&mut self) -> Option<TakeIo<Self>> {
        (self.look == Look::Asked).then(|| {
            self.look = Look::UnderWay;
            let io: TakeIo<Self> = Box::new(|| Box::new(|work| work.look = Look::Back));
            io
        })
    }

    fn take(
        &mut self,
        max: usize,
        availability: &Availability,
        now: Time,
    ) -> Result<Take<u32>, Error> {
        if self.has_store && self.look != Look::Back {
            if self.look == Look::None {
                self.look = Look::Asked;
            }
            return Ok(Take::Idle {
                until: None,
                source_open: true,
            });
        }
        self.look = Look::None;
        assert!(!self.broke, "the source was read after it failed");
        let mut out = Vec::new();
        let readable = self.source_until.min(self.end());
        while out.len() < max {
            let waits = self.waiting.pop(availability, now);
            let ticket = if let Some((item, tries)) = waits {
                match self.items[item as usize] {
                    Item::Waiting { due, .. } => {
                        assert!(due <= now, "item {item} before its due time");
                    }
                    other => panic!("item {item} offered while {other:?}"),
                }
                self.ticket(item, tries)
            } else if self.next < readable {
                let item = self.next as u32;
                let class = self.class(item);
                self.next += 1;
                if let Some(quota) = availability.paused_quota(&class, 0, now) {
                    self.items[item as usize] = Item::Waiting { due: now, step: 0 };
                    let first = (item, Tries::default());
                    self.waiting.pass_over(quota, item.into(), first);
                    continue;
                }
                self.ticket(item, Default::default())
            } else {
                break;
            };
            self.items[ticket.task as usize] = Item::Out;
            out.push(ticket);
        }
        if !out.is_empty() {
            return Ok(Take::Items(out));
        }
        // Like a list: items that were read before the fault are returned first.
        if self.breaks_at == Some(self.next) && self.next < self.source_until {
            self.broke = true;
            return Err(Error::new(ErrorKind::Invalid, "the source failed"));
        }
        if self.waiting.is_empty() && !self.source_open() {
            return Ok(Take::Done);
        }
        Ok(Take::Idle {
            until: self.waiting.next_due(availability, now),
            source_open: self.source_open(),
        })
    }

    fn settle(&mut self, done: &mut Vec<Settled<u32, ()>>, now: Time) -> Result<(), Error> {
        // Ends that could not be written immediately were decided earlier.
        self.may_give_up |= self.full_disk || self.has_store;
        let mut left = Vec::new();
        for settled in done.drain(..) {
            match settled {
                Settled::Later(ticket, due, _) => {
                    let item = &mut self.items[ticket.task as usize];
                    assert_eq!(*item, Item::Out);
                    let step = ticket.tries.step;
                    *item = Item::Waiting { due, step };
                    let (quota, order) = (ticket.quota(), ticket.order);
                    self.waiting
                        .push(quota, due, order, (ticket.task, ticket.tries));
                }
                settled if self.full_disk => left.push(settled),
                Settled::Final(ticket, result) => {
                    if let Err(error) = &result {
                        let kind = error.kind();
                        let ours = [ErrorKind::Cancelled, ErrorKind::DeadlineExceeded];
                        assert!(!ours.contains(&kind), "item {} {kind}", ticket.task);
                        let patience =
                            !error.is_not_ready() || now.since(Time::ZERO) >= MAX_LOADING;
                        assert!(patience, "item {} failed while loading", ticket.task);
                        assert!(!error.is_not_ready() || error.is_unreachable());
                        if kind == ErrorKind::RateLimited && !self.may_give_up {
                            let step = ticket.tries.step;
                            let last = self.answered.get(&(ticket.quota(), step));
                            let lively = last.is_some_and(|last| {
                                *last < now && now.since(*last) < Duration::from_secs(600)
                            });
                            assert!(
                                !lively || ticket.tries.waited >= 1800,
                                "item {} was lost although others were answered",
                                ticket.task
                            );
                        }
                    }
                    let item = &mut self.items[ticket.task as usize];
                    assert_eq!(*item, Item::Out, "item {} settled twice", ticket.task);
                    *item = Item::Final { ok: result.is_ok() };
                    self.times.check(&ticket);
                    self.unreleased += usize::from(self.defers);
                }
                Settled::Unsent(ticket, _) => {
                    let item = &mut self.items[ticket.task as usize];
                    assert_eq!(*item, Item::Out, "item {} settled twice", ticket.task);
                    *item = Item::Unsent;
                    self.times.check(&ticket);
                    self.unreleased += usize::from(self.defers);
                }
            }
        }
        *done = left;
        if done.is_empty() {
            Ok(())
        } else {
            Err(Error::new(ErrorKind::Invalid, "no space left"))
        }
    }

    fn defers_release(&self) -> bool {
        self.defers
    }
}

/// When the first call of each item started.
#[derive(Default)]
pub(super) struct TimeModel(HashMap<u32, Time>);

impl TimeModel {
    pub(super) fn starts(&mut self, item: u32, now: Time) {
        self.0.entry(item).or_insert(now);
    }

    fn check(&self, ticket: &Ticket<u32>) {
        let first = self.0.get(&ticket.task).copied();
        assert_eq!(ticket.tries.first, first.unwrap_or(Time::ZERO));
    }
}

/// The servers of the first quotas load their model for a while. Their rejections during that time must not count as
/// attempts.
pub(super) struct LoadingModel {
    quotas: u32,
    until: Time,
    /// Since when each server has answered nothing else.
    pub(super) first: HashMap<QuotaId, Time>,
    /// The histories of items when they were rejected.
    tries: HashMap<u32, Tries>,
    refusals: HashMap<QuotaId, usize>,
    /// Rejections that caused a wait.
    pub waited: u64,
}

impl LoadingModel {
    pub(super) fn new(random: &mut Random) -> Self {
        let takes = match random.below(100) {
            0..=69 => 0,
            70..=98 => random.below(60_000),
            _ => 500_000 + random.below(300_000),
        };
        Self {
            quotas: 1 + random.below(3) as u32,
            until: Time::ZERO.after(Duration::from_millis(takes)),
            first: HashMap::new(),
            tries: HashMap::new(),
            refusals: HashMap::new(),
            waited: 0,
        }
    }

    pub(super) fn refusal(&self, quota: QuotaId, now: Time) -> Option<Error> {
        let loads = quota != QuotaId::NONE && quota.0 <= self.quotas && now < self.until;
        let error = Error::new(ErrorKind::Transient, "loading").with_status(503);
        loads.then(|| error.with_sent(Sent::Answered).with_not_ready())
    }

    pub(super) fn refused(&mut self, ticket: &Ticket<u32>, now: Time) {
        let quota = ticket.quota();
        let first = *self.first.entry(quota).or_insert(now);
        if now.since(first) < MAX_LOADING {
            self.waited += 1;
            self.tries.insert(ticket.task, ticket.tries.clone());
            *self.refusals.entry(quota).or_default() += 1;
        }
    }

    /// Waiting used up no attempt.
    pub(super) fn check_start(&mut self, ticket: &Ticket<u32>) {
        if let Some(before) = self.tries.remove(&ticket.task) {
            let tries = &ticket.tries;
            assert_eq!(
                tries.calls, before.calls,
                "item {} used up an attempt",
                ticket.task
            );
            let same = tries.step == before.step;
            assert!(!same || tries.attempt == before.attempt);
        }
    }

    /// After the first calls, one call per second checks whether the server is ready.
    pub(super) fn check_pace(&self, permits: usize) {
        let seconds = self.until.since(Time::ZERO).as_secs() as usize;
        for (quota, refused) in &self.refusals {
            let most = permits + seconds + 1;
            assert!(
                *refused <= most,
                "{refused} refusals of {quota:?} in {seconds} s"
            );
        }
    }
}

/// The first provider hangs for a while: calls during that time time out.
pub(super) struct HangingModel {
    from: Time,
    until: Time,
    pub timeout: Duration,
}

impl HangingModel {
    pub(super) fn new(random: &mut Random) -> Self {
        let millis = |ms| Duration::from_millis(ms);
        let from = if random.chance(50) {
            Time::ZERO
        } else {
            Time::ZERO.after(millis(random.below(5000)))
        };
        let lasts = if random.chance(25) {
            1000 + random.below(40_000)
        } else {
            0
        };
        Self {
            from,
            until: from.after(millis(lasts)),
            timeout: millis(500 + random.below(8000)),
        }
    }

    pub(super) fn hangs(&self, step: u8, now: Time) -> bool {
        step == 0 && (self.from..self.until).contains(&now)
    }
}

/// A provider fails all calls for a while, in one way.
pub(super) struct OutageModel {
    step: u8,
    from: Time,
    until: Time,
    status: Option<u16>,
}

impl OutageModel {
    pub(super) fn new(random: &mut Random) -> Self {
        let from = Time::ZERO.after(Duration::from_millis(random.below(10_000)));
        let lasts = match random.below(100) {
            0..=69 => 0,
            70..=98 => random.below(60_000),
            _ => 500_000 + random.below(300_000),
        };
        Self {
            step: random.below(3) as u8,
            from,
            until: from.after(Duration::from_millis(lasts)),
            status: [None, Some(404), Some(500), Some(502), Some(503)][random.below(5) as usize],
        }
    }

    pub(super) fn failure(&self, step: u8, now: Time) -> Option<Error> {
        let fails = step == self.step && (self.from..self.until).contains(&now);
        let error = Error::new(ErrorKind::Transient, "an outage");
        fails.then(|| match self.status {
            Some(404) => super::provider::unclear(),
            Some(status) => error.with_status(status).with_sent(Sent::Answered),
            None => error.with_unreachable(),
        })
    }
}

/// The servers of some quotas answer only this many calls at once.
pub(super) struct ParallelModel {
    every: u32,
    most: usize,
}

impl ParallelModel {
    pub(super) fn new(random: &mut Random) -> Self {
        Self {
            every: if random.chance(30) {
                1 + random.below(2) as u32
            } else {
                0
            },
            most: 1 + random.below(6) as usize,
        }
    }

    pub(super) fn refusal(&self, quota: QuotaId, admitted: usize) -> Option<Error> {
        let limited =
            self.every > 0 && quota != QuotaId::NONE && quota.0.is_multiple_of(self.every);
        let error = Error::new(ErrorKind::RateLimited, "too many at once").with_status(429);
        let error = error.with_retry_after(Some(Duration::from_secs(1)));
        (limited && admitted >= self.most).then(|| error.with_sent(Sent::Answered))
    }
}
