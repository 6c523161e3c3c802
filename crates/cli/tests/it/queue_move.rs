//! `queue export`, `queue import` and `queue reopen`: every job is in one place, and is billed once. The tests with
//! a database server need `scripts/with-servers`; without a server they print that they were skipped.

#![cfg(unix)]

#[cfg(feature = "mysql")]
mod on_a_server;

use std::path::Path;
use std::time::Duration;

use batchwright::progress::Timestamp;
use batchwright::queue::{JobStatus, MoveOptions, SqliteOptions, SqliteStore};
use batchwright::unstable::{
    ClaimOutcome, ClaimRequest, ClaimStore, Clock, EnqueueStore, Settlement, SystemClock,
};
use batchwright::{Error, ErrorKind, Job, JobId, JobQueue, ProcessId, Request};
use batchwright_simulate::SimConfig;
use rusqlite::types::Value as Cell;
use rusqlite::{Connection, OpenFlags};
use serde_json::json;
use serde_json::value::to_raw_value;

use super::batch::command;
#[cfg(feature = "mysql")]
use super::batch::taking;
use super::common::{Desk, PATIENCE, RunToEnd, Running, eventually, simulator};
use super::queue::{database, plain, queue, submit, submitted};

/// All rows of an exported file, without the rows that only a file has.
fn rows(path: &Path) -> Vec<(String, Vec<Vec<Cell>>)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let conn = Connection::open_with_flags(path, flags).unwrap();
    let find = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT IN ('meta', 'workers') ORDER BY name";
    let mut find = conn.prepare(find).unwrap();
    let names = find.query_map([], |row| row.get(0)).unwrap();
    let names: Vec<String> = names.collect::<Result<_, _>>().unwrap();
    let table = |name: String| {
        let mut all = conn
            .prepare(&format!("SELECT * FROM {name} ORDER BY 1"))
            .unwrap();
        let columns = all.column_count();
        let rows = all.query_map([], |row| (0..columns).map(|at| row.get(at)).collect());
        let rows = rows.unwrap().collect::<Result<_, _>>().unwrap();
        (name, rows)
    };
    let mut all: Vec<_> = names.into_iter().map(table).collect();
    let mut meta = conn
        .prepare("SELECT key, value FROM meta WHERE key IN ('id', 'salt')")
        .unwrap();
    let meta = meta
        .query_map([], |row| Ok(vec![row.get(0)?, row.get(1)?]))
        .unwrap();
    all.push(("meta".to_owned(), meta.collect::<Result<_, _>>().unwrap()));
    all
}

/// Ten prompts: the first has succeeded, the second has failed, the third and the fourth wait for a retry, the
/// third possibly billed; the others wait.
fn mixed(desk: &Desk) -> (ProcessId, Vec<JobId>) {
    std::fs::create_dir_all(desk.path("data")).unwrap();
    let store = SqliteStore::open(database(desk), SqliteOptions::default()).unwrap();
    let (process, now) = (ProcessId::new(), SystemClock.wall());
    let prompt = |i| Job::from(Request::new(format!("prompt {i}")).with_id(format!("i-{i}")));
    let jobs = (0..10).map(prompt).collect();
    let ids = store.insert(process, jobs, true, now).unwrap();
    let worker = store.register_worker().unwrap();
    let mut open = |_: &_| 100;
    let wanted = ClaimRequest {
        most: 5,
        idle: true,
        processes: &[process],
        look_again: false,
        open: &mut open,
    };
    let claimed = store.claim(worker, wanted, now).unwrap().jobs;
    assert_eq!(claimed.len(), 5);
    let later = |in_doubt| ClaimOutcome::Retry {
        due_at: Timestamp(now.0 + 300),
        step: 0,
        attempt: 1,
        in_doubt,
        spent: None,
        history: json!({"errors": [error("overloaded")]}).to_string(),
    };
    let line = json!({"id": "i-0", "success": true, "response": "done"});
    let outcomes = [
        ClaimOutcome::Completed {
            result: to_raw_value(&line).unwrap(),
            spent: None,
        },
        ClaimOutcome::Failed {
            error: Error::new(ErrorKind::Invalid, "no"),
            result: None,
            spent: None,
        },
        later(true),
        later(false),
        ClaimOutcome::Snooze { due_at: None },
    ];
    let ends = claimed
        .iter()
        .zip(outcomes)
        .map(|(job, outcome)| Settlement {
            receipt: job.receipt,
            calls: 1,
            outcome,
            charge: None,
            budget: Default::default(),
        });
    let ends: Vec<Settlement> = ends.collect();
    store.settle(&ends, now).unwrap();
    store.unregister_worker(worker, now).unwrap();
    (process, ids)
}

fn error(text: &str) -> serde_json::Value {
    json!({"kind": "transient", "message": text})
}

fn states(queue: &JobQueue, ids: &[JobId]) -> Vec<JobStatus> {
    let state = |id: &JobId| queue.job(*id).unwrap().unwrap().status;
    ids.iter().map(state).collect()
}

#[test]
fn a_queue_moves_to_another_folder_and_is_closed_where_it_was() {
    let desk = Desk::new();
    let (process, ids) = mixed(&desk);
    let before = (
        format!("{:?}", queue(&desk).process(process).unwrap()),
        states(&queue(&desk), &ids),
    );
    let ended = plain(&desk, "queue export q.bw").expect(0);
    ended.tells("1 process, 10 jobs (2 with");
    // Every command reports where the queue was moved to, and how to undo the move.
    desk.prompts("in.jsonl", 1);
    for words in [
        "work --until-empty --provider local --model m",
        "submit in.jsonl",
        "serve --port 0 --provider local --model m",
        "status",
        "results x",
    ] {
        let refused = plain(&desk, words).expect(1);
        refused.errs("q.bw");
        refused.errs("queue reopen");
    }
    let again = plain(&desk, "queue export other.bw").expect(1);
    again.errs("was moved to");
    let file = JobQueue::open(desk.path("q.bw")).err().unwrap();
    assert!(file.message().contains("queue import"), "{file}");
    let import = |folder: &str| {
        let words = format!("queue import q.bw --data-dir {folder}");
        desk.plain(&words)
    };
    import("new").expect(0);
    let moved = JobQueue::open(desk.path("new/llm_jobs.db")).unwrap();
    assert_eq!(
        (
            format!("{:?}", moved.process(process).unwrap()),
            states(&moved, &ids)
        ),
        before
    );
    // A file can be imported only once.
    let second = import("third").expect(1);
    second.errs("already");
    let reopened = plain(&desk, "queue reopen").expect(1);
    reopened.errs("was already imported into");
    let old = plain(&desk, "queue import q.bw").expect(1);
    old.errs("already");
    // The target must be empty.
    let other = desk.path("third/llm_jobs.db");
    JobQueue::open(&other)
        .unwrap()
        .export_to(desk.path("empty.bw"), MoveOptions::new())
        .unwrap();
    let full = moved
        .import_from(desk.path("empty.bw"), MoveOptions::new())
        .unwrap_err();
    assert!(full.message().contains("is not empty"), "{full}");
    drop(moved);
    std::fs::remove_dir_all(desk.path("new")).unwrap();
    let lost = import("new").expect(1);
    lost.errs("--again");
}

/// The export was killed before it wrote the mark of the file, or the mark of the queue.
#[test]
fn an_export_that_was_killed_at_its_end_is_finished_by_the_same_command() {
    let desk = Desk::new();
    let (process, _) = mixed(&desk);
    plain(&desk, "queue export q.bw").expect(0);
    let set = |path: &Path, mark: &serde_json::Value| {
        let conn = Connection::open(path).unwrap();
        let set = "UPDATE meta SET value = ?1 WHERE key = 'move'";
        assert_eq!(conn.execute(set, [mark.to_string()]).unwrap(), 1);
    };
    let conn = Connection::open(database(&desk)).unwrap();
    let find = "SELECT value FROM meta WHERE key = 'move'";
    let mark: String = conn.query_row(find, [], |row| row.get(0)).unwrap();
    drop(conn);
    let mut mark: serde_json::Value = serde_json::from_str(&mark).unwrap();
    mark["stage"] = "exporting".into();
    mark["attempt"] = "a".into();
    for of_queue in [false, true] {
        set(&desk.path("q.bw"), &mark);
        if of_queue {
            set(&database(&desk), &mark);
        }
        let early = ["queue", "import", "q.bw", "--data-dir", "new"];
        let early = desk.command(early).ended().expect(1);
        early.errs("has not ended");
        std::fs::hard_link(desk.path("q.bw"), desk.path("q.bw.a.part")).unwrap();
        plain(&desk, "queue export q.bw").expect(0);
        assert!(!desk.exists("q.bw.a.part"));
    }
    // If the queue is reopened at that moment, the file is missing.
    set(&desk.path("q.bw"), &mark);
    set(&database(&desk), &mark);
    plain(&desk, "queue reopen").expect(0);
    assert!(!desk.exists("q.bw"));
    assert_eq!(
        queue(&desk).process(process).unwrap().unwrap().counts.total,
        10
    );
}

#[test]
fn an_exported_file_is_invalid_after_its_queue_is_reopened() {
    let desk = Desk::new();
    let (process, _) = mixed(&desk);
    let open = queue(&desk);
    plain(&desk, "queue export q.bw").expect(0);
    // A program that had opened the queue before cannot write either.
    let job = || [Job::from(Request::new("late"))];
    let late = open.enqueue(process, job()).unwrap_err();
    assert!(late.message().contains("closed for a move"), "{late}");
    plain(&desk, "queue reopen").ends(0, "if a copy of that file was imported elsewhere");
    assert!(
        open.cancel(process).is_err(),
        "it has to open the queue again"
    );
    queue(&desk).enqueue(process, job()).unwrap();
    let words = ["queue", "import", "q.bw", "--data-dir", "new"];
    let refused = desk.command(words).ended().expect(1);
    refused.errs("reopened");
    plain(&desk, "queue reopen").ends(0, "not closed");
    plain(&desk, "queue export q2.bw").expect(0);
    std::fs::remove_file(desk.path("q2.bw")).unwrap();
    let gone = plain(&desk, "queue reopen").expect(1);
    gone.errs("--force");
    plain(&desk, "queue reopen --force").expect(0);
}

#[test]
fn a_queue_in_use_is_not_exported() {
    let (desk, _) = submitted(20);
    let sim = simulator(SimConfig::default().latency(Duration::from_secs(20)));
    let worker = Running::start(&mut command(&desk, &sim, "work -q"));
    assert!(sim.wait_until(|stats| stats.calls > 0, PATIENCE));
    let refused = plain(&desk, "queue export q.bw").expect(1);
    refused.errs("in use by a worker (process");
    assert!(!desk.exists("q.bw"));
    let waits = Running::start(&mut super::queue::on_queue(
        &desk,
        "queue export q.bw --wait",
    ));
    // The next command requeues its jobs.
    drop(worker);
    waits.wait().expect(0);
    let moved = rows(&desk.path("q.bw"));
    let jobs = &moved.iter().find(|(name, _)| name == "jobs").unwrap().1;
    assert_eq!(jobs.len(), 20);
}

#[test]
fn exported_jobs_contain_their_files_and_missing_files_stop_the_export() {
    let desk = Desk::new();
    desk.write("a.png", b"\x89PNG\r\n\x1a\nrest");
    let line =
        r#"{"id":"i-0","messages":[{"role":"user","content":[{"type":"file","path":"a.png"}]}]}"#;
    desk.write("in.jsonl", format!("{line}\n"));
    submit(&desk, "in.jsonl");
    std::fs::rename(desk.path("a.png"), desk.path("b.png")).unwrap();
    let refused = plain(&desk, "queue export q.bw").expect(1);
    refused.errs("the job i-0 names a local file");
    assert!(!desk.exists("q.bw"));
    plain(&desk, "status").expect(0);
    plain(&desk, "queue export kept.bw --keep-paths").ends(0, "1 jobs name local files");
    plain(&desk, "queue reopen").expect(0);
    std::fs::rename(desk.path("b.png"), desk.path("a.png")).unwrap();
    plain(&desk, "queue export q.bw").expect(0);
    let payloads = format!("{:?}", rows(&desk.path("q.bw")));
    assert!(payloads.contains("iVBORw0KGgpyZXN0"), "{payloads}");
}

/// An export or an import that was killed resumes with the same command. Until it ends, no place is open.
#[test]
fn a_killed_move_resumes_and_loses_nothing() {
    const JOBS: usize = 20_000;
    let desk = Desk::with(JOBS);
    let id = submit(&desk, "in.jsonl");
    let length = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
    let grows = |part: &str, bytes: u64| {
        let files = std::fs::read_dir(desk.path("")).unwrap().flatten();
        let mut files = files.filter(|file| file.file_name().to_string_lossy().ends_with(part));
        files.any(|file| length(&file.path()) > bytes)
    };
    let export = || Running::start(&mut super::queue::on_queue(&desk, "queue export q.bw"));
    let killed = export();
    assert!(eventually(|| grows(".part-wal", 500_000)));
    drop(killed);
    assert!(!desk.exists("q.bw"));
    let closed = plain(&desk, "status").expect(1);
    closed.errs("has not ended");
    let other = plain(&desk, "queue export other.bw").expect(1);
    other.errs("queue export");
    export().wait().expect(0);
    assert!(
        !grows(".part", 0) && !grows(".part-wal", 0),
        "nothing is left of the first"
    );

    let import = || {
        let words = ["queue", "import", "q.bw", "--data-dir", "new"];
        Running::start(&mut desk.command(words))
    };
    let killed = import();
    let wal = desk.path("new/llm_jobs.db-wal");
    assert!(eventually(|| length(&wal) > 500_000));
    drop(killed);
    let new = |words: &str| {
        let words = words.split_whitespace().chain(["--data-dir", "new"]);
        desk.command(words).ended()
    };
    let closed = new("status").expect(1);
    closed.errs("queue import");
    let elsewhere = ["queue", "import", "q.bw", "--data-dir", "third"];
    let elsewhere = desk.command(elsewhere).ended().expect(1);
    elsewhere.errs("has begun");
    plain(&desk, "queue reopen").expect(1);
    // Another queue at the same path, as in another container.
    std::fs::rename(desk.path("new"), desk.path("begun")).unwrap();
    let same_path = import().wait().expect(1);
    same_path.errs("--again");
    std::fs::remove_dir_all(desk.path("new")).unwrap();
    std::fs::rename(desk.path("begun"), desk.path("new")).unwrap();
    // An import that is killed before it opens the queue has marked the file.
    let file = Connection::open(desk.path("q.bw")).unwrap();
    let mark = "UPDATE meta SET value = replace(value, '\"importing\"', '\"imported\"') WHERE key = 'move'";
    assert_eq!(file.execute(mark, []).unwrap(), 1);
    drop(file);
    import().wait().expect(0);
    new("queue export back.bw").expect(0);
    assert_eq!(rows(&desk.path("q.bw")), rows(&desk.path("back.bw")));
    let file = Connection::open(desk.path("back.bw")).unwrap();
    let pending: i64 = file
        .query_row("SELECT pending FROM processes", [], |row| row.get(0))
        .unwrap();
    assert_eq!(pending, JOBS as i64, "{id}");
}

/// While an import runs, the same command begins again, takes over and opens the queue. The first one must not write to it.
fn stops_when_another_one_takes_over(desk: &Desk, open: &dyn Fn() -> JobQueue) {
    mixed(desk);
    plain(desk, "queue export q.bw").expect(0);
    let mut others = Vec::new();
    let again = |_| others.push(open().import_from(desk.path("q.bw"), MoveOptions::new()));
    let first = open().import_from(desk.path("q.bw"), MoveOptions::new().on_progress(again));
    let error = first.unwrap_err();
    assert!(error.message().contains("took over"), "{error}");
    assert_eq!(others.len(), 1);
    others.remove(0).unwrap();
}

#[test]
fn an_import_stops_when_another_one_takes_over() {
    let desk = Desk::new();
    let options = || SqliteOptions::default().allow_closed();
    let open = || JobQueue::open_with(desk.path("new.db"), options()).unwrap();
    stops_when_another_one_takes_over(&desk, &open);
    JobQueue::open(desk.path("new.db")).unwrap();
}
