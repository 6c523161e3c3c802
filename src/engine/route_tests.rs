//! The decision about a failed call.

use super::*;

const NOW: Time = Time::from_nanos(1_000_000_000);

fn after(kind: ErrorKind, calls: u16) -> (Tries, Error) {
    let error = Error::new(kind, "x").with_sent(Sent::Answered);
    let mut tries = Tries::default();
    (0..calls).for_each(|_| tries.count(&error));
    (tries, error)
}

fn next(tries: &Tries, error: &Error, more: bool) -> Next {
    decide(&RetryPolicy::default(), more, tries, error, NOW, None, 0.0)
}

/// Whether a further call follows this many.
fn is_retried(kind: ErrorKind, calls: u16) -> bool {
    let (tries, error) = after(kind, calls);
    matches!(next(&tries, &error, false), Next::RetryAt(_))
}

#[test]
fn waits_double_from_one_second() {
    for (calls, seconds) in [(1, 1), (2, 2), (3, 4)] {
        let (tries, error) = after(ErrorKind::Transient, calls);
        let at = NOW.after(Duration::from_secs(seconds));
        assert_eq!(next(&tries, &error, false), Next::RetryAt(at));
    }
    assert!(!is_retried(ErrorKind::Transient, 4));
    let malformed = [1, 2, 3].map(|calls| is_retried(ErrorKind::Malformed, calls));
    assert_eq!(malformed, [true, true, false]);
}

#[test]
fn divided_calls_wait_for_the_requested_time() {
    let at = |error: &Error| parts_at(&RetryPolicy::default(), error, NOW).since(NOW);
    let error = |kind| Error::new(kind, "x").with_sent(Sent::Answered);
    assert_eq!(at(&error(ErrorKind::Invalid)), Duration::ZERO);
    assert_eq!(at(&error(ErrorKind::Transient)), Duration::from_secs(1));
    let asked = Duration::from_secs(20);
    for kind in [ErrorKind::Invalid, ErrorKind::Transient] {
        assert_eq!(at(&error(kind).with_retry_after(Some(asked))), asked);
    }
}

#[test]
fn the_server_is_never_called_before_the_requested_time() {
    let (tries, error) = after(ErrorKind::RateLimited, 1);
    let error = error.with_retry_after(Some(Duration::from_secs(20)));
    for jitter in [0.0, 0.5, 1.0] {
        let policy = RetryPolicy::default();
        match decide(&policy, false, &tries, &error, NOW, None, jitter) {
            Next::RetryAt(at) => assert!(at >= NOW.after(Duration::from_secs(20))),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_wait_above_five_seconds_counts_as_a_failing_provider() {
    let asks = |kind, seconds| {
        let error = after(kind, 1).1;
        requests_long_wait(&error.with_retry_after(Some(Duration::from_secs(seconds))))
    };
    assert!(!asks(ErrorKind::Transient, 5));
    assert!(asks(ErrorKind::Transient, 6));
    // A server that requests a slower pace is reachable.
    assert!(!asks(ErrorKind::RateLimited, 60));
}

#[test]
fn a_wait_past_the_deadline_is_not_begun() {
    let (tries, error) = after(ErrorKind::Transient, 1);
    let deadline = Some(NOW.after(Duration::from_millis(500)));
    let policy = RetryPolicy::default();
    let end = decide(&policy, false, &tries, &error, NOW, deadline, 0.0);
    assert_eq!(end, Next::GiveUp);
}

#[test]
fn a_time_out_after_sending_is_repeated_once() {
    let error = Error::new(ErrorKind::Transient, "slow")
        .with_sent(Sent::Maybe)
        .with_timed_out();
    let mut tries = Tries::default();
    tries.count(&error);
    assert!(matches!(next(&tries, &error, false), Next::RetryAt(_)));
    tries.count(&error);
    assert_eq!(next(&tries, &error, false), Next::GiveUp);
}

#[test]
fn a_complete_unusable_reply_is_not_retried() {
    for kind in [ErrorKind::Malformed, ErrorKind::Invalid] {
        let (tries, error) = after(kind, 1);
        let error = error.with_unusable_reply("<html>");
        assert_eq!(next(&tries, &error, true), Next::GiveUp);
        assert!(!may_divide(&error));
    }
}

#[test]
fn a_schema_mismatch_is_retried_once_at_each_step() {
    let error = Error::new(ErrorKind::Invalid, "no JSON").misshapen();
    let mut tries = Tries::default();
    for _ in 0..2 {
        tries.count(&error);
        assert_eq!(next(&tries, &error, true), Next::RetryAt(NOW));
        // Failures of another kind in between do not change the count.
        let (_, trouble) = after(ErrorKind::Transient, 0);
        tries.count(&trouble);
        assert!(matches!(next(&tries, &trouble, true), Next::RetryAt(_)));
        tries.count(&error);
        assert_eq!(next(&tries, &error, true), Next::FallBack);
        assert_eq!(next(&tries, &error, false), Next::GiveUp);
        tries.next_step(None);
    }
    let asked = Duration::from_secs(20);
    let mut tries = Tries::default();
    tries.count(&error);
    let error = error.with_retry_after(Some(asked));
    let at = NOW.after(asked);
    assert_eq!(next(&tries, &error, true), Next::RetryAt(at));
    let never = RetryPolicy::default().max_retries(0);
    let mut tries = Tries::default();
    tries.count(&error);
    let end = decide(&never, false, &tries, &error, NOW, None, 0.0);
    assert_eq!(end, Next::GiveUp);
}

#[test]
fn critical_and_invalid_errors_fall_back_but_are_not_retried() {
    for kind in [
        ErrorKind::Auth,
        ErrorKind::Quota,
        ErrorKind::UnknownModel,
        ErrorKind::Invalid,
    ] {
        let (tries, error) = after(kind, 1);
        assert_eq!(next(&tries, &error, true), Next::FallBack);
        assert_eq!(next(&tries, &error, false), Next::GiveUp);
    }
}

#[test]
fn a_blocked_answer_fails_over_only_if_configured() {
    let (tries, error) = after(ErrorKind::Blocked, 1);
    assert_eq!(next(&tries, &error, true), Next::GiveUp);
    let policy = RetryPolicy::default().fall_back_when_blocked(true);
    let end = decide(&policy, true, &tries, &error, NOW, None, 0.0);
    assert_eq!(end, Next::FallBack);
}

#[test]
fn items_of_a_divided_call_keep_their_retries() {
    let (mut tries, refused) = after(ErrorKind::Invalid, 0);
    tries.count(&refused);
    tries.divide();
    let failed = Error::new(ErrorKind::Transient, "x").with_sent(Sent::Answered);
    for retried in [true, true, true, false] {
        tries.count(&failed);
        let again = matches!(next(&tries, &failed, false), Next::RetryAt(_));
        assert_eq!(again, retried, "{tries:?}");
    }
}

#[test]
fn only_failures_that_one_text_may_have_caused_divide_a_call() {
    use ErrorKind::*;
    let error = |kind| Error::new(kind, "x");
    for kind in [Malformed, Invalid, Blocked] {
        assert!(may_divide(&error(kind)), "{kind}");
    }
    assert!(may_divide(&error(Transient).with_status(500)));
    for kind in [
        Transient,
        RateLimited,
        Auth,
        Quota,
        UnknownModel,
        Cancelled,
        Panic,
    ] {
        assert!(!may_divide(&error(kind)), "{kind}");
    }
    assert!(!may_divide(&error(Invalid).with_unreachable()));
}

#[test]
fn a_waiting_item_keeps_little() {
    assert!(size_of::<Tries>() <= 56);
}

#[test]
fn an_item_never_exceeds_twice_its_retries_over_all_steps() {
    let (mut tries, error) = after(ErrorKind::Transient, 0);
    let mut calls = 0;
    loop {
        tries.count(&error);
        calls += 1;
        match next(&tries, &error, tries.step < 10) {
            Next::RetryAt(_) => {}
            Next::FallBack => tries.next_step(None),
            Next::GiveUp => break,
        }
        assert!(calls < 100);
    }
    let retries = calls - 1 - u32::from(tries.step);
    assert!(retries <= 6, "{retries} retries");
}
