//! Outputs that are in use, closed, blocked, or not writable.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{ChildStdout, Command, Stdio};
use std::time::Duration;

use batchwright_simulate::SimConfig;

use super::common::{Desk, PATIENCE, RunToEnd, all_ids, eventually, good, ids_in_order, simulator};

#[test]
fn the_lock_holds_through_a_compaction() {
    let (desk, sim) = (Desk::with(1000), good());
    let words = "in.jsonl -o out.jsonl -j 4 --ordered";
    let first = desk.held(&sim, words, 4);
    let second = || {
        let ended = desk.run(&sim, words);
        let refused = ended.stderr.contains("another run is writing");
        assert_eq!(ended.status.code(), Some(i32::from(refused)));
        refused
    };
    assert!(second(), "the lock did not hold");
    sim.release();
    // Each of them starts before, during, or after the rename.
    while second() {}
    first.wait().expect(0);
    assert_eq!(desk.order("out.jsonl"), ids_in_order(1000));
    assert_eq!(sim.stats().calls, 1000);
}

/// Closes the only end that reads from this child. Children that other tests start at the moment have copies of it until
/// they execute their programs.
#[cfg(target_os = "linux")]
fn close_for_all(end: BufReader<ChildStdout>, child: u32) {
    use std::os::fd::AsRawFd;
    let links = |process: &std::path::Path| {
        let fds = std::fs::read_dir(process.join("fd"));
        let fds = fds.into_iter().flatten().flatten();
        fds.filter_map(|fd| std::fs::read_link(fd.path()).ok())
    };
    let own = format!("/proc/self/fd/{}", end.get_ref().as_raw_fd());
    let pipe = std::fs::read_link(own).unwrap();
    drop(end);
    let child = std::path::PathBuf::from(format!("/proc/{child}"));
    assert!(eventually(|| {
        let mut processes = std::fs::read_dir("/proc").unwrap().flatten();
        !processes.any(|one| one.path() != child && links(&one.path()).any(|link| link == pipe))
    }));
}

#[cfg(target_os = "linux")]
#[test]
fn a_closed_reader_stops_the_run() {
    let (desk, sim) = (Desk::with(5000), good());
    let mut running = desk.start(&sim, "in.jsonl -j 2");
    let mut stdout = BufReader::new(running.child.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    sim.hold();
    let before = sim.stats().calls;
    close_for_all(stdout, running.child.id());
    sim.release();
    let ended = running.wait().expect(4);
    // Two in flight, two outcomes that wait to be written, and two more calls started meanwhile.
    let after = sim.stats().calls - before;
    assert!(after <= 6, "{after} calls after the reader had gone");
    let said = ended.says("the reader of the results went away");
    said.says("the reader closed the output before it took")
        .hides("could not be saved");
}

#[cfg(target_os = "linux")]
#[test]
fn results_that_a_reader_does_not_take_after_a_signal_are_shown() {
    let (desk, sim) = (Desk::with(20), good());
    let mut running = desk.held(&sim, "in.jsonl -j 3", 3);
    let stdout = BufReader::new(running.child.stdout.take().unwrap());
    running.signal("INT");
    running.hears("stopping:");
    close_for_all(stdout, running.child.id());
    sim.release();
    let ended = running.wait();
    let ended = ended.ends(1, "results could not be saved; here they are:");
    let shown = ended.stderr.lines().filter(|line| line.starts_with('{'));
    assert_eq!((shown.count(), sim.stats().calls), (3, 3));
}

#[test]
fn a_blocked_reader_stops_dispatch_and_two_signals_end_the_run() {
    let desk = Desk::with(500);
    let sim = simulator(SimConfig::default().answer("x".repeat(20_000)));
    let mut running = desk.start(&sim, "in.jsonl -j 4");
    let mut unread = running.child.stdout.take().unwrap();
    // A pipe holds 64 KiB: three lines and the beginning of the fourth; then there are the four permits.
    let most = 3 + 1 + 4;
    // The first four may end together, and are then one write, which blocks.
    assert!(sim.wait_until(|s| s.calls >= 4, PATIENCE));
    assert!(!sim.wait_until(|s| s.calls > most, Duration::from_millis(300)));
    running.signal("INT");
    running.hears("stopping:");
    running.signal("INT");
    let ended = running
        .wait()
        .ends(1, "results could not be saved; here they are:");
    // What the reader did not read of the billed answers is shown elsewhere.
    let mut read = String::new();
    unread.read_to_string(&mut read).unwrap();
    let shown = ended.stderr.lines().filter(|line| line.starts_with('{'));
    let whole = read.lines().filter(|line| line.ends_with('}'));
    let mut all: Vec<&str> = shown.chain(whole).collect();
    let count = all.len() as u64;
    all.sort();
    all.dedup();
    assert_eq!(
        all.len() as u64,
        count,
        "each line is in one of both places"
    );
    // The second signal ends those in flight, whose answers may not have come yet.
    let calls = sim.stats().calls;
    assert!((calls - 4..=calls).contains(&count), "{count} of {calls}");
}

#[test]
fn an_output_that_cannot_be_written_is_found_before_anything_is_sent() {
    let (desk, sim) = (Desk::with(3), good());
    std::fs::create_dir(desk.path("folder")).unwrap();
    for output in ["missing/out.jsonl", "folder"] {
        let ended = desk.run(&sim, &format!("in.jsonl -o {output}")).expect(1);
        ended.errs(&format!("{output}: cannot open the output"));
    }
    // The input by any name.
    std::fs::hard_link(desk.path("in.jsonl"), desk.path("hard.jsonl")).unwrap();
    std::os::unix::fs::symlink("in.jsonl", desk.path("soft.jsonl")).unwrap();
    let before = desk.read("in.jsonl");
    for output in ["in.jsonl", "./in.jsonl", "hard.jsonl", "soft.jsonl"] {
        let ended = desk.run(&sim, &format!("in.jsonl -o {output}")).expect(2);
        ended.errs("it is also the input; name another output");
    }
    assert_eq!(desk.read("in.jsonl"), before);
    assert_eq!(sim.stats().calls, 0);
}

#[test]
fn a_pipe_or_device_as_output_cannot_be_resumed_from_and_says_so() {
    let (desk, sim) = (Desk::with(3), good());
    desk.run(&sim, "in.jsonl -o /dev/null")
        .ends(0, "not a regular file: this run cannot be resumed");
    desk.run(&sim, "in.jsonl -o /dev/null --ordered")
        .ends(2, "cannot be put into order");
    assert_eq!(sim.stats().calls, 3);
    desk.run(&sim, "in.jsonl -o /dev/full -j 1")
        .ends(1, "cannot write the results");
}

#[test]
fn an_output_that_is_removed_or_replaced_meanwhile_is_noticed() {
    for flags in ["", "--ordered"] {
        let (desk, sim) = (Desk::with(10), good());
        let words = format!("in.jsonl -o out.jsonl -j 2 {flags}");
        let running = desk.held(&sim, &words, 2);
        let rename =
            |from: &str, to: &str| std::fs::rename(desk.path(from), desk.path(to)).unwrap();
        rename("out.jsonl", "away.jsonl");
        desk.write("out.jsonl", "somebody else's\n");
        // While its calls are still in flight, and no call starts afterwards.
        running.hears("removed or replaced it during the run; sending stopped");
        sim.release();
        let ended = running.wait();
        ended.ends(4, "out.jsonl.rescued-1: to resume, move that file back");
        assert_eq!(sim.stats().calls, 2);
        assert_eq!(desk.read("out.jsonl"), "somebody else's\n");
        assert_eq!(desk.ids("out.jsonl.rescued-1").len(), 2);
        rename("out.jsonl.rescued-1", "out.jsonl");
        desk.run(&sim, &words).expect(0);
        assert_eq!(sim.stats().calls, 10);
        assert_eq!(desk.ids("out.jsonl"), all_ids(10));
    }
}

#[test]
fn an_output_changed_by_others_is_not_reported_as_finished() {
    let theirs = "{\"id\":\"theirs\",\"success\":true,\"request_hash\":\"01\"}\n";
    for (written, found, left) in [("", "it has 0 bytes", 2), (theirs, "wrote to it", 7)] {
        let (desk, sim) = (Desk::with(8), good());
        let words = "in.jsonl -o out.jsonl -j 2";
        desk.run(&sim, &format!("{words} --max-items 4")).expect(0);
        let running = desk.held(&sim, words, 2);
        let path = desk.path("out.jsonl");
        let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        if written.is_empty() {
            file.set_len(0).unwrap();
        }
        file.write_all(written.as_bytes()).unwrap();
        running.hears("sending stopped");
        sim.release();
        running.wait().ends(4, found);
        assert_eq!(desk.ids("out.jsonl").len(), left);
        assert_eq!(sim.stats().calls, 6);
        desk.run(&sim, words).expect(0);
        let all = 8 + usize::from(!written.is_empty());
        assert_eq!(desk.ids("out.jsonl").len(), all);
    }
}

#[test]
fn nothing_is_sent_if_standard_output_is_closed() {
    let (desk, sim) = (Desk::with(3), good());
    let closed = |output: &str| {
        let run = desk.against(&sim, &format!("in.jsonl {output}"));
        let close = ["-c", "exec \"$0\" \"$@\" >&-"];
        let words = close.iter().map(AsRef::as_ref).chain([run.get_program()]);
        desk.other("sh", words.chain(run.get_args())).ended()
    };
    closed("")
        .expect(1)
        .errs("standard output is /dev/null or closed");
    for name in ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        closed(&format!("-o {name}")).expect(1);
    }
    assert_eq!(sim.stats().calls, 0);
    closed("-o out.jsonl").expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(3));
    // Results may be discarded deliberately.
    let mut command = desk.against(&sim, "in.jsonl");
    command.stdout(Stdio::null()).ended().expect(0);
}

#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_not_a_success() {
    let (desk, sim) = (Desk::with(2), good());
    let full = |mut command: Command| {
        let full = std::fs::File::options().write(true).open("/dev/full");
        let ended = command.stdout(full.unwrap()).ended();
        ended.ends(1, "cannot write to standard output: No space left");
    };
    let run = "in.jsonl -o out.jsonl --json";
    full(desk.against(&sim, run));
    assert_eq!(desk.ids("out.jsonl"), all_ids(2));
    full(desk.against(&sim, &format!("{run} --dry-run")));
    for words in [
        "providers",
        "config list",
        "doctor",
        "submit in.jsonl --json",
        "work --until-empty --json --provider extract",
    ] {
        full(desk.command(words.split(' ')));
    }
}

#[test]
fn an_unreadable_line_is_moved_beside_the_output_and_only_its_item_sent_again() {
    let (desk, sim) = (Desk::with(20), good());
    let mut moved = String::new();
    for line in [1, 7, 20] {
        desk.run(&sim, "in.jsonl -o out.jsonl -j 1").expect(0);
        let before = sim.stats().calls;
        let text = desk.read("out.jsonl");
        let mut lines: Vec<&str> = text.lines().collect();
        let broken = lines[line - 1].replace("success", "\"");
        lines[line - 1] = &broken;
        desk.write("out.jsonl", lines.join("\n") + "\n");
        desk.run(&sim, "in.jsonl -o out.jsonl --dry-run").expect(0);
        assert_eq!(desk.read("out.jsonl"), lines.join("\n") + "\n");
        let ended = desk.run(&sim, "in.jsonl -o out.jsonl").expect(0);
        assert!(ended.stderr.contains("moved to out.jsonl.unreadable"));
        moved += &format!("{broken}\n");
        assert_eq!(desk.read("out.jsonl.unreadable"), moved);
        assert_eq!(desk.ids("out.jsonl"), all_ids(20));
        assert_eq!(sim.stats().calls, before + 1);
    }
}
