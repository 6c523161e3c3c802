//! The queue on a database server, which `scripts/with-servers` starts; without one these tests print that they
//! were skipped.

#![cfg(feature = "redis")]

use std::process::Command;

use batchwright::ProcessId;
use batchwright_simulate::{Recorder, SimConfig};

use super::batch;
use super::batch_runs::taking;
use super::common::{Desk, Ended, PATIENCE, RunToEnd, Running, all_ids, simulator};

/// A separate queue on the server.
pub struct Server {
    pub address: String,
    pub password: String,
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

/// Without the flag, a command would search for the batches in the data folder.
#[test]
fn the_last_lines_of_a_worker_name_the_server_that_a_flag_named() {
    let Some(server) = Server::new() else { return };
    let (desk, sim) = (Desk::with(3), taking(PATIENCE));
    let run = |words: &str| {
        let words = format!("{words} --store {}", server.address);
        let mut command = server.on(batch::command(&desk, &sim, &words));
        command.env_remove("BATCHWRIGHT_STORE").ended().expect(0)
    };
    run("submit in.jsonl");
    let ended = run("work --strategy batch --until-submitted");
    let is_advice = |line: &&str| line.contains("to collect the batches of no run: batchwright");
    let advice = ended.stderr.lines().find(is_advice);
    assert_eq!(advice.unwrap().matches(" --store ").count(), 1);
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
    let refused = Desk::new().plain("status --redis redis://127.0.0.1");
    refused.ends(2, "--store");
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

#[test]
fn an_address_with_a_password_is_not_stored() {
    let desk = Desk::new();
    let refused = desk.plain("config set queue.store mysql://me:s3cr3t@db/jobs");
    let refused = refused.ends(2, "BATCHWRIGHT_STORE_PASSWORD_FILE");
    refused.hides("s3cr3t");
    assert_eq!(desk.plain("config get queue.store").expect(0).stdout, "");
}

#[test]
fn a_flag_and_the_environment_override_the_setting() {
    let desk = Desk::with(1);
    let run = |words: &str| desk.plain(words);
    let nobody = "mysql://me@127.0.0.1:9/jobs";
    run(&format!("config set queue.store {nobody}")).expect(0);
    // No server listens at this address.
    run("doctor").expect(1).shows("127.0.0.1:9");
    // Three commands with the file in the data folder.
    run("status --store none").expect(0);
    let mut command = desk.command(["status"]);
    command.env("BATCHWRIGHT_STORE", "none").ended().expect(0);
    run("submit in.jsonl --store none").ends(0, "--store none");
    run("config list").expect(0).shows(nobody);
    run("config unset queue.store").expect(0);
    run("status --json").expect(0).shows("\"pending\":1");
}
