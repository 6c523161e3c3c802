//! Seeded schedules of the real dispatcher over the real store, on a clock moved by hand: two workers of two processes,
//! a provider with outages, crashes at any moment, and jobs that wait for others.
//!
//! `SIMULATION_SEED=n cargo test queue::simulation` replays one schedule. `SIMULATION_SEEDS=n` runs n / 250 schedules,
//! because each one opens a database several times.

use std::sync::Arc;
use std::time::Duration;

use scene::{GATHER, LOCKED, Open, Scene, prompt};

use crate::base::seeds::{each_seed, seeds};
use crate::base::{Clock, ErrorKind, JobId, ProcessId, Time, Usd};

use super::job::{JobStatus, ProcessState};
use super::store::sqlite::SqliteOptions;
use super::store::{MAX_CRASHES, Severity, Store};

pub(crate) mod scene;

impl Scene {
    fn run(mut self) {
        let jobs = 5 + self.random.below(40);
        let (process, parents) = (ProcessId::new(), ProcessId::new());
        let all = (0..jobs).map(|n| prompt(format!("j-{n}"), n)).collect();
        let gathers = 1 + self.random.below(3);
        let gathers = (0..gathers).map(|n| self.gather(n)).collect();
        let ids = [self.insert(process, all), self.insert(parents, gathers)];
        let mut crashes = self.random.below(6);
        let mut cancels = self.random.chance(30);
        let mut requeues = true;
        // Claims without the lock take more rounds in the same time, and no time would be left without an outage.
        let mut outages = 50;
        for round in 0.. {
            assert!(round < 20_000, "it does not end: {:?}", self.processes());
            for at in 0..2 {
                self.turn(at);
            }
            let processes = self.processes();
            if processes.iter().all(|process| process.counts.is_finished()) {
                if !std::mem::take(&mut requeues) {
                    break;
                }
                // Jobs that failed or were cancelled run once more; answered prompts are not sent again.
                let wall = self.clock.wall();
                self.store().retry_failed(parents, wall).unwrap();
            }
            if cancels && self.random.chance(3) {
                cancels = false;
                let wall = self.clock.wall();
                self.workers[1].store.cancel(parents, wall).unwrap();
            }
            self.advance();
            if outages > 0 && self.random.chance(3) {
                outages -= 1;
                self.begin_outage();
            }
            if crashes > 0 && self.random.chance(4) {
                crashes -= 1;
                self.crash();
            }
            if self.random.chance(3) {
                self.suspend();
            }
        }
        self.check([process, parents], &ids);
    }

    fn check(&self, [process, parents]: [ProcessId; 2], ids: &[Vec<JobId>; 2]) {
        let mut answered = 0;
        for id in ids.iter().flatten() {
            let job = self.store().job(*id).unwrap().unwrap();
            let item = job.item_id.as_deref().unwrap();
            let paid = self.paid.get(item).copied().unwrap_or(0);
            let failures = self.errors.get(item).copied().unwrap_or(0);
            let gathers = job.kind == GATHER;
            match job.status {
                JobStatus::Completed if gathers => {
                    let told = job.result.as_ref().unwrap().get();
                    answered += told.parse::<u64>().unwrap();
                }
                JobStatus::Completed => {
                    assert!(paid > 0, "{job:?}");
                    answered += 1;
                }
                JobStatus::Failed => {
                    let kind = job.error.as_ref().unwrap().kind();
                    match kind {
                        ErrorKind::Crashed => assert_eq!(job.crashes, MAX_CRASHES),
                        // An outage fails no job.
                        ErrorKind::Auth => panic!("{job:?}"),
                        _ => assert!(gathers || failures > 0, "{job:?}"),
                    }
                    if kind != ErrorKind::Crashed && !gathers {
                        assert!(job.attempts >= 1, "{job:?}");
                    }
                }
                // Cancelled again after it was requeued.
                JobStatus::Cancelled if gathers => {}
                other => panic!("{other:?}"),
            }
        }
        let twice: u64 = self.paid.values().map(|paid| u64::from(paid - 1)).sum();
        let at_risk = self.at_risk;
        assert!(twice <= at_risk, "{twice} twice, {at_risk} at risk");
        // What children used counts for the process of their parent, too, from their end on.
        let all = self.processes();
        let is_child = |process: &&ProcessState| process.info.parent.is_some();
        let (children, roots): (Vec<_>, Vec<_>) = all.iter().partition(is_child);
        for child in children {
            let completed = child.counts.completed;
            assert_eq!(child.spent.input_tokens, completed, "{child:?}");
            answered += completed;
        }
        let tokens: u64 = roots.iter().map(|root| root.spent.input_tokens).sum();
        assert_eq!(tokens, answered, "{all:?}");
        let costs = roots.iter().filter_map(|root| root.spent.cost_usd);
        assert_eq!(costs.sum::<Usd>(), Usd::from_picos(answered));
        for (process, ids) in [process, parents].into_iter().zip(ids) {
            assert_eq!(self.state(process).counts.total, ids.len() as u64);
        }
        for finding in self.store().check().unwrap() {
            assert!(finding.verdict <= Severity::Note, "{finding:?}");
        }
    }
}

/// Runs these schedules, each on a new database.
pub(crate) fn run_seeds(every: u64, new: impl Fn() -> Open + Sync + std::panic::RefUnwindSafe) {
    let count = seeds().unwrap_or(1_500) / every;
    each_seed(count, |seed| Scene::new(seed, new()).run());
}

/// A new database in SQLite.
fn sqlite() -> Open {
    let folder = tempfile::tempdir().unwrap();
    Box::new(move || {
        let path = folder.path().join("jobs.db");
        Arc::new(Store::open(path, SqliteOptions::default()).unwrap())
    })
}

#[test]
fn seeded_lives_and_deaths_keep_every_promise() {
    run_seeds(250, sqlite);
}

#[test]
fn one_job_at_a_time_probes_a_model_for_which_the_key_is_rejected() {
    let mut scene = Scene::new(1, sqlite());
    (scene.steps, scene.slots) = (1, 6);
    scene.workers = vec![scene.start_worker()];
    let unlocked = Time::ZERO.after(Duration::from_secs(65));
    scene.locked.0 = unlocked;
    let [rejected, others] = [(LOCKED, 0), ("free", 1)].map(|(name, model)| {
        let jobs = (0..30).map(|n| prompt(format!("{name}-{n}"), model));
        let process = ProcessId::new();
        scene.insert(process, jobs.collect());
        process
    });
    let mut others_ended = None;
    while !scene.state(rejected).counts.is_finished() {
        scene.turn(0);
        let now = scene.clock.now();
        if others_ended.is_none() && scene.state(others).counts.is_finished() {
            others_ended = Some(now);
        }
        scene.advance();
    }
    let in_time = others_ended.is_some_and(|end| end < unlocked);
    assert!(in_time, "{others_ended:?}");
    // After the calls that were in flight at the first rejection, there is one call every 10 seconds.
    let rejections = &scene.locked.1;
    let first = rejections[0].after(Duration::from_secs(9));
    let probes = rejections.iter().copied().filter(|at| *at > first);
    let probes: Vec<Time> = probes.collect();
    assert!((3..=6).contains(&probes.len()), "{probes:?}");
    let apart = |pair: &[Time]| pair[1].since(pair[0]) >= Duration::from_secs(10);
    assert!(probes.windows(2).all(apart), "{probes:?}");
    let counts = scene.state(rejected).counts;
    assert_eq!(counts.completed + counts.failed, 30);
}
