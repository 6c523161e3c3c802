//! Which calls start when, on a simulated clock.

use std::cell::Cell;
use std::time::Duration;

use super::settle::GROUP_DELAY;
use super::*;
use crate::base::random::Random;
use crate::base::{ErrorKind, RateWindow, Sent};
use crate::engine::availability::MAX_LOADING;
use crate::engine::limiter::{Limits, QuotaId, QuotaKey};
use crate::engine::quota::Class;
use crate::engine::route::Tries;
use crate::engine::waiting::Waiting;
use crate::engine::work::{Cost, Take};

/// Items with their costs. They have these classes in turn, most tests only one.
struct Costs {
    tokens: Vec<u32>,
    next: usize,
    classes: Vec<Class>,
    waiting: Waiting<(usize, Tries)>,
    /// Items with an outcome, and whether it is a success.
    ended: Vec<(usize, bool)>,
    /// Successes were produced without a call.
    asks_nobody: bool,
    /// Texts in each call.
    members: usize,
    /// When a source that is still read has more than its first item.
    more_at: Time,
}

impl Costs {
    fn class(&self, task: usize) -> &Class {
        &self.classes[task % self.classes.len()]
    }

    fn ticket(&self, task: usize, tries: Tries) -> Ticket<usize> {
        Ticket {
            task,
            cost: Cost {
                input: self.tokens[task],
                output_cap: Some(0),
            },
            order: task as u64,
            class: self.class(task).clone(),
            tries,
        }
    }
}

impl Work for Costs {
    type Task = usize;
    type Done = ();

    fn take(
        &mut self,
        max: usize,
        availability: &Availability,
        now: Time,
    ) -> Result<Take<usize>, Error> {
        let mut out = Vec::new();
        while out.len() < max {
            if let Some((task, tries)) = self.waiting.pop(availability, now) {
                out.push(self.ticket(task, tries));
                continue;
            }
            let task = self.next;
            if task == self.tokens.len() || task > 0 && now < self.more_at {
                break;
            }
            self.next += 1;
            // Like a list: later items may have another quota.
            match availability.paused_quota(self.class(task), 0, now) {
                Some(quota) => {
                    let item = (task, Default::default());
                    self.waiting.pass_over(quota, task as u64, item);
                }
                None => out.push(self.ticket(task, Default::default())),
            }
        }
        if !out.is_empty() {
            return Ok(Take::Items(out));
        }
        if now < self.more_at {
            return Ok(Take::Idle {
                until: Some(self.more_at),
                source_open: true,
            });
        }
        if self.waiting.is_empty() && self.next == self.tokens.len() {
            return Ok(Take::Done);
        }
        Ok(Take::Idle {
            until: self.waiting.next_due(availability, now),
            source_open: false,
        })
    }

    fn has_more(&mut self) -> bool {
        !self.waiting.is_empty() || self.next < self.tokens.len()
    }

    fn waits_for(&mut self, quota: QuotaId, _: &Availability) -> bool {
        self.waiting.waits_for(quota)
    }

    fn members(&self, _: &usize) -> usize {
        self.members
    }

    fn is_answer(&self, _: &()) -> bool {
        !self.asks_nobody
    }

    fn settle(&mut self, done: &mut Vec<Settled<usize, ()>>, _: Time) -> Result<(), Error> {
        for settled in done.drain(..) {
            match settled {
                Settled::Later(ticket, due, _) => {
                    let (quota, order) = (ticket.quota(), ticket.order);
                    let item = (ticket.task, ticket.tries);
                    self.waiting.push(quota, due, order, item);
                }
                Settled::Final(ticket, result) => {
                    self.ended.push((ticket.task, result.is_ok()));
                }
                Settled::Unsent(..) => {}
            }
        }
        Ok(())
    }
}

/// A dispatcher for items of these costs.
fn dispatcher(
    tokens: Vec<u32>,
    limits: Limits,
    concurrency: usize,
    on_error: ErrorPolicy,
) -> Dispatcher<Costs> {
    let limiter = Arc::new(Limiter::new());
    let quota = limiter.quota(QuotaKey::new(&["q"]), limits, 0, Time::ZERO);
    let work = Costs {
        tokens,
        next: 0,
        classes: vec![Class::new([quota])],
        waiting: Waiting::default(),
        ended: Vec::new(),
        asks_nobody: false,
        members: 1,
        more_at: Time::ZERO,
    };
    let options = Options {
        concurrency,
        retry: RetryPolicy::default(),
        on_error,
        deadline: None,
        jitter: Random(1),
        durable: false,
        multi_tenant: false,
        no_shared_fate: false,
    };
    Dispatcher::new(work, limiter, options)
}

/// How long a call takes, and its result.
type Takes = (Duration, Result<(), Error>);

/// What happened until the end of a run.
#[derive(Debug, Default)]
struct Ended {
    /// Items in start order.
    order: Vec<usize>,
    took: Duration,
    /// Calls to the first provider, and the answers of each provider.
    calls: usize,
    answers: [usize; 2],
    /// When the first provider answered.
    answered: Vec<Time>,
}

/// Runs it to its end. `route`: what the providers do with the call of an item at a step. Calls end one by one, because
/// each end may open the quota for one more call.
fn drive(run: &mut Dispatcher<Costs>, route: impl Fn(Time, usize, u8) -> Takes) -> Ended {
    let mut ended = Ended::default();
    let mut in_flight: Vec<(Time, Call<usize>, Result<(), Error>)> = Vec::new();
    let mut now = Time::ZERO;
    for _ in 0..1_000_000 {
        let mut start = Vec::new();
        let turn = run.turn(now, &mut start);
        for call in start {
            let (item, step) = (call.ticket.task, call.ticket.tries.step);
            let (takes, result) = route(now, item, step);
            ended.order.push(item);
            ended.calls += usize::from(step == 0);
            in_flight.push((now.after(takes), call, result));
        }
        let Turn::Wait(wake) = turn else {
            ended.took = now.since(Time::ZERO);
            return ended;
        };
        in_flight.sort_by_key(|(at, call, _)| (*at, call.number));
        let next_end = in_flight.first().map(|(at, ..)| *at);
        let next = earlier(wake, next_end).expect("a call or a time is pending");
        now = now.max(next);
        while in_flight.first().is_some_and(|(at, ..)| *at <= now) {
            let (_, call, result) = in_flight.remove(0);
            if result.is_ok() {
                let step = usize::from(call.ticket.tries.step);
                ended.answers[step] += 1;
                if step == 0 {
                    ended.answered.push(now);
                }
            }
            run.handle(Event::CallEnded(end_of(call, result)), now);
        }
    }
    panic!("the run does not end: {ended:?}");
}

/// The same with calls of one kind, which take about 50 ms each.
fn drive_alike(run: &mut Dispatcher<Costs>, answer: impl Fn() -> Result<(), Error>) -> Ended {
    drive(run, |_, item, _| {
        let takes = Duration::from_millis(40 + (7 * item as u64) % 31);
        (takes, answer())
    })
}

#[test]
fn an_item_that_needs_many_tokens_goes_when_its_turn_comes() {
    for (large, concurrency) in [(9_500, 4), (9_500, 16), (90_000, 16)] {
        // 10,000 tokens at once, and as many every ten seconds.
        let limits = Limits::default().tokens_per_minute(60_000.0).burst(100);
        let mut tokens = vec![200; 150];
        tokens[52] = large;
        let mut run = dispatcher(tokens, limits, concurrency, ErrorPolicy::default());
        let ended = drive_alike(&mut run, || Ok(()));
        let all = Vec::from_iter(0..150);
        assert_eq!(ended.order, all, "{large} at {concurrency}");
    }
}

#[test]
fn a_quota_takes_no_more_calls_at_once_than_it_may() {
    let limits = Limits::default().in_flight(2);
    let mut run = dispatcher(vec![1; 40], limits, 16, ErrorPolicy::default());
    let ended = drive_alike(&mut run, || Ok(()));
    assert_eq!(ended.order, Vec::from_iter(0..40));
    assert_eq!(run.counters.most_in_flight, 2);
    // No item waits after a call has ended.
    assert!(ended.took < Duration::from_millis(40 * 70 / 2));
}

/// The first provider has as many calls in flight as it accepts; the second has used up its requests per minute. The third
/// item waits for one of them.
#[test]
fn a_full_provider_counts_only_if_items_wait_for_it() {
    for (durable, last) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
        let full = Limits::default().in_flight(1);
        let mut run = dispatcher(vec![1; 3], full, 16, ErrorPolicy::default());
        run.options.durable = durable;
        let slow = Limits::default().requests_per_minute(1.0).burst(1);
        let slow = run
            .limiter
            .quota(QuotaKey::new(&["r"]), slow, 0, Time::ZERO);
        let both = [run.work.classes[0].clone(), Class::new([slow])];
        run.work.classes = [0, 1, last].map(|of| both[of].clone()).into();
        let mut in_flight = Vec::new();
        run.turn(Time::ZERO, &mut in_flight);
        assert_eq!(in_flight.len(), 2);
        // Its first reply lets the second provider have more than one call in flight.
        end(&mut run, in_flight.remove(1), Time::ZERO);
        let settled = Time::ZERO.after(GROUP_DELAY);
        run.turn(settled, &mut in_flight);
        assert_eq!(in_flight.len(), 1);
        let end = settled.after(Duration::from_secs(2));
        let limit = run.lately.limited_by(end);
        assert_eq!(limit, Some(["concurrency", "quota"][last]), "{durable}");
    }
}

#[test]
fn a_model_that_never_loads_ends_the_run_soon_after_the_patience() {
    let loading = || {
        let error = Error::new(ErrorKind::Transient, "it loads").with_status(503);
        Err(error.with_sent(Sent::Answered).with_not_ready())
    };
    let never = |on_error| {
        let mut run = dispatcher(vec![1; 10_000], Limits::default(), 4, on_error);
        let took = drive_alike(&mut run, loading).took;
        assert!(took >= MAX_LOADING);
        let late = (took - MAX_LOADING).as_secs();
        (run.counters, run.stop_reason().cloned(), late)
    };
    let (counters, stop, late) = never(ErrorPolicy::StopOnCriticalError);
    let Some(StopReason::Unreachable(error)) = stop else {
        panic!("{stop:?}");
    };
    assert!(error.is_not_ready() && error.is_unreachable());
    assert!(counters.calls <= 5 + 4 && late <= 2, "{counters:?} {late}");
    let (counters, stop, late) = never(ErrorPolicy::ContinueOnError);
    assert!(stop.is_none());
    // Each item is called once, as fast as the server rejects calls.
    assert_eq!((counters.calls, counters.retries), (10_000, 0));
    assert!(late < 10_000 / 4 / 10, "{late} s");
}

/// Runs a worker's dispatcher of three items until all of them are in flight.
fn three_flying(durable: bool) -> (Dispatcher<Costs>, Vec<Call<usize>>) {
    let mut run = dispatcher(vec![1; 9], Limits::default(), 3, ErrorPolicy::default());
    run.options.durable = durable;
    let mut in_flight = Vec::new();
    run.turn(Time::ZERO, &mut in_flight);
    assert_eq!(in_flight.len(), 3);
    (run, in_flight)
}

fn end(run: &mut Dispatcher<Costs>, call: Call<usize>, now: Time) -> (usize, Turn) {
    run.handle(Event::CallEnded(end_of(call, Ok(()))), now);
    let mut start = Vec::new();
    let turn = run.turn(now, &mut start);
    (start.len(), turn)
}

#[test]
fn what_has_asked_nobody_says_nothing_of_its_provider() {
    let on_error = ErrorPolicy::StopOnCriticalError;
    let mut run = dispatcher(vec![1; 9], Limits::default(), 1, on_error);
    run.work.asks_nobody = true;
    let unreachable = || Err(Error::new(ErrorKind::Invalid, "nobody there").with_unreachable());
    let turn = Cell::new(0);
    // Five consecutive failures end the run, even if items without a call end in between.
    let ended = drive_alike(&mut run, || {
        turn.set(turn.get() + 1);
        match turn.get() {
            5 => Ok(()),
            _ => unreachable(),
        }
    });
    assert_eq!(ended.order, Vec::from_iter(0..6));
    assert!(matches!(
        run.stop_reason(),
        Some(StopReason::Unreachable(_))
    ));
    assert_eq!((run.counters.calls, run.counters.in_flight), (5, 0));
    assert!(run.work.ended.contains(&(4, true)));
}

#[test]
fn a_workers_ends_wait_a_moment_for_each_other_and_no_longer() {
    let now = Time::ZERO;
    let (mut run, mut in_flight) = three_flying(true);
    let until = now.after(GROUP_DELAY);
    for _ in 0..2 {
        let ended = end(&mut run, in_flight.pop().unwrap(), now);
        assert_eq!(ended, (0, Turn::Wait(Some(until))));
    }
    // No item is left that waits.
    assert_eq!(end(&mut run, in_flight.pop().unwrap(), now).0, 3);

    let (mut run, mut in_flight) = three_flying(true);
    end(&mut run, in_flight.pop().unwrap(), now);
    let mut start = Vec::new();
    run.turn(until, &mut start);
    assert_eq!(start.len(), 1);
}

#[test]
fn what_costs_no_transaction_is_settled_at_once() {
    let (mut run, mut in_flight) = three_flying(false);
    assert_eq!(end(&mut run, in_flight.pop().unwrap(), Time::ZERO).0, 1);
}

#[test]
fn work_that_can_wait_outlasts_refusals_for_its_pace_but_not_for_ever() {
    let refused = || Err(Error::new(ErrorKind::RateLimited, "slow down").with_status(429));
    let limits = Limits::default();
    let mut run = dispatcher(vec![1], limits, 1, ErrorPolicy::default());
    run.options.durable = true;
    run.options.retry = RetryPolicy::default().max_retries(0);
    let ended = drive_alike(&mut run, refused);
    // Afterwards its lane is paused.
    assert!((600..700).contains(&ended.took.as_secs()));
    let paused = run.availability.next_change(Time::ZERO.after(ended.took));
    assert!(ended.calls > 10 && paused.is_some());
    let mut run = dispatcher(vec![1], limits, 1, ErrorPolicy::default());
    run.options.retry = RetryPolicy::default().max_retries(0);
    let calls = drive_alike(&mut run, refused).calls;
    assert_eq!(calls, 1, "a run uses its own number of retries");
}

#[test]
fn a_run_that_is_only_refused_stops_after_ten_minutes_and_loses_nothing_before() {
    let refused = || Err(Error::new(ErrorKind::RateLimited, "slow down").with_status(429));
    let on_error = ErrorPolicy::StopOnCriticalError;
    let mut run = dispatcher(vec![1; 1000], Limits::default(), 8, on_error);
    let Ended { order, took, .. } = drive_alike(&mut run, refused);
    let Some(StopReason::Critical(error)) = run.stop_reason() else {
        panic!("{:?}", run.stop_reason());
    };
    assert!(error.message().contains("for 10 minutes"), "{error}");
    assert!((600..700).contains(&took.as_secs()));
    assert!(order.len() < 30, "{} calls", order.len());
    assert_eq!(run.work.ended, [(order[order.len() - 1], false)]);
}

#[test]
fn a_reset_that_nobody_waits_for_pauses_nothing_and_a_refusal_then_ends_the_run() {
    let day = |reset| {
        let requests = Some(RateWindow {
            limit: 1000,
            period: Duration::from_secs(86_400),
            remaining: Some(0),
            reset: Some(reset),
        });
        RateHints {
            requests,
            tokens: None,
        }
    };
    let hour = Duration::from_secs(3600);
    let on_error = ErrorPolicy::StopOnCriticalError;
    for (reset, waits) in [(hour, true), (23 * hour, false), (10_000 * hour, false)] {
        let mut run = dispatcher(vec![1; 3], Limits::default(), 1, on_error);
        let mut start = Vec::new();
        run.turn(Time::ZERO, &mut start);
        let ended = |call, result| {
            let hints = day(reset);
            Event::CallEnded(EndedCall {
                hints,
                ..end_of(call, result)
            })
        };
        run.handle(ended(start.pop().unwrap(), Ok(())), Time::ZERO);
        let turn = run.turn(Time::ZERO, &mut start);
        if waits {
            assert_eq!(turn, Turn::Wait(Some(Time::ZERO.after(reset))));
            continue;
        }
        let next = start.pop().expect("the next call starts");
        let error = Error::new(ErrorKind::RateLimited, "the daily allowance is used up");
        let error = error.with_status(429).with_retry_after(Some(reset));
        run.handle(ended(next, Err(error)), Time::ZERO);
        assert_eq!(run.turn(Time::ZERO, &mut start), Turn::Finished);
        let Some(StopReason::Critical(error)) = run.stop_reason() else {
            panic!("{:?}", run.stop_reason());
        };
        assert!(error.message().contains("requests a wait of"), "{error}");
    }
}

#[test]
fn work_that_waits_in_a_queue_stops_like_any_other_unless_it_comes_from_many() {
    let unusable = || {
        let error = Error::new(ErrorKind::Malformed, "not a usable reply");
        Err(error.with_unusable_reply("<html>"))
    };
    let refused = || Err(Error::new(ErrorKind::RateLimited, "slow down").with_status(429));
    let nameless = || Err(Error::new(ErrorKind::UnknownModel, "no such model").with_status(404));
    let on_error = ErrorPolicy::StopOnCriticalError;
    for multi_tenant in [false, true] {
        let drive = |answer: &dyn Fn() -> Result<(), Error>| {
            let mut run = dispatcher(vec![1; 60], Limits::default(), 2, on_error);
            (run.options.durable, run.options.multi_tenant) = (true, multi_tenant);
            let calls = drive_alike(&mut run, answer).calls;
            (calls, run.stop_reason().cloned())
        };
        let (alike, nameless) = (drive(&unusable), drive(&nameless));
        if multi_tenant {
            assert!(matches!(alike, (60, None)), "{alike:?}");
            assert!(matches!(nameless, (60, None)), "{nameless:?}");
        } else {
            let expected = matches!(alike, (10..=12, Some(StopReason::AllAlike(_))));
            assert!(expected, "{alike:?}");
            let expected = matches!(nameless, (..=2, Some(StopReason::Critical(_))));
            assert!(expected, "{nameless:?}");
        }
        let refused = drive(&refused);
        let expected = matches!(refused, (..60, Some(StopReason::Critical(_))));
        assert!(expected, "{refused:?}");
    }
}

#[test]
fn slots_limit_only_while_items_wait_for_them_and_backoff_only_while_nothing_else_goes_on() {
    for (items, limit) in [(4, "provider"), (8, "concurrency")] {
        let mut run = dispatcher(vec![1; items], Limits::default(), 4, ErrorPolicy::default());
        let mut start = Vec::new();
        for millis in [0, 600, 1000] {
            let at = Time::ZERO.after(Duration::from_millis(millis));
            for call in start.drain(..) {
                run.handle(Event::CallEnded(end_of(call, Ok(()))), at);
            }
            run.turn(at, &mut start);
        }
        let found = run
            .lately
            .limited_by(Time::ZERO.after(Duration::from_secs(1)));
        assert_eq!(found, Some(limit), "{items}");
    }
    let mut run = dispatcher(vec![1; 2], Limits::default(), 4, ErrorPolicy::default());
    let mut start = Vec::new();
    run.turn(Time::ZERO, &mut start);
    let busy = Error::new(ErrorKind::Transient, "busy").with_status(503);
    run.handle(
        Event::CallEnded(end_of(start.remove(0), Err(busy))),
        Time::ZERO,
    );
    run.turn(Time::ZERO, &mut start);
    let at = Time::ZERO.after(Duration::from_millis(400));
    run.handle(Event::CallEnded(end_of(start.remove(0), Ok(()))), at);
    run.turn(at, &mut start);
    let limit = run.lately.limited_by(at.after(Duration::from_millis(700)));
    assert_eq!(limit, Some("backoff"));
}

fn end_of(call: Call<usize>, result: Result<(), Error>) -> EndedCall<usize, ()> {
    EndedCall {
        used: Some((call.ticket.cost.input.into(), 0)),
        call,
        result,
        hints: RateHints::default(),
        fatal: false,
    }
}

#[path = "trip_tests.rs"]
mod trip;
