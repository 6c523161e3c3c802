//! How soon items fail over when the first provider has problems, on a simulated clock.

use std::cell::Cell;

use super::*;

#[path = "outage_tests.rs"]
mod outage_tests;
#[path = "unclear_tests.rs"]
mod unclear_tests;

/// What the first provider does with a call that starts at a given time.
type Provider<'p> = &'p dyn Fn(Time) -> Takes;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn secs(seconds: u64) -> Time {
    Time::ZERO.after(Duration::from_secs(seconds))
}

/// Runs this many items with this many calls in flight. The first provider has problems; the second one answers within
/// 10 ms.
fn run(items: usize, concurrency: usize, provider: Provider<'_>) -> Ended {
    let mut run = start(items, concurrency);
    add_step(&mut run);
    let ended = turn_to_end(&mut run, |now, _| provider(now));
    assert_eq!(run.work.ended.len(), items);
    assert!(run.work.ended.iter().all(|(_, ok)| *ok));
    ended
}

fn start(items: usize, concurrency: usize) -> Dispatcher<Costs> {
    let limits = Limits::default().burst(100);
    dispatcher(vec![1; items], limits, concurrency, ErrorPolicy::default())
}

fn add_step(run: &mut Dispatcher<Costs>) {
    let (next, limits) = (QuotaKey::new(&["next"]), Limits::default().burst(100));
    let next = run.limiter.quota(next, limits, 0, Time::ZERO);
    run.work.classes = vec![Class::new([run.work.classes[0].quota(0), next])];
}

fn turn_to_end(run: &mut Dispatcher<Costs>, provider: impl Fn(Time, usize) -> Takes) -> Ended {
    drive(run, |now, item, step| match step {
        0 => provider(now, item),
        _ => answers(ms(10)),
    })
}

/// The provider has trouble in some calls, and does something else in the others.
fn if_so(trouble: bool, then: Takes, otherwise: Takes) -> Takes {
    if trouble { then } else { otherwise }
}

fn dead(_: Time) -> Takes {
    let error = Error::new(ErrorKind::Transient, "refused").with_unreachable();
    (ms(1), Err(error))
}

fn busy(_: Time) -> Takes {
    let error = Error::new(ErrorKind::Transient, "unavailable").with_status(503);
    (ms(80), Err(error.with_sent(Sent::Answered)))
}

/// Replies report when the provider expects to be available.
fn closed(_: Time) -> Takes {
    let (took, result) = busy(Time::ZERO);
    let asked = Some(Duration::from_secs(60));
    (took, result.map_err(|error| error.with_retry_after(asked)))
}

/// Every call times out.
fn hangs(timeout: Duration) -> Takes {
    let error = Error::new(ErrorKind::Transient, "no reply").with_timed_out();
    (timeout, Err(error.with_sent(Sent::Maybe)))
}

/// A provider with trouble in calls of these numbers, from 1. The others are answered in this time.
fn at_calls(
    numbers: impl Fn(usize) -> bool,
    trouble: Takes,
    answered_in: Duration,
) -> impl Fn(Time) -> Takes {
    let calls = Cell::new(0);
    move |_| {
        calls.set(calls.get() + 1);
        if_so(numbers(calls.get()), trouble.clone(), answers(answered_in))
    }
}

fn answers(took: Duration) -> Takes {
    (took, Ok(()))
}

/// Vectors of another model would not fit to those of the others.
#[test]
fn packs_that_one_text_may_have_failed_stay_with_their_provider() {
    let calls = Cell::new(0);
    let mut run = start(10, 10);
    run.work.members = 8;
    add_step(&mut run);
    let ended = turn_to_end(&mut run, |_, _| {
        calls.set(calls.get() + 1);
        let cut_off = Error::new(ErrorKind::Malformed, "cut off").with_sent(Sent::Answered);
        if_so(calls.get() <= 10, (ms(80), Err(cut_off)), answers(ms(80)))
    });
    assert_eq!((ended.calls, ended.answers), (20, [10, 0]));
}

#[test]
fn one_failure_among_answers_is_waited_for() {
    for concurrency in [1, 4] {
        let once = at_calls(|call| call == 5, closed(Time::ZERO), ms(80));
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
    let mut run = start(20, 5);
    add_step(&mut run);
    let ended = turn_to_end(&mut run, |now, _| five(now));
    assert!(ended.took < ms(6_500), "{ended:?}");
    let paid_twice = run.counters.possibly_paid_twice;
    assert!((4..=5).contains(&paid_twice), "{paid_twice}");
}

#[test]
fn slow_answers_are_waited_for() {
    let minute = |_| answers(ms(60_000));
    for concurrency in [1, 5] {
        let ended = run(20, concurrency, &minute);
        assert_eq!(ended.answers, [20, 0]);
        // A single lost call does not shorten the time-outs of the others.
        let one_hangs = at_calls(|call| call == 8, hangs(ms(90_000)), ms(60_000));
        let ended = run(20, concurrency, &one_hangs);
        assert_eq!(ended.answers, [20, 0], "{ended:?}");
    }
    // Errors that arrive earlier than the answers do not either.
    let some_fail = at_calls(|call| call % 5 == 0, busy(Time::ZERO), ms(60_000));
    let ended = run(200, 50, &some_fail);
    // Exception: items that fail four times.
    assert!(ended.answers[0] >= 198, "{:?}", ended.answers);
}

#[test]
fn one_time_out_diverts_no_item_even_with_one_call_at_a_time() {
    let first_hangs = at_calls(|call| call == 1, hangs(ms(5000)), ms(3000));
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
    let ended = turn_to_end(&mut run, |_, _| answers(ms(100)));
    assert!(ended.took < ms(3_000), "{ended:?}");
    // A server that answers one call after the other.
    let free = Cell::new(Time::ZERO);
    let one_by_one = |now: Time, _| {
        free.set(free.get().max(now).after(ms(100)));
        answers(free.get().since(now))
    };
    let mut run = dispatcher(vec![1; 300], limits(), 256, ErrorPolicy::default());
    let ended = turn_to_end(&mut run, one_by_one);
    assert!(ended.took < ms(30_100), "{ended:?}");
    assert!(run.counters.most_in_flight <= 2, "{:?}", run.counters);
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
