//! Has a model summarise each line of a file at half the price: handed over to the provider's Batch
//! API in the evening, collected in the morning. Either may be killed at any moment, and called again.
//!
//! `cargo run --example overnight -- night LINES.txt`, and later `cargo run --example overnight --
//! morning`, which leaves an answer for each line in `overnight/answers`. `BATCHWRIGHT_PROVIDER` and
//! `BATCHWRIGHT_MODEL` name who answers, and its own variable holds the key. To try it without one:
//!
//! ```sh
//! batchwright simulate --port 8090 --batch-duration 30 &
//! export BATCHWRIGHT_PROVIDER=openai BATCHWRIGHT_MODEL=sim-1
//! export OPENAI_API_KEY=any OPENAI_BASE_URL=http://127.0.0.1:8090/v1
//! ```
//!
//! The guide in `docs/batch.md` tells what is written down when.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::{env, process};

use batchwright::queue::JobResult;
use batchwright::{Job, JobQueue, LlmManager, ProcessId, Request, Settings};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const QUEUE: &str = "overnight/llm_jobs.db";
/// The id under which the prompts were handed to the queue.
const PROCESS: &str = "overnight/process";
const ANSWERS: &str = "overnight/answers";

fn main() -> Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    fs::create_dir_all(ANSWERS)?;
    // One of us at a time: another one would hand over what is being handed over.
    let lock = File::create("overnight/lock")?;
    lock.try_lock()?;
    match words[..] {
        ["night", file] => night(file),
        ["morning"] => morning(),
        _ => Err("usage: overnight night LINES.txt | overnight morning".into()),
    }
}

/// Ends when all is at the provider.
fn night(file: &str) -> Result<()> {
    let queue = JobQueue::open(QUEUE)?;
    let process = match known()? {
        Some(process) => process,
        None => named()?,
    };
    match queue.process(process)? {
        Some(there) => println!("going on with {} prompts of before", there.counts.total),
        None => {
            let text = fs::read_to_string(file)?;
            let lines = text.lines().enumerate();
            let lines = lines.filter(|(_, line)| !line.trim().is_empty());
            let jobs = lines.map(|(at, line)| {
                let prompt = format!("Summarise in one sentence: {line}");
                Job::from(Request::new(prompt).with_id(format!("line-{}", at + 1)))
            });
            // All of them or none.
            let jobs = queue.enqueue(process, jobs.collect::<Vec<_>>())?;
            println!("{} prompts are queued", jobs.len());
        }
    }
    let report = manager()?.worker(&queue)?.until_submitted(true).run()?;
    batches(&queue, process)?;
    match report.stop {
        Some(why) => Err(format!("not all is handed over: {why}").into()),
        None => Ok(()),
    }
}

/// Ends when every prompt has its answer.
fn morning() -> Result<()> {
    let queue = JobQueue::open(QUEUE)?;
    let Some(process) = known()? else {
        println!("nothing was handed over");
        return Ok(());
    };
    let report = manager()?.worker(&queue)?.until_empty(true).run()?;
    let taken = queue.consume(process, save)?;
    println!("{taken} answers are in {ANSWERS}");
    if queue.process(process)?.is_none() {
        fs::remove_file(PROCESS)?;
        return Ok(());
    }
    batches(&queue, process)?;
    if let Some(why) = report.stop {
        eprintln!("ended early: {why}");
    }
    process::exit(4);
}

/// Provider, model and the rest as the environment has them.
fn manager() -> Result<LlmManager> {
    let settings = Settings::new()
        .environment(|name| env::var(name).ok())
        .flag("llm.bulk_strategy", "strategy", Some("batch".to_owned()))?;
    let manager = LlmManager::new(settings)?;
    if let Some(reason) = &manager.effective_strategy().fallback_reason {
        eprintln!("{reason}");
    }
    Ok(manager)
}

fn known() -> Result<Option<ProcessId>> {
    match fs::read_to_string(PROCESS) {
        Ok(id) => Ok(Some(id.parse()?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Chooses an id, which is on our disk before the queue hears of it.
fn named() -> Result<ProcessId> {
    let process = ProcessId::new();
    let draft = Path::new("overnight/process.part");
    write(draft, &process.to_string())?;
    fs::rename(draft, PROCESS)?;
    Ok(process)
}

/// Bears being given the same results twice, as `consume` demands.
fn save(results: &[JobResult]) -> io::Result<()> {
    for result in results {
        let id = result.item_id.as_deref().unwrap_or("unnamed");
        let file = Path::new(ANSWERS).join(format!("{id}.json"));
        write(&file, &result.line())?;
    }
    Ok(())
}

/// Writes to the disk, not only to the system's memory.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn batches(queue: &JobQueue, process: ProcessId) -> Result<()> {
    for batch in queue.batches(Some(process))? {
        let name = batch.remote_id.as_deref().unwrap_or(&batch.label);
        let (provider, state, total) = (&batch.provider, &batch.state, batch.total);
        println!("batch {name} at {provider}: {state}, {total} requests");
        if let Some(problem) = &batch.problem {
            println!("  {problem}");
        }
    }
    Ok(())
}
