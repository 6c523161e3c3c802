//! The setting `queue.store`: where commands find the queue without a flag.

#![cfg(feature = "mysql")]

use super::common::{Desk, Ended, RunToEnd};

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

/// The queue is on the server; its address is in the data folder.
#[cfg(unix)]
#[test]
fn the_setting_leads_every_command_to_the_server() {
    let Some(server) = super::queue_server::Server::new() else {
        return;
    };
    let desk = Desk::new();
    let run = |words: &str| {
        let mut command = server.on(desk.command(words.split_whitespace()));
        command.env_remove("BATCHWRIGHT_STORE").ended()
    };
    run(&format!("config set queue.store {}", server.address())).expect(0);
    desk.prompts("in.jsonl", 2);
    run("submit in.jsonl -q").expect(0);
    assert!(!desk.exists("home/llm_jobs.db"));
    let status = server
        .run(&desk, "status --json --data-dir elsewhere")
        .expect(0);
    status.shows("\"pending\":2");
    let list = run("config list").expect(0).stdout;
    let stored = list.lines().find(|line| line.starts_with("queue.store"));
    assert!(
        stored.is_some_and(|line| line.contains("mysql://")),
        "{list}"
    );
    run("doctor").expect(0).shows("mysql://");
}
