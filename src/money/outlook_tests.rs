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
        unmovable: 0,
        elsewhere: 0,
        now: Some(Way::Batch),
        was_safe: true,
        has_withdrawn: false,
        batch: Some(BatchPace {
            per_second: None,
            least: Duration::from_secs(30),
            every: Duration::from_secs(10),
            watched: HOUR,
            keeps_results: true,
            cancel: Duration::from_secs(600),
        }),
        flex: None,
        backoff: Duration::ZERO,
        longest_flex: Duration::ZERO,
        slots: 10,
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
    // Calls may be faster than assumed, so that batches have time.
    assert_eq!(begin(1500, false).trial(), Some((Way::Sync, 20)));
    assert_eq!(begin(15, false).trial(), None);
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
fn flex_calls_that_are_a_little_too_slow_or_unmeasured_do_their_part() {
    let begin = |left: u64| Outlook {
        left: Duration::from_secs(left),
        spent: Duration::ZERO,
        now: None,
        waiting: 1000,
        in_batches: 0,
        batch: None,
        flex: Some(pace(0.5)),
        ..outlook()
    };
    // Flex calls need 2,202 s, standard ones 1,102 s.
    assert_eq!(way(begin(2000)), (Way::Flex, 0));
    assert_eq!(way(begin(1800)), (Way::Sync, 0));
    // A rate that a few calls show roughly has a wider margin: 7,202 s and 600 s until the batches are cancelled.
    let unmeasured = Outlook {
        left: Duration::from_secs(8000),
        flex: Some(CallPace {
            measured: false,
            ..pace(1.0)
        }),
        ..outlook()
    };
    assert_eq!(way(unmeasured), (Way::Flex, 3600));
}

#[test]
fn batches_without_time_to_spare_begin_when_calls_are_faster_than_they_seemed() {
    let at = |spent: u64, now, sync| Outlook {
        left: Duration::from_secs(1750),
        spent: Duration::from_secs(spent),
        now,
        waiting: 1000,
        in_batches: 0,
        sync,
        ..outlook()
    };
    // Calls need 1,102 s and batches 630 s: they would be withdrawn at the next decision.
    assert_eq!(way(at(0, None, pace(1.0))), (Way::Sync, 0));
    let calls = Some(Way::Sync);
    assert_eq!(way(at(100, calls, pace(1.0))), (Way::Sync, 0));
    assert_eq!(way(at(100, calls, pace(2.0))), (Way::Batch, 0));
    // They could not show any more whether they stall.
    assert_eq!(way(at(1000, calls, pace(2.0))), (Way::Sync, 0));
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

/// A world that stands still: whatever is decided, nothing is sent and no time passes.
fn random_outlook(mut random: impl FnMut() -> f64) -> Outlook {
    let total = 600.0 + 40_000.0 * random();
    let spent = total * random();
    let mut few = |most: f64| {
        if random() < 0.3 {
            0
        } else {
            (most * random()) as u64
        }
    };
    let (waiting, in_batches, returning) = (few(2000.0), few(2000.0), few(300.0));
    let items = (waiting + in_batches + returning) as f64;
    let mut pace = |measured: bool| CallPace {
        per_second: items / (total * (0.05 + 2.0 * random())),
        call_seconds: 30.0 * random(),
        measured,
    };
    let (sync, flex) = (pace(true), pace(true));
    let mut is = |share: f64| random() < share;
    let (measured, has_batches, has_flex) = (is(0.8), is(0.8), is(0.6));
    let (moves, was_safe, has_withdrawn) = (is(0.5), is(0.5), is(0.3));
    let now = [Way::Batch, Way::Flex, Way::Sync][(random() * 3.0) as usize % 3];
    let every = 10.0 + 290.0 * random();
    Outlook {
        left: Duration::from_secs_f64(total - spent),
        spent: Duration::from_secs_f64(spent),
        waiting,
        in_batches: if has_batches { in_batches } else { 0 },
        returning: if has_batches { returning } else { 0 },
        now: Some(now),
        was_safe,
        has_withdrawn,
        batch: has_batches.then(|| BatchPace {
            per_second: moves.then(|| items / (total * (0.05 + 2.0 * random()))),
            every: Duration::from_secs_f64(every),
            watched: Duration::from_secs_f64(spent.min(1000.0 * random())),
            ..outlook().batch.unwrap()
        }),
        flex: has_flex.then_some(flex),
        backoff: Duration::from_secs(66),
        sync: CallPace { measured, ..sync },
        ..outlook()
    }
}

/// Otherwise a run would change its route several times per second.
#[test]
fn an_unchanged_outlook_does_not_lead_back_to_a_way_that_was_left() {
    for seed in 0..100_000u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut outlook = random_outlook(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / (1u64 << 31) as f64
        });
        let mut ways = vec![outlook.now.unwrap()];
        for _ in 0..6 {
            let decision = outlook.decide();
            outlook.was_safe |= decision.is_safe;
            outlook.now = Some(decision.way);
            if ways.last() != Some(&decision.way) {
                assert!(
                    !ways.contains(&decision.way),
                    "{seed}: {ways:?} {decision:?} {outlook:?}"
                );
                ways.push(decision.way);
            }
        }
    }
}

#[test]
fn calls_that_became_slower_do_not_go_back_to_batches() {
    let slower = Outlook {
        left: 2 * HOUR,
        spent: HOUR,
        waiting: 20_000,
        in_batches: 0,
        now: Some(Way::Sync),
        ..outlook()
    };
    assert_eq!(way(slower), (Way::Sync, 0));
}

#[test]
fn a_resumed_run_keeps_its_batches_until_it_knows_how_fast_they_are() {
    let resumed = |watched: u64| Outlook {
        in_batches: 100_000,
        spent: 4 * HOUR,
        left: 4 * HOUR,
        was_safe: false,
        batch: Some(BatchPace {
            watched: Duration::from_secs(watched),
            every: Duration::from_secs(300),
            ..outlook().batch.unwrap()
        }),
        ..outlook()
    };
    assert_eq!(way(resumed(60)), (Way::Batch, 0));
    assert_eq!(way(resumed(900)).0, Way::Sync);
}

#[test]
fn results_are_seen_at_the_next_poll() {
    let ending = |every: u64| Outlook {
        left: Duration::from_secs(240),
        in_batches: 200,
        batch: Some(BatchPace {
            per_second: Some(1.0),
            every: Duration::from_secs(every),
            ..outlook().batch.unwrap()
        }),
        ..outlook()
    };
    assert!(ending(10).batches_are_in_time());
    assert!(!ending(300).batches_are_in_time());
}

#[test]
fn a_trial_fills_all_slots_twice_where_items_allow() {
    let trial = |waiting, slots| {
        let begin = Outlook {
            left: 80 * HOUR,
            now: None,
            waiting,
            in_batches: 0,
            slots,
            sync: CallPace {
                measured: false,
                ..pace(1.0)
            },
            ..outlook()
        };
        begin.trial()
    };
    assert_eq!(trial(10_000, 200), Some((Way::Sync, 400)));
    assert_eq!(trial(4000, 200), Some((Way::Sync, 20)));
}

#[test]
fn flex_calls_in_flight_hold_their_slots_after_the_last_moment() {
    let running = |longest| Outlook {
        left: Duration::from_secs(4500),
        now: Some(Way::Flex),
        waiting: 3600,
        in_batches: 0,
        flex: Some(pace(1.0)),
        longest_flex: Duration::from_secs(longest),
        ..outlook()
    };
    assert_eq!(way(running(100)), (Way::Flex, 0));
    assert_eq!(way(running(900)), (Way::Sync, 0));
}

#[test]
fn batches_that_lose_answers_when_cancelled_are_begun_with_a_warning() {
    let begin = Outlook {
        now: None,
        waiting: 3600,
        in_batches: 0,
        unmovable: 5,
        batch: Some(BatchPace {
            keeps_results: false,
            ..outlook().batch.unwrap()
        }),
        ..outlook()
    };
    let decision = begin.decide();
    assert_eq!(decision.way, Way::Batch);
    let warning = "can be withdrawn only while it has answered nothing";
    assert!(decision.reason.contains(warning), "{}", decision.reason);
    let others = "5 items in batches that cannot be withdrawn";
    assert!(decision.reason.contains(others), "{}", decision.reason);
}
