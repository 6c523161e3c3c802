//! Moves of a queue to a database server and back.

use super::super::queue_server::Server;
use super::super::serve::{listening, post, sent};
use super::super::servers::{got, upload};
use super::*;

use crate::common::RunToEnd;

/// To a database server and back: finished jobs stay finished, and waiting jobs run once. The batch that stays at
/// the provider is fetched there and not submitted again.
#[test]
fn a_queue_moves_to_a_server_and_back_with_a_batch_under_way() {
    let Some(server) = Server::new() else { return };
    let sim = taking(Duration::from_millis(300));
    let desk = Desk::new();
    let members = |i| json!({"type": "completion", "payload": {"prompt": format!("member {i}")}});
    let members: Vec<_> = (0..5).map(members).collect();
    desk.write(
        "fan.jsonl",
        format!("{}\n", json!({"id": "b", "jobs": members})),
    );
    let parent = submit(&desk, "--type batch_process fan.jsonl");
    let words = format!("work --strategy batch --until-submitted --processes {parent} -q");
    command(&desk, &sim, &words).ended().expect(0);
    assert_eq!(sim.batch_stats().created, 1);
    let (process, ids) = mixed(&desk);
    let before = states(&queue(&desk), &ids);
    plain(&desk, "queue export one.bw").expect(0);
    server
        .run(&desk, "queue import one.bw --data-dir far")
        .expect(0);
    let refused = server
        .run(&desk, "queue import one.bw --data-dir far")
        .expect(1);
    refused.errs("already");

    // The export from the server has the same rows as the first export.
    server
        .run(&desk, "queue export two.bw --data-dir far")
        .expect(0);
    let refused = server.run(&desk, "status --data-dir far").expect(1);
    refused.errs("two.bw");
    assert_eq!(rows(&desk.path("one.bw")), rows(&desk.path("two.bw")));
    server.run(&desk, "queue reopen --data-dir far").expect(0);

    // Some jobs run on the server, the rest after the move back.
    let there = server.queue(&desk.path("far"));
    assert_eq!(states(&there, &ids), before);
    let work = format!("work --until-empty --processes {process} -q");
    let mut command_there = server.on(command(&desk, &sim, &work));
    command_there.args(["--strategy", "sync"]);
    command_there.ended().expect(0);
    assert_eq!(sim.stats().calls, 8);
    let fenced = there.process(process).unwrap().unwrap();
    assert_eq!((fenced.counts.completed, fenced.counts.failed), (9, 1));
    server
        .run(&desk, "queue export back.bw --data-dir far --wait")
        .expect(0);
    let late = there
        .enqueue(process, [Job::from(Request::new("late"))])
        .unwrap_err();
    assert!(late.message().contains("closed for a move"), "{late}");
    let words = ["queue", "import", "back.bw", "--data-dir", "home2"];
    desk.command(words).ended().expect(0);
    let here = |words: &str| {
        let mut command = command(&desk, &sim, words);
        command.env("BATCHWRIGHT_DATA_DIR", "home2");
        let args: Vec<_> = words
            .split_whitespace()
            .chain(["--data-dir", "home2"])
            .collect();
        let mut plain = desk.command(args);
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                plain.env(name, value);
            }
        }
        plain.ended()
    };
    here("work --strategy batch --until-empty -q").expect(0);
    assert_eq!((sim.stats().calls, sim.batch_stats().created), (8, 1));
    let results = here(&format!("results {process}")).expect(3).stdout;
    assert_eq!(results.lines().count(), 10, "{results}");
    let batch = here(&format!("results {parent}")).expect(0).stdout;
    assert!(batch.contains("\"completed\":5"), "{batch}");
}

/// An idempotency key that created a job at the old place creates no second one at the new place. A batch of
/// `/v1` continues there with its files.
#[test]
fn records_of_the_http_server_move_with_the_queue() {
    let Some(server) = Server::new() else { return };
    const LINES: usize = 120;
    let (desk, sim) = (Desk::new(), super::super::common::good());
    let url = sim.base_url();
    let words = format!(
        "serve --base-url {url} --provider local --model sim-1 --port 0 -j 4 --data-dir data"
    );
    let job = |address: &str| {
        let body = json!({"type": "completion", "payload": {"prompt": "once"}}).to_string();
        post(address, "/api/v1/jobs", "idempotency-key: k\r\n", &body).unwrap()
    };
    let (killed, address) = listening(&mut desk.command(words.split_whitespace()));
    let first = job(&address);
    assert_eq!(first.0, 201, "{}", first.1);
    assert!(sim.wait_until(|stats| stats.calls == 1, PATIENCE));
    let file = upload(&address, LINES, 60_000);
    assert!(file["bytes"].as_u64().unwrap() > 2 << 20, "{file}");
    sim.hold();
    let asked = json!({
        "input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h",
    });
    let batch = got(&address, "POST", "/v1/batches", &asked.to_string());
    let path = format!("/v1/batches/{}", batch["id"].as_str().unwrap());
    let stands = |address: &str, state: &str| {
        eventually(|| got(address, "GET", &path, "")["status"] == state)
    };
    assert!(stands(&address, "in_progress"));
    drop(killed);
    sim.release();

    let report = plain(&desk, "queue export q.bw --json").expect(0).stdout;
    assert!(report.contains("\"idempotency_keys\":1"), "{report}");
    server.run(&desk, "queue import q.bw").expect(0);
    let (running, address) = listening(&mut server.on(desk.command(words.split_whitespace())));
    assert_eq!(job(&address).1, first.1);
    assert!(stands(&address, "completed"));
    let done = got(&address, "GET", &path, "");
    let output = done["output_file_id"].as_str().unwrap();
    let content = |address: &str, id: &str| {
        let answer = sent(address, "GET", &format!("/v1/files/{id}/content"), "");
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    };
    let results = content(&address, output);
    assert_eq!(results.lines().count(), LINES);
    running.signal("TERM");
    running.wait();
    // At most the calls in flight at the kill, and the job of the key.
    let calls = sim.stats().calls;
    assert!(calls <= LINES as u64 + 5, "{calls}");

    server.run(&desk, "queue export back.bw --wait").expect(0);
    let words = words.replace("--data-dir data", "--data-dir data2");
    let import = ["queue", "import", "back.bw", "--data-dir", "data2"];
    desk.command(import).ended().expect(0);
    let (_running, address) = listening(&mut desk.command(words.split_whitespace()));
    assert_eq!(job(&address).1, first.1);
    assert!(content(&address, output) == results);
    let input = content(&address, file["id"].as_str().unwrap());
    assert_eq!(input.len() as u64, file["bytes"].as_u64().unwrap());
    assert_eq!(sim.stats().calls, calls);
}

#[test]
fn an_import_into_a_server_stops_when_another_one_takes_over() {
    let Some(server) = Server::new() else { return };
    let desk = Desk::new();
    let far = desk.path("far");
    stops_when_another_one_takes_over(&desk, &|| server.closed_queue(&far));
    server.queue(&far);
}

/// Its lease ends after 15 s. An export from then on takes it off the list; each export is a new process.
#[test]
fn a_queue_whose_worker_was_killed_is_exported_without_wait() {
    let Some(server) = Server::new() else { return };
    let desk = Desk::with(5);
    let sim = simulator(SimConfig::default().latency(Duration::from_secs(60)));
    server.run(&desk, "submit in.jsonl").expect(0);
    let worker = Running::start(&mut server.on(command(&desk, &sim, "work -q")));
    assert!(sim.wait_until(|stats| stats.calls > 0, PATIENCE));
    let refused = server.run(&desk, "queue export q.bw").expect(1);
    refused.errs("in use");
    drop(worker);
    assert!(eventually(|| {
        server.run(&desk, "queue export q.bw").status.success()
    }));
}

/// An import into a server that is killed goes on, and no place is open meanwhile.
#[test]
fn a_killed_import_into_a_server_resumes() {
    let Some(server) = Server::new() else { return };
    let desk = Desk::with(20_000);
    submit(&desk, "in.jsonl");
    plain(&desk, "queue export q.bw").expect(0);
    let words = "queue import q.bw --data-dir far";
    let killed = Running::start(&mut server.on(desk.command(words.split_whitespace())));
    let begun = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let file = Connection::open_with_flags(desk.path("q.bw"), flags).unwrap();
        let find = "SELECT value FROM meta WHERE key = 'move'";
        let mark: rusqlite::Result<String> = file.query_row(find, [], |row| row.get(0));
        mark.is_ok_and(|mark| mark.contains("\"importing\""))
    };
    assert!(eventually(begun), "{}", killed.said());
    drop(killed);
    let closed = server.run(&desk, "status --data-dir far").expect(1);
    closed.errs("queue import");
    let settings = server.run(&desk, "config list --data-dir far");
    settings.expect(0);
    server.run(&desk, words).expect(0);
    server
        .run(&desk, "queue export back.bw --data-dir far")
        .expect(0);
    assert_eq!(rows(&desk.path("q.bw")), rows(&desk.path("back.bw")));
}
