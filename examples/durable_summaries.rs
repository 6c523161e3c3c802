//! An application with a database of its own lets a model summarise its documents, and may be killed
//! at any moment: started again it goes on, and each document ends up with exactly one summary.
//!
//! `cargo run --example durable_summaries -- FOLDER LINES.txt` takes each line of the file for a
//! document; later without the file. `BATCHWRIGHT_PROVIDER` and `BATCHWRIGHT_MODEL` name who answers,
//! by default nobody but `extract`. The guide in `docs/queue.md` walks through it.

use std::collections::HashMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs, thread};

use batchwright::queue::{JobResult, WorkerScale, WorkerSettings};
use batchwright::{Job, JobQueue, LlmConfig, ProcessId, Request, Route, Worker};
use rusqlite::{Connection, params};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// Ours. What belongs to a document stands here and nowhere else: the queue knows ids alone.
const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS documents (
        id INTEGER PRIMARY KEY,
        text TEXT NOT NULL UNIQUE,
        process TEXT               -- under which it was handed to the queue
    );
    CREATE TABLE IF NOT EXISTS summaries (
        document INTEGER PRIMARY KEY REFERENCES documents,
        summary TEXT,
        error TEXT                 -- why there is none
    );";

fn main() -> Result<()> {
    let mut words = env::args_os().skip(1);
    let usage = "usage: durable_summaries FOLDER [LINES.txt]";
    let folder = PathBuf::from(words.next().ok_or(usage)?);
    fs::create_dir_all(&folder)?;
    let mut app = open(&folder.join("app.db"))?;
    if let Some(file) = words.next() {
        import(&mut app, &fs::read_to_string(file)?)?;
    }
    let queue = JobQueue::open(&folder.join("llm_jobs.db"))?;

    assign(&mut app)?;
    hand_over(&app, &queue)?;

    let worker = Worker::new(&queue)
        .completions(route()?)
        .settings(WorkerSettings::default().scale(WorkerScale::fixed(8)))
        .start()?;
    while collect(&mut app, &queue)? {
        if worker.is_finished() {
            let report = worker.join()?;
            return Err(format!("the worker ended early: {:?}", report.stop).into());
        }
        thread::sleep(Duration::from_millis(100));
    }
    worker.stop()?;

    let count = "SELECT count(*), count(summary) FROM summaries";
    let (all, good): (i64, i64) = app.query_row(count, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    println!("{all} documents, {good} with a summary");
    Ok(())
}

fn route() -> Result<Route<'static>> {
    let provider = env::var("BATCHWRIGHT_PROVIDER").unwrap_or_else(|_| "extract".to_owned());
    let mut config = LlmConfig::new(provider);
    if let Ok(model) = env::var("BATCHWRIGHT_MODEL") {
        config = config.model(model);
    }
    Ok(Route::new(config.client()?))
}

fn open(path: &Path) -> Result<Connection> {
    let app = Connection::open(path)?;
    // One of us at a time: another one would take what is being handed over for abandoned.
    app.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    app.execute_batch(TABLES)?;
    Ok(app)
}

fn import(app: &mut Connection, text: &str) -> Result<()> {
    let new = app.transaction()?;
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        new.execute(
            "INSERT INTO documents (text) VALUES (?1) ON CONFLICT DO NOTHING",
            [line],
        )?;
    }
    Ok(new.commit()?)
}

/// Gives new documents a process id, which is in our database before the queue hears of it.
fn assign(app: &mut Connection) -> Result<()> {
    let process = ProcessId::new().to_string();
    let sql = "UPDATE documents SET process = ?1 WHERE process IS NULL";
    let documents = app.execute(sql, [&process])?;
    if documents > 0 {
        println!("process {process}: {documents} documents");
    }
    Ok(())
}

/// Brings the queue up to what our database says, wherever the last run was killed.
fn hand_over(app: &Connection, queue: &JobQueue) -> Result<()> {
    let open = queue.open_processes()?;
    let open: HashMap<_, _> = open.iter().map(|p| (p.process_id, p)).collect();
    for process in processes(app)? {
        if let Some(there) = open.get(&process).filter(|there| there.sealed) {
            let (done, all) = (there.counts.finished(), there.counts.total);
            println!("process {process}: {done} of {all} done, going on");
            continue;
        }
        // Killed before it was handed over, or while it was: nothing of it has been started.
        queue.delete(process)?;
        let mut lacking = app.prepare(
            "SELECT id, text FROM documents
             WHERE process = ?1 AND id NOT IN (SELECT document FROM summaries)",
        )?;
        let jobs = lacking.query_map([process.to_string()], |row| {
            let (id, text): (i64, String) = (row.get(0)?, row.get(1)?);
            let prompt = format!("Summarise in one sentence: {text}");
            Ok(Job::from(Request::new(prompt).with_id(id.to_string())))
        })?;
        queue.try_enqueue_iter(process, jobs)?;
    }
    Ok(())
}

/// Processes of which a document has no summary yet.
fn processes(app: &Connection) -> Result<Vec<ProcessId>> {
    let mut find = app.prepare(
        "SELECT DISTINCT process FROM documents
         WHERE process IS NOT NULL AND id NOT IN (SELECT document FROM summaries)",
    )?;
    let found = find.query_map([], |row| row.get::<_, String>(0))?;
    found.map(|id| Ok(id?.parse()?)).collect()
}

/// Moves what is finished from the queue into our database. False when nothing is left of ours.
fn collect(app: &mut Connection, queue: &JobQueue) -> Result<bool> {
    let mut left = false;
    // Those of other programs are theirs; ours may be there although every summary is saved, if
    // we were killed between saving and deleting.
    for process in queue.open_processes()? {
        let id = process.process_id;
        let ours = "SELECT EXISTS (SELECT 1 FROM documents WHERE process = ?1)";
        if app.query_row(ours, [id.to_string()], |row| row.get(0))? {
            queue.consume(id, |results| save(app, results))?;
            left |= queue.process(id)?.is_some();
        }
    }
    Ok(left)
}

/// Bears being given the same results twice, as `consume` demands.
fn save(app: &mut Connection, results: &[JobResult]) -> rusqlite::Result<()> {
    let saving = app.transaction()?;
    for result in results {
        let answer = result.parse::<serde_json::Value>();
        let (summary, error) = match &answer {
            Ok(line) => (line["text"].as_str(), None),
            Err(error) => (None, Some(error.to_string())),
        };
        saving.execute(
            "INSERT INTO summaries (document, summary, error) VALUES (?1, ?2, ?3)
             ON CONFLICT (document) DO UPDATE SET summary = excluded.summary, error = excluded.error",
            params![result.item_id, summary, error],
        )?;
    }
    saving.commit()
}
