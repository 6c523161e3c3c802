//! How soon items fail over when the first provider has problems, on a simulated clock.

use std::cell::Cell;

use super::*;

#[path = "outage_tests.rs"]
mod outage_tests;

/// What the first provider does with a call that starts at a given time: its duration and its end.
type Provider<'p> = &'p dyn Fn(Time) -> (Duration, Result<(), Error>);

/// The results of a run whose first provider has problems and whose second one answers within 10 ms.
#[derive(Debug)]
struct Ended {
    took: Duration,
    /// Calls to the first provider, and the answers of each provider.
    calls: usize,
    answers: [usize; 2],
    /// When the first provider answered.
    answered: Vec<Time>,
    paid_twice: u64,
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn secs(seconds: u64) -> Time {
    Time::ZERO.after(Duration::from_secs(seconds))
}

/// Runs this many items with this many calls in flight.
fn run(items: usize, concurrency: usize, provider: Provider<'_>) -> Ended {
    let mut run = start(items, concurrency);
    let limits = Limits::default().burst(100);
    let next = QuotaKey::new(&["next"]);
    let next = run.limiter.quota(next, limits, 0, Time::ZERO);
    run.work.classes = vec![Class::new([run.work.classes[0].quota(0), next])];
    let ended = turn_to_end(&mut run, &|now, _| provider(now));
    assert_eq!(run.work.ended.len(), items);
    assert!(run.work.ended.iter().all(|(_, ok)| *ok));
    ended
}

fn start(items: usize, concurrency: usize) -> Dispatcher<Costs> {
    let limits = Limits::default().burst(100);
    dispatcher(vec![1; items], limits, concurrency, ErrorPolicy::default())
}

/// What a provider does with the call of an item.
type ItemProvider<'p> = &'p dyn Fn(Time, usize) -> (Duration, Result<(), Error>);

fn turn_to_end(run: &mut Dispatcher<Costs>, provider: ItemProvider<'_>) -> Ended {
    turn_route_to_end(run, &|now, item, step| match step {
        0 => provider(now, item),
        _ => answers(ms(10)),
    })
}

/// What the providers of a route do with the call of an item at a step.
type Route<'p> = &'p dyn Fn(Time, usize, u8) -> (Duration, Result<(), Error>);

fn turn_route_to_end(run: &mut Dispatcher<Costs>, route: Route<'_>) -> Ended {
    let mut ended = Ended {
        took: Duration::ZERO,
        calls: 0,
        answers: [0; 2],
        answered: Vec::new(),
        paid_twice: 0,
    };
    let mut in_flight: Vec<(Time, Call<usize>, Result<(), Error>)> = Vec::new();
    let mut now = Time::ZERO;
    for _ in 0..1_000_000 {
        let mut start = Vec::new();
        let turn = run.turn(now, &mut start);
        for call in start {
            let (takes, result) = route(now, call.ticket.task, call.ticket.tries.step);
            ended.calls += usize::from(call.ticket.tries.step == 0);
            in_flight.push((now.after(takes), call, result));
        }
        let Turn::Wait(wake) = turn else {
            ended.took = now.since(Time::ZERO);
            ended.paid_twice = run.counters().possibly_paid_twice;
            return ended;
        };
        in_flight.sort_by_key(|(at, call, _)| (*at, call.number));
        let next_end = in_flight.first().map(|(at, ..)| *at);
        now = earlier(wake, next_end)
            .expect("a call or a time is pending")
            .max(now);
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

fn dead(_: Time) -> (Duration, Result<(), Error>) {
    let error = Error::new(ErrorKind::Transient, "refused").with_unreachable();
    (ms(1), Err(error))
}

fn busy(_: Time) -> (Duration, Result<(), Error>) {
    let error = Error::new(ErrorKind::Transient, "unavailable").with_status(503);
    (ms(80), Err(error.with_sent(Sent::Answered)))
}

/// Replies report when the provider expects to be available.
fn closed(_: Time) -> (Duration, Result<(), Error>) {
    let (took, result) = busy(Time::ZERO);
    let asked = Some(Duration::from_secs(60));
    (took, result.map_err(|error| error.with_retry_after(asked)))
}

/// Every call times out.
fn hangs(timeout: Duration) -> (Duration, Result<(), Error>) {
    let error = Error::new(ErrorKind::Transient, "no reply").with_timed_out();
    (timeout, Err(error.with_sent(Sent::Maybe)))
}

fn answers(took: Duration) -> (Duration, Result<(), Error>) {
    (took, Ok(()))
}

#[test]
fn one_failure_among_answers_is_waited_for() {
    let calls = Cell::new(0);
    let once = |now| {
        calls.set(calls.get() + 1);
        match calls.get() {
            5 => closed(now),
            _ => answers(ms(80)),
        }
    };
    for concurrency in [1, 4] {
        calls.set(0);
        let ended = run(20, concurrency, &once);
        assert_eq!(ended.answers, [20, 0], "{concurrency}: {ended:?}");
        assert!(ended.took >= ms(60_000), "{ended:?}");
    }
}

#[test]
fn twenty_items_reach_the_next_provider_within_seconds_or_two_time_outs() {
    let five = |_| hangs(ms(5000));
    for concurrency in [1, 2, 5, 16] {
        for (provider, most) in [
            (&dead as Provider<'_>, 1_500),
            (&busy, 1_700),
            (&closed, 1_700),
            (&five, 10_500),
        ] {
            let ended = run(20, concurrency, provider);
            assert!(ended.took < ms(most), "{concurrency}: {ended:?}");
            assert_eq!(ended.answers, [0, 20]);
            assert!(
                ended.calls <= 5 + 2 * concurrency,
                "{concurrency}: {ended:?}"
            );
        }
    }
    // Calls that hang have their whole time, and count as possibly billed.
    let ended = run(20, 5, &five);
    assert!(ended.took < ms(6_500), "{ended:?}");
    assert!((4..=5).contains(&ended.paid_twice), "{ended:?}");
}

#[test]
fn slow_answers_are_waited_for() {
    let minute = |_| answers(ms(60_000));
    for concurrency in [1, 5] {
        let ended = run(20, concurrency, &minute);
        assert_eq!(ended.answers, [20, 0]);
    }
    // A single lost call does not shorten the time-outs of the others.
    for concurrency in [1, 5] {
        let count = std::cell::Cell::new(0);
        let one_hangs = |_: Time| {
            count.set(count.get() + 1);
            match count.get() {
                8 => hangs(ms(90_000)),
                _ => answers(ms(60_000)),
            }
        };
        let ended = run(20, concurrency, &one_hangs);
        assert_eq!(ended.answers, [20, 0], "{ended:?}");
    }
    // Errors that arrive earlier than the answers do not either.
    let count = std::cell::Cell::new(0);
    let some_fail = |_: Time| {
        count.set(count.get() + 1);
        match count.get() % 5 {
            0 => busy(Time::ZERO),
            _ => answers(ms(60_000)),
        }
    };
    let ended = run(200, 50, &some_fail);
    // Exception: items that fail four times.
    assert!(ended.answers[0] >= 198, "{:?}", ended.answers);
}

#[test]
fn one_time_out_diverts_no_item_even_with_one_call_at_a_time() {
    let count = std::cell::Cell::new(0);
    let first_hangs = |_: Time| {
        count.set(count.get() + 1);
        match count.get() {
            1 => hangs(ms(5000)),
            _ => answers(ms(3000)),
        }
    };
    let ended = run(300, 1, &first_hangs);
    assert_eq!(ended.answers, [300, 0], "{ended:?}");
}

#[test]
fn items_return_to_a_recovered_provider() {
    let hanging = |_: Time| hangs(ms(4000));
    for (trouble, within) in [(&dead as Provider<'_>, 61), (&busy, 61), (&hanging, 66)] {
        // It answers for one minute, is unavailable for two, and is available again.
        let provider = |now: Time| match now {
            now if now < secs(60) || now >= secs(180) => answers(ms(500)),
            now => trouble(now),
        };
        let ended = run(80_000, 4, &provider);
        let back = ended.answered.iter().find(|at| **at > secs(61));
        let late = back.expect("it is called again").since(secs(180));
        assert!(late <= Duration::from_secs(within), "{late:?}");
        let since = ended.answered.iter().filter(|at| **at > secs(180)).count();
        let all = ended
            .took
            .saturating_sub(Duration::from_secs(180) + late)
            .as_secs() as usize
            * 8;
        assert!(since + 8 >= all, "{since} of {all}");
        // Unavailable for two minutes, and called as often as it was probed.
        let in_vain = ended.calls - ended.answers[0];
        assert!(in_vain < 400, "{in_vain}");
    }
}

#[test]
fn a_run_that_starts_with_one_call_at_a_time_grows_if_the_server_gains_by_it() {
    let limits = || Limits::default().self_tuned(1, 256);
    let mut run = dispatcher(vec![1; 300], limits(), 256, ErrorPolicy::default());
    let ended = turn_to_end(&mut run, &|_, _| answers(ms(100)));
    assert!(ended.took < ms(3_000), "{ended:?}");
    // A server that answers one call after the other.
    let free = Cell::new(Time::ZERO);
    let one_by_one = |now: Time, _| {
        free.set(free.get().max(now).after(ms(100)));
        answers(free.get().since(now))
    };
    let mut run = dispatcher(vec![1; 300], limits(), 256, ErrorPolicy::default());
    let ended = turn_to_end(&mut run, &one_by_one);
    assert!(ended.took < ms(30_100), "{ended:?}");
    assert!(run.counters().most_in_flight <= 2, "{:?}", run.counters());
}

#[test]
fn without_another_provider_a_hanging_one_has_the_full_time_out() {
    let limits = Limits::default().burst(100);
    let mut run = dispatcher(vec![1; 8], limits, 2, ErrorPolicy::default());
    let mut start = Vec::new();
    run.turn(Time::ZERO, &mut start);
    for _ in 0..4 {
        let call = start.pop().expect("one is in flight");
        let (_, result) = hangs(ms(5000));
        run.handle(Event::CallEnded(end_of(call, result)), secs(5));
        run.turn(secs(5), &mut start);
        assert_eq!(start.len(), 2, "no item is delayed");
    }
}
