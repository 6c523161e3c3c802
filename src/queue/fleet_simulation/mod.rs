//! Fifty machines on simulated time: the real dispatcher, claims, leases and limiter, which divides the limits, on a
//! real database that uses the time of the simulation. The simulation models the provider, the latency of
//! the database, clocks that differ, machine crashes and lost connections.
//!
//! Without a server the jobs are in SQLite. Then a machine can crash, but it cannot lose its connection to the
//! database.

mod machine;
mod world;

use std::sync::Arc;
use std::time::Duration;

use crate::base::{Clock, ProcessId};
use crate::llm::request::Request;

use super::job::{Job, JobStatus};
use super::store::Store;
use super::store::mysql::MysqlOptions;
use super::store::mysql::wire::{Gets, Wire};
use super::store::sqlite::{Durability, SqliteOptions};
use machine::{LEASE, Machine, Opened};
use world::{Figures, Plan, World};

const PLAN: Plan = Plan {
    seed: 1,
    machines: 50,
    slots: 20,
    jobs: 2_500,
    per_minute: 6_000.0,
    is_set: true,
    call: Duration::from_secs(1),
    way: Duration::from_micros(350),
    is_troubled: false,
};

/// Opens the store of a machine.
type Open = Box<dyn Fn(Arc<Wire>) -> Opened>;

struct Fleet {
    world: World,
    open: Open,
    machines: Vec<Machine>,
    started: u64,
}

impl Fleet {
    fn new(plan: Plan, open: Open) -> Self {
        let mut fleet = Self {
            world: World::new(plan),
            open,
            machines: Vec::new(),
            started: 0,
        };
        for _ in 0..plan.machines {
            let machine = fleet.start();
            fleet.machines.push(machine);
        }
        fleet
    }

    fn start(&mut self) -> Machine {
        self.started += 1;
        Machine::start(self.started, &mut self.world, &self.open)
    }

    /// Runs all jobs, checks the invariants of every run, and returns the figures.
    fn run(mut self) -> Figures {
        let plan = self.world.plan;
        let process = ProcessId::new();
        let job = |n| {
            let name = format!("j-{n}");
            Job::from(Request::new(&*name).with_id(name))
        };
        let jobs = (0..plan.jobs).map(job).collect();
        // A machine that only observes, so it can always read the state.
        let observer = self.start();
        let wall = observer.clock.wall();
        let ids = observer.store.insert(process, jobs, true, wall).unwrap();
        let began = self.world.now;
        let mut next_trouble = began.after(Duration::from_secs(5));
        let mut next_look = began;
        loop {
            let now = self.world.now;
            for machine in self
                .machines
                .iter_mut()
                .filter(|machine| machine.next <= now)
            {
                machine.step(&mut self.world);
            }
            if now >= next_look {
                next_look = now.after(Duration::from_secs(1));
                let state = observer.store.process(process).unwrap().unwrap();
                if state.counts.is_finished() {
                    break;
                }
                let took = now.since(began);
                assert!(
                    took < Duration::from_secs(3600),
                    "it does not end: {state:?}"
                );
            }
            if plan.is_troubled && now >= next_trouble {
                next_trouble = now.after(Duration::from_secs(1 + self.world.below(3)));
                self.trouble();
            }
            let next = self.machines.iter().map(|machine| machine.next).min();
            let next = next.unwrap().min(next_look);
            self.world.now = next.max(now.after(Duration::from_micros(100)));
        }
        let mut figures = self.world.figures;
        figures.took = self.world.now.since(began);
        for id in ids {
            let job = observer.store.job(id).unwrap().unwrap();
            assert_eq!(job.status, JobStatus::Completed, "{job:?}");
            let item = job.item_id.unwrap();
            assert!(figures.paid.contains_key(&item), "{item}");
        }
        let (twice, at_risk) = (figures.paid_twice(), figures.at_risk);
        assert!(twice <= at_risk, "{twice} paid twice, {at_risk} at risk");
        figures
    }

    /// Injects a fault.
    fn trouble(&mut self) {
        let at = self.world.below(self.machines.len() as u64) as usize;
        let kinds = if self.machines[at].server.is_some() {
            3
        } else {
            1
        };
        let kind = self.world.below(kinds);
        let lasts = Duration::from_secs(5 + self.world.below(40));
        let until = self.world.now.after(lasts);
        let in_flight = self.machines[at].in_flight();
        match kind {
            0 => {
                self.world.figures.at_risk += in_flight;
                let machine = self.start();
                std::mem::replace(&mut self.machines[at], machine).die();
            }
            kind => {
                // Other machines take over its unfinished jobs when its lease ends.
                self.world.figures.at_risk += in_flight + self.world.plan.slots as u64;
                let machine = &mut self.machines[at];
                machine.cut_until = until;
                machine.wire.set(match kind {
                    1 => Gets::Lost,
                    _ => Gets::Unanswered,
                });
            }
        }
    }
}

fn in_sqlite() -> Open {
    let folder = tempfile::tempdir().unwrap();
    Box::new(move |_| {
        let options = SqliteOptions::default().durability(Durability::Normal);
        let store = Store::open(folder.path().join("jobs.db"), options);
        (Arc::new(store.unwrap()), None)
    })
}

/// In separate tables on the server that `scripts/with-servers` starts. Without a server: `None`, with a printed note.
fn on_server() -> Option<Open> {
    let Ok(address) = std::env::var("BATCHWRIGHT_TEST_MYSQL") else {
        eprintln!("skipped: BATCHWRIGHT_TEST_MYSQL names no server; see scripts/with-servers");
        return None;
    };
    let tables = format!("fleet_{}", ProcessId::new().to_string().replace('-', ""));
    Some(Box::new(move |wire| {
        let options = MysqlOptions::new(&address).tables(&tables).lease(LEASE);
        let store = Store::on_server(options.connections(1).wire(wire));
        let store = Arc::new(store.unwrap());
        (store.clone(), Some(store))
    }))
}

fn used(figures: &Figures, plan: &Plan) -> f64 {
    figures.used(plan, Duration::from_secs(5), Duration::from_secs(22))
}

#[test]
fn fifty_machines_use_one_limit_and_do_not_exceed_it() {
    let figures = Fleet::new(PLAN, in_sqlite()).run();
    let used = used(&figures, &PLAN);
    let refused = figures.refused_part();
    println!("used {used:.3}, refused {refused:.4} in {:?}", figures.took);
    assert!(used >= 0.95 && refused <= 0.005, "{used} {refused}");
    assert_eq!(figures.paid_twice(), 0);
}

#[test]
fn fifty_machines_learn_one_limit() {
    let plan = Plan {
        is_set: false,
        ..PLAN
    };
    let figures = Fleet::new(plan, in_sqlite()).run();
    let used = used(&figures, &plan);
    let refused = figures.refused_part();
    println!("used {used:.3}, refused {refused:.4} in {:?}", figures.took);
    assert!(used >= 0.95 && refused <= 0.005, "{used} {refused}");
}

#[test]
fn fifty_machines_lose_nothing_to_ways_that_are_cut() {
    let Some(open) = on_server() else { return };
    let plan = Plan {
        is_troubled: true,
        ..PLAN
    };
    let figures = Fleet::new(plan, open).run();
    println!(
        "{} paid twice, {} at risk, refused {:.4}, {:?}",
        figures.paid_twice(),
        figures.at_risk,
        figures.refused_part(),
        figures.took
    );
    // A worker that cannot renew starts no call, and its part of the limits is free after its lease.
    assert!(
        figures.took < Duration::from_secs(150),
        "{:?}",
        figures.took
    );
}
