//! `batchwright workers`, through the real program, on a queue in a file and on a server.

use std::process::Command;
use std::time::Duration;

use batchwright_simulate::SimConfig;
use serde_json::Value;

use super::common::{Desk, PATIENCE, RunToEnd, Running, eventually, simulator};

/// The place of the queue.
type On<'a> = &'a dyn Fn(Command) -> Command;

fn listed(desk: &Desk, on: On<'_>) -> Vec<Value> {
    let words = ["workers", "--json", "-q"];
    let all = on(desk.command(words)).ended().expect(0).json();
    all["workers"].as_array().unwrap().clone()
}

fn submit(desk: &Desk, on: On<'_>, jobs: usize) {
    desk.prompts("in.jsonl", jobs);
    let words = ["submit", "in.jsonl", "-q"];
    on(desk.command(words)).ended().expect(0);
}

fn work(desk: &Desk, on: On<'_>, url: &str, more: &str) -> Running {
    let words = format!("work --provider local --base-url {url} --model sim-1 -q -j 3 {more}");
    Running::start(&mut on(desk.command(words.split_whitespace())))
}

/// `workers` lists a worker with its jobs. After `kill -9` it shows the worker as dead with the same jobs, until the
/// next worker takes them over.
#[cfg(unix)]
fn a_worker_is_shown_alive_and_dead(desk: &Desk, on: On<'_>) {
    assert_eq!(listed(desk, on), [] as [Value; 0]);
    submit(desk, on, 3);
    let sim = simulator(SimConfig::default().latency(Duration::from_secs(60)));
    let worker = work(desk, on, &sim.base_url(), "");
    sim.wait_until(|stats| stats.calls >= 3, PATIENCE);
    assert!(eventually(|| {
        let all = listed(desk, on);
        all.len() == 1 && all[0]["busy"] == 3
    }));
    let all = listed(desk, on);
    let one = &all[0];
    assert_eq!(one["alive"], true, "{one}");
    assert_eq!(one["version"], env!("CARGO_PKG_VERSION"), "{one}");
    assert_eq!((&one["slots"], &one["jobs"]), (&3.into(), &3.into()));
    assert_eq!((&one["batches"], &one["completed"]), (&0.into(), &0.into()));
    let pid = one["pid"].as_u64().unwrap();
    assert!(one["host"].as_str().is_some_and(|host| !host.is_empty()));
    let people = Running::start(&mut on(desk.command(["workers"])));
    let people = people.wait().expect(0).stdout;
    let row = people.lines().nth(1).unwrap();
    for cell in [&pid.to_string(), "alive", "3/3"] {
        assert!(
            row.split_whitespace().any(|word| word == cell),
            "{cell}: {people}"
        );
    }
    worker.signal("KILL");
    drop(worker);
    // On a server: when its lease has ended.
    assert!(eventually(|| listed(desk, on)[0]["alive"] == false));
    let all = listed(desk, on);
    assert_eq!((&all[0]["pid"], &all[0]["jobs"]), (&pid.into(), &3.into()));
    let quick = simulator(SimConfig::default());
    work(desk, on, &quick.base_url(), "--until-empty")
        .wait()
        .expect(0);
    assert_eq!(listed(desk, on), [] as [Value; 0]);
}

/// A worker whose API key is rejected reports that as its trouble.
#[cfg(unix)]
fn a_worker_reports_why_nothing_moves(desk: &Desk, on: On<'_>) {
    submit(desk, on, 3);
    let sim = simulator(SimConfig::default().api_key("the-right-key"));
    let worker = work(desk, on, &sim.base_url(), "");
    let trouble = || {
        let all = listed(desk, on);
        let trouble = all.first().and_then(|one| one["trouble"].as_str());
        trouble.map(str::to_owned)
    };
    assert!(eventually(|| trouble().is_some()));
    let why = trouble().unwrap();
    assert!(why.contains("401") || why.contains("key"), "{why}");
    let people = Running::start(&mut on(desk.command(["workers"])));
    let people = people.wait().expect(0).stdout;
    assert!(people.contains(&why), "{people}");
    worker.signal("TERM");
    worker.wait().expect(0);
    assert_eq!(listed(desk, on), [] as [Value; 0]);
}

#[cfg(unix)]
#[test]
fn workers_of_a_queue_in_a_file_are_shown() {
    a_worker_is_shown_alive_and_dead(&Desk::new(), &|command| command);
}

#[cfg(unix)]
#[test]
fn a_worker_of_a_queue_in_a_file_reports_its_trouble() {
    a_worker_reports_why_nothing_moves(&Desk::new(), &|command| command);
}

#[cfg(all(unix, feature = "mysql"))]
#[test]
fn workers_of_a_queue_on_a_server_are_shown() {
    let Some(server) = super::queue_server::Server::new() else {
        return;
    };
    a_worker_is_shown_alive_and_dead(&Desk::new(), &|command| server.on(command));
}

#[cfg(all(unix, feature = "mysql"))]
#[test]
fn a_worker_of_a_queue_on_a_server_reports_its_trouble() {
    let Some(server) = super::queue_server::Server::new() else {
        return;
    };
    a_worker_reports_why_nothing_moves(&Desk::new(), &|command| server.on(command));
}

/// Each line of `--watch --json` is a change: nothing, a worker, nothing again.
#[cfg(unix)]
#[test]
fn a_watched_queue_shows_workers_come_and_go() {
    use std::io::{BufRead, BufReader};
    let desk = Desk::new();
    submit(&desk, &|command| command, 1);
    let mut command = desk.command(["workers", "--watch", "--json", "-q"]);
    let watch = command.stdout(std::process::Stdio::piped()).spawn();
    let mut watch = watch.unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || {
        let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        line["workers"].as_array().unwrap().len()
    };
    assert_eq!(next(), 0);
    let sim = simulator(SimConfig::default().latency(Duration::from_secs(60)));
    let worker = work(&desk, &|command| command, &sim.base_url(), "--grace 0s");
    assert_eq!(next(), 1);
    worker.signal("TERM");
    worker.wait();
    while next() > 0 {}
    watch.kill().unwrap();
    watch.wait().unwrap();
}
