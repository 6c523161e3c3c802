use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn pace(per_second: f64) -> CallPace {
    CallPace {
        per_second,
        call_seconds: 2.0,
        measured: true,
    }
}

/// 3,600 items in batches, which calls could answer in an hour, with 8 h left.
fn outlook() -> Outlook {
    Outlook {
        left: 8 * HOUR,
        spent: HOUR,
        waiting: 0,
        in_batches: 3600,
        returning: 0,
        now: Some(Way::Batch),
        was_safe: true,
        has_withdrawn: false,
        batch: Some(BatchPace {
            per_second: None,
            least: Duration::from_secs(30),
            cancel: Duration::from_secs(600),
        }),
        flex: None,
        backoff: Duration::ZERO,
        sync: pace(1.0),
        prices: WayPrices::default(),
    }
}

fn way(outlook: Outlook) -> (Way, u64) {
    let decision = outlook.decide();
    (decision.way, decision.withdraw)
}

#[test]
fn batches_are_waited_for_until_the_last_moment_of_calls() {
    assert_eq!(way(outlook()), (Way::Batch, 0));
    // 3,600 s with the margin, 2 s for the last call and 600 s until the batches are cancelled.
    for (seconds, expected) in [(4563, (Way::Batch, 0)), (4561, (Way::Sync, 3600))] {
        let left = Duration::from_secs(seconds);
        assert_eq!(way(Outlook { left, ..outlook() }), expected, "{seconds}");
    }
}

#[test]
fn the_duration_of_the_last_call_counts() {
    let slow = CallPace {
        call_seconds: 900.0,
        ..pace(1.0)
    };
    let late = Outlook {
        left: Duration::from_secs(5400),
        sync: slow,
        ..outlook()
    };
    assert_eq!(way(late), (Way::Sync, 3600));
}

#[test]
fn batches_in_time_keep_what_calls_cannot_do_yet() {
    let moving = Outlook {
        left: Duration::from_secs(4500),
        batch: Some(BatchPace {
            per_second: Some(1.0),
            ..outlook().batch.unwrap()
        }),
        ..outlook()
    };
    // Calls are busy until more has returned: 600 s and a minute.
    assert_eq!(way(moving), (Way::Sync, 660));
}

#[test]
fn flex_comes_before_standard_calls() {
    let flex = Outlook {
        left: Duration::from_secs(9000),
        flex: Some(pace(0.5)),
        ..outlook()
    };
    assert_eq!(way(flex), (Way::Flex, 3600));
    let dear = Outlook {
        prices: WayPrices {
            flex: Some(2.0),
            sync: Some(2.0),
            ..WayPrices::default()
        },
        ..flex
    };
    assert_eq!(way(dear), (Way::Batch, 0));
    // Without capacity, calls take over in time.
    let running = |left: u64| Outlook {
        left: Duration::from_secs(left),
        now: Some(Way::Flex),
        waiting: 3600,
        in_batches: 0,
        flex: Some(pace(0.0)),
        ..flex
    };
    assert_eq!(way(running(3963)), (Way::Flex, 0));
    assert_eq!(way(running(3961)), (Way::Sync, 0));
}

#[test]
fn short_deadlines_begin_with_calls_and_without_a_trial() {
    let begin = |left: u64, measured| Outlook {
        left: Duration::from_secs(left),
        now: None,
        waiting: 1000,
        in_batches: 0,
        sync: CallPace {
            measured,
            ..pace(1.0)
        },
        ..outlook()
    };
    assert_eq!(way(begin(1500, false)), (Way::Sync, 0));
    assert_eq!(begin(1500, false).trial(), None);
    assert_eq!(way(begin(30_000, false)), (Way::Batch, 0));
    assert_eq!(begin(30_000, false).trial(), Some((Way::Sync, 20)));
    let with_flex = Outlook {
        flex: Some(CallPace {
            measured: false,
            ..pace(0.5)
        }),
        ..begin(30_000, false)
    };
    assert_eq!(with_flex.trial(), Some((Way::Flex, 20)));
    assert_eq!(begin(30_000, true).trial(), None);
    let few = Outlook {
        waiting: 4,
        ..begin(30_000, false)
    };
    assert_eq!(few.trial(), None);
}

#[test]
fn a_missed_deadline_continues_with_the_fastest_way() {
    let over = Outlook {
        left: Duration::ZERO,
        ..outlook()
    };
    assert_eq!(way(over), (Way::Sync, 3600));
    assert!(!over.decide().is_safe);
}

#[test]
fn a_deadline_is_at_most_a_year_away() {
    assert!(Deadline::within(LONGEST).is_ok());
    let error = Deadline::within(LONGEST + HOUR).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(Deadline::at(SystemTime::UNIX_EPOCH).is_missed());
}
