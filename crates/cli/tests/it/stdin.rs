//! Standard input, which is read to its end.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use batchwright_simulate::SimConfig;

use super::common::{Desk, PATIENCE, Running, all_ids, good, id, prompt_line, simulator};
use super::program::fed;

#[test]
fn nothing_is_sent_before_the_end_of_the_input() {
    let (desk, sim) = (Desk::new(), good());
    let mut command = desk.against(&sim, "- -o out.jsonl");
    let mut running = Running::start(command.stdin(Stdio::piped()));
    running.feed(&prompt_line(0));
    running.hears("waiting for the end of the input");
    assert_eq!(sim.stats().calls, 0);
    running.feed(&prompt_line(1));
    drop(running.child.stdin.take());
    running.wait().expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(2));
}

#[cfg(unix)]
#[test]
fn a_signal_ends_the_program_although_the_read_blocks() {
    let (desk, sim) = (Desk::new(), good());
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let mut command = desk.against(&sim, "- -o out.jsonl");
        let mut running = Running::start(command.stdin(Stdio::piped()));
        running.feed(&prompt_line(0));
        running.hears("waiting for the end of the input");
        let pipe = running.child.stdin.take();
        running.signal(name);
        running.wait().expect(code);
        drop(pipe);
    }
    assert_eq!(sim.stats().calls, 0);
    assert!(!desk.exists("out.jsonl"));
}

#[test]
fn a_stream_with_an_output_is_resumed_failed_ones_included() {
    let (desk, sim) = (Desk::new(), good());
    let all: String = (0..4).map(prompt_line).collect();
    let feed = |flags: &str| {
        fed(
            &mut desk.against(&sim, &format!("- -o out.jsonl {flags}")),
            &all,
        )
    };
    feed("-j 1").expect(0);
    let text = desk.read("out.jsonl");
    let failed = text.replacen("\"success\":true", "\"success\":false", 1);
    desk.write("out.jsonl", &failed);
    feed("--resend none").expect(3);
    assert_eq!(desk.read("out.jsonl"), failed);
    assert_eq!(sim.stats().calls, 4);
    feed("--ordered").expect(0);
    assert_eq!(sim.stats().calls, 5);
    assert_eq!(desk.order("out.jsonl"), all_ids(4));
}

/// Names of files that contain an input.
#[cfg(target_os = "linux")]
fn kept_inputs(folder: &std::path::Path) -> Vec<String> {
    let found = std::fs::read_dir(folder).unwrap();
    let names = found.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names
        .filter(|name| name.starts_with("batchwright-input-"))
        .collect()
}

#[cfg(target_os = "linux")]
#[test]
fn the_copy_of_standard_input_is_private_and_deleted_at_exit() {
    use std::os::unix::fs::MetadataExt;
    let slow = SimConfig::default().latency(Duration::from_secs(60));
    let (desk, sim) = (Desk::new(), simulator(slow));
    let folder = desk.path("spool");
    let words = "- -o out.jsonl --data-dir spool";
    let mut running = Running::start(desk.against(&sim, words).stdin(Stdio::piped()));
    running.feed(&prompt_line(0));
    drop(running.child.stdin.take());
    assert!(sim.wait_until(|stats| stats.calls == 1, PATIENCE));
    let open = format!("/proc/{}/fd", running.child.id());
    let copies: Vec<_> = std::fs::read_dir(open)
        .unwrap()
        .filter_map(|fd| {
            let fd = fd.unwrap().path();
            let named = std::fs::read_link(&fd).ok()?;
            let named = named.to_string_lossy().into_owned();
            named.contains("batchwright-input-").then_some((fd, named))
        })
        .collect();
    assert!(!copies.is_empty());
    for (fd, named) in copies {
        assert!(named.ends_with(" (deleted)"), "{named}");
        assert_eq!(fd.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(fd).unwrap(), prompt_line(0));
    }
    assert_eq!(kept_inputs(&folder), Vec::<String>::new());
    running.child.kill().unwrap();
    running.wait();
    assert_eq!(kept_inputs(&folder), Vec::<String>::new());
}

#[test]
fn a_row_that_is_not_sent_is_the_same_item_as_in_a_file() {
    let (desk, sim) = (Desk::new(), good());
    let rows = "{\"n\":null}\n{\"n\":1}\n";
    desk.write("in.jsonl", rows);
    desk.run(
        &sim,
        "in.jsonl --template {{n}} -o out.jsonl --bad-rows skip",
    )
    .expect(3);
    let ids = || BTreeSet::from_iter(desk.results("out.jsonl").iter().map(id));
    let before = ids();
    fed(
        &mut desk.against(&sim, "- --template {{n}} -o out.jsonl --bad-rows skip"),
        rows,
    )
    .expect(3);
    assert_eq!((ids(), sim.stats().calls), (before, 1));
}

#[test]
fn results_of_lines_that_are_not_repeated_are_kept() {
    let (desk, sim) = (Desk::new(), good());
    let feed = |rows: &str| {
        fed(
            &mut desk.against(&sim, "- --template {{n}} -o out.jsonl"),
            rows,
        )
        .expect(0);
    };
    feed("{\"id\":\"a\",\"n\":1}\n{\"n\":2}\n");
    // The changed line replaces the earlier one with the same id.
    feed("{\"id\":\"a\",\"n\":3}\n");
    let lines = desk.results("out.jsonl");
    let texts = BTreeSet::from_iter(lines.iter().map(|line| line["text"].as_str()));
    let expected = [Some("echo: 2"), Some("echo: 3")];
    assert_eq!((lines.len(), texts), (2, BTreeSet::from(expected)));
}
