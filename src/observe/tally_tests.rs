//! The counts, and the progress reported from them during a run.

use super::*;
use crate::base::ErrorKind;

#[test]
fn progress_counts_the_items_of_this_run() {
    let mut tally = Tally::new(Some(1000), Time::ZERO);
    tally.count_before(400, 0);
    tally.will_send(100);
    let measure = Measure {
        items: 50,
        ..Measure::default()
    };
    tally.answered(0, &measure);
    let now = Time::ZERO.after(Duration::from_secs(10));
    let counters = Counters::default();
    let progress = tally.progress(&counters, now, Phase::Running, None, None);
    assert_eq!((progress.total, progress.percent), (Some(500), Some(90.0)));
    assert_eq!(progress.eta, Some(Duration::from_secs(10)));
    let summary = tally.summary(&counters, now);
    assert_eq!((summary.total, summary.pending), (1000, 550));
}

#[test]
fn percentages_have_one_decimal_and_are_rounded_down() {
    for (part, whole, shown) in [
        (1, 3, 33.3),
        (2_999, 3_000, 99.9),
        (3, 3, 100.0),
        (1, 8, 12.5),
    ] {
        assert_eq!(percent(part, whole), shown);
    }
}

#[test]
fn items_settled_before_the_first_call_do_not_affect_the_rate() {
    let mut tally = Tally::new(Some(1000), Time::ZERO);
    let shared = Measure {
        items: 400,
        shared: 400,
        ..Measure::default()
    };
    tally.answered(0, &shared);
    tally.will_send(100);
    let asked = Measure {
        items: 50,
        ..Measure::default()
    };
    tally.answered(0, &asked);
    let now = Time::ZERO.after(Duration::from_secs(10));
    let counters = Counters {
        first_start: Some(Time::ZERO),
        last_end: Some(now),
        ..Counters::default()
    };
    let progress = tally.progress(&counters, now, Phase::Running, None, None);
    assert_eq!((progress.total, progress.percent), (Some(500), Some(90.0)));
    assert_eq!(progress.eta, Some(Duration::from_secs(10)));
    let summary = tally.summary(&counters, now);
    assert_eq!((summary.rate, summary.calls_saved), (5.0, 400));
}

#[test]
fn equal_texts_save_no_calls_that_can_be_counted() {
    let mut tally = Tally::new(None, Time::ZERO).embedding(true);
    tally.failed_as_equals(&Error::new(ErrorKind::Invalid, "x"), 7);
    let now = Time::ZERO.after(Duration::from_secs(1));
    let summary = tally.summary(&Counters::default(), now);
    assert_eq!((summary.failed, summary.calls_saved), (7, 0));
}

#[test]
fn the_counts_add_up_and_unknown_costs_are_counted_separately() {
    let names = ["a", "b", "c", "b"].map(str::to_owned);
    let mut tally = Tally::new(Some(10), Time::ZERO).by(names);
    tally.count_before(3, 1);
    let mut measure = Measure {
        items: 1,
        cost_usd: Usd::from_picos(500),
        priced: 1,
        took: Duration::from_millis(20),
        ..Measure::default()
    };
    tally.answered(1, &measure);
    let now = Time::ZERO.after(Duration::from_secs(1));
    let summary = |tally: &Tally| tally.summary(&Counters::default(), now);
    let cost = |tally: &Tally| (summary(tally).cost_usd, summary(tally).unpriced);
    assert_eq!(cost(&tally), (Some(Usd::from_picos(500)), 0));
    (measure.cost_usd, measure.priced, measure.unpriced) = (Usd::ZERO, 0, 1);
    tally.answered(3, &measure);
    assert_eq!(cost(&tally), (Some(Usd::from_picos(500)), 1));
    let refused = Error::new(ErrorKind::Blocked, "no").with_usage(Usage::default());
    tally.failed(&refused, 1);
    tally.failed(&refused.with_cost(Usd::from_picos(7)), 1);
    assert_eq!(cost(&tally), (Some(Usd::from_picos(507)), 2));
    let page = Error::new(ErrorKind::Malformed, "a page").with_unusable_reply("<html>");
    tally.failed(&page, 1);
    assert_eq!(cost(&tally), (Some(Usd::from_picos(507)), 3));
    tally.failed(&Error::new(ErrorKind::Invalid, "x"), 1);
    let summary = tally.summary(&Counters::default(), now);
    let counts = [
        summary.total,
        summary.completed,
        summary.failed,
        summary.pending,
    ];
    assert_eq!(counts, [10, 5, 5, 0]);
    assert_eq!(summary.errors["invalid"], 1);
    assert_eq!(summary.answered_by, [("b".to_owned(), 2)].into());
    let p50 = summary.latency_p50.unwrap().as_secs_f64();
    assert!((0.019..0.021).contains(&p50), "{p50}");
}
