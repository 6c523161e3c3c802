//! What was spent on each model on each day.

use crate::base::{Charge, Day, Usd};

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

fn settle(job: &ClaimedJob, outcome: ClaimOutcome, charge: Option<&Charge>) -> Settlement {
    Settlement {
        charge: charge.cloned().map(Box::new),
        ..Settlement::new(job.receipt, 1, outcome)
    }
}

pub(super) fn what_was_spent_is_counted_by_day_and_model_and_outlives_its_jobs(open: Open<'_>) {
    let db = open();
    let store = db.store();
    let process = db.enqueue(&["a", "b", "c", "d"]);
    let worker = db.worker();
    let given = worker.claim(4, T);
    let next = T.after(Duration::from_secs(86_400));
    let [today, tomorrow] = [T, next].map(Day::of);
    let [first, second, third] =
        [("m", Some(0.25)), ("n", None), ("m", Some(0.5))].map(|(model, cost)| charge(model, cost));
    let mut retried = retry(T, 0);
    if let ClaimOutcome::Retry { spent, .. } = &mut retried {
        *spent = usage(&third);
    }
    let ends = [
        settle(&given[0], billed(&first), Some(&first)),
        settle(&given[1], billed(&second), Some(&second)),
        settle(&given[2], retried, Some(&third)),
        // A worker that does not know what was called.
        settle(&given[3], billed(&first), None),
    ];
    store.settle(&ends, T).unwrap();
    let again = settle(&worker.one(), billed(&first), Some(&first));
    store.settle(&[again], next).unwrap();

    let rows = db.two.spent_since(None).unwrap();
    let seen = rows.iter();
    let seen: Vec<_> = seen
        .map(|row| (row.day, &*row.model, row.calls, row.tokens, row.cost_usd))
        .collect();
    let row = |day, model, calls, tokens, dollars| {
        (
            day,
            model,
            calls,
            tokens,
            Usd::from_dollars(dollars).unwrap(),
        )
    };
    let expected = [
        row(today, "", 1, 13, 0.25),
        row(today, "m", 2, 26, 0.75),
        row(today, "n", 1, 13, 0.0),
        row(tomorrow, "m", 1, 13, 0.25),
    ];
    assert_eq!(seen, expected);
    let since = db.two.spent_since(Some(tomorrow)).unwrap();
    assert_eq!(since, rows[3..]);
    let usage = db.state(process).spent;
    // The unknown cost is counted apart.
    let cost = (usage.cost_usd, usage.unpriced);
    assert_eq!(cost, (Usd::from_dollars(1.25), 1));
    assert_eq!(usage.input_tokens + usage.output_tokens, 5 * 13);

    let outcomes = receipts(&db.two, process);
    assert_eq!(db.two.ack(&outcomes, T).unwrap(), 4);
    assert!(db.two.process(process).unwrap().is_none());
    db.carry_out();
    assert_eq!(store.spent_since(None).unwrap(), rows);
    db.sound();
}

pub(super) fn large_sums_saturate(open: Open<'_>) {
    let db = open();
    let process = db.enqueue(&["a", "b", "c"]);
    let most = Charge {
        input_tokens: u64::MAX,
        output_tokens: u64::MAX,
        cost_usd: Some(Usd::from_picos(u64::MAX)),
        ..charge("m", None)
    };
    for job in &db.worker().claim(3, T) {
        let end = settle(job, billed(&most), Some(&most));
        db.store().settle(&[end], T).unwrap();
    }
    let most = i64::MAX as u64 / 2;
    let rows = db.two.spent_since(None).unwrap();
    assert_eq!((rows[0].tokens, rows[0].cost_usd.picos()), (most, most));
    let usage = db.state(process).spent;
    assert_eq!((usage.input_tokens, usage.output_tokens), (most, most));
    db.sound();
}
