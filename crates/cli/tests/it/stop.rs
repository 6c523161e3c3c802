//! Runs that end early: signals, errors that affect all items, a changed input.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use batchwright_simulate::{SimConfig, Simulator, Trouble};

use super::common::{
    Desk, Ended, PATIENCE, RunToEnd, Running, all_ids, eventually, good, ids_in_order, line_count,
    prompt_line, simulator,
};

#[cfg(unix)]
#[test]
fn the_first_signal_lets_calls_in_flight_finish_and_starts_no_more() {
    for (name, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        if name == "HUP" && survives_hangups() {
            continue;
        }
        let (desk, sim) = (Desk::with(20), good());
        let running = desk.held(&sim, "in.jsonl -o out.jsonl -j 3", 3);
        running.signal(name);
        running.hears("stopping: calls in flight have up to 30 s to finish");
        sim.release();
        let ended = running.wait().ends(code, "what finished is saved");
        assert_eq!(sim.stats().calls, 3);
        assert_eq!(desk.results("out.jsonl").len(), 3);
        let mut lines = ended.stderr.lines();
        lines.find(|line| line.contains("to go on")).unwrap();
        let resume = lines.next().unwrap();
        assert!(resume.contains(env!("CARGO_BIN_EXE_batchwright")));
        assert!(resume.contains(" in.jsonl -o out.jsonl -j 3"), "{resume}");
        ended.says("3 completed, 0 failed, 17 pending");
        desk.run(&sim, "in.jsonl -o out.jsonl -j 3").expect(0);
        assert_eq!(desk.ids("out.jsonl"), all_ids(20));
        assert_eq!(sim.stats().paid_twice, 0);
    }
}

/// Whether `nohup` has started the tests: then the programs that they start survive a hangup too.
#[cfg(unix)]
fn survives_hangups() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 == 1)
}

/// Results on standard output are no checkpoint.
#[cfg(unix)]
#[test]
fn an_interrupted_run_without_an_output_says_that_it_cannot_be_resumed() {
    for output in ["", "-o -"] {
        let (desk, sim) = (Desk::with(20), good());
        let running = desk.held(&sim, &format!("in.jsonl {output} -j 3"), 3);
        running.signal("INT");
        running.hears("stopping: calls in flight");
        sim.release();
        let ended = running.wait().ends(130, "17 pending");
        ended
            .says("this run cannot be resumed: the same command sends all items again")
            .hides("to go on");
    }
    let (desk, sim) = (Desk::with(2), good());
    desk.run(&sim, "in.jsonl").expect(0).hides("resumed");
}

#[cfg(target_os = "linux")]
#[test]
fn a_run_under_nohup_survives_a_hangup() {
    let (desk, sim) = (Desk::with(5), good());
    sim.hold();
    let plain = desk.against(&sim, "in.jsonl -o out.jsonl");
    let mut command = Command::new("nohup");
    command
        .arg(plain.get_program())
        .args(plain.get_args())
        .current_dir(desk.path(""))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let running = Running::start(&mut command);
    assert!(sim.wait_until(|s| s.in_flight == 1, PATIENCE));
    running.signal("HUP");
    sim.release();
    running.wait().expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(5));
}

#[cfg(unix)]
#[test]
fn the_second_signal_ends_calls_that_hang() {
    let (desk, sim) = (Desk::with(20), good());
    desk.run(&sim, "in.jsonl -o out.jsonl --max-items 5")
        .expect(0);
    let before = desk.read("out.jsonl");
    let running = desk.held(&sim, "in.jsonl -o out.jsonl -j 3", 3);
    running.signal("INT");
    running.hears("stopping:");
    running.signal("INT");
    let ended = running.wait().expect(130);
    assert!(ended.took < PATIENCE, "{:?}", ended.took);
    ended.says("3 cut off in flight").says("15 pending");
    assert_eq!(desk.read("out.jsonl"), before);
    assert_eq!(sim.stats().calls, 8);
}

#[cfg(unix)]
#[test]
#[ignore = "waits for the grace period"]
fn the_grace_period_ends_by_itself() {
    let (desk, sim) = (Desk::with(20), good());
    let running = desk.held(&sim, "in.jsonl -o out.jsonl -j 3", 3);
    running.signal("TERM");
    let start = Instant::now();
    running.hears("up to 30 s");
    running.wait().ends(143, "3 cut off in flight");
    assert!(start.elapsed() >= Duration::from_secs(29));
    assert!(start.elapsed() < PATIENCE);
}

#[cfg(unix)]
#[test]
fn a_signal_ends_waits_for_retries_and_limits() {
    let slow = Duration::from_secs(600);
    let waiting = SimConfig::default()
        .trouble(Trouble::RateLimit, 1.0)
        .retry_after(slow);
    let (desk, sim) = (Desk::with(5), simulator(waiting));
    let running = desk.start(&sim, "in.jsonl -o out.jsonl -j 2");
    assert!(sim.wait_until(|s| s.refused >= 1 && s.in_flight == 0, PATIENCE));
    running.signal("INT");
    running.wait().ends(130, "5 pending");
    assert_eq!(desk.read("out.jsonl"), "");
}

#[cfg(target_os = "linux")]
#[test]
fn a_signal_ends_the_check_of_the_input() {
    let (desk, sim) = (Desk::new(), good());
    let mut text = String::new();
    for i in 0..400_000 {
        text.push_str(&prompt_line(i));
    }
    desk.write("in.jsonl", text);
    let running = desk.start(&sim, "in.jsonl -o out.jsonl");
    // The handler is installed as soon as the thread that waits for signals exists.
    let threads = format!("/proc/{}/task", running.child.id());
    eventually(|| std::fs::read_dir(&threads).map_or(true, |list| list.count() > 1));
    running.signal("INT");
    running.wait().expect(130);
    assert_eq!(sim.stats().calls, 0);
    assert!(!desk.exists("out.jsonl"));
}

/// Runs 30 items against the OpenAI dialect with a key.
fn keyed(desk: &Desk, sim: &Simulator, key: &str, flags: &str) -> Ended {
    desk.prompts("in.jsonl", 30);
    let url = sim.base_url();
    let words = "run in.jsonl -o out.jsonl -j 3 --model m --provider openai --base-url";
    let words = words.split(' ').chain([&*url]);
    let mut command = desk.command(words.chain(flags.split_whitespace()));
    command.env("OPENAI_API_KEY", key).ended()
}

#[test]
fn a_refused_key_stops_at_once() {
    for flags in ["", "--on-error continue", "--on-error stop"] {
        let desk = Desk::new();
        let sim = simulator(SimConfig::default().api_key("right"));
        let ended = keyed(&desk, &sim, "wrong", flags).expect(4);
        let calls = sim.stats().calls;
        assert!(calls <= 6, "{calls} calls with {flags:?}");
        let ended = ended.says("OPENAI_API_KEY").says("to go on");
        ended.hides("wrong");
        assert!(desk.results("out.jsonl").len() as u64 <= calls);
        keyed(&desk, &sim, "right", "").expect(0);
        assert_eq!(desk.ids("out.jsonl"), all_ids(30));
    }
}

#[test]
fn an_empty_account_and_an_unknown_model_stop_at_once() {
    for trouble in [Trouble::Quota, Trouble::UnknownModel] {
        for flags in ["", "--on-error continue"] {
            let desk = Desk::new();
            let sim = simulator(SimConfig::default().trouble(trouble, 1.0));
            let ended = keyed(&desk, &sim, "k", flags).expect(4);
            let calls = sim.stats().calls;
            assert!(calls <= 6, "{calls} calls of {trouble} with {flags:?}");
            assert!(desk.results("out.jsonl").len() as u64 <= calls);
            ended.says(" pending");
        }
    }
}

#[test]
fn answers_before_a_critical_error_are_saved() {
    let desk = Desk::new();
    let sim = simulator(SimConfig::default().trouble(Trouble::Quota, 0.1).seed(5));
    let first = (0..30).find(|i| sim.config().plan(&format!("prompt {i}")).is_some());
    let first = first.unwrap();
    assert!((2..28).contains(&first), "choose another seed: {first}");
    let ended = keyed(&desk, &sim, "k", "-q").expect(4);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    let lines = desk.results("out.jsonl");
    let done = lines.iter().filter(|line| line["success"] == true).count();
    assert!(done >= first - 2, "{done} of {first}");
    assert_eq!(sim.stats().answered, done as u64);
}

#[test]
fn a_fallback_takes_over_from_a_refused_key() {
    let desk = Desk::new();
    let sim = simulator(SimConfig::default().api_key("right"));
    let ended = keyed(&desk, &sim, "wrong", "--fallback extract").expect(0);
    assert_eq!(
        ended
            .stderr
            .matches("no more calls to this provider")
            .count(),
        1
    );
    assert!(sim.stats().calls <= 6);
    assert_eq!(desk.ids("out.jsonl"), all_ids(30));
    let lines = desk.results("out.jsonl");
    for line in lines {
        assert_eq!(line["provider"], "extract");
        let why = line["degraded"].as_str().unwrap();
        let provider = line["earlier"][0]["provider"].as_str().unwrap();
        assert!(why.starts_with(&format!("{provider}: ")), "{line}");
        assert_eq!(line["earlier"][0]["provider"], "openai");
        assert_eq!(line["earlier"][0]["error"]["kind"], "auth");
    }
}

#[test]
fn an_input_that_changes_stops_the_run() {
    let (desk, sim) = (Desk::with(10), good());
    let running = desk.held(&sim, "in.jsonl -o out.jsonl -j 1", 1);
    let text = desk.read("in.jsonl");
    let mut input = OpenOptions::new()
        .write(true)
        .open(desk.path("in.jsonl"))
        .unwrap();
    let at = text.find("prompt 5").unwrap() as u64;
    input.seek(SeekFrom::Start(at)).unwrap();
    input.write_all(b"PROMPT 5").unwrap();
    sim.release();
    running.wait().ends(4, "in.jsonl: changed during the run");
    assert_eq!(desk.order("out.jsonl"), ids_in_order(5));
    assert_eq!(sim.stats().calls, 5);
    desk.run(&sim, "in.jsonl -o out.jsonl").expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(10));
    assert_eq!(sim.stats().calls, 10);
}

#[test]
fn an_input_that_shrinks_stops_the_run_and_one_that_is_replaced_does_not() {
    let (desk, sim) = (Desk::with(10), good());
    let running = desk.held(&sim, "in.jsonl -o out.jsonl -j 1", 1);
    desk.write("in.jsonl", prompt_line(0));
    sim.release();
    running.wait().ends(4, "changed during the run");

    desk.prompts("in.jsonl", 10);
    let running = desk.held(&sim, "in.jsonl -o out.jsonl -j 1", 1);
    desk.write("other.jsonl", "nothing of the kind\n");
    std::fs::rename(desk.path("other.jsonl"), desk.path("in.jsonl")).unwrap();
    sim.release();
    running.wait().expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(10));
}

#[test]
fn an_output_read_during_the_run_has_complete_lines() {
    let (desk, sim) = (Desk::with(300), good());
    let running = desk.start(&sim, "in.jsonl -o out.jsonl -j 8");
    let out = desk.path("out.jsonl");
    assert!(eventually(|| {
        let whole = line_count(&out);
        let text = std::fs::read_to_string(&out).unwrap_or_default();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        for line in lines.iter().take(whole) {
            assert!(line.starts_with("{\"id\":") && line.ends_with("}\n"));
        }
        whole == 300
    }));
    running.wait().expect(0);
}

/// Kills the program at the end of the test, in any case.
#[cfg(unix)]
struct Unread(std::process::Child);

#[cfg(unix)]
impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(unix)]
#[test]
fn a_blocked_standard_error_delays_neither_run_nor_signal() {
    let (desk, sim) = (Desk::with(20_000), good());
    let mut command = desk.against(&sim, "in.jsonl -o out.jsonl -j 4");
    // The log of a thousand calls is larger than a pipe.
    let mut running = Unread(command.env("RUST_LOG", "trace").spawn().unwrap());
    assert!(sim.wait_until(|s| s.answered >= 1_000, PATIENCE));
    let id = running.0.id().to_string();
    let sent = Command::new("kill").args(["-TERM", &id]).status().unwrap();
    assert!(sent.success());
    let mut status = None;
    assert!(eventually(|| {
        status = running.0.try_wait().unwrap();
        status.is_some()
    }));
    assert_eq!(status.unwrap().code(), Some(143));
    assert!(desk.results("out.jsonl").len() >= 1_000);
}

/// As after Ctrl-Z, or when a user suspends it.
#[cfg(unix)]
#[test]
fn a_reply_that_arrived_while_the_run_was_suspended_is_not_requested_again() {
    // More than one read returns.
    let long = SimConfig::default().output_tokens(20_000);
    let (desk, sim) = (Desk::with(1), simulator(long));
    let run = desk.held(&sim, "in.jsonl -o out.jsonl -j 1 --timeout 6s", 1);
    run.signal("STOP");
    sim.release();
    assert!(sim.wait_until(|s| s.answered == 1, PATIENCE));
    // Longer than the limit, measured from the start of the call.
    std::thread::sleep(Duration::from_secs(7));
    run.signal("CONT");
    run.wait().expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(1));
    assert_eq!(sim.stats().calls, 1);
}
