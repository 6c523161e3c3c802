//! What a person at a terminal sees, where util-linux's `script` can make one.

#![cfg(target_os = "linux")]

use std::fs::File;
use std::process::{Command, Stdio};

use super::common::{Desk, PATIENCE, Running, all_ids, eventually, good};

#[test]
fn a_terminal_shows_a_bar_while_the_run_goes_on() {
    let (desk, sim) = (Desk::new(), good());
    desk.prompts("in.jsonl", 20);
    sim.hold();
    let plain = desk.against(&sim, "in.jsonl -o out.jsonl -j 2");
    let words = [plain.get_program()].into_iter().chain(plain.get_args());
    let words: Vec<&str> = words.map(|word| word.to_str().unwrap()).collect();
    let mut command = Command::new("script");
    command
        .args(["-qec", &words.join(" "), "/dev/null"])
        .current_dir(desk.path(""))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .stdout(File::create(desk.path("screen")).unwrap())
        .stderr(Stdio::piped());
    if Command::new("script").arg("-V").output().is_err() {
        println!("skipped: there is no script(1)");
        return;
    }
    let running = Running::start(&mut command);
    assert!(sim.wait_until(|s| s.in_flight == 2, PATIENCE));
    let drawn = eventually(|| desk.read("screen").contains("0/20 0%"));
    assert!(drawn, "no bar: {:?}", desk.read("screen"));
    sim.release();
    running.wait().expect(0);
    let screen = desk.read("screen");
    let (_, end) = screen.rsplit_once("\x1b[2K").unwrap();
    assert!(end.contains("20 completed"), "the bar is gone: {end}");
    assert_eq!(desk.ids("out.jsonl"), all_ids(20));
}
