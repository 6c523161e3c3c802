//! What begins an outage, what does not, and what ends it; which failures concern all items.

use super::*;

type Reply = Result<(), Error>;

fn unreached() -> Reply {
    Err(Error::new(ErrorKind::Transient, "nobody there").with_unreachable())
}

fn hung() -> Reply {
    let error = Error::new(ErrorKind::Transient, "no reply").with_timed_out();
    Err(error.with_sent(Sent::Maybe))
}

fn busy() -> Reply {
    Err(Error::new(ErrorKind::Transient, "busy").with_status(503))
}

fn broken() -> Reply {
    Err(Error::new(ErrorKind::Malformed, "cut off").with_sent(Sent::Maybe))
}

fn refused(kind: ErrorKind, status: u16) -> Reply {
    Err(Error::new(kind, "no").with_status(status))
}

fn at(seconds: u64) -> Time {
    Time::ZERO.after(Duration::from_secs(seconds))
}

/// A first call of an item that can fail over.
fn call() -> EndFacts {
    EndFacts {
        number: 1,
        step: StepId::default(),
        took: Duration::ZERO,
        first: true,
        of_one: false,
        probed: false,
        detour: Detour::NextStep,
        out: 0,
        refused: false,
    }
}

/// Records an end. Returns true if an outage began or ended.
fn note(health: &mut StepHealth, call: EndFacts, reply: &Reply, now: Time) -> bool {
    health.note(call, reply.as_ref().err(), now)
}

/// Records the same end repeatedly. Returns the number of ends that begin an outage.
fn trips_after(health: &mut StepHealth, reply: &Reply, now: Time) -> Option<usize> {
    (1..10).find(|_| note(health, call(), reply, now))
}

/// Starts a probe if one is due.
fn begins_probe(health: &mut StepHealth, now: Time) -> bool {
    let outage = health.outage.as_mut().expect("an outage");
    outage.advance(now);
    let is_due = outage.is_due();
    outage.begin_call(1);
    is_due
}

/// Records the end of a probe.
fn end_probe(health: &mut StepHealth, call: EndFacts, reply: &Reply, now: Time) -> bool {
    health.outage.as_mut().expect("an outage").probe = None;
    let probed = EndFacts {
        probed: true,
        ..call
    };
    note(health, probed, reply, now)
}

#[test]
fn a_provider_that_fails_every_call_is_not_called() {
    for (failure, most) in [(unreached(), 5), (busy(), 5), (broken(), 5), (hung(), 2)] {
        let mut health = StepHealth::default();
        assert_eq!(trips_after(&mut health, &failure, at(0)), Some(most));
        assert!(health.closed().is_some());
    }
    let mut mixed = StepHealth::default();
    for failure in [busy(), unreached(), hung(), broken()] {
        assert!(!note(&mut mixed, call(), &failure, at(0)));
    }
    assert!(note(&mut mixed, call(), &busy(), at(0)));
}

#[test]
fn a_missing_fallback_or_a_single_item_begins_no_outage() {
    let mut health = StepHealth::default();
    let alone = EndFacts {
        detour: Detour::None,
        ..call()
    };
    for failure in [unreached(), busy(), hung()] {
        (0..9).for_each(|_| assert!(!note(&mut health, alone, &failure, at(0))));
    }
    let mut health = StepHealth::default();
    let again = EndFacts {
        first: false,
        ..call()
    };
    assert!(!note(&mut health, call(), &busy(), at(0)));
    (0..9).for_each(|_| assert!(!note(&mut health, again, &busy(), at(0))));
    let others = (0..4).map(|_| note(&mut health, call(), &busy(), at(0)));
    let trips: Vec<bool> = others.collect();
    assert_eq!(
        trips,
        [false, false, false, true],
        "the failures come from five items"
    );
}

#[test]
fn failures_that_one_of_several_items_may_have_caused_begin_no_outage() {
    let mut health = StepHealth::default();
    let shared = EndFacts {
        of_one: true,
        ..call()
    };
    for failure in [busy(), broken()] {
        (0..9).for_each(|_| assert!(!note(&mut health, shared, &failure, at(0))));
    }
    assert!(health.reached);
}

#[test]
fn rate_limits_and_invalid_requests_begin_no_outage() {
    let loading = Error::new(ErrorKind::Transient, "it loads").with_status(503);
    let web_page = Error::new(ErrorKind::Malformed, "a page").with_status(200);
    for reply in [
        refused(ErrorKind::RateLimited, 429),
        refused(ErrorKind::Invalid, 400),
        refused(ErrorKind::Auth, 401),
        Err(loading.with_not_ready()),
        Err(web_page.with_unusable_reply("<html>")),
        Err(Error::cancelled()),
    ] {
        let mut health = StepHealth::default();
        assert_eq!(trips_after(&mut health, &reply, at(0)), None);
        // Such replies do not count as answers either.
        (0..4).for_each(|_| assert!(!note(&mut health, call(), &busy(), at(0))));
        assert!(!note(&mut health, call(), &reply, at(0)));
        assert!(note(&mut health, call(), &busy(), at(0)), "{reply:?}");
    }
}

#[test]
fn a_provider_that_has_answered_trips_later() {
    let mut health = StepHealth::default();
    note(&mut health, call(), &Ok(()), at(1));
    assert_eq!(trips_after(&mut health, &busy(), at(2)), None);
    assert!(!note(&mut health, call(), &busy(), at(6)));
    assert!(note(&mut health, call(), &busy(), at(7)));
    let mut health = StepHealth::default();
    note(&mut health, call(), &Ok(()), at(1));
    assert_eq!(trips_after(&mut health, &hung(), at(9)), Some(2));
}

#[test]
fn calls_probe_at_growing_intervals_until_an_answer_ends_the_outage() {
    for failure in [unreached(), busy(), hung()] {
        let mut health = StepHealth::default();
        trips_after(&mut health, &failure, at(0));
        let (mut now, mut waits) = (0, Vec::new());
        for _ in 0..5 {
            let since = now;
            while !begins_probe(&mut health, at(now)) {
                now += 1;
            }
            waits.push(now - since);
            assert!(health.closed().is_some(), "one more failure goes on");
            assert!(!end_probe(&mut health, call(), &failure, at(now)));
        }
        assert_eq!(waits, [5, 10, 20, 40, 60]);
        assert!(begins_probe(&mut health, at(now + 60)));
        assert!(end_probe(&mut health, call(), &Ok(()), at(now + 60)));
        assert!(health.closed().is_none());
    }
}

#[test]
fn a_probe_that_hangs_ends_an_outage_that_items_wait_for() {
    let waits = EndFacts {
        detour: Detour::Wait,
        ..call()
    };
    let mut health = StepHealth::default();
    assert!((0..5).any(|_| note(&mut health, waits, &unreached(), at(0))));
    assert!(begins_probe(&mut health, at(6)));
    assert!(end_probe(&mut health, waits, &hung(), at(62)), "it is over");
    assert!(health.outage.is_none());
    // If another provider can be called, items do not wait for one that hangs.
    let mut health = StepHealth::default();
    assert_eq!(trips_after(&mut health, &unreached(), at(0)), Some(5));
    assert!(begins_probe(&mut health, at(6)));
    assert!(!end_probe(&mut health, call(), &hung(), at(66)));
    assert!(health.closed().is_some());
}

#[test]
fn an_outage_without_probes_for_a_minute_is_ignored() {
    let mut health = StepHealth::default();
    assert_eq!(trips_after(&mut health, &unreached(), at(0)), Some(5));
    health.outage.as_mut().expect("an outage").advance(at(6));
    assert!(health.wants_probe(at(6)) && health.wants_probe(at(65)));
    assert!(!health.wants_probe(at(67)));
}

#[test]
fn several_consecutive_critical_failures_are_needed_while_other_calls_may_be_answered() {
    let enough = |shared: &mut Shared, out| (1..10).find(|_| shared.is_critical(out));
    assert_eq!(enough(&mut Shared::default(), 0), Some(1));
    let mut shared = Shared::default();
    assert_eq!(enough(&mut shared, 7), Some(5));
    shared.answered();
    assert_eq!(shared.critical, 0);
    assert_eq!(enough(&mut shared, 0), Some(5));
}

fn unusable() -> Error {
    let error = Error::new(ErrorKind::Malformed, "not a usable reply");
    error.with_unusable_reply("<html>\u{1b}[2J\n\u{202e}")
}

fn rejected(message: String) -> Error {
    let error = Error::new(ErrorKind::Invalid, message).with_sent(Sent::Answered);
    error.with_status(400).with_unclassified()
}

fn count(replies: &mut StepHealth, error: impl Fn(u32) -> Error) -> Option<(u32, Error)> {
    (1..50).find_map(|n| replies.failed_at_first(&error(n)).map(|error| (n, error)))
}

#[test]
fn ten_unusable_replies_suffice_and_the_last_is_shown_safely() {
    let (n, error) = count(&mut StepHealth::default(), |_| unusable()).unwrap();
    assert_eq!(n, 10);
    let shown = error.message();
    let begins = r#"begins with "<html>\u{1b}[2J\n\u{202e}""#;
    assert!(shown.contains(begins), "{shown}");
    let long = |_| Error::new(ErrorKind::Malformed, "no").with_unusable_reply("ä".repeat(9999));
    let (_, error) = count(&mut StepHealth::default(), long).unwrap();
    assert!(error.message().len() < 400, "{error}");
}

#[test]
fn ten_identical_rejections_suffice_whatever_their_numbers() {
    let alike = |n| rejected(format!("no tier for team-{n} (request req_{n}a, {n} ms)"));
    let (n, error) = count(&mut StepHealth::default(), alike).unwrap();
    assert_eq!((n, error.status()), (10, Some(400)));
    let statuses = |n: u32| rejected("no".to_owned()).with_status(400 + 22 * (n % 2) as u16);
    assert!(count(&mut StepHealth::default(), statuses).is_none());
}

#[test]
fn an_answer_or_another_reply_in_between_makes_them_single_failures() {
    let mut replies = StepHealth::default();
    replies.shared.answered();
    assert!(count(&mut replies, |_| unusable()).is_none());
    let blocked = Error::new(ErrorKind::Blocked, "no").with_status(400);
    let mixed = |n: u32| match n % 9 {
        0 => blocked.clone(),
        _ => unusable(),
    };
    assert!(count(&mut StepHealth::default(), mixed).is_none());
    // An error that a rule of the table recognizes concerns one prompt.
    let known = |_| Error::new(ErrorKind::Invalid, "too long").with_status(400);
    assert!(count(&mut StepHealth::default(), known).is_none());
    let busy = Error::new(ErrorKind::Transient, "busy").with_status(503);
    let troubled = |n: u32| match n % 2 {
        0 => busy.clone(),
        _ => unusable(),
    };
    let (n, _) = count(&mut StepHealth::default(), troubled).unwrap();
    assert_eq!(n, 19);
}
