//! A full disk, if the test may mount a small one.

#![cfg(target_os = "linux")]

use std::time::Duration;

use batchwright_simulate::SimConfig;

use super::common::{SmallDisk, all_ids, good, line_count, prompt_line, results, simulator};
use super::job_types::working;
use super::queue::{adds_up, plain, status, submit};

const ITEMS: usize = 80;

/// A disk of 64 KiB, with prompts outside of it.
fn small_disk() -> Option<SmallDisk> {
    let disk = SmallDisk::new("disk", 64)?;
    disk.desk.prompts("in.jsonl", ITEMS);
    Some(disk)
}

/// Leaves space for about twenty result lines.
fn fill(disk: &SmallDisk) {
    std::fs::write(disk.at.join("filler"), vec![b'x'; 52 * 1024]).unwrap();
}

const RUN: &str = "in.jsonl -o disk/out.jsonl -j 3 --progress always";

#[test]
fn a_full_disk_stops_dispatch_until_there_is_free_space() {
    let Some(disk) = small_disk() else { return };
    let sim = good();
    fill(&disk);
    let running = disk.desk.start(&sim, RUN);
    running.hears("sending stops until it works");
    // Three calls may have been in flight when the disk was full, or be about to begin.
    let most = line_count(&disk.at.join("out.jsonl")) as u64 + 3;
    assert!(most < ITEMS as u64);
    assert!(!sim.wait_until(|s| s.calls > most, Duration::from_millis(1500)));
    results(&disk.desk.read("disk/out.jsonl"));
    running.hears("No space left");
    disk.make_room();
    running.wait().expect(0);
    assert_eq!(disk.desk.ids("disk/out.jsonl"), all_ids(ITEMS));
    assert_eq!(sim.stats().calls, ITEMS as u64);
}

#[test]
fn results_that_a_full_disk_rejects_are_printed_at_the_end() {
    for fsync in ["", "--fsync"] {
        let Some(disk) = small_disk() else { return };
        let sim = good();
        fill(&disk);
        let running = disk.desk.start(&sim, &format!("{RUN} {fsync}"));
        running.hears("sending stops until it works");
        running.signal("INT");
        running.hears("stopping:");
        running.signal("INT");
        let ended = running.wait().expect(1);
        let lines = ended.stderr.lines();
        let shown = lines.filter(|line| line.starts_with("{\"id\":")).count();
        let saved = disk.desk.results("disk/out.jsonl").len();
        ended.tells(&format!("{shown} results could not be saved"));
        assert!(shown > 0 && sim.stats().calls == (shown + saved) as u64);
        disk.make_room();
        disk.desk.run(&sim, RUN).expect(0);
        assert_eq!(disk.desk.ids("disk/out.jsonl"), all_ids(ITEMS));
    }
}

#[test]
fn a_compaction_on_a_full_disk_keeps_every_result_and_is_reported() {
    let Some(disk) = small_disk() else { return };
    let (desk, sim) = (&disk.desk, good());
    // More than half of the disk, so that a second copy does not fit.
    let items = 110;
    desk.prompts("in.jsonl", items);
    let words = "in.jsonl -o disk/out.jsonl";
    desk.run(&sim, &format!("{words} -q -j 3")).expect(0);
    let before = desk.read("disk/out.jsonl");
    let reversed = (0..items).rev().map(prompt_line);
    desk.input(reversed.collect::<String>());
    desk.run(&sim, &format!("{words} --ordered"))
        .ends(1, "all results are saved, but");
    assert_eq!(desk.read("disk/out.jsonl"), before);
    assert_eq!(std::fs::read_dir(&disk.at).unwrap().count(), 1);
    assert_eq!(sim.stats().calls, items as u64);
}

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
    const JOBS: usize = 200;
    let desk = &disk.desk;
    let sim = simulator(SimConfig::default().answer("x".repeat(8_000)));
    desk.prompts("in.jsonl", JOBS);
    submit(desk, "in.jsonl");
    disk.leave(400);
    let running = working(desk, &sim, "-j 3 --until-empty");
    running.hears("the disk is full");
    running.hears("no new jobs start until it works");
    let calls = sim.stats().calls;
    let now = &status(desk, "")[0];
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
