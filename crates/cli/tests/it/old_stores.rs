//! Stores of earlier versions are taken over: each job has one outcome, and nothing is bought twice. How they were made says
//! `tests/data/stores/README.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::common::{Desk, RunToEnd, Running, eventually};
use super::fake::{Answer, Asked, Fake, reply, says};
use super::serve::ask;

/// What the provider holds, and what was bought of it since.
#[derive(Default)]
struct Held {
    state: Value,
    bought: usize,
    created: usize,
}

/// The provider of the stores of a kind, which answers their batches now.
struct Provider {
    fake: Fake,
    held: Arc<Mutex<Held>>,
}

impl Provider {
    /// `at`: the last number of its address, which the stores have on record.
    fn new(at: u8) -> Self {
        let held = Arc::<Mutex<Held>>::default();
        let answers = held.clone();
        let answer = move |asked: &Asked| answers.lock().unwrap().answer(asked);
        let fake = Fake::start_at(&format!("127.74.0.{at}:47474"), answer);
        Self { fake, held }
    }
}

/// A store as it was.
struct Old<'p> {
    desk: Desk,
    provider: &'p Provider,
}

fn unpack(name: &str, desk: &Desk) {
    let file = format!(
        "{}/../../tests/data/stores/{name}.tar.gz",
        env!("CARGO_MANIFEST_DIR")
    );
    let packed = Command::new("tar")
        .args(["-xzf", &file, "-C"])
        .arg(desk.path(""))
        .status();
    assert!(packed.unwrap().success());
}

impl<'p> Old<'p> {
    fn new(name: &str, provider: &'p Provider) -> Self {
        let desk = Desk::new();
        unpack(name, &desk);
        let state = serde_json::from_str(&desk.read("provider.json")).unwrap();
        *provider.held.lock().unwrap() = Held {
            state,
            ..Held::default()
        };
        Self { desk, provider }
    }

    fn command(&self, words: &str) -> Command {
        let mut command = self.desk.command(words.split_whitespace());
        command
            .env("BATCHWRIGHT_PROVIDER", "openai")
            .env("BATCHWRIGHT_MODEL", "m")
            .env("OPENAI_API_KEY", "k")
            .env("OPENAI_BASE_URL", self.provider.fake.url())
            .env("BATCHWRIGHT_BATCH_POLL_INTERVAL", "100ms");
        command
    }

    /// How many requests were bought, and how many batches were created, since it was taken over.
    fn bought(&self) -> (usize, usize) {
        let held = self.provider.held.lock().unwrap();
        (held.bought, held.created)
    }

    /// The queue of the data folder, or the one that `on` selects: its waiting jobs are done, and all have one outcome.
    fn is_done_once(&self, on: impl Fn(Command) -> Command) {
        let run = |words: &str| on(self.command(&format!("{words} --data-dir data"))).ended();
        let processes: Value = serde_json::from_str(&self.desk.read("processes.json")).unwrap();
        run("work --strategy batch --until-empty -q").expect(0);
        assert_eq!(self.bought(), (10_000, 1));
        for (name, all, failed) in [("done", 41, 1), ("batch", 500, 0), ("waiting", 10_000, 0)] {
            let id = processes[name].as_str().unwrap();
            run(&format!("results {id} -o {name}.jsonl -q"));
            let lines = self.desk.results(&format!("{name}.jsonl"));
            let outcomes: BTreeMap<&str, bool> = lines
                .iter()
                .map(|line| (line["id"].as_str().unwrap(), line["error"].is_null()))
                .collect();
            let without = outcomes.values().filter(|is_answer| !**is_answer).count();
            assert_eq!(
                (lines.len(), outcomes.len(), without),
                (all, all, failed),
                "{name}"
            );
        }
    }
}

impl Held {
    fn answer(&mut self, asked: &Asked) -> Answer {
        let (method, path) = (asked.head.split(' ').next().unwrap(), &*asked.path);
        let parts: Vec<&str> = path.split('?').next().unwrap().split('/').skip(2).collect();
        match (method, &parts[..]) {
            ("POST", ["files"]) => {
                let body = String::from_utf8_lossy(&asked.body);
                let lines = body.lines().filter(|line| line.starts_with('{'));
                let lines: String = lines.map(|line| format!("{line}\n")).collect();
                let id = format!(
                    "file-new-{}",
                    self.state["files"].as_object().unwrap().len()
                );
                self.state["files"][&id] = lines.into();
                says(200, json!({"id": id, "object": "file", "purpose": "batch"}))
            }
            ("POST", ["batches"]) => {
                let id = format!(
                    "batch-new-{}",
                    self.state["batches"].as_object().unwrap().len()
                );
                let mut batch = asked.json();
                let input = batch["input_file_id"].as_str().unwrap();
                self.bought += self.state["files"][input].as_str().unwrap().lines().count();
                self.created += 1;
                (batch["id"], batch["status"]) = (id.clone().into(), "in_progress".into());
                batch["created_at"] = json!(1_764_583_200);
                self.state["batches"][&id] = batch.clone();
                says(200, batch)
            }
            ("GET", ["batches"]) => {
                let all: Vec<&Value> = self.state["batches"]
                    .as_object()
                    .unwrap()
                    .values()
                    .collect();
                says(
                    200,
                    json!({"object": "list", "data": all, "has_more": false}),
                )
            }
            ("GET", ["batches", id]) => {
                let mut batch = self.state["batches"][id].clone();
                batch["status"] = "completed".into();
                batch["output_file_id"] = batch["input_file_id"].clone();
                says(200, batch)
            }
            ("GET", ["files", id, "content"]) => {
                let input = self.state["files"][id].as_str().unwrap();
                let answer = |line: &str| {
                    let line: Value = serde_json::from_str(line).unwrap();
                    let body = reply(json!({"role": "assistant", "content": "Yes."}));
                    let response = json!({"status_code": 200, "request_id": "r", "body": body});
                    json!({"id": "l", "custom_id": line["custom_id"], "response": response, "error": null})
                };
                let lines = input.lines().map(|line| format!("{}\n", answer(line)));
                says(200, lines.collect::<String>())
            }
            ("DELETE", _) => says(200, "{}"),
            ("POST", ["chat", "completions"]) => {
                self.bought += 1;
                says(200, reply(json!({"role": "assistant", "content": "Yes."})))
            }
            _ => says(404, r#"{"error":{"message":"no such object"}}"#),
        }
    }
}

fn version(old: &Old, file: &str) -> i64 {
    let conn = rusqlite::Connection::open(old.desk.path(file)).unwrap();
    conn.pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap()
}

#[test]
fn a_queue_is_taken_over_by_who_writes_and_left_by_who_looks() {
    let provider = Provider::new(1);
    for from in [17, 18] {
        takes_over_queue(from, &provider);
    }
}

fn takes_over_queue(from: i64, provider: &Provider) {
    let old = Old::new(&format!("queue-{from}"), provider);
    let plain = |words: &str| old.command(&format!("{words} --data-dir data")).ended();
    let seen = plain("status --json").expect(0).json();
    assert_eq!(seen["processes"].as_array().unwrap().len(), 3);
    let processes: Value = serde_json::from_str(&old.desk.read("processes.json")).unwrap();
    let done = processes["done"].as_str().unwrap();
    plain(&format!("results {done} --keep -q"));
    plain("doctor").shows("work, serve or submit brings the file to 19");
    assert_eq!(version(&old, "data/llm_jobs.db"), from);
    // Two programs at once.
    let words = "work --until-empty -q --data-dir data --processes";
    let mut two = [(); 2].map(|()| old.command(&format!("{words} {done}")));
    let two = two.each_mut().map(Running::start);
    for worker in two {
        worker.wait().expect(0);
    }
    assert_eq!(version(&old, "data/llm_jobs.db"), 19);
    old.is_done_once(|command| command);
}

#[test]
fn a_run_goes_on_with_its_open_batch() {
    let provider = Provider::new(2);
    for name in ["run-17", "run-18"] {
        let old = Old::new(name, &provider);
        old.command("run in.jsonl -o out.jsonl --strategy batch -q")
            .ended()
            .expect(0);
        let ids: BTreeSet<String> = old.desk.ids("out.jsonl").into_iter().collect();
        assert_eq!((ids.len(), old.desk.results("out.jsonl").len()), (500, 500));
        assert_eq!(old.bought(), (0, 0));
    }
}

#[test]
fn a_server_goes_on_with_its_files_and_its_open_batch() {
    let provider = Provider::new(3);
    for name in ["server-5", "server-6"] {
        takes_over_server(name, &provider);
    }
}

fn takes_over_server(name: &str, provider: &Provider) {
    let old = Old::new(name, provider);
    let objects: Value = serde_json::from_str(&old.desk.read("objects.json")).unwrap();
    let (file, batch) = (
        objects["file"].as_str().unwrap(),
        objects["batch"].as_str().unwrap(),
    );
    // It was made a while ago, and would have expired.
    let conn = rusqlite::Connection::open(old.desk.path("data/server.db")).unwrap();
    let later = "UPDATE batches SET record = json_set(record, '$.expires_at', unixepoch() + 86400)";
    conn.execute(later, []).unwrap();
    drop(conn);
    let mut serve = old.command("serve --port 0 --strategy batch --data-dir data");
    let running = Running::start(&mut serve);
    running.hears("OpenAI clients http://");
    let said = running.said();
    let address = said
        .split("OpenAI clients http://")
        .nth(1)
        .unwrap()
        .split("/v1")
        .next()
        .unwrap();
    let get = |path: &str| ask(address, "GET", path, "", "").unwrap();
    let shown = || serde_json::from_str::<Value>(&get(&format!("/v1/batches/{batch}")).1).unwrap();
    assert!(
        eventually(|| shown()["status"] == "completed"),
        "{}",
        shown()
    );
    let output = shown()["output_file_id"].as_str().unwrap().to_owned();
    let lines = get(&format!("/v1/files/{output}/content")).1;
    let names: BTreeSet<&str> = lines
        .lines()
        .filter_map(|line| line.split("\"custom_id\":\"").nth(1)?.split('"').next())
        .collect();
    assert_eq!((names.len(), lines.lines().count()), (500, 500));
    assert_eq!(
        get(&format!("/v1/files/{file}/content")).1.lines().count(),
        500
    );
    assert_eq!(old.bought(), (0, 0));
    assert_eq!(version(&old, "data/server.db"), 7);
    running.signal("TERM");
    running.wait();
}

#[cfg(feature = "redis")]
#[test]
fn queue_server_of_an_earlier_version_is_taken_over() {
    let Some(server) = super::queue_server::Server::new() else {
        return;
    };
    let provider = Provider::new(4);
    for name in ["mysql-15", "mysql-16"] {
        takes_over_mysql(&server, Old::new(name, &provider));
    }
}

#[cfg(feature = "redis")]
fn takes_over_mysql(server: &super::queue_server::Server, old: Old<'_>) {
    let (login, place) = server.address.split_once('@').unwrap();
    let (host, rest) = place.split_once('/').unwrap();
    let (host, port) = host.split_once(':').unwrap();
    let database = rest.split('?').next().unwrap();
    let mut load = Command::new("mariadb");
    load.args([
        "--no-defaults",
        "-h",
        host,
        "-P",
        port,
        "-u",
        login.rsplit('/').next().unwrap(),
        database,
    ])
    .env("MYSQL_PWD", &server.password)
    .stdin(std::fs::File::open(old.desk.path("mysql.sql")).unwrap());
    assert!(load.status().unwrap().success());
    let address = server.address.split('?').next().unwrap();
    let on = |mut command: Command| {
        command
            .env("BATCHWRIGHT_STORE", format!("{address}?tables=old"))
            .env("BATCHWRIGHT_STORE_PASSWORD", &server.password);
        command
    };
    let plain = |words: &str| on(old.command(&format!("{words} --data-dir data"))).ended();
    plain("doctor").shows("work, serve or submit brings the tables to 17");
    old.is_done_once(on);
    plain("doctor").shows("version 17");
}

/// Its room is looked at first; then it stays as it is.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_keeps_an_old_queue_as_it_is() {
    let Some(disk) = super::common::SmallDisk::new("data", 8192) else {
        return;
    };
    unpack("queue-17", &disk.desk);
    let plain = |words: &str| super::queue::plain(&disk.desk, words);
    disk.leave(300);
    disk.desk.prompts("in.jsonl", 1);
    plain("submit in.jsonl")
        .expect(1)
        .says("to bring it to 19")
        .tells("Nothing was changed");
    plain("status").expect(0);
    disk.make_room();
    plain("submit in.jsonl").expect(0);
    plain("doctor").shows("version 19");
}
