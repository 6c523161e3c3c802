//! What was paid.

use crate::base::{Charge, ChargeSum, Day, Usd};
use crate::money::ledger::{Ledger, LedgerColumn, LedgerQuery};

use super::*;

const TODAY: Day = Day(20_405);

fn cost(dollars: f64) -> Option<Usd> {
    Usd::from_dollars(dollars)
}

/// A call of a model at a tier for a job.
fn charge(job: &ClaimedJob, day: Day, [model, tier]: [&str; 2], cost: Option<Usd>) -> Charge {
    Charge::new(day, ChargeSum::call([10, 4, 3], cost))
        .provider("openai")
        .model(Some(model.to_owned()))
        .tier(tier)
        .key(Some("0a1b".to_owned()))
        .run(Some(job.process_id.to_string()))
}

/// The usage that belongs to a charge.
fn spent(charge: &Charge) -> Option<Spent> {
    Some(Spent {
        input_tokens: charge.sum.input_tokens,
        output_tokens: charge.sum.output_tokens,
        cost_usd: charge.sum.known_cost(),
        unpriced: charge.sum.unpriced,
    })
}

fn billed(charge: &Charge) -> ClaimOutcome {
    ClaimOutcome::Completed {
        result: json("1"),
        spent: spent(charge),
    }
}

fn settle(store: &dyn JobStore, job: &ClaimedJob, outcome: ClaimOutcome, charge: Option<Charge>) {
    let end = Settlement {
        charge: charge.map(Box::new),
        ..Settlement::new(job.receipt, 1, outcome)
    };
    store.settle(&[end], T).unwrap();
}

fn ledger(store: &dyn JobStore) -> Ledger {
    let mut ledger = Ledger::new();
    let mut add = |charge| ledger.add(charge);
    store.charges(None, None, &mut add).unwrap();
    ledger
}

/// What the calls for an owner have cost since a day.
fn cost_of(store: &dyn JobStore, owner: &str, since: Day) -> Option<Usd> {
    let query = LedgerQuery::default().between(Some(since), None);
    let sums = store.charge_sums(&query.owner(Some(owner.to_owned())));
    sums.unwrap().first().map(|row| row.sum.cost_usd)
}

/// The sums of each process.
fn by_run(store: &dyn JobStore) -> Vec<(Option<String>, u64, Usd)> {
    let rows = ledger(store).by(&[LedgerColumn::Run]).into_iter();
    rows.map(|mut row| (row.group.remove(0).1, row.sum.calls, row.sum.cost_usd))
        .collect()
}

pub(super) fn what_was_billed_is_booked_and_outlives_its_jobs(open: Open<'_>) {
    let db = open();
    let store = db.store();
    let process = described(
        store,
        &ProcessInfo::new().owner("ann"),
        &["a", "b", "c", "d"],
    );
    let worker = db.worker();
    let given = worker.claim(4, T);
    let first = charge(&given[0], TODAY, ["m", "standard"], cost(0.25));
    settle(store, &given[0], billed(&first), Some(first.clone()));
    let second = charge(&given[1], TODAY, ["m", "batch"], None);
    settle(store, &given[1], billed(&second), Some(second));
    let tomorrow = Day(TODAY.0 + 1);
    let third = charge(&given[2], tomorrow, ["m", "standard"], cost(0.5));
    let retried = ClaimOutcome::Retry {
        due_at: T,
        step: 0,
        attempt: 1,
        in_doubt: false,
        spent: spent(&third),
        history: "{}".to_owned(),
    };
    settle(store, &given[2], retried, Some(third.clone()));
    let again = worker.one();
    settle(store, &again, billed(&first), Some(first.clone()));
    // A worker that does not know who was paid.
    settle(store, &given[3], billed(&first), None);

    let booked = ledger(&*db.two);
    let total = booked.total();
    let usage = db.two.process(process).unwrap().unwrap().spent;
    assert_eq!((total.calls, total.unpriced), (5, 1));
    assert_eq!(
        (
            total.input_tokens,
            total.output_tokens,
            Some(total.cost_usd)
        ),
        (usage.input_tokens, usage.output_tokens, usage.cost_usd)
    );
    assert_eq!(total.cost_usd, cost(1.25).unwrap());
    db.sound();
    let of_standard = booked.charges().filter(|charge| charge.tier == "standard");
    let dollars: Vec<_> = of_standard
        .map(|charge| {
            (
                charge.day,
                charge.model,
                charge.sum.calls,
                charge.sum.cost_usd,
            )
        })
        .collect();
    let m = || Some("m".to_owned());
    assert_eq!(
        dollars,
        [
            (TODAY, None, 1, cost(0.25).unwrap()),
            (TODAY, m(), 2, cost(0.5).unwrap()),
            (tomorrow, m(), 1, cost(0.5).unwrap()),
        ]
    );
    for charge in booked.charges() {
        assert_eq!(charge.run, Some(process.to_string()));
        assert_eq!(charge.owner.as_deref(), Some("ann"));
    }
    assert_eq!(cost_of(&*db.two, "ann", tomorrow), cost(0.5));
    assert_eq!(cost_of(&*db.two, "bob", TODAY), None);
    for by in LedgerColumn::ALL
        .map(|column| vec![column])
        .into_iter()
        .chain([
            vec![],
            vec![LedgerColumn::Day, LedgerColumn::Model],
            LedgerColumn::ALL.to_vec(),
        ])
    {
        let sums = |query: &LedgerQuery| db.two.charge_sums(query).unwrap();
        let query = LedgerQuery::by(&by);
        assert_eq!(sums(&query), booked.by(&by), "{by:?}");
        let only = booked.clone().between(None, Some(TODAY)).by(&by);
        assert_eq!(sums(&query.clone().between(None, Some(TODAY))), only);
        assert_eq!(sums(&query.owner(Some("bob".to_owned()))), []);
    }
    let mut on_one_day = Ledger::new();
    db.two
        .charges(Some(tomorrow), Some(tomorrow), &mut |c| on_one_day.add(c))
        .unwrap();
    assert_eq!(on_one_day.total().calls, 1);

    let outcomes = receipts(&*db.two, process);
    assert_eq!(db.two.ack(&outcomes, T).unwrap(), 4);
    assert!(db.two.process(process).unwrap().is_none());
    while store.maintain(T).unwrap() {}
    assert_eq!(ledger(store), booked);
    db.sound();
}

/// Each row of the store is below the limit of its integers, their sum is not.
pub(super) fn large_sums_saturate(open: Open<'_>) {
    let db = open();
    let (worker, store) = (db.worker(), db.store());
    enqueue(store, jobs(&["a", "b", "c", "d", "e"]));
    let most = Some(Usd::from_picos(u64::MAX));
    for (claimed, model) in worker.claim(5, T).iter().zip(["a", "b", "c", "d", "e"]) {
        let paid = charge(claimed, TODAY, [model, "standard"], most);
        settle(store, claimed, billed(&paid), Some(paid));
    }
    let sums = store.charge_sums(&LedgerQuery::default()).unwrap();
    assert_eq!((sums.len(), sums[0].sum.calls), (1, 5));
    assert_eq!(sums[0].sum.cost_usd, Usd::from_picos(u64::MAX));
}

/// A process may get the id of a deleted one.
pub(super) fn processes_of_one_id_are_booked_for_their_owners(open: Open<'_>) {
    let db = open();
    let (worker, store, process) = (db.worker(), db.store(), ProcessId::new());
    for owner in ["ann", "bob"] {
        let info = ProcessInfo::new().owner(owner);
        store
            .insert_described(process, Some(&info), jobs(&["a", "b"]), true, T)
            .unwrap();
        for claimed in worker.claim(2, T) {
            let paid = charge(&claimed, TODAY, ["m", "standard"], cost(0.25));
            settle(store, &claimed, billed(&paid), Some(paid));
        }
        let all = receipts(store, process);
        store.ack(&all, T).unwrap();
        assert_eq!(cost_of(store, owner, TODAY), cost(0.5));
    }
    // The third one is there while the store is checked.
    store.insert(process, jobs(&["a", "b"]), true, T).unwrap();
    let findings = store.check().unwrap().into_iter();
    let of_ledger: Vec<_> = findings
        .filter(|finding| finding.what == "ledger")
        .collect();
    assert_eq!(
        (of_ledger.len(), of_ledger[0].verdict),
        (1, Severity::Note),
        "{of_ledger:?}"
    );
}

pub(super) fn charges_of_children_pass_to_their_parent(open: Open<'_>) {
    let db = open();
    let (worker, store) = (db.worker(), db.store());
    let process = enqueue(store, jobs(&["parent", "other"]));
    let parent = worker.one();
    let below = described(store, &child_of(&parent), &["a", "b"]);
    worker.settle(worker.one().receipt, completed());
    for child in worker.claim(2, T) {
        let paid = charge(&child, TODAY, ["m", "standard"], cost(0.25));
        settle(store, &child, billed(&paid), Some(paid));
    }
    let half = cost(0.5).unwrap();
    assert_eq!(by_run(store), [(Some(below.to_string()), 2, half)]);
    db.sound();
    worker.settle(parent.receipt, completed());
    assert_eq!(by_run(store), [(Some(process.to_string()), 2, half)]);
    db.sound();
}

pub(super) fn charges_of_direct_calls_are_merged_when_they_are_gone(open: Open<'_>) {
    let db = open();
    let (worker, store) = (db.worker(), db.store());
    let direct = ProcessInfo::new().owner("ann").direct();
    let processes: Vec<ProcessId> = (0..4).map(|_| ProcessId::new()).collect();
    for (at, process) in processes.iter().enumerate() {
        // A direct call, a single job, one of two jobs, and a direct call that is kept.
        let (info, names) = match at {
            1 => (None, &["a"][..]),
            2 => (None, &["a", "b"][..]),
            _ => (Some(&direct), &["a", "b"][..]),
        };
        store
            .insert_described(*process, info, jobs(names), true, T)
            .unwrap();
    }
    for job in worker.claim(9, T) {
        let paid = charge(&job, TODAY, ["m", "standard"], cost(0.25));
        settle(store, &job, billed(&paid), Some(paid));
    }
    let booked = ledger(store);
    for process in &processes[..3] {
        let all = receipts(store, *process);
        store.ack(&all, T).unwrap();
    }
    while store.maintain(T).unwrap() {}
    let of = |at: usize| Some(processes[at].to_string());
    let (quarter, half) = (cost(0.25).unwrap(), cost(0.5).unwrap());
    let mut kept = [(of(2), 2, half), (of(3), 2, half)];
    kept.sort();
    let [one, two] = kept;
    assert_eq!(by_run(store), [(None, 3, quarter + half), one, two]);
    let by = [LedgerColumn::Owner, LedgerColumn::Day, LedgerColumn::Key];
    assert_eq!(ledger(&*db.two).by(&by), booked.by(&by));
    db.sound();
}
