//! What was spent on each model on each day.

use crate::base::{Charge, Day, Usd};
use crate::queue::job::DaySpent;

use super::*;

/// A call for a model.
fn charge(model: &str, cost: Option<f64>) -> Charge {
    Charge {
        model: Some(model.to_owned()),
        calls: 1,
        input_tokens: 10,
        output_tokens: 3,
        cost_usd: cost.and_then(Usd::from_dollars),
    }
}

/// The usage that belongs to a charge.
fn usage(charge: &Charge) -> Option<Spent> {
    Some(Spent {
        input_tokens: charge.input_tokens,
        output_tokens: charge.output_tokens,
        cost_usd: charge.cost_usd,
        unpriced: u64::from(charge.cost_usd.is_none()),
    })
}

fn billed(charge: &Charge) -> ClaimOutcome {
    ClaimOutcome::Completed {
        result: json("1"),
        spent: usage(charge),
    }
}

fn settle(
    store: &Store,
    job: &ClaimedJob,
    outcome: ClaimOutcome,
    charge: Option<&Charge>,
    at: Timestamp,
) {
    let end = Settlement {
        charge: charge.cloned().map(Box::new),
        ..Settlement::new(job.receipt, 1, outcome)
    };
    store.settle(&[end], at).unwrap();
}

fn row(day: Day, model: &str, [calls, tokens]: [u64; 2], dollars: f64) -> DaySpent {
    DaySpent {
        day,
        model: model.to_owned(),
        calls,
        tokens,
        cost_usd: Usd::from_dollars(dollars).unwrap(),
    }
}

pub(super) fn what_was_spent_is_counted_by_day_and_model_and_outlives_its_jobs(open: Open<'_>) {
    let db = open();
    let store = db.store();
    let process = enqueue(store, jobs(&["a", "b", "c", "d"]));
    let worker = db.worker();
    let given = worker.claim(4, T);
    let next = T.after(Duration::from_secs(86_400));
    let [today, tomorrow] = [T, next].map(Day::of);
    let (first, second) = (charge("m", Some(0.25)), charge("n", None));
    settle(store, &given[0], billed(&first), Some(&first), T);
    settle(store, &given[1], billed(&second), Some(&second), T);
    let third = charge("m", Some(0.5));
    let retried = ClaimOutcome::Retry {
        due_at: T,
        step: 0,
        attempt: 1,
        in_doubt: false,
        spent: usage(&third),
        history: "{}".to_owned(),
    };
    settle(store, &given[2], retried, Some(&third), T);
    let again = worker.one();
    settle(store, &again, billed(&first), Some(&first), next);
    // A worker that does not know what was called.
    settle(store, &given[3], billed(&first), None, T);

    let rows = db.two.spent_since(None).unwrap();
    let expected = [
        row(today, "", [1, 13], 0.25),
        row(today, "m", [2, 26], 0.75),
        row(today, "n", [1, 13], 0.0),
        row(tomorrow, "m", [1, 13], 0.25),
    ];
    assert_eq!(rows, expected);
    let since = db.two.spent_since(Some(tomorrow)).unwrap();
    assert_eq!(since, expected[3..]);
    let usage = db.two.process(process).unwrap().unwrap().spent;
    assert_eq!(usage.cost_usd, Usd::from_dollars(1.25));
    assert_eq!(usage.input_tokens + usage.output_tokens, 5 * 13);

    let outcomes = receipts(&db.two, process);
    assert_eq!(db.two.ack(&outcomes, T).unwrap(), 4);
    assert!(db.two.process(process).unwrap().is_none());
    while store.maintain(T).unwrap() {}
    assert_eq!(store.spent_since(None).unwrap(), rows);
    db.sound();
}

pub(super) fn large_sums_saturate(open: Open<'_>) {
    let db = open();
    let process = enqueue(db.store(), jobs(&["a", "b", "c"]));
    let most = Charge {
        input_tokens: u64::MAX,
        output_tokens: u64::MAX,
        cost_usd: Some(Usd::from_picos(u64::MAX)),
        ..charge("m", None)
    };
    for job in &db.worker().claim(3, T) {
        settle(db.store(), job, billed(&most), Some(&most), T);
    }
    let most = i64::MAX as u64 / 2;
    let rows = db.two.spent_since(None).unwrap();
    assert_eq!((rows[0].tokens, rows[0].cost_usd.picos()), (most, most));
    let usage = db.two.process(process).unwrap().unwrap().spent;
    assert_eq!((usage.input_tokens, usage.output_tokens), (most, most));
    db.sound();
}
