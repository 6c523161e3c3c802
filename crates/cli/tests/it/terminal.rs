//! The display at a terminal, if util-linux's `script` can create one.

#![cfg(target_os = "linux")]

use std::fs::File;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use batchwright_simulate::Simulator;

use super::common::{Desk, PATIENCE, Running, all_ids, eventually, good};

/// A run whose standard error is a terminal; the display is written to the file `screen`, and the id of the run's
/// process to `pid`.
pub fn on_a_terminal(desk: &Desk, sim: &Simulator, words: &str) -> Option<Command> {
    if Command::new("script").arg("-V").output().is_err() {
        println!("skipped: there is no script(1)");
        return None;
    }
    let plain = desk.against(sim, words);
    let words = [plain.get_program()].into_iter().chain(plain.get_args());
    let words: Vec<&str> = words.map(|word| word.to_str().unwrap()).collect();
    let line = format!("echo $$ > pid; exec {}", words.join(" "));
    let mut command = Command::new("script");
    command
        .args(["-qec", &line, "/dev/null"])
        .current_dir(desk.path(""))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .stdout(File::create(desk.path("screen")).unwrap())
        .stderr(Stdio::piped());
    Some(command)
}

#[test]
fn a_terminal_shows_a_bar_during_the_run() {
    let (desk, sim) = (Desk::with(20), good());
    sim.hold();
    let Some(mut command) = on_a_terminal(&desk, &sim, "in.jsonl -o out.jsonl -j 2") else {
        return;
    };
    let running = Running::start(&mut command);
    assert!(sim.wait_until(|s| s.in_flight == 2, PATIENCE));
    let drawn = eventually(|| desk.read("screen").contains("0/20 0.0%"));
    assert!(drawn, "no bar: {:?}", desk.read("screen"));
    sim.release();
    running.wait().expect(0);
    let screen = desk.read("screen");
    // In a full line, the `^C` of the terminal would go on in the next line, and the bar could not be erased.
    let mut bars = screen
        .split(['\r', '\n'])
        .filter(|line| line.contains("/20 "));
    let fits = |bar: &str| bar.trim_start_matches("\x1b[2K").chars().count() <= 76;
    assert!(bars.all(fits), "{screen:?}");
    let (_, end) = screen.rsplit_once("\x1b[2K").unwrap();
    assert!(end.contains("20 completed"), "the bar is gone: {end}");
    assert_eq!(desk.ids("out.jsonl"), all_ids(20));
}

#[test]
fn a_blocked_terminal_delays_neither_run_nor_signal() {
    for (items, signal) in [(20, None), (50_000, Some("-TERM"))] {
        let (desk, sim) = (Desk::with(items), good());
        sim.hold();
        let words = "in.jsonl -o out.jsonl -j 2";
        let Some(mut command) = on_a_terminal(&desk, &sim, words) else {
            return;
        };
        let mut running = Running::start(command.stdin(Stdio::piped()));
        assert!(sim.wait_until(|s| s.in_flight == 2, PATIENCE));
        let drawn = || desk.read("screen").contains(" 0.0%");
        assert!(eventually(drawn), "no bar: {:?}", desk.read("screen"));
        // Ctrl-S: the bar, which is drawn several times per second, is no longer drawn.
        running.feed("\u{13}");
        let stands_still = || {
            let before = desk.read("screen").len();
            thread::sleep(Duration::from_millis(500));
            desk.read("screen").len() == before
        };
        assert!(eventually(stands_still));
        if let Some(signal) = signal {
            let id = desk.read("pid");
            let sent = Command::new("kill").args([signal, id.trim()]).status();
            assert!(sent.unwrap().success());
        }
        sim.release();
        running.wait().expect(signal.map_or(0, |_| 143));
        let saved = desk.ids("out.jsonl").len();
        match signal {
            None => assert_eq!(saved, 20),
            Some(_) => assert!((2..50_000).contains(&saved), "{saved}"),
        }
    }
}

#[test]
fn a_terminal_user_confirms_before_more_than_20_answers_are_sent_again() {
    let (desk, sim) = (Desk::with(21), good());
    let words =
        |name: &str| format!("in.jsonl -o out.jsonl --quiet --template {name}:{{{{prompt}}}}");
    let start = |words: &str| {
        let mut command = on_a_terminal(&desk, &sim, words)?;
        Some(Running::start(command.stdin(Stdio::piped())))
    };
    desk.run(&sim, &words("A")).expect(0);
    let asked = || eventually(|| desk.read("screen").contains("Buy 21 answers again? [y/N]"));
    let Some(mut running) = start(&words("B")) else {
        return;
    };
    assert!(asked(), "no question: {:?}", desk.read("screen"));
    running.feed("\n");
    running.wait().expect(2);
    let screen = desk.read("screen");
    assert!(screen.contains("nothing was sent"), "{screen}");
    assert_eq!(sim.stats().calls, 21);

    let interrupted = start(&words("B")).unwrap();
    assert!(asked());
    let id = desk.read("pid");
    Command::new("kill")
        .args(["-INT", id.trim()])
        .status()
        .unwrap();
    interrupted.wait().expect(130);
    assert_eq!(sim.stats().calls, 21);

    let mut running = start(&words("B")).unwrap();
    assert!(asked());
    running.feed("y\n");
    running.wait().expect(0);
    assert_eq!(sim.stats().calls, 42);

    // Not without a terminal.
    desk.run(&sim, &words("D")).expect(0);
    assert_eq!(sim.stats().calls, 63);
}
