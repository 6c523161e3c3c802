//! What follows from ends that only other calls can explain, on a simulated clock.

use super::outage_tests::outcomes;
use super::*;
use crate::base::verdict::{Form, Whom};

fn blocked() -> Takes {
    let page = Error::new(ErrorKind::Auth, "answered 403, a web page").with_status(403);
    let page = page.with_sent(Sent::Answered).in_form(Form::Page);
    (ms(20), Err(page.concerning(Whom::Unclear)))
}

/// Prompts that a firewall blocks; all others are answered.
fn firewall(blocks: impl Fn(usize) -> bool) -> impl Fn(Time, usize) -> Takes {
    move |_, item| if_so(blocks(item), blocked(), answers(ms(300)))
}

fn stops_when_critical(items: usize, concurrency: usize) -> Dispatcher<Costs> {
    let mut run = start(items, concurrency);
    run.options.on_error = ErrorPolicy::StopOnCriticalError;
    run
}

#[test]
fn a_firewall_costs_the_items_that_it_blocks_and_no_other() {
    for concurrency in [1, 20, 100] {
        for (items, blocked) in [(52, 4..12), (70, 0..30), (52, 46..52)] {
            let provider = firewall(|item| blocked.contains(&item));
            let mut run = stops_when_critical(items, concurrency);
            let ended = turn_to_end(&mut run, &provider);
            let expected = (items - blocked.len(), blocked.clone().collect());
            let (answered, mut failed) = outcomes(&run);
            failed.sort_unstable();
            assert_eq!((answered, failed), expected, "{concurrency}: {ended:?}");
            assert!(run.stop_reason().is_none());
            // With a fallback only these go there.
            let mut run = stops_when_critical(items, concurrency);
            add_step(&mut run);
            let ended = turn_to_end(&mut run, &provider);
            assert_eq!(outcomes(&run), (items, vec![]), "{concurrency}: {ended:?}");
            assert_eq!(ended.answers[1], blocked.len(), "{concurrency}: {ended:?}");
        }
    }
}

#[test]
fn a_key_that_was_revoked_ends_the_run_and_fails_nothing() {
    for concurrency in [1, 20, 100] {
        let revoked = |now: Time, _| if_so(now >= secs(2), blocked(), answers(ms(300)));
        let mut run = stops_when_critical(1_000, concurrency);
        let ended = turn_to_end(&mut run, revoked);
        assert!(matches!(run.stop_reason(), Some(StopReason::Critical(_))));
        assert_eq!(outcomes(&run), (ended.answers[0], vec![]));
        let in_vain = ended.calls - ended.answers[0];
        assert!(
            in_vain <= 10 + concurrency,
            "{concurrency}: {in_vain} in vain"
        );
        // A fallback answers them all.
        let mut run = stops_when_critical(1_000, concurrency);
        add_step(&mut run);
        turn_to_end(&mut run, revoked);
        assert_eq!(outcomes(&run), (1_000, vec![]));
    }
}

#[test]
fn a_key_that_was_revoked_while_all_calls_were_in_flight_fails_nothing() {
    let begun = Cell::new(0);
    let mut run = stops_when_critical(52, 100);
    let provider = |_, _| {
        begun.set(begun.get() + 1);
        // The server did not see them in the order in which they were sent.
        if_so(
            ![1, 2, 4, 6, 7].contains(&begun.get()),
            blocked(),
            answers(ms(300)),
        )
    };
    turn_to_end(&mut run, provider);
    assert!(matches!(run.stop_reason(), Some(StopReason::Critical(_))));
    assert_eq!(outcomes(&run), (5, vec![]));
}

#[test]
fn a_few_items_without_any_answer_are_unsent_after_a_few_seconds() {
    let mut run = stops_when_critical(3, 2);
    let ended = turn_to_end(&mut run, firewall(|_| true));
    assert!(matches!(run.stop_reason(), Some(StopReason::Critical(_))));
    assert_eq!(outcomes(&run), (0, vec![]));
    assert!((10..=12).contains(&ended.calls), "{ended:?}");
    assert!(ended.took >= Duration::from_secs(7), "{ended:?}");
}

#[test]
fn a_long_blocked_stretch_stops_the_run_and_fails_nothing() {
    let mut run = stops_when_critical(3_100, 20);
    let ended = turn_to_end(&mut run, firewall(|item| item < 3_000));
    assert!(matches!(run.stop_reason(), Some(StopReason::Critical(_))));
    assert_eq!(outcomes(&run), (0, vec![]));
    assert!(ended.calls <= 40, "{ended:?}");
}

#[test]
fn a_call_that_hangs_costs_few_others() {
    let mut run = stops_when_critical(280, 20);
    let provider = |_, item| if_so(item == 0, answers(ms(60_000)), blocked());
    let ended = turn_to_end(&mut run, provider);
    assert!(matches!(run.stop_reason(), Some(StopReason::Critical(_))));
    assert_eq!(outcomes(&run), (1, vec![]));
    assert!(ended.calls <= 150, "{} calls", ended.calls);
}

#[test]
fn a_coded_rejection_explains_earlier_ends_and_a_bare_one_does_not() {
    for (form, stops) in [(Form::Coded, false), (Form::Bare, true)] {
        let own = Error::new(ErrorKind::Invalid, "no").with_status(400);
        let own = (ms(20), Err(own.with_sent(Sent::Answered).in_form(form)));
        let mut run = stops_when_critical(40, 1);
        let provider = |_, item| if_so(item % 4 == 3, own.clone(), blocked());
        turn_to_end(&mut run, provider);
        assert_eq!(run.stop_reason().is_some(), stops, "{form:?}");
    }
}

#[test]
fn one_job_of_a_worker_fails_if_its_key_was_ever_accepted() {
    for answered in [false, true] {
        let mut run = stops_when_critical(2, 1);
        (run.options.durable, run.options.multi_tenant) = (true, true);
        turn_to_end(&mut run, firewall(|item| item == 1 || !answered));
        let class = run.work.classes[0].clone();
        assert_eq!(run.availability.refusal(&class).is_some(), !answered);
        let expected = if answered { (1, vec![1]) } else { (0, vec![]) };
        assert_eq!(outcomes(&run), expected);
    }
}

/// A source that is read slowly has others to try.
#[test]
fn one_blocked_item_before_a_slow_source_excludes_no_provider() {
    for concurrency in [1, 20] {
        let mut run = stops_when_critical(40, concurrency);
        run.work.more_at = secs(30);
        add_step(&mut run);
        let ended = turn_to_end(&mut run, firewall(|item| item == 0));
        assert_eq!(ended.answers, [39, 1], "{ended:?}");
    }
}

#[test]
fn a_key_that_was_revoked_while_one_call_is_in_flight_fails_nothing() {
    for retries in [0, 3] {
        let mut run = stops_when_critical(40, 20);
        run.options.retry = run.options.retry.max_retries(retries);
        let provider = |_, item| match item {
            0 => hangs(ms(60_000)),
            1 => answers(ms(10)),
            _ => blocked(),
        };
        turn_to_end(&mut run, provider);
        assert!(matches!(run.stop_reason(), Some(StopReason::Critical(_))));
        // Only a call without a reply is the item's own.
        let own = if retries == 0 { vec![0] } else { vec![] };
        assert_eq!(outcomes(&run), (1, own), "{retries}");
    }
}

/// The worker goes on, and others come before the job.
#[test]
fn a_blocked_job_closes_no_queue_for_ever() {
    let mut run = start(100, 4);
    (run.options.durable, run.options.multi_tenant) = (true, true);
    run.work.more_at = secs(12);
    let provider = firewall(|item| item == 0);
    let ended = turn_to_end(&mut run, provider);
    assert_eq!(outcomes(&run), (99, vec![0]), "{ended:?}");
    assert!(ended.took < Duration::from_secs(60), "{ended:?}");
}

#[test]
fn an_undecided_item_ends_with_the_reason_of_its_run() {
    let mut run = stops_when_critical(1, 1);
    run.options.deadline = Some(secs(2));
    turn_to_end(&mut run, firewall(|_| true));
    assert!(matches!(
        run.stop_reason(),
        Some(StopReason::DeadlineExceeded)
    ));
    let (_, tries) = run.work.waiting.drain().next().unwrap();
    let error = tries.ended(Error::new(ErrorKind::DeadlineExceeded, "over"));
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("web page"), "{cause}");
}

/// A firewall may mean one of many texts, and a proxy none.
#[test]
fn one_blocked_text_fails_no_others_of_its_call() {
    let proxy = Error::new(ErrorKind::Transient, "a page").with_status(503);
    let proxy = (ms(20), Err(proxy.with_sent(Sent::Answered).by_proxy()));
    for (trouble, divides) in [(blocked(), true), (proxy, false)] {
        let error = trouble.1.unwrap_err();
        let may = crate::engine::route::may_divide(&error);
        assert_eq!(
            may && !crate::engine::route::is_of_provider(&error),
            divides
        );
    }
}
