//! Submitting jobs and fetching results through the real program.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use batchwright::queue::{ProcessInfo, WorkerScale, WorkerSettings};
use batchwright::testing::ScriptedClient;
use batchwright::unstable::ServerStep;
use batchwright::{
    Context, Error, ErrorKind, Handler, Job, JobQueue, ProcessId, Request, RetryPolicy, Route,
    RunningJob, Worker,
};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::common::{Desk, Ended, Has, RunToEnd, Running, eventually, good, results};

pub fn database(desk: &Desk) -> PathBuf {
    desk.path("data/llm_jobs.db")
}

pub fn queue(desk: &Desk) -> JobQueue {
    JobQueue::open(&database(desk)).unwrap()
}

/// The program on the queue of this desk.
pub fn on_queue(desk: &Desk, words: &str) -> std::process::Command {
    let mut command = desk.command(words.split_whitespace());
    command.args(["--data-dir", "data"]);
    command
}

pub fn plain(desk: &Desk, words: &str) -> Ended {
    on_queue(desk, words).ended()
}

pub fn submit(desk: &Desk, words: &str) -> ProcessId {
    plain(desk, &format!("submit {words}")).expect(0).process()
}

/// A queue with a process of this number of prompts.
pub fn submitted(n: usize) -> (Desk, ProcessId) {
    let desk = Desk::with(n);
    let id = submit(&desk, "in.jsonl");
    (desk, id)
}

pub fn worker(desk: &Desk, client: &Arc<ScriptedClient>) -> Worker {
    let route = Route::new(client.clone()).retry(RetryPolicy::default().max_retries(0));
    Worker::new(&queue(desk))
        .settings(WorkerSettings::default().scale(WorkerScale::fixed(2)))
        .until_empty(true)
        .completions(route)
}

/// Runs all waiting jobs; `prompt 1` fails.
pub fn work(desk: &Desk) {
    let client = Arc::new(ScriptedClient::new());
    let no = Error::new(ErrorKind::Invalid, "no").with_status(400);
    client.refuse("prompt 1", no);
    worker(desk, &client).run().unwrap();
}

fn stored(desk: &Desk, id: ProcessId) -> Vec<String> {
    let queue = queue(desk);
    let results = queue.get_results(id);
    results.map(|result| result.unwrap().line()).collect()
}

pub fn status(desk: &Desk, words: &str) -> Vec<Value> {
    let all = plain(desk, &format!("status --json {words}"))
        .expect(0)
        .json();
    all["processes"].as_array().unwrap().clone()
}

pub fn submit_one(desk: &Desk) -> ProcessId {
    desk.prompts("one.jsonl", 1);
    submit(desk, "one.jsonl")
}

#[track_caller]
pub fn adds_up(process: &Value) {
    let n = |name: &str| process[name].as_u64().unwrap();
    let open = n("pending") + n("in_progress") + n("at_provider");
    let ended = n("completed") + n("failed") + n("cancelled");
    assert_eq!(n("total"), open + ended, "{process}");
}

#[test]
fn submit_prints_only_the_id_on_standard_output() {
    let desk = Desk::with(3);
    let ended = plain(&desk, "submit in.jsonl --priority 9 --max-retries 1");
    let ended = ended.ends(0, "3 jobs are queued");
    ended.tells("work --data-dir data");
    let process = queue(&desk).process(ended.process()).unwrap();
    let counts = process.unwrap().counts;
    assert_eq!((counts.total, counts.pending), (3, 3));
    let quiet = plain(&desk, "submit in.jsonl --quiet --json").expect(0);
    assert_eq!((&*quiet.stderr, &quiet.json()["total"]), ("", &json!(3)));
}

#[test]
fn results_of_the_queue_count_as_finished_in_a_run() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("in.txt", "one\ntwo\none\n");
    let id = submit(&desk, "in.txt --model sim-1 --system brief --max-tokens 9");
    let client = Arc::new(ScriptedClient::new());
    worker(&desk, &client).run().unwrap();
    plain(&desk, &format!("results {id} -o out.jsonl")).expect(0);
    let words = "in.txt -o out.jsonl --model sim-1 --system brief --max-tokens 9";
    desk.run(&sim, words).ends(0, "3 finished before");
    assert_eq!(sim.stats().calls, 0);
}

/// A command that queues payloads while they arrive, when it has queued some of a thousand.
fn half_queued(desk: &Desk, more: &str) -> Running {
    let words = format!("submit - --type summarize --column id=id {more}");
    let mut running = Running::start(on_queue(desk, &words).stdin(Stdio::piped()));
    let line = |i| format!("{{\"id\":\"i-{i}\",\"article_id\":\"{i}\",\"content\":\"text\"}}\n");
    running.feed(&(0..1000).map(line).collect::<String>());
    assert!(eventually(|| {
        let there = database(desk).exists();
        let queue = there.then(|| JobQueue::open(&database(desk)));
        let Some(Ok(queue)) = queue else { return false };
        let mut all = queue.open_processes().unwrap().into_iter();
        all.any(|process| !process.sealed && process.counts.total > 0)
    }));
    running
}

#[test]
fn a_signal_during_submit_removes_the_queued_jobs() {
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let desk = Desk::new();
        let mut running = half_queued(&desk, "");
        running.signal(name);
        let pipe = running.child.stdin.take();
        let ended = running.wait().ends(code, "interrupted");
        drop(pipe);
        assert_eq!(ended.stdout, "");
        ended.tells("queued so far are deleted");
        assert!(queue(&desk).open_processes().unwrap().is_empty());
    }
}

#[test]
fn a_killed_submission_is_shown_and_can_be_cancelled() {
    let desk = Desk::with(2);
    let id = ProcessId::new();
    drop(half_queued(&desk, &format!("--process {id}")));
    plain(&desk, "status").expect(0).shows("unsealed");
    let again = format!("submit in.jsonl --process {id}");
    plain(&desk, &again).ends(2, "cancel").tells("--delete");
    plain(&desk, &format!("cancel {id} --delete")).ends(0, " jobs");
    plain(&desk, &again).expect(0);
    // If a script is run twice, its prompts are not billed twice.
    plain(&desk, &again).ends(2, "already");
    assert_eq!(queue(&desk).process(id).unwrap().unwrap().counts.total, 2);
}

#[test]
fn results_leave_the_queue_once_they_are_written() {
    let (desk, id) = submitted(4);
    let take = |flags: &str, code| plain(&desk, &format!("results {id} {flags}")).expect(code);
    let early = take("", 0);
    assert_eq!(early.stdout, "");
    let open = "4 jobs are still open; to fetch the rest later, run the same command";
    early.says("no results yet").tells(open);
    work(&desk);
    let lines = stored(&desk, id).join("\n") + "\n";
    let kept = take("--keep", 3).says("the queue keeps them");
    kept.tells("4 results written, 1 of them without success");
    assert_eq!(kept.stdout, lines);
    // It is unknown whether output to a pipe was read.
    let shown = take("", 3).says("the queue keeps them");
    shown.tells(&format!("to fetch them: batchwright results {id}"));
    assert_eq!(shown.stdout, lines);
    take("--json", 2).tells("--json needs -o FILE");
    let facts = take("--keep --json -o kept.jsonl", 3).json();
    facts.has(json!({"written": 4, "failed": 1, "open": 0}));
    let taken = take("--take", 3);
    assert_eq!(taken.stdout, lines);
    let found = results(&taken.stdout);
    found[0].has(json!({"text": "echo: prompt 0"}));
    found[1].has(json!({"/error/kind": "invalid"}));
    assert!(queue(&desk).process(id).unwrap().is_none());
    take("", 2).tells(&id.to_string());
}

#[test]
fn jobs_of_other_kinds_and_those_without_a_line_get_one() {
    let desk = Desk::new();
    let queue = queue(&desk);
    let id = ProcessId::new();
    let job = |n: i32| Job::new("double", &n).unwrap();
    let bad = job(-1).item_id("bad").request_hash("ff");
    let jobs = [job(21).item_id("good"), bad, job(2)];
    let ids = queue.enqueue(id, jobs).unwrap();
    let double = Handler::new(|job: &RunningJob, _: &Context| {
        let n: i32 = job.parse()?;
        if n < 0 {
            return Err(Error::new(ErrorKind::Invalid, "negative"));
        }
        // On several lines, as a handler may receive it from elsewhere.
        Ok(RawValue::from_string(format!("{{\n \"n\": {}}}", 2 * n)).unwrap())
    });
    let worker = Worker::new(&queue).until_empty(true);
    worker.handle("double", double).run().unwrap();
    plain(&desk, &format!("results {id} -o out.jsonl")).expect(3);
    // The file accepts further results, although some of its lines have no request hash.
    let id = submit_one(&desk);
    plain(&desk, &format!("cancel {id}")).ends(0, "1 job cancelled");
    plain(&desk, &format!("results {id} -o out.jsonl")).expect(3);
    let lines = desk.results("out.jsonl");
    lines[0].has(json!({"id": "good", "kind": "double", "/result/n": 42}));
    lines[1].has(json!({"/error/message": "negative", "success": false, "request_hash": "ff"}));
    assert_eq!(lines[2]["id"], ids[2].to_string());
    lines[3].has(json!({"id": "i-0", "/error/kind": "cancelled"}));
    assert_eq!(lines[3]["request_hash"].as_str().unwrap().len(), 64);
    // Another result of the same id is added, and said to be one.
    let id = submit_one(&desk);
    work(&desk);
    let twice = "1 of them under an id that the file had before: the last line of an id counts";
    plain(&desk, &format!("results {id} -o out.jsonl")).ends(0, twice);
    assert_eq!(desk.results("out.jsonl").len(), 5);
}

/// A batch of the server collects them: the command line can read them and cancel the process, but not take them.
#[test]
fn results_of_a_batch_of_the_server_stay_there() {
    let desk = Desk::new();
    std::fs::create_dir(desk.path("data")).unwrap();
    let id = ProcessId::new();
    let info = ProcessInfo::new().collector("batch_1");
    let job = Job::from(&Request::new("Name a prime.").with_id("a"));
    queue(&desk).described(info).enqueue(id, [job]).unwrap();
    plain(&desk, &format!("cancel {id}")).expect(0);
    let server = rusqlite::Connection::open(desk.path("data/server.db")).unwrap();
    let knows = "CREATE TABLE batches (id TEXT); INSERT INTO batches VALUES ('batch_1')";
    server.execute_batch(knows).unwrap();
    for words in ["results -o out.jsonl", "cancel --delete"] {
        let refused = plain(&desk, &format!("{words} {id}")).expect(2);
        refused.errs("belongs to batch_1 of batchwright serve");
    }
    let shown = plain(&desk, &format!("results {id} --keep")).expect(3);
    assert_eq!(shown.stdout.lines().count(), 1);
    // A server of an earlier version may have it; the only one that there is has not.
    server.execute("DELETE FROM batches", []).unwrap();
    plain(&desk, &format!("cancel --delete {id}")).expect(2);
    let queue = queue(&desk);
    let step = ServerStep {
        id: "a".to_owned(),
        step: 1,
        place: queue.server_place(&desk.path("data/server.db")),
    };
    queue.note_step(&step, "r", true).unwrap();
    let named = "CREATE TABLE meta (name, value); INSERT INTO meta VALUES ('server', 'a')";
    server.execute_batch(named).unwrap();
    let noted = "INSERT INTO meta VALUES ('step ' || ?, 1)";
    server.execute(noted, [queue.id()]).unwrap();
    plain(&desk, &format!("cancel --delete {id}")).expect(0);
}
