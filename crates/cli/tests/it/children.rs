//! Jobs that wait for others, through the program: in batches, cancelled, and killed in the middle.

use std::time::Duration;

use batchwright::ProcessId;
use batchwright_simulate::Simulator;
use serde_json::{Value, json};

use super::batch::{command, taking};
use super::common::{Desk, Ended, RunToEnd, each};
use super::job_types::taken;
use super::queue::{queue, submit};

fn members(n: usize) -> String {
    let prompt = |i| json!({"type": "completion", "payload": {"prompt": format!("member {i}")}});
    let members: Vec<Value> = (0..n).map(prompt).collect();
    format!("{}\n", json!({"id": "b", "jobs": members}))
}

fn submitted(members_of_it: usize) -> (Desk, ProcessId) {
    let desk = Desk::new();
    desk.write("in.jsonl", members(members_of_it));
    let id = submit(&desk, "--type batch_process in.jsonl");
    (desk, id)
}

fn run(desk: &Desk, sim: &Simulator, words: &str) -> Ended {
    command(desk, sim, words).ended()
}

#[test]
fn a_worker_of_one_process_submits_the_prompts_that_its_jobs_wait_for() {
    let sim = taking(Duration::from_millis(100));
    let (desk, id) = submitted(5);
    let words = format!("work --strategy batch --until-empty --processes {id}");
    run(&desk, &sim, &words).expect(0);
    assert_eq!(taken(&desk, id)["b"]["result"]["completed"], 5);
    assert_eq!((sim.stats().calls, sim.batch_stats().created), (0, 1));
}

#[test]
fn cancelling_a_job_cancels_the_batch_of_its_children() {
    each(&["", " --delete"], |words| {
        let sim = taking(Duration::from_secs(20));
        let (desk, id) = submitted(5);
        // The worker ends although the job itself still waits.
        let work = format!("work --strategy batch --until-submitted --processes {id}");
        run(&desk, &sim, &work).ends(0, "1 batch created");
        run(&desk, &sim, &format!("cancel {id}{words}")).expect(0);
        let stats = sim.batch_stats();
        assert_eq!((stats.created, stats.cancelled), (1, 1), "{stats:?}");
        assert!(queue(&desk).batches(None).unwrap().is_empty());
    });
}
