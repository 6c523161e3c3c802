//! What trips a breaker, what does not, and what closes it.

use super::*;
use crate::engine::class::Class;

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

fn step() -> StepId {
    Class::new([]).at(0)
}

/// A first call of an item that can fail over.
fn call(began: Time) -> Ended {
    Ended {
        step: step(),
        quota: QuotaId::NONE,
        began,
        first: true,
        of_one: false,
        detour: Detour::NextStep,
        out: 0,
    }
}

/// Records the same end repeatedly. Returns the number of ends that trip the breaker.
fn trips_after(breakers: &mut Breakers, reply: &Reply, now: Time) -> Option<usize> {
    (1..10).find(|_| breakers.note(call(now), reply, now))
}

#[test]
fn a_provider_that_fails_every_call_is_not_called() {
    for (failure, most) in [(unreached(), 5), (busy(), 5), (broken(), 5), (hung(), 2)] {
        let mut breakers = Breakers::default();
        assert_eq!(trips_after(&mut breakers, &failure, at(0)), Some(most));
        assert!(breakers.open_reason(step()).is_some());
    }
    let mut mixed = Breakers::default();
    for failure in [busy(), unreached(), hung(), broken()] {
        assert!(!mixed.note(call(at(0)), &failure, at(0)));
    }
    assert!(mixed.note(call(at(0)), &busy(), at(0)));
}

#[test]
fn a_missing_fallback_or_a_single_item_trips_no_breaker() {
    let mut breakers = Breakers::default();
    let alone = Ended {
        detour: Detour::None,
        ..call(at(0))
    };
    for failure in [unreached(), busy(), hung()] {
        (0..9).for_each(|_| assert!(!breakers.note(alone, &failure, at(0))));
    }
    let mut breakers = Breakers::default();
    let again = Ended {
        first: false,
        ..call(at(0))
    };
    assert!(!breakers.note(call(at(0)), &busy(), at(0)));
    (0..9).for_each(|_| assert!(!breakers.note(again, &busy(), at(0))));
    let others = (0..4).map(|_| breakers.note(call(at(0)), &busy(), at(0)));
    let trips: Vec<bool> = others.collect();
    assert_eq!(
        trips,
        [false, false, false, true],
        "the failures come from five items"
    );
}

#[test]
fn rate_limits_and_invalid_requests_trip_no_breaker() {
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
        let mut breakers = Breakers::default();
        assert_eq!(trips_after(&mut breakers, &reply, at(0)), None);
        // Such replies do not count as answers either.
        (0..4).for_each(|_| assert!(!breakers.note(call(at(0)), &busy(), at(0))));
        assert!(!breakers.note(call(at(0)), &reply, at(0)));
        assert!(breakers.note(call(at(0)), &busy(), at(0)), "{reply:?}");
    }
}

#[test]
fn a_provider_that_has_answered_trips_later() {
    let mut breakers = Breakers::default();
    breakers.note(call(at(0)), &Ok(()), at(1));
    assert_eq!(trips_after(&mut breakers, &busy(), at(2)), None);
    assert!(!breakers.note(call(at(6)), &busy(), at(6)));
    assert!(breakers.note(call(at(7)), &busy(), at(7)));
    let mut breakers = Breakers::default();
    breakers.note(call(at(0)), &Ok(()), at(1));
    assert_eq!(trips_after(&mut breakers, &hung(), at(9)), Some(3));
}

#[test]
fn calls_probe_at_growing_intervals_until_an_answer_closes_the_breaker() {
    for failure in [unreached(), busy(), hung()] {
        let mut breakers = Breakers::default();
        trips_after(&mut breakers, &failure, at(0));
        let (mut now, mut waits) = (0, Vec::new());
        for _ in 0..5 {
            let since = now;
            while breakers.open_reason(step()).is_some() {
                now += 1;
                breakers.half_open(at(now));
            }
            waits.push(now - since);
            assert!(breakers.begin_call(step()));
            assert!(
                breakers.open_reason(step()).is_some(),
                "one more failure opens it"
            );
            assert!(!breakers.note(call(at(now)), &failure, at(now)));
        }
        assert_eq!(waits, [5, 10, 20, 40, 60]);
        breakers.half_open(at(now + 60));
        breakers.begin_call(step());
        assert!(breakers.note(call(at(now)), &Ok(()), at(now + 60)));
        assert!(breakers.open_reason(step()).is_none());
    }
}

#[test]
fn a_probe_that_hangs_ends_an_outage_that_items_wait_for() {
    let mut breakers = Breakers::default();
    let waits = Ended {
        detour: Detour::Wait,
        ..call(at(0))
    };
    let dead = |breakers: &mut Breakers| breakers.note(waits, &unreached(), at(0));
    assert!((0..5).any(|_| dead(&mut breakers)));
    breakers.half_open(at(6));
    assert!(breakers.begin_call(step()));
    assert!(
        breakers.note(waits, &hung(), at(62)),
        "the breaker is closed"
    );
    assert_eq!(breakers.closed_until(step(), at(62)), None);
    // If another provider can be called, items do not wait for one that hangs.
    let mut breakers = Breakers::default();
    assert_eq!(trips_after(&mut breakers, &unreached(), at(0)), Some(5));
    breakers.half_open(at(6));
    assert!(breakers.begin_call(step()));
    assert!(!breakers.note(call(at(6)), &hung(), at(66)));
    assert!(breakers.open_reason(step()).is_some());
}

#[test]
fn a_breaker_without_probes_for_a_minute_is_ignored() {
    let mut breakers = Breakers::default();
    assert_eq!(trips_after(&mut breakers, &unreached(), at(0)), Some(5));
    breakers.half_open(at(6));
    assert!(breakers.any_half_open(at(6)) && breakers.any_half_open(at(65)));
    assert!(!breakers.any_half_open(at(67)));
}
