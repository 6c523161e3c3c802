//! Outputs that are in use, closed, blocked, or cannot be written.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use batchwright::simulate::{SimConfig, Trouble};

use super::common::{Desk, PATIENCE, Running, all_ids, good, ids_in_order, results, simulator};

#[test]
fn a_second_run_on_the_same_output_is_refused_and_the_first_unharmed() {
    let (desk, sim) = (Desk::new(), good());
    desk.prompts("in.jsonl", 10);
    sim.hold();
    let first = desk.start(&sim, "in.jsonl -o out.jsonl -j 2");
    assert!(sim.wait_until(|s| s.in_flight == 2, PATIENCE));
    let second = desk.run(&sim, "in.jsonl -o out.jsonl -j 2").expect(1);
    assert!(
        second
            .error()
            .contains("out.jsonl: another run is writing to it"),
        "{}",
        second.stderr
    );
    assert_eq!(sim.stats().calls, 2, "the second run sent something");
    sim.release();
    first.wait().expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(10));
    assert_eq!(sim.stats().paid_twice, 0);
}

#[test]
fn the_lock_holds_through_a_compaction() {
    let (desk, sim) = (Desk::new(), good());
    desk.prompts("in.jsonl", 1000);
    let words = "in.jsonl -o out.jsonl -j 4 --ordered";
    sim.hold();
    let first = desk.start(&sim, words);
    assert!(sim.wait_until(|s| s.in_flight == 4, PATIENCE));
    let second = || {
        let ended = desk.run(&sim, words);
        let refused = ended.stderr.contains("another run is writing");
        assert_eq!(ended.status.code(), Some(i32::from(refused)));
        refused
    };
    assert!(second(), "the lock did not hold");
    sim.release();
    // Each of them comes before, in the middle of, or after the rename.
    while second() {}
    first.wait().expect(0);
    assert_eq!(desk.order("out.jsonl"), ids_in_order(1000));
    assert_eq!(sim.stats().calls, 1000);
}

#[test]
fn standard_output_carries_results_and_nothing_else() {
    let (desk, sim) = (Desk::new(), good());
    desk.prompts("in.jsonl", 20);
    let ended = desk.run(&sim, "in.jsonl -j 4 -v").expect(0);
    assert_eq!(results(&ended.stdout).len(), 20);
    ended.says("20 completed");
}

#[test]
fn a_reader_that_goes_away_stops_the_run() {
    let (desk, sim) = (Desk::new(), good());
    desk.prompts("in.jsonl", 5000);
    let mut running = desk.start(&sim, "in.jsonl -j 2");
    let mut stdout = BufReader::new(running.child.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    sim.hold();
    let before = sim.stats().calls;
    drop(stdout);
    sim.release();
    let ended = running.wait().expect(4);
    // Two in flight, two outcomes waiting to be written, two more started meanwhile.
    let after = sim.stats().calls - before;
    assert!(after <= 6, "{after} calls after the reader had gone");
    let said = ended.says("the reader of the results went away");
    assert!(!said.stderr.contains("could not be saved"));
}

#[cfg(unix)]
#[test]
fn a_reader_that_does_not_read_stops_dispatch_and_two_signals_end_it() {
    let desk = Desk::new();
    let sim = simulator(SimConfig::default().answer("x".repeat(20_000)));
    desk.prompts("in.jsonl", 500);
    let mut running = desk.start(&sim, "in.jsonl -j 4");
    let unread = running.child.stdout.take();
    // A pipe holds 64 KiB: three lines and the beginning of the fourth, and four permits.
    let most = 3 + 1 + 4;
    assert!(sim.wait_until(|s| s.calls >= most - 1, PATIENCE));
    assert!(!sim.wait_until(|s| s.calls > most, Duration::from_millis(300)));
    running.signal("INT");
    running.hears("stopping:");
    running.signal("INT");
    let ended = running.wait().expect(130);
    assert!(ended.took < Duration::from_secs(10), "{:?}", ended.took);
    drop(unread);
}

#[cfg(unix)]
#[test]
fn what_was_paid_for_is_written_when_the_reader_reads_on_after_a_signal() {
    let desk = Desk::new();
    let sim = simulator(SimConfig::default().answer("x".repeat(20_000)));
    desk.prompts("in.jsonl", 500);
    let running = desk.start(&sim, "in.jsonl -j 4");
    assert!(sim.wait_until(|s| s.calls >= 7, PATIENCE));
    running.signal("INT");
    running.hears("stopping:");
    let ended = running.wait().expect(130);
    assert_eq!(results(&ended.stdout).len() as u64, sim.stats().calls);
}

#[cfg(unix)]
#[test]
fn the_grace_ends_also_when_nobody_reads() {
    let desk = Desk::new();
    let sim = simulator(SimConfig::default().answer("x".repeat(20_000)));
    desk.prompts("in.jsonl", 500);
    let mut running = desk.start(&sim, "in.jsonl -j 4 --grace 1s");
    let unread = running.child.stdout.take();
    assert!(sim.wait_until(|s| s.calls >= 7, PATIENCE));
    running.signal("INT");
    running.wait().expect(130);
    drop(unread);
}

#[test]
fn an_output_that_cannot_be_written_is_found_before_anything_is_sent() {
    let (desk, sim) = (Desk::new(), good());
    desk.prompts("in.jsonl", 3);
    std::fs::create_dir(desk.path("folder")).unwrap();
    for output in ["missing/out.jsonl", "folder"] {
        let ended = desk.run(&sim, &format!("in.jsonl -o {output}")).expect(1);
        assert!(
            ended
                .error()
                .contains(&format!("{output}: cannot open the output"))
        );
    }
    desk.write("out.jsonl", "");
    let path = desk.path("out.jsonl");
    let mut permissions = std::fs::metadata(&path).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&path, permissions).unwrap();
    if std::fs::OpenOptions::new().append(true).open(&path).is_ok() {
        println!("read-only files are not looked at: this user may write to them");
    } else {
        let ended = desk.run(&sim, "in.jsonl -o out.jsonl").expect(1);
        assert!(ended.error().contains("cannot open the output"));
    }
    assert_eq!(sim.stats().calls, 0);
}

#[cfg(unix)]
#[test]
fn a_pipe_or_device_as_output_cannot_be_resumed_from_and_says_so() {
    let (desk, sim) = (Desk::new(), good());
    desk.prompts("in.jsonl", 3);
    let ended = desk.run(&sim, "in.jsonl -o /dev/null").expect(0);
    ended.says("not a regular file: this run cannot be resumed");
    let ended = desk.run(&sim, "in.jsonl -o /dev/null --ordered").expect(2);
    ended.says("cannot be put into order");
    assert_eq!(sim.stats().calls, 3);
    let ended = desk.run(&sim, "in.jsonl -o /dev/full -j 1").expect(1);
    ended.says("cannot write the results");
}

#[cfg(unix)]
#[test]
fn a_link_stays_a_link_when_its_target_is_compacted() {
    let (desk, sim) = (Desk::new(), good());
    desk.prompts("in.jsonl", 5);
    std::fs::create_dir(desk.path("far")).unwrap();
    std::os::unix::fs::symlink("far/real.jsonl", desk.path("out.jsonl")).unwrap();
    desk.write("far/real.jsonl", "");
    let words = "in.jsonl -o out.jsonl -j 4 --ordered";
    desk.run(&sim, words).expect(0);
    assert!(desk.path("out.jsonl").is_symlink());
    assert_eq!(desk.order("far/real.jsonl"), ids_in_order(5));
    Running::start(&mut desk.against(&sim, words))
        .wait()
        .expect(0);
    assert_eq!(sim.stats().calls, 5);
}

#[cfg(target_os = "linux")]
#[test]
fn names_that_are_no_unicode_are_names_too() {
    use std::os::unix::ffi::OsStrExt;
    let desk = Desk::new();
    let sim = simulator(SimConfig::default().trouble(Trouble::BadRequest, 1.0));
    desk.prompts("in.jsonl", 2);
    let output = std::ffi::OsStr::from_bytes(b"o\xff.jsonl");
    for flags in ["--json -q", "--json", "-v"] {
        let mut command = desk.against(&sim, &format!("in.jsonl {flags} -o"));
        Running::start(command.arg(output)).wait().expect(3);
    }
    let text = std::fs::read_to_string(desk.path("").join(output)).unwrap();
    assert_eq!(results(&text).len(), 2);
}

#[cfg(unix)]
#[test]
fn an_output_that_is_removed_or_replaced_meanwhile_is_noticed() {
    for flags in ["", "--ordered"] {
        let (desk, sim) = (Desk::new(), good());
        desk.prompts("in.jsonl", 10);
        sim.hold();
        let running = desk.start(&sim, &format!("in.jsonl -o out.jsonl -j 2 {flags}"));
        assert!(sim.wait_until(|s| s.in_flight == 2, PATIENCE));
        std::fs::rename(desk.path("out.jsonl"), desk.path("away.jsonl")).unwrap();
        desk.write("out.jsonl", "somebody else's\n");
        sim.release();
        let ended = running.wait().expect(1);
        assert!(ended.error().contains("removed or replaced"));
        assert_eq!(desk.read("out.jsonl"), "somebody else's\n");
        assert_eq!(desk.ids("away.jsonl"), all_ids(10));
    }
}

#[test]
fn a_closed_standard_error_harms_nobody() {
    let (desk, sim) = (Desk::new(), good());
    desk.prompts("in.jsonl", 10);
    let mut command = desk.against(&sim, "in.jsonl -o out.jsonl -vv --progress always");
    let mut child = command.spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(desk.ids("out.jsonl"), all_ids(10));
}
