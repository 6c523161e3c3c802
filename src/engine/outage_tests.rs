//! What ends a run, fails an item or makes it wait when a provider is unavailable or rejects everything.

use super::*;

/// Items that were answered, and those that failed.
pub(super) fn outcomes(run: &Dispatcher<Costs>) -> (usize, Vec<usize>) {
    let ended = run.work.ended.iter();
    let (answered, failed): (Vec<_>, Vec<_>) = ended.partition(|(_, ok)| *ok);
    (
        answered.len(),
        failed.into_iter().map(|(item, _)| item).collect(),
    )
}

fn status(status: u16) -> Takes {
    let error = Error::new(ErrorKind::Transient, "unavailable").with_status(status);
    (ms(20), Err(error.with_sent(Sent::Answered)))
}

fn hangs_up(_: Time) -> Takes {
    let error = Error::new(ErrorKind::Transient, "connection lost");
    (ms(5), Err(error.with_sent(Sent::Maybe)))
}

#[test]
fn without_another_provider_an_outage_is_waited_for() {
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
            let away = secs(5)..secs(35);
            let provider = |now, _| if_so(away.contains(&now), trouble(now), answers(ms(100)));
            let mut run = start(560 * concurrency, concurrency);
            let items = run.work.tokens.len();
            let ended = turn_to_end(&mut run, provider);
            assert_eq!(
                outcomes(&run),
                (items, vec![]),
                "{name}, {concurrency}: {ended:?}"
            );
            let back = ended.answered.iter().find(|at| **at > secs(10));
            let late = back.expect("it is called again").since(secs(35));
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
            let provider = |now, _| if_so(now >= secs(5), trouble(now), answers(ms(100)));
            let mut run = start(2_800, 8);
            run.options.on_error = on_error;
            let ended = turn_to_end(&mut run, provider);
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
fn an_address_without_a_server_ends_a_run_within_ten_seconds() {
    for (items, concurrency) in [(1, 1), (2, 1), (2_800, 1), (2_800, 5), (2_800, 64)] {
        let mut run = start(items, concurrency);
        let ended = turn_to_end(&mut run, |now, _| dead(now));
        assert!(ended.took <= ms(8_500), "{ended:?}");
        let Some(StopReason::Unreachable(error)) = run.stop_reason() else {
            panic!("{:?}", run.stop_reason());
        };
        assert!(
            error.message().contains("no server has been reached there"),
            "{error}"
        );
        assert_eq!(outcomes(&run), (0, vec![]));
        // The run waits for a server that is being started.
        let starts = |now: Time, _| if_so(now < secs(7), dead(now), answers(ms(100)));
        let mut run = start(items, concurrency);
        let ended = turn_to_end(&mut run, starts);
        assert_eq!(outcomes(&run), (items, vec![]), "{ended:?}");
    }
    // Durable work waits.
    let provider = |now: Time, _| if_so(now < secs(900), dead(now), answers(ms(100)));
    let mut run = start(20, 4);
    run.options.durable = true;
    let ended = turn_to_end(&mut run, provider);
    assert_eq!(outcomes(&run), (20, vec![]));
    assert!(ended.took < ms(909_500), "{ended:?}");
    // Exception: its worker ends when no job is left that can run.
    let mut run = start(20, 4);
    (run.options.durable, run.options.on_error) = (true, ErrorPolicy::StopOnCriticalError);
    assert!(turn_to_end(&mut run, |now, _| dead(now)).took < ms(8_500));
    assert!(matches!(
        run.stop_reason(),
        Some(StopReason::Unreachable(_))
    ));
}

#[test]
fn a_refused_connection_ends_no_run_while_calls_are_in_flight() {
    let calls = Cell::new(0);
    let one_refused = |now: Time, _| {
        calls.set(calls.get() + 1);
        match calls.get() {
            2 => (ms(9_000), dead(now).1),
            _ => answers(ms(30_000)),
        }
    };
    let mut run = start(64, 32);
    let ended = turn_to_end(&mut run, one_refused);
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
        add_step(&mut run);
        let ended = drive(&mut run, route);
        let (answered, failed) = outcomes(&run);
        let in_vain = ended.calls - answered + next_calls.get();
        assert!(in_vain <= 40 + 4 * concurrency, "{concurrency}: {in_vain}");
        // Exception: items that were already at the next step, which turned out to be unavailable too.
        let unsent = 2_800 - answered;
        assert!(unsent <= 20 + 2 * concurrency, "{concurrency}: {unsent}");
        assert_eq!(failed, Vec::<usize>::new());
    }
}

#[test]
fn items_that_cause_their_failures_fail_after_their_attempts() {
    // A single item, or a few: their failures cannot be distinguished from an outage, but they were called often
    // enough.
    for (items, s) in [(1, 500), (1, 503), (4, 500), (4, 503)] {
        let mut run = start(items, 8);
        let ended = turn_to_end(&mut run, |_, _| status(s));
        assert_eq!((ended.calls, outcomes(&run).0), (4 * items, 0));
        assert!(ended.took < ms(10_000), "{ended:?}");
    }
    // Among other items, and as the last one of a run.
    for concurrency in [1, 4, 32] {
        for poison in [0..3, 50..62, 90..100] {
            let provider = |_, item| if_so(poison.contains(&item), status(500), answers(ms(300)));
            let mut run = start(100, concurrency);
            let ended = turn_to_end(&mut run, provider);
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
                run.stop_reason().is_none() && ended.took < ms(60_000),
                "{ended:?}"
            );
        }
    }
}

#[test]
fn prompts_that_fail_alone_are_no_outage() {
    // The last prompts of a run, and jobs that are all that a worker has.
    for (good, bad, durable) in [(100, 24, false), (100, 24, true), (0, 6, true)] {
        for concurrency in [1, 8, 64] {
            let provider = |_, item| if_so(item >= good, status(500), answers(ms(100)));
            let mut run = start(good + bad, concurrency);
            run.options.durable = durable;
            let ended = turn_to_end(&mut run, provider);
            let (answered, mut failed) = outcomes(&run);
            failed.sort_unstable();
            assert_eq!(answered, good);
            assert_eq!(failed, Vec::from_iter(good..good + bad), "{ended:?}");
            assert_eq!(ended.calls, good + 4 * bad, "{ended:?}");
            let since = ended.answered.last().copied().unwrap_or(Time::ZERO);
            let took = ended.took.saturating_sub(since.since(Time::ZERO));
            assert!(
                took < ms(40_000),
                "{good}, {bad}, {durable}, {concurrency}: {took:?}"
            );
        }
    }
}

fn refused_key() -> Takes {
    let error = Error::new(ErrorKind::Auth, "no such key").with_status(401);
    (ms(20), Err(error.with_sent(Sent::Answered)))
}

fn come_back_tomorrow() -> Takes {
    let error = Error::new(ErrorKind::RateLimited, "later").with_status(429);
    let day = Some(Duration::from_secs(86_400));
    (
        ms(20),
        Err(error.with_sent(Sent::Answered).with_retry_after(day)),
    )
}

#[test]
fn failures_of_one_item_stop_no_other_while_others_are_answered() {
    let troubles: [&dyn Fn() -> _; 2] = [&refused_key, &come_back_tomorrow];
    for trouble in troubles {
        for concurrency in [1, 4, 32] {
            // Another of the first calls must still be in flight.
            for odd in [usize::from(concurrency == 1), 30, 99] {
                let provider = |_, item| if_so(item == odd, trouble(), answers(ms(300)));
                let mut run = start(100, concurrency);
                let ended = turn_to_end(&mut run, provider);
                assert!(run.stop_reason().is_none(), "{concurrency}, {odd}");
                assert_eq!(outcomes(&run), (99, vec![odd]), "{ended:?}");
                assert_eq!(ended.calls, 100);
            }
        }
    }
}

#[test]
fn durable_work_fails_after_its_attempts_if_only_one_job_is_rejected() {
    for (status, items, odd, calls) in [(403, 40, 0, 1), (403, 40, 39, 4)] {
        let error = Error::new(ErrorKind::Auth, "not this one").with_status(status);
        let error = error.concerning(crate::base::verdict::Whom::Unclear);
        let refused = (ms(20), Err(error.with_sent(Sent::Answered)));
        let provider = |_, item| if_so(item == odd, refused.clone(), answers(ms(300)));
        let mut run = start(items, 4);
        run.options.durable = true;
        let ended = turn_to_end(&mut run, provider);
        assert_eq!(
            outcomes(&run),
            (items - 1, vec![odd]),
            "{status}: {ended:?}"
        );
        assert_eq!(ended.calls, items - 1 + calls, "{status}: {ended:?}");
    }
}

#[test]
fn a_failure_of_all_ends_the_run_after_the_calls_in_flight() {
    let troubles: [&dyn Fn() -> _; 2] = [&refused_key, &come_back_tomorrow];
    for trouble in troubles {
        for concurrency in [1, 2, 8, 64] {
            for since in [0, 5] {
                let provider =
                    |now: Time, _| if_so(now >= secs(since), trouble(), answers(ms(300)));
                let mut run = start(2_800, concurrency);
                run.options.on_error = ErrorPolicy::StopOnCriticalError;
                let ended = turn_to_end(&mut run, provider);
                assert!(matches!(run.stop_reason(), Some(StopReason::Critical(_))));
                let in_vain = ended.calls - ended.answers[0];
                // With few calls in flight, more calls are needed to distinguish an outage from the failure of one
                // item.
                let most = if since == 0 {
                    concurrency
                } else {
                    concurrency.max(5)
                };
                assert!(in_vain <= most, "{concurrency}: {in_vain} calls in vain");
            }
        }
    }
}

#[test]
fn a_proxy_that_limits_requests_uses_up_no_attempts() {
    // Like nginx: a rate per second, and a burst of five.
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
        (took, result.map_err(|error| error.by_proxy()))
    };
    for concurrency in [5, 20, 64] {
        bucket.set((Time::ZERO, burst));
        refused.set(0);
        let mut run = start(600, concurrency);
        let ended = turn_to_end(&mut run, provider);
        assert_eq!(outcomes(&run), (600, vec![]), "{ended:?}");
        assert!(refused.get() < 1_200, "{} were refused", refused.get());
    }
}
