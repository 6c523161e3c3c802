//! Backups of the queue and of `server.db` from different moments: both are named, and nothing is bought again unsaid.

#![cfg(target_os = "linux")]

use std::fs;
use std::path::PathBuf;

use batchwright_simulate::Simulator;
use serde_json::{Value, json};

use super::common::{Desk, HOME, eventually, good};
use super::serve::{ask, serve};
use super::serve_long::{create, get, upload, wait_for};

const STORES: [&str; 2] = ["llm_jobs.db", "server.db"];

/// A folder with the stores of a paused batch, saved as `before`, and of the same one when it was done, saved as `after`.
struct Moments {
    desk: Desk,
    sim: Simulator,
    batch: String,
    process: String,
}

impl Moments {
    fn new() -> Self {
        let (desk, sim) = (Desk::new(), good());
        let line = |n: usize| {
            let body = json!({"model": "sim-1", "messages": [{"role": "user", "content": format!("Say {n}.")}]});
            json!({"custom_id": format!("r-{n}"), "method": "POST", "url": "/v1/chat/completions", "body": body})
        };
        let lines: String = (0..4).map(|n| format!("{}\n", line(n))).collect();
        desk.write("lines.jsonl", lines);
        let (running, address) = serve(&desk, &sim, "");
        ask(&address, "POST", "/api/v1/pause", "", "").unwrap();
        let made = create(&address, &upload(&address, &desk.path("lines.jsonl")));
        let batch = made["id"].as_str().unwrap().to_owned();
        wait_for(&address, &batch, "in_progress");
        let processes = get(&address, "/api/v1/processes");
        let process = processes["data"][0]["process_id"]
            .as_str()
            .unwrap()
            .to_owned();
        running.signal("TERM");
        running.wait().expect(0);
        let this = Self {
            desk,
            sim,
            batch,
            process,
        };
        this.save("before");
        this.serves(|address| {
            ask(address, "POST", "/api/v1/resume", "", "").unwrap();
            wait_for(address, &this.batch, "completed");
        });
        this.save("after");
        assert_eq!(this.calls(), 4);
        this
    }

    fn home(&self, name: &str) -> PathBuf {
        self.desk.path(HOME).join(name)
    }

    fn save(&self, name: &str) {
        for store in STORES {
            fs::copy(self.home(store), self.desk.path(&format!("{name}-{store}"))).unwrap();
        }
    }

    /// Puts the stores of these moments into the folder; one of none is gone.
    fn put(&self, moments: [&str; 2]) {
        for (store, moment) in STORES.into_iter().zip(moments) {
            for suffix in ["", "-wal", "-shm"] {
                let _ = fs::remove_file(self.home(&format!("{store}{suffix}")));
            }
            if !moment.is_empty() {
                fs::copy(
                    self.desk.path(&format!("{moment}-{store}")),
                    self.home(store),
                )
                .unwrap();
            }
        }
    }

    fn calls(&self) -> u64 {
        self.sim.stats().calls
    }

    /// What is done with a server of the folder.
    fn serves(&self, with: impl FnOnce(&str)) {
        let (running, address) = serve(&self.desk, &self.sim, "");
        with(&address);
        running.signal("TERM");
        running.wait().expect(0);
    }

    /// Nothing is done until it was asked for; then these things are said.
    fn is_apart(&self, why: &str, said: &str) {
        self.desk.input("{\"id\":\"a\",\"prompt\":\"x\"}\n");
        let at = format!(
            "--base-url {} --provider local --model sim-1",
            self.sim.base_url()
        );
        for words in [
            format!("serve --port 0 {at}"),
            format!("work --until-empty {at}"),
            "submit in.jsonl".to_owned(),
            format!("cancel {}", self.process),
            format!("restore {HOME}"),
        ] {
            let refused = self.desk.plain(&words).expect(1);
            refused.errs(why);
            for store in STORES {
                refused.errs(store);
            }
        }
        assert_eq!(self.calls(), 4);
        let restored = self
            .desk
            .plain(&format!("restore {HOME} --original-is-gone"))
            .expect(0);
        restored.shows(said);
        self.desk
            .plain(&format!("restore {HOME}"))
            .expect(0)
            .says("belong together");
    }

    /// The results of the batch, each of them once.
    fn has_all_results(&self, address: &str) {
        let shown = || get(address, &format!("/v1/batches/{}", self.batch));
        assert!(
            eventually(|| shown()["status"] == "completed"),
            "{}",
            shown()
        );
        let batch = shown();
        assert_eq!(
            batch["request_counts"],
            json!({"total": 4, "completed": 4, "failed": 0})
        );
        let output = batch["output_file_id"].as_str().unwrap();
        let lines = ask(
            address,
            "GET",
            &format!("/v1/files/{output}/content"),
            "",
            "",
        )
        .unwrap()
        .1;
        let mut ids: Vec<String> = lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["custom_id"].to_string())
            .collect();
        ids.sort();
        assert_eq!(ids, ["\"r-0\"", "\"r-1\"", "\"r-2\"", "\"r-3\""]);
        assert_eq!(self.calls(), 4);
    }
}

#[test]
fn an_older_server_db_buys_nothing_again() {
    let at = Moments::new();
    at.put(["after", "before"]);
    at.is_apart(
        "server.db is older than the queue",
        "ends with the results in its files",
    );
    at.serves(|address| at.has_all_results(address));
}

#[test]
fn an_older_queue_has_nothing_of_a_batch_that_has_ended() {
    let at = Moments::new();
    at.put(["before", "after"]);
    at.is_apart(
        "is older than",
        "has ended, and its results are in its files",
    );
    at.serves(|address| {
        ask(address, "POST", "/api/v1/resume", "", "").unwrap();
        at.has_all_results(address);
    });
}

#[test]
fn results_of_a_lost_server_db_are_fetched_from_the_queue() {
    let at = Moments::new();
    at.put(["before", ""]);
    let fetch = format!("results {} -o out.jsonl", at.process);
    at.desk.plain(&fetch).expect(1).errs("server.db is gone");
    at.is_apart("server.db is gone", &format!("{} is lost", at.batch));
    at.serves(|address| {
        ask(address, "POST", "/api/v1/resume", "", "").unwrap();
        let process = format!("/api/v1/processes/{}", at.process);
        assert!(eventually(|| get(address, &process)["completed"] == 4));
    });
    at.desk.plain(&fetch).expect(0);
    assert_eq!(at.desk.results("out.jsonl").len(), 4);
}

/// Killed between the two notes of a step, the queue is one ahead; and a queue that no server has used is taken as it is.
#[test]
fn a_kill_between_two_notes_and_a_new_queue_are_no_difference() {
    let at = Moments::new();
    let queue = rusqlite::Connection::open(at.home("llm_jobs.db")).unwrap();
    queue
        .execute("UPDATE servers SET step = step + 1", [])
        .unwrap();
    drop(queue);
    at.serves(|address| at.has_all_results(address));
    at.put(["", "after"]);
    at.serves(|address| at.has_all_results(address));
}

/// Its record says that it has not begun, or that its results are on the way into its files.
#[test]
fn a_batch_looks_for_what_it_has_before_it_begins_and_asks_for_a_file_that_is_missing() {
    let at = Moments::new();
    let record = |change: &str| {
        let database = rusqlite::Connection::open(at.home("server.db")).unwrap();
        let set =
            format!("UPDATE batches SET record = json_set(record, '$.totals', NULL, {change})");
        database.execute(&set, []).unwrap();
        let find = "SELECT record ->> 'output_file' FROM batches";
        database
            .query_row(find, [], |row| row.get::<_, String>(0))
            .unwrap()
    };
    let begins = "'$.state', 'validating', '$.total', 0, '$.times', json('{}')";
    let output = at.home("files").join(record(begins));
    let kept = fs::read(&output).unwrap();
    at.serves(|address| at.has_all_results(address));

    record("'$.state', 'finalizing'");
    fs::remove_file(&output).unwrap();
    let shown = |address: &str| get(address, &format!("/v1/batches/{}", at.batch));
    at.serves(|address| {
        let says = || shown(address)["errors"].to_string().contains("is missing");
        assert!(eventually(says), "{}", shown(address));
        assert!(!output.exists());
    });
    fs::write(&output, kept).unwrap();
    at.serves(|address| at.has_all_results(address));

    // The queue knows for a day that it had them.
    record(begins);
    fs::remove_file(&output).unwrap();
    at.serves(|address| {
        assert!(eventually(|| shown(address)["status"] == "failed"));
        assert!(
            shown(address)["errors"]
                .to_string()
                .contains("results_missing")
        );
    });
    assert_eq!(at.calls(), 4);
}
