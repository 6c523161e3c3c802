//! A queue on a disk that fills up, if the test may mount a small one.

#![cfg(target_os = "linux")]

use super::common::{Running, SmallDisk, simulator};
use super::queue::{adds_up, on_queue, plain, status, submit};

#[test]
fn submit_reports_a_full_disk_and_leaves_no_jobs() {
    // The shared-memory file does not fit, the log does not fit, or the prompts do not fit.
    for room in [24, 60, 200] {
        let Some(disk) = SmallDisk::new("data", 2048) else {
            return;
        };
        let desk = &disk.desk;
        desk.prompts("in.jsonl", 4_000);
        disk.leave(room);
        let ended = plain(desk, "submit in.jsonl").expect(1);
        assert_eq!(ended.stdout, "");
        ended.says("the disk is full").says("free some room");
        disk.make_room();
        assert!(status(desk, "").is_empty());
        submit(desk, "in.jsonl");
        assert_eq!(status(desk, "")[0]["pending"], 4_000);
    }
}

#[test]
fn the_program_reports_a_full_disk_and_nothing_is_billed_twice() {
    let Some(disk) = SmallDisk::new("data", 16384) else {
        return;
    };
    let desk = &disk.desk;
    let sim = simulator(batchwright_simulate::SimConfig::default().answer("x".repeat(8_000)));
    const JOBS: usize = 200;
    desk.prompts("in.jsonl", JOBS);
    submit(desk, "in.jsonl");
    disk.leave(400);
    let url = sim.base_url();
    let words = format!("work --provider local --base-url {url} --model sim-1 -j 3 --until-empty");
    let running = Running::start(&mut on_queue(desk, &words));
    running.hears("the disk is full");
    running.hears("no new jobs start until it works");
    let calls = sim.stats().calls;
    let [now] = &status(desk, "")[..] else {
        panic!()
    };
    adds_up(now);
    let saved = now["completed"].as_u64().unwrap();
    assert!(
        calls < JOBS as u64 && calls <= saved + 3,
        "{calls}, {saved}"
    );
    disk.make_room();
    running.wait().expect(0);
    assert_eq!(sim.stats().calls, JOBS as u64);
    assert_eq!(status(desk, "")[0]["completed"], JOBS);
}
