//! Packs by themselves, and thousands of seeded runs of the real dispatcher over them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::base::error::{ErrorKind, Sent};
use crate::base::hints::RateHints;
use crate::bulk::job::{Job, Sink, count};
use crate::engine::dispatch::{
    Dispatcher, ErrorPolicy, Event, Flight, Landed, Options, StopReason, Turn,
};
use crate::engine::limit::{Limiter, Limits, QuotaId, QuotaKey};
use crate::engine::route::RetryPolicy;
use crate::engine::waiting::Waiting;
use crate::engine::work::{Class, Settled};
use crate::llm::client::PackLimits;
use crate::observe::tally::{Measure, Tally};

const NOW: Time = Time::from_nanos(1_000);

/// Items of a size and a kind each.
struct Sizes {
    items: Vec<(u32, u8)>,
    classes: Vec<Class>,
    limits: PackLimits,
    next: usize,
    waiting: Waiting<(usize, Tries)>,
}

impl Sizes {
    fn new(items: Vec<(u32, u8)>, inputs: u16, tokens: u32) -> Self {
        let classes = (0..=u8::MAX).map(|kind| Class([QuotaId(u32::from(kind) + 1)].into()));
        Self {
            items,
            classes: classes.collect(),
            limits: PackLimits { inputs, tokens },
            next: 0,
            waiting: Waiting::default(),
        }
    }

    fn ticket(&self, item: usize, tries: Tries) -> Ticket<usize> {
        let (size, kind) = self.items[item];
        Ticket {
            task: item,
            cost: Cost {
                input: size,
                output_cap: Some(0),
            },
            order: item as u64,
            class: self.classes[usize::from(kind)].clone(),
            tries,
        }
    }
}

impl Backlog for Sizes {
    type Task = usize;

    fn take(&mut self, max: usize, gates: &Gates, now: Time) -> Result<Take<usize>, Error> {
        let mut out = Vec::new();
        while out.len() < max {
            if let Some((item, tries)) = self.waiting.pop(gates, now) {
                out.push(self.ticket(item, tries));
            } else if self.next < self.items.len() {
                let ticket = self.ticket(self.next, Tries::default());
                self.next += 1;
                match gates.held_by(&ticket.class, 0, now) {
                    Some(quota) => {
                        let item = (ticket.task, ticket.tries);
                        self.waiting.pass_over(quota, ticket.order, item);
                    }
                    None => out.push(ticket),
                }
            } else {
                break;
            }
        }
        if !out.is_empty() {
            return Ok(Take::Items(out));
        }
        if self.waiting.is_empty() && self.next == self.items.len() {
            return Ok(Take::Done);
        }
        Ok(Take::Idle {
            until: self.waiting.next_due(gates, now),
            source_open: false,
        })
    }

    fn wait(&mut self, ticket: Ticket<usize>, due: Time) {
        let (quota, order) = (ticket.quota(), ticket.order);
        self.waiting
            .push(quota, due, order, (ticket.task, ticket.tries));
    }

    fn limits(&self, _: &usize) -> PackLimits {
        self.limits
    }

    fn alike(&self, a: &usize, b: &usize) -> bool {
        self.items[*a].1 == self.items[*b].1
    }
}

fn members(pack: &Ticket<Pack<usize>>) -> Vec<usize> {
    pack.task.iter().map(|member| member.task).collect()
}

fn take(packed: &mut Packed<Sizes>, max: usize) -> Vec<Vec<usize>> {
    match packed.take(max, &Gates::default(), NOW).unwrap() {
        Take::Items(packs) => packs.iter().map(members).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn packs_are_filled_in_the_order_of_the_input() {
    let mut packed = Packed::new(Sizes::new(vec![(1, 0); 10], 4, 100));
    assert_eq!(take(&mut packed, 2), [vec![0, 1, 2, 3], vec![4, 5, 6, 7]]);
    assert_eq!(take(&mut packed, 2), [[8, 9]]);
    assert!(take(&mut packed, 2).is_empty());
}

#[test]
fn tokens_end_a_pack_and_what_is_too_large_goes_alone() {
    let sizes = [4, 4, 4, 30, 1, 9, 1].map(|size| (size, 0));
    let mut packed = Packed::new(Sizes::new(sizes.into(), 8, 10));
    let packs = take(&mut packed, 9);
    assert_eq!(packs, [vec![0, 1], vec![2], vec![3], vec![4, 5], vec![6]]);
    let mut packed = Packed::new(Sizes::new(sizes.into(), 8, 10));
    let one_by_one: Vec<_> = (0..6).flat_map(|_| take(&mut packed, 1)).collect();
    assert_eq!(one_by_one, packs);
}

#[test]
fn only_what_is_alike_shares_a_call() {
    let kinds = [0, 1, 0, 2, 1, 0, 2, 0].map(|kind| (1, kind));
    let mut packed = Packed::new(Sizes::new(kinds.into(), 3, 100));
    // With one permit each pack still finds its own, and nobody is forgotten.
    let packs: Vec<_> = (0..4).flat_map(|_| take(&mut packed, 1)).collect();
    assert_eq!(packs, [vec![0, 2, 5], vec![1, 4], vec![3, 6], vec![7]]);
    let mut packed = Packed::new(Sizes::new(kinds.into(), 3, 100));
    let mut packs = take(&mut packed, 4);
    packs.sort();
    assert_eq!(packs, [vec![0, 2, 5], vec![1, 4], vec![3, 6], vec![7]]);
}

#[test]
fn a_completion_is_a_pack_of_one() {
    let mut packed = Packed::new(Sizes::new(vec![(1, 0); 3], 1, u32::MAX));
    assert_eq!(take(&mut packed, 2), [[0], [1]]);
    assert_eq!(take(&mut packed, 2), [[2]]);
}

#[test]
fn what_failed_together_goes_on_in_halves_apart_from_the_rest() {
    let mut packed = Packed::new(Sizes::new(vec![(1, 0); 12], 8, 100));
    let Ok(Take::Items(mut packs)) = packed.take(1, &Gates::default(), NOW) else {
        panic!("nothing to take");
    };
    let mut pack = packs.remove(0);
    pack.tries.count(&Error::new(ErrorKind::Invalid, "no"));
    pack.tries.divide(pack.task.len());
    packed.wait(pack, NOW);
    let packs = take(&mut packed, 9);
    assert_eq!(
        packs,
        [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9, 10, 11]]
    );
}

#[test]
fn a_source_that_breaks_in_the_middle_of_a_pack_costs_none_of_it() {
    struct Breaks(Sizes);
    impl Backlog for Breaks {
        type Task = usize;
        fn take(&mut self, max: usize, gates: &Gates, now: Time) -> Result<Take<usize>, Error> {
            match self.0.take(max, gates, now)? {
                Take::Done => Err(Error::new(ErrorKind::Invalid, "broken")),
                taken => Ok(taken),
            }
        }
        fn wait(&mut self, ticket: Ticket<usize>, due: Time) {
            self.0.wait(ticket, due);
        }
        fn limits(&self, task: &usize) -> PackLimits {
            self.0.limits(task)
        }
        fn alike(&self, a: &usize, b: &usize) -> bool {
            self.0.alike(a, b)
        }
    }
    let mut packed = Packed::new(Breaks(Sizes::new(vec![(1, 0); 3], 8, 100)));
    let gates = Gates::default();
    let Ok(Take::Items(packs)) = packed.take(1, &gates, NOW) else {
        panic!("three could be read");
    };
    assert_eq!(members(&packs[0]), [0, 1, 2]);
    assert!(packed.take(1, &gates, NOW).is_err());
}

/// How each item ended, each once.
#[derive(Default)]
struct Ends(HashMap<usize, Result<(), ErrorKind>>);

impl Sink<usize> for Ends {
    type Done = ();

    fn put(
        &mut self,
        ends: &mut Vec<Settled<Pack<usize>, ()>>,
        tally: &mut Tally,
        _: Time,
    ) -> Result<(), Error> {
        for end in ends.drain(..) {
            count(tally, &end, |()| Measure::default());
            let Settled::Final(ticket, result) = end else {
                panic!("nothing stops this run");
            };
            for member in ticket.task {
                let end = result.as_ref().map(|_| ()).map_err(Error::kind);
                let before = self.0.insert(member.task, end);
                assert_eq!(before, None, "item {} ended twice", member.task);
            }
        }
        Ok(())
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % n.max(1)
    }
}

/// One run with bad items and a provider that is busy now and then: exactly the bad fail, and few
/// calls are made.
fn schedule(seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let (n, inputs) = (1 + random.below(300), 1 + random.below(64));
    let kinds = 1 + random.below(3);
    let items: Vec<_> = (0..n)
        .map(|_| (1 + random.below(20) as u32, random.below(kinds) as u8))
        .collect();
    let bad: Vec<bool> = (0..n).map(|_| random.below(60) == 0).collect();
    let kind = [
        ErrorKind::Invalid,
        ErrorKind::Blocked,
        ErrorKind::Malformed,
        ErrorKind::Transient,
    ][random.below(4) as usize];
    let retried = kind == ErrorKind::Transient;
    let busy = if retried { 0 } else { random.below(30) };
    let tokens = 40 + random.below(400) as u32;
    let limiter = Arc::new(Limiter::new());
    let mut limits = Limits::default().burst(1 + random.below(9) as u32);
    if random.below(3) == 0 {
        limits = limits.tokens_per_minute(6_000.0 + random.below(60_000) as f64);
    }
    let mut sizes = Sizes::new(items, inputs as u16, tokens);
    sizes.classes = (0..kinds)
        .map(|kind| {
            let key = QuotaKey::new(&[&kind.to_string()]);
            Class([limiter.quota(key, limits, Time::ZERO)].into())
        })
        .collect();
    let job = Job {
        backlog: Packed::new(sizes),
        sink: Ends::default(),
        tally: Tally::new(Some(n), Time::ZERO),
    };
    let concurrency = 1 + random.below(6) as usize;
    let options = Options {
        trails: Arc::default(),
        concurrency,
        // Patience for a provider that is busy by chance: nobody is to fail by it.
        retry: RetryPolicy::default().max_retries(if retried { 2 } else { 60 }),
        on_error: ErrorPolicy::ContinueOnError,
        deadline: None,
        seed,
    };
    let mut dispatcher = Dispatcher::new(job, limiter, options);
    let (mut now, mut calls, mut failed) = (Time::ZERO, 0, 0);
    let mut flying: Vec<(Time, Flight<Pack<usize>>)> = Vec::new();
    let stop_after = (random.below(5) == 0).then(|| 1 + random.below(12));
    loop {
        if stop_after.is_some_and(|most| calls >= most) {
            dispatcher.handle(Event::Stop(StopReason::Cancelled), now);
        }
        let mut start = Vec::new();
        let turn = dispatcher.turn(now, &mut start);
        for flight in start {
            let pack = &flight.ticket.task;
            let size: u32 = pack.iter().map(|member| member.cost.input).sum();
            assert!(pack.len() as u64 <= inputs && (size <= tokens || pack.len() == 1));
            let of = |member: &Member<usize>| dispatcher.work.backlog.items.items[member.task].1;
            assert!(pack.iter().all(|member| of(member) == of(&pack[0])));
            calls += 1;
            flying.push((now.after(Duration::from_millis(random.below(500))), flight));
        }
        assert!(flying.len() <= concurrency);
        let Turn::Wait(wake) = turn else { break };
        flying.sort_by_key(|(at, _)| *at);
        let landing = flying.first().map(|(at, _)| *at);
        let next = wake.into_iter().chain(landing).min();
        now = now.max(next.expect("something is going to happen"));
        while flying.first().is_some_and(|(at, _)| *at <= now) {
            let (_, flight) = flying.remove(0);
            let spoiled = flight.ticket.task.iter().any(|member| bad[member.task]);
            let error = |kind| {
                let error = Error::new(kind, "simulated").with_status(500);
                Err(error.with_sent(Sent::Answered))
            };
            let result = match random.below(100) {
                n if n < busy && n % 2 == 0 => error(ErrorKind::Transient),
                n if n < busy => error(ErrorKind::RateLimited),
                _ if spoiled => error(kind),
                _ => Ok(()),
            };
            failed += u64::from(result.is_err());
            let landed = Landed {
                used: Some((10, 0)),
                flight,
                result,
                hints: RateHints::default(),
                fatal: false,
            };
            dispatcher.handle(Event::Landed(landed), now);
        }
    }
    assert_eq!(dispatcher.counters().in_flight, 0);
    let items = &dispatcher.work.backlog.items;
    let ends = &dispatcher.work.sink.0;
    let left = items.waiting.len() + items.items.len() - items.next;
    assert_eq!((ends.len() + left) as u64, n);
    assert!(left == 0 || dispatcher.stop_reason().is_some());
    for (item, end) in ends {
        let wanted = if bad[*item] { Err(kind) } else { Ok(()) };
        assert_eq!(*end, wanted, "item {item}");
    }
    let spoiled = bad.iter().filter(|bad| **bad).count() as u64;
    if busy == 0 && spoiled > 0 {
        // Each is alone after as many halvings as a pack has; a malformed reply, and one that
        // is worth a retry, is asked for twice more each time.
        let halvings = 1 + u64::from(inputs.next_power_of_two().ilog2());
        let again = kind == ErrorKind::Malformed || retried;
        let tries = if again { 3 } else { 1 };
        assert!(
            failed <= spoiled * halvings * tries,
            "{failed} of {calls} calls failed"
        );
    }
}

#[test]
fn exactly_the_bad_items_fail_whatever_shares_their_call() {
    for seed in 0..3_000 {
        let outcome = std::panic::catch_unwind(|| schedule(seed));
        if let Err(panic) = outcome {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
