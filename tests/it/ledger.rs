//! The ledger, compared with the bills of the providers and the results, over seeded runs.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use batchwright::provider::LedgerColumn;
use batchwright::queue::WorkerSettings;
use batchwright::{
    Bulk, ErrorPolicy, Job, JobQueue, Ledger, Limits, LlmConfig, Outcome, ProcessId, Request,
    RetryPolicy, Route, Secret, Usd, Worker,
};
use batchwright_simulate::{SimConfig, Simulator, Trouble};

use crate::common::{Random, simulator};

/// Faults whose replies report their cost, or that cost nothing.
const CERTAIN: [Trouble; 7] = [
    Trouble::Error500,
    Trouble::RateLimit,
    Trouble::ContentFilter,
    Trouble::Refusal,
    Trouble::Length,
    Trouble::BadRequest,
    Trouble::Overloaded,
];
/// Faults after which it is unknown what was billed.
const UNCERTAIN: [Trouble; 3] = [Trouble::Truncated, Trouble::BrokenJson, Trouble::Empty];

const ITEMS: usize = 60;

/// Two providers with faults that the seed determines, each with a separate key.
struct World {
    sims: [Simulator; 2],
    is_certain: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let is_certain = !seed.is_multiple_of(3);
        let mut config = || {
            let mut config = SimConfig::default().seed(random.below(1_000));
            let uncertain = UNCERTAIN.into_iter().filter(|_| !is_certain);
            for trouble in CERTAIN.into_iter().chain(uncertain) {
                config = config.trouble(trouble, random.below(10) as f64 / 100.0);
            }
            config
        };
        Self {
            sims: [simulator(config()), simulator(config())],
            is_certain,
        }
    }

    fn route(&self) -> Route<'static> {
        let client = |at: usize, model: &str| {
            let config = LlmConfig::new("openai")
                .model(model)
                .base_url(self.sims[at].base_url())
                .api_key(Secret::new(format!("sk-test-{at}")));
            config.client().unwrap()
        };
        let quick = Duration::from_millis(1);
        Route::new(client(0, "gpt-4o-mini"))
            .then(client(1, "gpt-4o"), Limits::default())
            .retry(RetryPolicy::default().max_retries(1).base_delay(quick))
    }

    /// Each provider billed the calls that the ledger has under its key, except calls without a usable reply.
    #[track_caller]
    fn compare(&self, ledger: &Ledger, results: Usd) {
        let total = ledger.total();
        assert_eq!((total.cost_usd, total.unpriced), (results, 0));
        let by_key = ledger.by(&[LedgerColumn::Model]);
        let mut booked: Vec<u64> = by_key.iter().map(|row| row.sum.calls).collect();
        let mut billed: Vec<u64> = self.sims.iter().map(|sim| sim.stats().paid).collect();
        billed.retain(|calls| *calls > 0);
        booked.sort_unstable();
        billed.sort_unstable();
        if self.is_certain {
            assert_eq!(booked, billed);
        } else {
            assert!(booked.iter().sum::<u64>() <= billed.iter().sum());
        }
        let keys = ledger.by(&[LedgerColumn::Key]);
        assert_eq!(keys.len(), by_key.len());
    }
}

fn requests() -> Vec<Request> {
    let request = |i| Request::new(format!("prompt {i}")).with_id(format!("i-{i}"));
    (0..ITEMS).map(request).collect()
}

#[test]
fn a_run_books_the_cost_of_its_results_and_the_providers_bills() {
    for seed in 1..10 {
        let world = World::new(seed);
        let book = Arc::new(Mutex::new(Ledger::new()));
        let route = world.route().booking(book.clone());
        let outcomes = Bulk::new(route).concurrency(8).collect(&requests());
        let cost = |outcome: &Outcome| outcome.cost_usd().unwrap_or_default();
        let results = outcomes.unwrap().iter().map(cost).sum();
        println!("seed {seed}");
        world.compare(&book.lock().unwrap(), results);
    }
}

#[test]
fn a_queue_books_the_cost_of_its_results_and_the_providers_bills() {
    for seed in 1..10 {
        let world = World::new(seed);
        let queue = JobQueue::in_memory().unwrap();
        let process = ProcessId::new();
        let jobs: Vec<Job> = requests().iter().map(Job::from).collect();
        queue.enqueue(process, jobs).unwrap();
        let worker = Worker::new(&queue).completions(world.route());
        let quick = RetryPolicy::default().base_delay(Duration::from_millis(1));
        let settings = WorkerSettings::default().retry(quick.max_retries(1));
        let worker = worker.settings(settings).until_empty(true);
        worker.on_error(ErrorPolicy::ContinueOnError).run().unwrap();
        let results = queue.get_results(process).map(|result| {
            let line: serde_json::Value = serde_json::from_str(&result.unwrap().line()).unwrap();
            serde_json::from_value(line["cost_usd"].clone()).unwrap_or(Usd::ZERO)
        });
        let results = results.sum();
        println!("seed {seed}");
        let ledger = queue.ledger(None, None).unwrap();
        world.compare(&ledger, results);
        let spent = queue.process(process).unwrap().unwrap().spent;
        assert_eq!(spent.cost_usd, Some(results));
        for finding in queue.check().unwrap() {
            assert!(
                finding.what != "ledger" || finding.advice.is_none(),
                "{finding:?}"
            );
        }
    }
}
