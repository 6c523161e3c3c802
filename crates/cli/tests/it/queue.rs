//! Submitting jobs and fetching results through the real program.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use batchwright::queue::{ProcessInfo, WorkerScale, WorkerSettings};
use batchwright::testing::ScriptedClient;
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
    let ended = plain(desk, &format!("submit {words}")).expect(0);
    ended.stdout.strip_suffix('\n').unwrap().parse().unwrap()
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
    client.refuse(
        "prompt 1",
        Error::new(ErrorKind::Invalid, "no").with_status(400),
    );
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
    let parts = [
        "pending",
        "in_progress",
        "at_provider",
        "completed",
        "failed",
        "cancelled",
    ];
    let sum: u64 = parts.into_iter().map(n).sum();
    assert_eq!(n("total"), sum, "{process}");
}

#[test]
fn submit_prints_only_the_id_on_standard_output() {
    let desk = Desk::with(3);
    let ended = plain(&desk, "submit in.jsonl --priority 9 --max-retries 1")
        .ends(0, "3 jobs are queued")
        .says("work --data-dir data");
    let id: ProcessId = ended.stdout.strip_suffix('\n').unwrap().parse().unwrap();
    let counts = queue(&desk).process(id).unwrap().unwrap().counts;
    assert_eq!((counts.total, counts.pending), (3, 3));
    let quiet = plain(&desk, "submit in.jsonl --quiet --json").expect(0);
    assert_eq!(quiet.stderr, "");
    let facts = quiet.json();
    assert_eq!(facts["total"], 3);
    assert_eq!(queue(&desk).open_processes().unwrap().len(), 2);
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

/// Payloads are queued while they arrive.
fn piped(desk: &Desk, more: &str) -> Running {
    let words = format!("submit - --type summarize --id-column id {more}");
    Running::start(on_queue(desk, &words).stdin(Stdio::piped()))
}

/// Payloads with the ids `i-0`, `i-1`, …
fn payloads(n: usize) -> String {
    (0..n)
        .map(|i| format!("{{\"id\":\"i-{i}\",\"article_id\":\"{i}\",\"content\":\"text\"}}\n"))
        .collect()
}

/// More jobs than are written at once.
const GROUP: usize = 1000;

/// Number of jobs of an incompletely submitted process, as soon as there are any.
fn half_queued(desk: &Desk) -> u64 {
    let mut there = 0;
    assert!(eventually(|| {
        let queue = database(desk)
            .exists()
            .then(|| JobQueue::open(&database(desk)));
        let Some(Ok(queue)) = queue else { return false };
        let all = queue.open_processes().unwrap();
        let unsealed = all.iter().filter(|process| !process.sealed);
        there = unsealed.map(|process| process.counts.total).sum();
        there > 0
    }));
    there
}

/// The number of jobs in the message.
fn jobs_told(said: &str) -> u64 {
    let before = said.split(" jobs").next().unwrap();
    let number = before.rsplit(' ').next().unwrap().replace(',', "");
    number.parse().unwrap_or_else(|_| panic!("{said}"))
}

#[test]
fn a_signal_during_submit_removes_the_queued_jobs() {
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let desk = Desk::new();
        let mut running = piped(&desk, "");
        running.feed(&payloads(GROUP));
        let there = half_queued(&desk);
        running.signal(name);
        let pipe = running.child.stdin.take();
        let ended = running.wait().expect(code);
        drop(pipe);
        assert_eq!(ended.stdout, "");
        // A busy machine may have written more since.
        let told = jobs_told(&ended.stderr);
        assert!((there..=GROUP as u64).contains(&told), "{told}, {there}");
        ended.says("interrupted").says("queued so far are deleted");
        assert!(queue(&desk).open_processes().unwrap().is_empty());
    }
}

#[test]
fn a_killed_submission_is_shown_and_can_be_cancelled() {
    let desk = Desk::new();
    let id = ProcessId::new();
    let mut running = piped(&desk, &format!("--process {id}"));
    running.feed(&payloads(GROUP));
    half_queued(&desk);
    drop(running);
    let there = queue(&desk).process(id).unwrap().unwrap().counts.total;
    let there = if there == 1000 {
        "1,000".to_owned()
    } else {
        there.to_string()
    };
    let ended = plain(&desk, "status").expect(0);
    ended.shows("unsealed");
    desk.prompts("in.jsonl", 2);
    let again = format!("submit in.jsonl --process {id}");
    plain(&desk, &again).ends(2, "cancel").says("--delete");
    plain(&desk, &format!("cancel {id} --delete")).ends(0, &format!("{there} jobs"));
    plain(&desk, &again).expect(0);
    // If a script is run twice, its prompts are not billed twice.
    plain(&desk, &again).ends(2, "already");
    assert_eq!(queue(&desk).process(id).unwrap().unwrap().counts.total, 2);
}

#[test]
fn results_leave_the_queue_once_they_are_written() {
    let (desk, id) = submitted(4);
    let early = plain(&desk, &format!("results {id}")).expect(0);
    assert_eq!(early.stdout, "");
    early.says("no results yet").says("4 jobs are still open");
    work(&desk);
    let lines = stored(&desk, id);
    let kept = plain(&desk, &format!("results {id} --keep")).expect(3);
    assert_eq!(kept.stdout.lines().collect::<Vec<_>>(), lines);
    let kept = kept.says("4 results written, 1 of them without success");
    kept.says("the queue keeps them");
    // It is unknown whether output to a pipe was read.
    let shown = plain(&desk, &format!("results {id}")).expect(3);
    assert_eq!(shown.stdout.lines().collect::<Vec<_>>(), lines);
    let shown = shown.says("the queue keeps them");
    shown.says(&format!("to fetch them: batchwright results {id}"));
    plain(&desk, &format!("results {id} --json")).ends(2, "--json needs -o FILE");
    let facts = plain(&desk, &format!("results {id} --keep --json -o kept.jsonl")).expect(3);
    let facts = facts.json();
    assert_eq!(
        (&facts["written"], &facts["failed"], &facts["open"]),
        (&4.into(), &1.into(), &0.into())
    );
    let ended = plain(&desk, &format!("results {id} --take")).expect(3);
    assert_eq!(ended.stdout.lines().collect::<Vec<_>>(), lines);
    let found = results(&ended.stdout);
    assert_eq!(found[0]["text"], "echo: prompt 0");
    assert_eq!(found[1]["error"]["kind"], "invalid");
    assert!(queue(&desk).process(id).unwrap().is_none());
    plain(&desk, &format!("results {id}")).ends(2, &id.to_string());
}

/// Results that are larger than the buffer of a pipe.
fn with_long_results() -> (Desk, ProcessId) {
    let desk = Desk::new();
    let id = ProcessId::new();
    let long = "x".repeat(2000);
    let prompt = |i: usize| Job::from(Request::new(format!("{i} {long}")));
    queue(&desk)
        .enqueue(id, (0..300).map(prompt).collect::<Vec<_>>())
        .unwrap();
    work(&desk);
    (desk, id)
}

#[test]
fn a_closed_reader_loses_no_result() {
    let (desk, id) = with_long_results();
    let mut running = Running::start(&mut on_queue(&desk, &format!("results {id} --take")));
    let mut stdout = BufReader::new(running.child.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    drop(stdout);
    running
        .wait()
        .ends(4, "the reader of the results went away");
    assert_eq!(stored(&desk, id).len(), 300);
}

#[test]
fn jobs_of_other_kinds_and_those_without_a_line_get_one() {
    let desk = Desk::new();
    let queue = queue(&desk);
    let id = ProcessId::new();
    let job = |n: i32| Job::new("double", &n).unwrap();
    let jobs = [
        job(21).item_id("good"),
        job(-1).item_id("bad").request_hash("ff"),
        job(2),
    ];
    let ids = queue.enqueue(id, jobs).unwrap();
    let double = Handler::new(|job: &RunningJob, _: &Context| {
        let n: i32 = job.parse()?;
        if n < 0 {
            return Err(Error::new(ErrorKind::Invalid, "negative"));
        }
        // On several lines, as a handler may receive it from elsewhere.
        Ok(RawValue::from_string(format!("{{\n \"n\": {}}}", 2 * n)).unwrap())
    });
    let worker = Worker::new(&queue)
        .until_empty(true)
        .handle("double", double);
    worker.run().unwrap();
    let ended = plain(&desk, &format!("results {id} -o out.jsonl")).expect(3);
    drop(ended);
    let lines = desk.results("out.jsonl");
    lines[0].has(json!({"id": "good", "kind": "double", "/result/n": 42}));
    assert_eq!(lines[1]["error"]["message"], "negative");
    lines[1].has(json!({"success": false, "request_hash": "ff"}));
    assert_eq!(lines[2]["id"], ids[2].to_string());
    // The file accepts further results, although some of its lines have no request hash.
    let id = submit_one(&desk);
    plain(&desk, &format!("cancel {id}")).ends(0, "1 jobs cancelled");
    plain(&desk, &format!("results {id} -o out.jsonl")).expect(3);
    let line = desk.results("out.jsonl").pop().unwrap();
    line.has(json!({"id": "i-0", "/error/kind": "cancelled"}));
    assert_eq!(line["request_hash"].as_str().unwrap().len(), 64);
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
    for words in ["results -o out.jsonl", "cancel --delete"] {
        let refused = plain(&desk, &format!("{words} {id}")).expect(2);
        refused.errs("belongs to batch_1 of batchwright serve");
    }
    let shown = plain(&desk, &format!("results {id} --keep")).expect(3);
    assert_eq!(shown.stdout.lines().count(), 1);
}
