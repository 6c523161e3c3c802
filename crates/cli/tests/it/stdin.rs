//! Standard input, which is read to its end.

use std::process::Stdio;
use std::time::Duration;

use batchwright_simulate::SimConfig;

use super::common::{Desk, PATIENCE, Running, all_ids, good, prompt_line, simulator};

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
