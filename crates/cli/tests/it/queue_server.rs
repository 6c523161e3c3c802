//! The queue on a database server, which `scripts/with-servers` starts; without one these tests print that they
//! were skipped.

#![cfg(feature = "mysql")]

use std::process::Command;
use std::time::Duration;

use batchwright::ProcessId;
use batchwright_simulate::{Recorder, SimConfig};

use super::batch;
use super::batch_runs::taking;
use super::common::{Desk, Ended, PATIENCE, RunToEnd, Running, all_ids, simulator};

/// A separate queue on the server.
pub struct Server {
    address: String,
    password: String,
}

impl Server {
    /// `None` if there is no server, and prints a line about that.
    pub fn new() -> Option<Self> {
        let Ok(address) = std::env::var("BATCHWRIGHT_TEST_MYSQL") else {
            eprintln!("skipped: BATCHWRIGHT_TEST_MYSQL names no server; see scripts/with-servers");
            return None;
        };
        let (user, place) = address.strip_prefix("mysql://")?.split_once('@')?;
        let (user, password) = user.split_once(':')?;
        let tables = ProcessId::new().to_string().replace('-', "");
        Some(Self {
            address: format!("mysql://{user}@{place}?tables=q_{tables}"),
            password: password.to_owned(),
        })
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn on(&self, mut command: Command) -> Command {
        command
            .env("BATCHWRIGHT_STORE", &self.address)
            .env("BATCHWRIGHT_STORE_PASSWORD", &self.password);
        command
    }

    pub fn run(&self, desk: &Desk, words: &str) -> Ended {
        let ended = self.on(desk.command(words.split_whitespace())).ended();
        for text in [&ended.stdout, &ended.stderr] {
            assert!(!text.contains(&self.password), "{text}");
        }
        ended
    }
}

/// Two workers with separate data folders, as on two machines. One is killed: the other takes over its jobs when
/// its lease has ended, each job is answered once, and only calls in flight are billed twice.
#[test]
fn jobs_of_a_killed_worker_pass_to_another_machine() {
    let Some(server) = Server::new() else { return };
    let (desk, jobs, slots) = (Desk::new(), 200, 8);
    let sim = simulator(SimConfig::default().latency(Duration::from_millis(100)));
    desk.prompts("in.jsonl", jobs);
    let process = server.run(&desk, "submit in.jsonl -q").expect(0).stdout;
    let process = process.trim();
    let url = sim.base_url();
    let work = |folder: &str| {
        let words = format!(
            "work --until-empty --provider local --base-url {url} --model sim-1 -q -j {slots} --data-dir {folder}"
        );
        Running::start(&mut server.on(desk.command(words.split_whitespace())))
    };
    let (killed, other) = (work("one"), work("two"));
    sim.wait_until(|stats| stats.calls > 60, PATIENCE);
    killed.signal("KILL");
    drop(killed);
    other.wait().expect(0);
    let status = server
        .run(&desk, &format!("status {process} --json"))
        .expect(0)
        .json();
    assert!(status.to_string().contains("\"completed\":200"), "{status}");
    let take = format!("results {process} -o out.jsonl -q");
    server.run(&desk, &take).expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(jobs));
    let calls = sim.stats().calls;
    assert!(calls <= jobs as u64 + slots, "{calls} calls");
    assert!(
        !desk.exists("one/llm_jobs.db"),
        "the queue is on the server"
    );
}

/// Without the flag, a command would search for the batches in the data folder.
#[test]
fn the_last_lines_of_a_worker_name_the_server_that_a_flag_named() {
    let Some(server) = Server::new() else { return };
    let (desk, sim) = (Desk::with(3), taking(PATIENCE));
    let run = |words: &str| {
        let words = format!("{words} --store {}", server.address());
        let mut command = server.on(batch::command(&desk, &sim, &words));
        command.env_remove("BATCHWRIGHT_STORE");
        command.ended().expect(0)
    };
    run("submit in.jsonl");
    let ended = run("work --strategy batch --until-submitted");
    let lines: Vec<&str> = ended.stderr.lines().collect();
    let collects = lines
        .iter()
        .find(|line| line.contains("to collect the batches of no run: batchwright work"));
    let collects = collects.unwrap_or_else(|| panic!("{lines:?}"));
    assert_eq!(collects.matches(" --store ").count(), 1, "{collects}");
}

/// A worker elsewhere does not have the files of a prompt, so the queue stores them.
#[test]
fn files_of_prompts_are_in_the_queue_on_a_server() {
    let Some(server) = Server::new() else { return };
    let desk = Desk::new();
    desk.write("a.png", b"\x89PNG\r\n\x1a\nrest");
    let line =
        r#"{"id":"i-0","messages":[{"role":"user","content":[{"type":"file","path":"a.png"}]}]}"#;
    desk.write("in.jsonl", format!("{line}\n"));
    let process = server.run(&desk, "submit in.jsonl -q").expect(0).stdout;
    std::fs::remove_file(desk.path("a.png")).unwrap();
    let recorder = Recorder::default();
    let sim = simulator(SimConfig::default().recorder(recorder.clone()));
    let url = sim.base_url();
    let words = format!("work --until-empty --provider local --base-url {url} --model sim-1 -q");
    server.run(&desk, &words).expect(0);
    let take = format!("results {} -o out.jsonl -q", process.trim());
    server.run(&desk, &take).expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(1));
    let sent = recorder.take();
    let picture = "data:image/png;base64,iVBORw0KGgpyZXN0";
    assert!(sent.iter().any(|body| body.contains(picture)), "{sent:?}");
}

/// With Redis in addition to the database: an idle worker starts immediately when another command submits jobs. An
/// address without a server stops nothing, and no password is shown.
#[cfg(feature = "redis")]
#[test]
fn a_worker_is_woken_through_redis_and_works_without_it() {
    let Some(server) = Server::new() else { return };
    let Ok(redis) = std::env::var("BATCHWRIGHT_TEST_REDIS") else {
        eprintln!("skipped: BATCHWRIGHT_TEST_REDIS names no server; see scripts/with-servers");
        return;
    };
    let (login, place) = redis.rsplit_once('@').unwrap();
    let password = login.rsplit_once(':').unwrap().1;
    let (desk, sim) = (Desk::with(1), simulator(SimConfig::default()));
    for (at, place, secret) in [(1, place, password), (2, "127.0.0.1:9", "n0tth1sone")] {
        let with_redis = |words: &str| {
            let mut command = server.on(desk.command(words.split_whitespace()));
            command.env("BATCHWRIGHT_REDIS_PASSWORD", secret);
            if at == 1 {
                command.env("BATCHWRIGHT_REDIS", format!("redis://{place}"));
            }
            command
        };
        if at == 2 {
            let refused = format!("config set queue.redis redis://:{secret}@{place}");
            let refused = with_redis(&refused).ended().expect(2);
            refused.hides(secret);
            let set = format!("config set queue.redis redis://{place}");
            with_redis(&set).ended().expect(0);
        }
        let url = sim.base_url();
        let work = format!("work --provider local --base-url {url} --model sim-1 --log-level info");
        let worker = Running::start(&mut with_redis(&work));
        let submitted = with_redis("submit in.jsonl -q").ended();
        submitted.expect(0);
        sim.wait_until(|stats| stats.calls >= at, PATIENCE);
        worker.signal("TERM");
        let ended = worker.wait().expect(0);
        ended.hides(secret);
        let warned = ended.stderr.matches("cannot be used").count();
        assert_eq!(warned, at as usize - 1, "{}", ended.stderr);
    }
}

#[cfg(feature = "redis")]
#[test]
fn redis_is_only_for_a_queue_on_a_server() {
    let desk = Desk::new();
    let ended = Running::start(&mut desk.command(["status", "--redis", "redis://127.0.0.1"]));
    let ended = ended.wait().expect(2);
    ended.tells("--store");
}

/// `doctor` checks the server, and does not show its password.
#[test]
fn doctor_checks_the_server() {
    let Some(server) = Server::new() else { return };
    let desk = Desk::new();
    let all = server.run(&desk, "doctor --json").expect(0).json();
    let findings = all["findings"].as_array().unwrap();
    for what in ["database", "server", "server clock", "server settings"] {
        let found = findings.iter().find(|finding| finding["what"] == what);
        assert_eq!(found.unwrap()["verdict"], "good", "{what}: {findings:?}");
    }
}

fn run(desk: &Desk, words: &str) -> Ended {
    desk.plain(words)
}

#[test]
fn an_address_with_a_password_is_not_stored() {
    let desk = Desk::new();
    let refused = run(&desk, "config set queue.store mysql://me:s3cr3t@db/jobs").expect(2);
    refused.hides("s3cr3t");
    refused.says("BATCHWRIGHT_STORE_PASSWORD_FILE");
    let none = run(&desk, "config get queue.store").expect(0);
    assert_eq!(none.stdout, "");
}

#[test]
fn a_flag_and_the_environment_override_the_setting_and_the_error_says_how_to_unset_it() {
    let desk = Desk::new();
    let nobody = "mysql://me@127.0.0.1:9/jobs";
    run(&desk, &format!("config set queue.store {nobody}")).expect(0);
    let stored = run(&desk, "config get queue.store").expect(0);
    assert_eq!(stored.stdout.trim(), nobody);
    // No server listens at this address.
    let doctor = run(&desk, "doctor").expect(1);
    doctor.shows("127.0.0.1:9");
    // The export is for the queue on the server, not for the file.
    // Three commands with the file in the data folder.
    run(&desk, "status --store none").expect(0);
    let mut command = desk.command(["status"]);
    command.env("BATCHWRIGHT_STORE", "none");
    command.ended().expect(0);
    desk.prompts("in.jsonl", 1);
    let submitted = run(&desk, "submit in.jsonl --store none").expect(0);
    submitted.tells("--store none");
    let local = run(&desk, "config list").expect(0);
    local.shows(nobody);
    run(&desk, "config unset queue.store").expect(0);
    let status = run(&desk, "status --json").expect(0);
    status.shows("\"pending\":1");
}
