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
fn on_a_terminal(desk: &Desk, sim: &Simulator, words: &str) -> Option<Running> {
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
        .stdin(Stdio::piped())
        .stdout(File::create(desk.path("screen")).unwrap())
        .stderr(Stdio::piped());
    Some(Running::start(&mut command))
}

/// Sends a signal to the run itself.
fn signal(desk: &Desk, name: &str) {
    let id = desk.read("pid");
    let sent = Command::new("kill").args([name, id.trim()]).status();
    assert!(sent.unwrap().success());
}

/// Waits until the screen shows these words.
#[track_caller]
fn shows(desk: &Desk, words: &str) {
    let shown = eventually(|| desk.read("screen").contains(words));
    assert!(shown, "no {words}: {:?}", desk.read("screen"));
}

#[test]
fn a_terminal_shows_a_bar_during_the_run() {
    let (desk, sim) = (Desk::with(20), good());
    sim.hold();
    let Some(running) = on_a_terminal(&desk, &sim, "in.jsonl -o out.jsonl -j 2") else {
        return;
    };
    assert!(sim.wait_until(|s| s.in_flight == 2, PATIENCE));
    shows(&desk, "0/20 0.0%");
    sim.release();
    running.wait().expect(0);
    let screen = desk.read("screen");
    // In a full line, the `^C` of the terminal would go on in the next line, and the bar could not be erased.
    let lines = screen.split(['\r', '\n']);
    let mut bars = lines.filter(|line| line.contains("/20 "));
    let fits = |bar: &str| bar.trim_start_matches("\x1b[2K").chars().count() <= 76;
    assert!(bars.all(fits), "{screen:?}");
    let (_, end) = screen.rsplit_once("\x1b[2K").unwrap();
    assert!(end.contains("20 completed"), "the bar is gone: {end}");
    assert_eq!(desk.ids("out.jsonl"), all_ids(20));
}

#[test]
fn a_blocked_terminal_delays_neither_run_nor_signal() {
    for (items, is_stopped) in [(20, false), (50_000, true)] {
        let (desk, sim) = (Desk::with(items), good());
        sim.hold();
        let words = "in.jsonl -o out.jsonl -j 2";
        let Some(mut running) = on_a_terminal(&desk, &sim, words) else {
            return;
        };
        assert!(sim.wait_until(|s| s.in_flight == 2, PATIENCE));
        shows(&desk, " 0.0%");
        // Ctrl-S: the bar, which is drawn several times per second, is no longer drawn.
        running.feed("\u{13}");
        let stands_still = || {
            let before = desk.read("screen").len();
            thread::sleep(Duration::from_millis(500));
            desk.read("screen").len() == before
        };
        assert!(eventually(stands_still));
        if is_stopped {
            signal(&desk, "-TERM");
        }
        sim.release();
        running.wait().expect(if is_stopped { 143 } else { 0 });
        let saved = desk.ids("out.jsonl").len();
        let expected = if is_stopped { 2..50_000 } else { 20..21 };
        assert!(expected.contains(&saved), "{saved}");
    }
}

#[test]
fn a_terminal_user_confirms_before_more_than_20_answers_are_sent_again() {
    let (desk, sim) = (Desk::with(21), good());
    let words =
        |name: &str| format!("in.jsonl -o out.jsonl --quiet --template {name}:{{{{prompt}}}}");
    desk.run(&sim, &words("A")).expect(0);
    for (answer, code, calls) in [("\n", 2, 21), ("-INT", 130, 21), ("y\n", 0, 42)] {
        desk.write("screen", "");
        let Some(mut running) = on_a_terminal(&desk, &sim, &words("B")) else {
            return;
        };
        shows(&desk, "Buy 21 answers again? [y/N]");
        match answer {
            "-INT" => signal(&desk, answer),
            answer => running.feed(answer),
        }
        running.wait().expect(code);
        assert_eq!(sim.stats().calls, calls);
        assert_eq!(desk.read("screen").contains("nothing was sent"), code == 2);
    }
    // Not without a terminal.
    desk.run(&sim, &words("D")).expect(0);
    assert_eq!(sim.stats().calls, 63);
}
