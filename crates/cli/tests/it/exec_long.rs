//! `batchwright exec` with many commands.

use std::process::{Command, Stdio};

use super::common::{Desk, Running};
use super::exec::killed;

/// Start and end of each command in a job log, in seconds, in the order of their starts.
fn times(log: &str) -> Vec<(f64, f64)> {
    let mut times: Vec<(f64, f64)> = log
        .lines()
        .skip(1)
        .map(|line| {
            let mut columns = line.split('\t').skip(2);
            let mut number = || columns.next().unwrap().trim().parse::<f64>().unwrap();
            let (start, took) = (number(), number());
            (start, start + took)
        })
        .collect();
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    times
}

#[test]
#[ignore = "takes ten seconds"]
fn two_hundred_commands_start_at_the_pace_that_was_asked_for() {
    let desk = Desk::new();
    desk.write("jobs.txt", "true\n".repeat(200));
    desk.plain("exec jobs.txt -q --rate 20/s --joblog log")
        .expect(0);
    let times = times(&desk.read("log"));
    let rate = 199.0 / (times[199].0 - times[0].0);
    assert!((19.0..=21.0).contains(&rate), "{rate}");
    // Without bursts: no second has more than a start beyond the rate.
    for (at, (start, _)) in times.iter().enumerate() {
        let within = times[at..]
            .iter()
            .take_while(|other| other.0 < start + 1.0)
            .count();
        assert!(within <= 22, "{within} in the second from {start}");
    }
}

#[test]
#[ignore = "takes seconds"]
fn never_more_than_five_run_at_once() {
    let desk = Desk::new();
    // Each counts itself in and out, and says how many there are; the lock is a folder.
    let job = "sh -c 'mkdir in.$$; ls -d in.* | wc -l; sleep 0.01; rmdir in.$$'\n";
    desk.write("jobs.txt", job.repeat(500));
    let ended = desk.plain("exec jobs.txt -q -j 5").expect(0);
    let most = ended
        .stdout
        .lines()
        .map(|line| line.trim().parse::<u32>().unwrap());
    assert_eq!(most.max(), Some(5));
}

#[test]
#[ignore = "ten thousand commands"]
fn ten_thousand_commands_survive_kills_in_the_middle() {
    killed(10_000, 3);
}

#[test]
#[ignore = "a hundred thousand commands"]
fn a_hundred_thousand_commands_take_no_more_memory_than_a_thousand() {
    let desk = Desk::new();
    let peak = |commands: usize| {
        desk.write(
            "jobs.txt",
            "true a few words more, as commands have\n"
                .replace(',', "")
                .repeat(commands),
        );
        let program = env!("CARGO_BIN_EXE_batchwright");
        let words = format!("exec jobs.txt -q -j 10 --joblog log{commands}");
        let mut command = Command::new("/usr/bin/time");
        command
            .args(["-f", "%M", program])
            .args(words.split_whitespace());
        let ended = Running::start(
            command
                .current_dir(desk.path("."))
                .env("BATCHWRIGHT_HOME", desk.path("home"))
                .stdout(Stdio::piped())
                .stderr(Stdio::piped()),
        );
        let ended = ended.wait().expect(0);
        ended.stderr.lines().last().unwrap().parse::<u64>().unwrap()
    };
    let (few, many) = (peak(1000), peak(100_000));
    assert!(many < few + 4096, "{few} KiB, then {many} KiB");
}
