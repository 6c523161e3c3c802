//! How soon items reach the next provider when the first is in trouble, on a clock moved by hand.

use std::cell::Cell;

use super::*;

/// What the first provider does with a call that starts at a time: how long it takes, and how it ends.
type Provider<'p> = &'p dyn Fn(Time) -> (Duration, Result<(), Error>);

/// What became of a run whose first provider is in trouble and whose second answers within 10 ms.
#[derive(Debug)]
struct Ended {
    took: Duration,
    /// Calls to the first provider, and the answers of each.
    calls: usize,
    answers: [usize; 2],
    /// When the first provider answered.
    answered: Vec<Time>,
    paid_twice: u64,
    abandoned: usize,
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn secs(seconds: u64) -> Time {
    Time::ZERO.after(Duration::from_secs(seconds))
}

/// Runs so many items with so many in flight.
fn run(items: usize, concurrency: usize, provider: Provider<'_>) -> Ended {
    let mut run = start(items, concurrency);
    let limits = Limits::default().burst(100);
    let next = QuotaKey::new(&["next"]);
    let next = run.limiter.quota(next, limits, 0, Time::ZERO);
    run.work.class = Class::new([run.work.class.quota(0), next]);
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
        abandoned: 0,
    };
    let mut in_flight: Vec<(Time, Call<usize>, Result<(), Error>)> = Vec::new();
    let mut now = Time::ZERO;
    for _ in 0..1_000_000 {
        let mut start = Vec::new();
        let turn = run.turn(now, &mut start);
        for number in run.take_abandoned() {
            let call = in_flight
                .iter_mut()
                .find(|(_, call, _)| call.number == number);
            let (at, _, result) = call.expect("it is in flight");
            *at = now.after(ms(2));
            *result = Err(Error::cancelled().with_sent(Sent::Maybe));
            ended.abandoned += 1;
        }
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
            .expect("something is going to happen")
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
            let call = EndedCall {
                call,
                result,
                used: None,
                hints: RateHints::default(),
                fatal: false,
            };
            run.handle(Event::CallEnded(call), now);
        }
    }
    panic!("it does not end: {ended:?}");
}

fn dead(_: Time) -> (Duration, Result<(), Error>) {
    let error = Error::new(ErrorKind::Transient, "refused").with_unreachable();
    (ms(1), Err(error))
}

fn busy(_: Time) -> (Duration, Result<(), Error>) {
    let error = Error::new(ErrorKind::Transient, "unavailable").with_status(503);
    (ms(80), Err(error.with_sent(Sent::Answered)))
}

/// It says when it expects to be back.
fn closed(_: Time) -> (Duration, Result<(), Error>) {
    let (took, result) = busy(Time::ZERO);
    let asked = Some(Duration::from_secs(60));
    (took, result.map_err(|error| error.with_retry_after(asked)))
}

/// Every call runs into its time-out.
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
fn twenty_items_reach_the_next_provider_within_ten_seconds() {
    let five = |_| hangs(ms(5000));
    for concurrency in [1, 2, 5, 16] {
        for (provider, most) in [
            (&dead as Provider<'_>, 1_500),
            (&busy, 1_700),
            (&closed, 1_700),
            (&five, 9_500),
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
    // Calls that have hung as long as the first are not waited for, and count as perhaps paid for.
    let ended = run(20, 5, &five);
    assert!(ended.took < ms(6_500), "{ended:?}");
    assert!((4..=5).contains(&ended.paid_twice), "{ended:?}");
    let alone = run(20, 1, &five);
    assert_eq!((alone.abandoned, alone.calls), (1, 2), "{alone:?}");
}

#[test]
fn slow_answers_are_waited_for() {
    let minute = |_| answers(ms(60_000));
    for concurrency in [1, 5] {
        let ended = run(20, concurrency, &minute);
        assert_eq!((ended.answers, ended.abandoned), ([20, 0], 0));
    }
    // One that never comes does not make the others impatient.
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
        assert_eq!((ended.answers, ended.abandoned), ([20, 0], 0), "{ended:?}");
    }
    // Nor errors that come sooner than the answers.
    let count = std::cell::Cell::new(0);
    let some_fail = |_: Time| {
        count.set(count.get() + 1);
        match count.get() % 5 {
            0 => busy(Time::ZERO),
            _ => answers(ms(60_000)),
        }
    };
    let ended = run(200, 50, &some_fail);
    // But for who fails four times.
    assert!(ended.answers[0] >= 198, "{:?}", ended.answers);
}

#[test]
fn one_time_out_diverts_nothing_even_where_one_call_is_made_at_a_time() {
    let count = std::cell::Cell::new(0);
    let first_hangs = |_: Time| {
        count.set(count.get() + 1);
        match count.get() {
            1 => hangs(ms(5000)),
            _ => answers(ms(3000)),
        }
    };
    let ended = run(300, 1, &first_hangs);
    assert_eq!((ended.answers, ended.abandoned), ([300, 0], 0), "{ended:?}");
}

#[test]
fn items_come_back_to_a_provider_that_recovers() {
    let hanging = |_: Time| hangs(ms(4000));
    for (trouble, within) in [(&dead as Provider<'_>, 61), (&busy, 61), (&hanging, 66)] {
        // It answers for a minute, is away for two, and is back.
        let provider = |now: Time| match now {
            now if now < secs(60) || now >= secs(180) => answers(ms(500)),
            now => trouble(now),
        };
        let ended = run(80_000, 4, &provider);
        let back = ended.answered.iter().find(|at| **at > secs(61));
        let late = back.expect("it is asked again").since(secs(180));
        assert!(late <= Duration::from_secs(within), "{late:?}");
        let since = ended.answered.iter().filter(|at| **at > secs(180)).count();
        let all = ended
            .took
            .saturating_sub(Duration::from_secs(180) + late)
            .as_secs() as usize
            * 8;
        assert!(since + 8 >= all, "{since} of {all}");
        // Away for two minutes, and called as often as it was probed.
        let in_vain = ended.calls - ended.answers[0];
        assert!(in_vain < 400, "{in_vain}");
    }
}

#[test]
fn without_another_provider_a_hanging_one_has_its_whole_time() {
    let limits = Limits::default().burst(100);
    let mut run = dispatcher(vec![1; 8], limits, 2, ErrorPolicy::default());
    let mut start = Vec::new();
    run.turn(Time::ZERO, &mut start);
    for _ in 0..4 {
        let call = start.pop().expect("one is in flight");
        assert!(!call.abandonable);
        let (_, result) = hangs(ms(5000));
        let ended = EndedCall {
            call,
            result,
            used: None,
            hints: RateHints::default(),
            fatal: false,
        };
        run.handle(Event::CallEnded(ended), secs(5));
        run.turn(secs(5), &mut start);
        assert_eq!(start.len(), 2, "nobody is held back");
        assert!(run.take_abandoned().is_empty());
    }
}

/// Items that were answered, and those that failed.
fn outcomes(run: &Dispatcher<Costs>) -> (usize, Vec<usize>) {
    let ended = run.work.ended.iter();
    let (answered, failed): (Vec<_>, Vec<_>) = ended.partition(|(_, ok)| *ok);
    (
        answered.len(),
        failed.into_iter().map(|(item, _)| item).collect(),
    )
}

fn status(status: u16) -> (Duration, Result<(), Error>) {
    let error = Error::new(ErrorKind::Transient, "unavailable").with_status(status);
    (ms(20), Err(error.with_sent(Sent::Answered)))
}

fn hangs_up(_: Time) -> (Duration, Result<(), Error>) {
    let error = Error::new(ErrorKind::Transient, "connection lost");
    (ms(5), Err(error.with_sent(Sent::Maybe)))
}

#[test]
fn an_outage_is_waited_out_where_no_other_provider_can_be_asked() {
    let (s500, s502, s503) = (|_| status(500), |_| status(502), |_| status(503));
    let troubles: [(&str, Provider<'_>); 5] = [
        ("500", &s500),
        ("502", &s502),
        ("503", &s503),
        ("refused", &dead),
        ("hangs up", &hangs_up),
    ];
    for (name, trouble) in troubles {
        for concurrency in [1, 5, 64] {
            let provider = |now: Time, _| match now {
                now if (secs(5)..secs(35)).contains(&now) => trouble(now),
                _ => answers(ms(100)),
            };
            let mut run = start(560 * concurrency, concurrency);
            let items = run.work.tokens.len();
            let ended = turn_to_end(&mut run, &provider);
            assert_eq!(
                outcomes(&run),
                (items, vec![]),
                "{name}, {concurrency}: {ended:?}"
            );
            let back = ended.answered.iter().find(|at| **at > secs(10));
            let late = back.expect("it is asked again").since(secs(35));
            assert!(
                late <= Duration::from_secs(9),
                "{name}, {concurrency}: {late:?}"
            );
            // Twenty failures, the calls that were in flight then, and one call for each probe.
            let in_vain = ended.calls - items;
            let most = 30 + 2 * concurrency;
            assert!(
                in_vain <= most,
                "{name}, {concurrency}: {in_vain} calls in vain"
            );
        }
    }
}

#[test]
fn a_provider_that_stays_away_is_waited_for_no_longer_than_ten_minutes() {
    for on_error in [
        ErrorPolicy::StopOnCriticalError,
        ErrorPolicy::ContinueOnError,
    ] {
        for trouble in [&dead as Provider<'_>, &busy] {
            let provider = |now: Time, _| match now {
                now if now >= secs(5) => trouble(now),
                _ => answers(ms(100)),
            };
            let mut run = start(2_800, 8);
            run.options.on_error = on_error;
            let ended = turn_to_end(&mut run, &provider);
            assert!((600..612).contains(&ended.took.as_secs()), "{ended:?}");
            assert!(matches!(
                run.stop_reason(),
                Some(StopReason::Unreachable(_))
            ));
            let (answered, failed) = outcomes(&run);
            assert_eq!((answered, failed), (ended.answers[0], vec![]));
            assert!(ended.calls - answered < 600, "{ended:?}");
        }
    }
}

#[test]
fn an_address_where_no_server_is_ends_a_run_within_ten_seconds() {
    for (items, concurrency) in [(1, 1), (2, 1), (2_800, 1), (2_800, 5), (2_800, 64)] {
        let mut run = start(items, concurrency);
        let ended = turn_to_end(&mut run, &|now, _| dead(now));
        assert!(ended.took <= ms(8_500), "{ended:?}");
        let Some(StopReason::Unreachable(error)) = run.stop_reason() else {
            panic!("{:?}", run.stop_reason());
        };
        assert!(
            error.message().contains("no server has been reached there"),
            "{error}"
        );
        assert_eq!(outcomes(&run), (0, vec![]));
        // One that is just being started is waited for.
        let starts = |now: Time, _| {
            if now < secs(7) {
                dead(now)
            } else {
                answers(ms(100))
            }
        };
        let mut run = start(items, concurrency);
        let ended = turn_to_end(&mut run, &starts);
        assert_eq!(outcomes(&run), (items, vec![]), "{ended:?}");
    }
    // Work that can wait does so.
    let provider = |now: Time, _| {
        if now < secs(900) {
            dead(now)
        } else {
            answers(ms(100))
        }
    };
    let mut run = start(20, 4);
    run.options.durable = true;
    let ended = turn_to_end(&mut run, &provider);
    assert_eq!(outcomes(&run), (20, vec![]));
    assert!(ended.took < ms(909_500), "{ended:?}");
    // Unless its worker is to end with the work that can be done.
    let mut run = start(20, 4);
    (run.options.durable, run.options.on_error) = (true, ErrorPolicy::StopOnCriticalError);
    assert!(turn_to_end(&mut run, &|now, _| dead(now)).took < ms(8_500));
    assert!(matches!(
        run.stop_reason(),
        Some(StopReason::Unreachable(_))
    ));
}

#[test]
fn a_refused_connection_ends_no_run_while_calls_are_out() {
    let calls = Cell::new(0);
    let one_refused = |now: Time, _| {
        calls.set(calls.get() + 1);
        match calls.get() {
            2 => (ms(9_000), dead(now).1),
            _ => answers(ms(30_000)),
        }
    };
    let mut run = start(64, 32);
    let ended = turn_to_end(&mut run, &one_refused);
    assert!(run.stop_reason().is_none(), "{:?}", run.stop_reason());
    assert_eq!(outcomes(&run), (64, vec![]), "{ended:?}");
}

#[test]
fn items_wait_at_their_step_while_the_next_one_is_unavailable_too() {
    for concurrency in [4, 64] {
        let next_calls = Cell::new(0);
        let route = |now: Time, _, step| match step {
            0 if now < secs(20) => busy(now),
            0 => answers(ms(100)),
            _ => {
                next_calls.set(next_calls.get() + 1);
                dead(now)
            }
        };
        let mut run = start(2_800, concurrency);
        let next = QuotaKey::new(&["next"]);
        let limits = Limits::default().burst(100);
        let next = run.limiter.quota(next, limits, 0, Time::ZERO);
        run.work.class = Class::new([run.work.class.quota(0), next]);
        let ended = turn_route_to_end(&mut run, &route);
        let (answered, failed) = outcomes(&run);
        let in_vain = ended.calls - answered + next_calls.get();
        assert!(in_vain <= 40 + 4 * concurrency, "{concurrency}: {in_vain}");
        // But for those that were at the next step before that turned out to be dead.
        let unsent = 2_800 - answered;
        assert!(unsent <= 20 + 2 * concurrency, "{concurrency}: {unsent}");
        assert_eq!(failed, Vec::<usize>::new());
    }
}

#[test]
fn items_that_cause_their_failures_fail_after_their_tries() {
    // The only one, or a few: nothing tells them from an outage, but they were asked often enough.
    for (items, s) in [(1, 500), (1, 503), (4, 500), (4, 503)] {
        let mut run = start(items, 8);
        let ended = turn_to_end(&mut run, &|_, _| status(s));
        assert_eq!((ended.calls, outcomes(&run).0), (4 * items, 0));
        assert!(ended.took < ms(10_000), "{ended:?}");
    }
    // Among others, and as the last of a run.
    for concurrency in [1, 4, 32] {
        for poison in [0..3, 50..62, 90..100] {
            let provider = |_, item| {
                if poison.contains(&item) {
                    status(500)
                } else {
                    answers(ms(300))
                }
            };
            let mut run = start(100, concurrency);
            let ended = turn_to_end(&mut run, &provider);
            let (answered, mut failed) = outcomes(&run);
            failed.sort_unstable();
            assert_eq!(
                failed,
                Vec::from_iter(poison.clone()),
                "{concurrency}: {ended:?}"
            );
            assert_eq!(answered, 100 - poison.len());
            assert_eq!(ended.calls, answered + 4 * poison.len());
            assert!(
                run.stop_reason().is_none() && ended.took < ms(330_000),
                "{ended:?}"
            );
        }
    }
}

fn refused_key() -> (Duration, Result<(), Error>) {
    let error = Error::new(ErrorKind::Auth, "no such key").with_status(401);
    (ms(20), Err(error.with_sent(Sent::Answered)))
}

fn come_back_tomorrow() -> (Duration, Result<(), Error>) {
    let error = Error::new(ErrorKind::RateLimited, "later").with_status(429);
    let day = Some(Duration::from_secs(86_400));
    (
        ms(20),
        Err(error.with_sent(Sent::Answered).with_retry_after(day)),
    )
}

#[test]
fn what_concerns_one_item_stops_no_other_while_these_are_answered() {
    let troubles: [&dyn Fn() -> _; 2] = [&refused_key, &come_back_tomorrow];
    for trouble in troubles {
        for concurrency in [1, 4, 32] {
            // Among the first calls there must be another one that may be answered.
            for odd in [usize::from(concurrency == 1), 30, 99] {
                let provider = |_, item| {
                    if item == odd {
                        trouble()
                    } else {
                        answers(ms(300))
                    }
                };
                let mut run = start(100, concurrency);
                let ended = turn_to_end(&mut run, &provider);
                assert!(run.stop_reason().is_none(), "{concurrency}, {odd}");
                assert_eq!(outcomes(&run), (99, vec![odd]), "{ended:?}");
                assert_eq!(ended.calls, 100);
            }
        }
    }
}

#[test]
fn work_that_can_wait_fails_after_its_tries_where_only_one_job_is_refused() {
    for (status, items, odd, calls) in [(403, 40, 0, 4), (403, 40, 39, 4)] {
        let provider = |_, item| {
            if item == odd {
                let error = Error::new(ErrorKind::Auth, "not this one").with_status(status);
                (ms(20), Err(error.with_sent(Sent::Answered)))
            } else {
                answers(ms(300))
            }
        };
        let mut run = start(items, 4);
        run.options.durable = true;
        let ended = turn_to_end(&mut run, &provider);
        assert_eq!(
            outcomes(&run),
            (items - 1, vec![odd]),
            "{status}: {ended:?}"
        );
        assert_eq!(ended.calls, items - 1 + calls, "{status}: {ended:?}");
    }
}

#[test]
fn what_concerns_all_ends_the_run_after_the_calls_in_flight() {
    let troubles: [&dyn Fn() -> _; 2] = [&refused_key, &come_back_tomorrow];
    for trouble in troubles {
        for concurrency in [1, 2, 8, 64] {
            for since in [0, 5] {
                let provider = |now: Time, _| {
                    if now >= secs(since) {
                        trouble()
                    } else {
                        answers(ms(300))
                    }
                };
                let mut run = start(2_800, concurrency);
                run.options.on_error = ErrorPolicy::StopOnCriticalError;
                let ended = turn_to_end(&mut run, &provider);
                assert!(matches!(run.stop_reason(), Some(StopReason::Critical(_))));
                let in_vain = ended.calls - ended.answers[0];
                // Who makes few calls at once needs some more to tell it from one item's own failure.
                let most = if since == 0 {
                    concurrency
                } else {
                    concurrency.max(3)
                };
                assert!(in_vain <= most, "{concurrency}: {in_vain} calls in vain");
            }
        }
    }
}

#[test]
fn a_proxy_that_limits_requests_costs_no_item_its_tries() {
    // As nginx does it: a rate per second, and a burst of five.
    let (rate, burst) = (40.0, 5.0);
    let bucket = Cell::new((Time::ZERO, burst));
    let refused = Cell::new(0);
    let provider = |now: Time, _| {
        let (before, level) = bucket.get();
        let level = f64::min(burst, level + rate * now.since(before).as_secs_f64());
        bucket.set((now, if level >= 1.0 { level - 1.0 } else { level }));
        if level >= 1.0 {
            return answers(ms(100));
        }
        refused.set(refused.get() + 1);
        let (took, result) = status(503);
        (took, result.map_err(Error::with_by_proxy))
    };
    for concurrency in [5, 20, 64] {
        bucket.set((Time::ZERO, burst));
        refused.set(0);
        let mut run = start(600, concurrency);
        let ended = turn_to_end(&mut run, &provider);
        assert_eq!(outcomes(&run), (600, vec![]), "{ended:?}");
        assert!(refused.get() < 1_200, "{} were refused", refused.get());
    }
}
