//! What a queue says was spent, compared with the bills of the providers and the results, over seeded runs.

use std::collections::BTreeMap;
use std::time::Duration;

use batchwright::queue::{DaySpent, WorkerSettings};
use batchwright::{
    ErrorPolicy, Job, JobQueue, Limits, LlmConfig, ProcessId, Request, RetryPolicy, Route, Secret,
    Usd, Worker,
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

    /// Each provider billed the calls that the queue counts for its model, except calls without a usable reply.
    #[track_caller]
    fn compare(&self, spent: &[DaySpent], results: Usd) {
        let cost: Usd = spent.iter().map(|row| row.cost_usd).sum();
        assert_eq!(cost, results);
        let mut by_model = BTreeMap::<&str, u64>::new();
        for row in spent {
            *by_model.entry(&row.model).or_default() += row.calls;
        }
        let mut counted: Vec<u64> = by_model.into_values().collect();
        let mut billed: Vec<u64> = self.sims.iter().map(|sim| sim.stats().paid).collect();
        billed.retain(|calls| *calls > 0);
        counted.sort_unstable();
        billed.sort_unstable();
        if self.is_certain {
            assert_eq!(counted, billed);
        } else {
            assert!(counted.iter().sum::<u64>() <= billed.iter().sum());
        }
    }
}

fn requests() -> Vec<Request> {
    let request = |i| Request::new(format!("prompt {i}")).with_id(format!("i-{i}"));
    (0..ITEMS).map(request).collect()
}

#[test]
fn a_queue_counts_the_cost_of_its_results_and_the_providers_bills() {
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
        world.compare(&queue.spent_since(None).unwrap(), results);
        let spent = queue.process(process).unwrap().unwrap().spent;
        assert_eq!(spent.cost_usd, Some(results));
    }
}
