//! How trips of jobs end, what a late end may still do, and what becomes of outcomes.

use crate::base::Usd;

use super::*;

pub(super) fn a_retry_brings_back_what_it_left(open: Open<'_>) {
    let db = open();
    enqueue(db.store(), vec![job("a").lane("model")]);
    let worker = db.worker();
    let first = worker.one();
    assert_eq!((first.history.as_ref(), first.calls), (None, 0));
    worker.settle(first.receipt, retry(at(5), 1));
    let waiting = db.two.job(first.job_id).unwrap().unwrap();
    assert_eq!(
        (waiting.status, waiting.due_at),
        (JobStatus::Pending, Some(at(5)))
    );
    assert_eq!((waiting.step, waiting.attempts), (1, 1));
    assert_eq!(waiting.errors[0].error.message(), "reset");
    let again = worker.claim(1, at(5)).remove(0);
    assert_eq!((again.attempt, again.calls, again.in_doubt), (2, 1, true));
    assert_eq!(
        (again.lane.step, again.lane.name.as_deref()),
        (1, Some("model"))
    );
    assert!(again.history.unwrap().contains("reset"));
    worker.settle(again.receipt, failed());
    let ended = db.two.job(first.job_id).unwrap().unwrap();
    assert_eq!(
        (ended.errors.len(), ended.error.unwrap().message()),
        (1, "no")
    );
}

pub(super) fn outcomes_are_read_in_order_and_deleted_when_acknowledged(open: Open<'_>) {
    let db = open();
    let process = enqueue(db.store(), jobs(&["a", "b", "c", "d"]));
    let worker = db.worker();
    let given = worker.claim(4, T);
    for job in [&given[2], &given[0], &given[3]] {
        worker.settle(job.receipt, completed());
    }
    let page = db.two.peek(process, None, 2, usize::MAX).unwrap();
    let item = |delivery: &DeliveredResult| delivery.result.item_id.clone().unwrap();
    assert_eq!(page.iter().map(item).collect::<Vec<_>>(), ["a", "c"]);
    let rest = db
        .two
        .peek(process, Some(page[1].result.job_id), 9, usize::MAX)
        .unwrap();
    assert_eq!(rest.iter().map(item).collect::<Vec<_>>(), ["d"]);
    assert_eq!(
        db.two.peek(process, None, 9, 0).unwrap().len(),
        1,
        "one at least"
    );
    assert_eq!(
        db.two.peek(process, None, 9, 11).unwrap().len(),
        2,
        "of five bytes each"
    );
    let first: Vec<JobReceipt> = page.iter().map(|delivery| delivery.receipt).collect();
    let receipt = |job: JobId| db.two.job(job).unwrap().unwrap().receipt;
    assert_eq!(receipt(given[1].job_id), None, "it has no outcome yet");
    assert_eq!(receipt(given[0].job_id), Some(page[0].receipt));
    assert_eq!(db.two.ack(&first, T).unwrap(), 2);
    assert_eq!(db.two.ack(&first, T).unwrap(), 0);
    assert!(db.store().job(given[0].job_id).unwrap().is_none());
    let gone = page[0].result.job_id;
    let rest = db.two.peek(process, Some(gone), 9, usize::MAX).unwrap();
    assert_eq!(rest.iter().map(item).collect::<Vec<_>>(), ["d"]);
    let counts = db.counts(process);
    assert_eq!((counts.total, counts.completed, counts.consumed), (4, 3, 2));
    assert_eq!(
        db.store().ack(&[given[1].receipt], T).unwrap(),
        0,
        "it runs"
    );
    worker.settle(given[1].receipt, failed());
    db.sound();
    let last = receipts(&db.two, process);
    assert_eq!(db.two.ack(&last, T).unwrap(), 2);
    assert!(
        db.two.process(process).unwrap().is_none(),
        "nothing is left of it"
    );
    db.sound();
}

pub(super) fn what_was_spent_adds_up(open: Open<'_>) {
    let db = open();
    enqueue(db.store(), jobs(&["a", "b", "c"]));
    let worker = db.worker();
    let spend = |input_tokens, cost_usd| ClaimOutcome::Completed {
        result: json("1"),
        spent: Some(Spent {
            input_tokens,
            output_tokens: 2,
            cost_usd,
            unpriced: u64::from(cost_usd.is_none()),
        }),
    };
    worker.settle(worker.one().receipt, spend(10, Usd::from_dollars(0.25)));
    let seen = worker.settle(
        worker.one().receipt,
        spend(u64::MAX, Usd::from_dollars(0.5)),
    );
    assert_eq!(
        (seen[0].spent.output_tokens, seen[0].spent.cost_usd),
        (4, Usd::from_dollars(0.75))
    );
    let seen = worker.settle(worker.one().receipt, spend(u64::MAX, None));
    assert!(seen[0].spent.input_tokens > 1 << 60);
    let known = (seen[0].spent.cost_usd, seen[0].spent.unpriced);
    assert_eq!(
        known,
        (Usd::from_dollars(0.75), 1),
        "the unknown cost is counted apart"
    );
}
