//! The host's commands around the queue, through the real program.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use batchwright::testing::ScriptedClient;
use batchwright::{
    Context, Error, ErrorKind, Handler, Job, JobQueue, ProcessId, Request, ResultsAppender,
    RetryPolicy, Route, RunningJob, Scale, Worker,
};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::common::{
    Desk, Ended, Running, all_ids, eventually, good, ids_in_order, prompt_line, prompt_lines,
    results,
};

fn database(desk: &Desk) -> PathBuf {
    desk.path("data/llm_jobs.db")
}

fn queue(desk: &Desk) -> JobQueue {
    JobQueue::open(&database(desk)).unwrap()
}

/// The program on the queue of this desk.
fn on_queue(desk: &Desk, words: &str) -> std::process::Command {
    let mut command = desk.command(words.split_whitespace());
    command.args(["--data-dir", "data"]);
    command
}

fn plain(desk: &Desk, words: &str) -> Ended {
    Running::start(&mut on_queue(desk, words)).wait()
}

fn submit(desk: &Desk, words: &str) -> ProcessId {
    let ended = plain(desk, &format!("submit {words}")).expect(0);
    ended.stdout.strip_suffix('\n').unwrap().parse().unwrap()
}

/// A queue with a process of so many prompts.
fn submitted(n: usize) -> (Desk, ProcessId) {
    let desk = Desk::new();
    desk.prompts("in.jsonl", n);
    let id = submit(&desk, "in.jsonl");
    (desk, id)
}

fn worker(desk: &Desk, client: &Arc<ScriptedClient>) -> Worker {
    let route = Route::new(client.clone()).retry(RetryPolicy::default().max_retries(0));
    Worker::new(&queue(desk))
        .scale(Scale::fixed(2))
        .until_empty(true)
        .completions(route)
}

/// Carries out all that waits; `prompt 1` fails.
fn work(desk: &Desk) {
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

fn status(desk: &Desk, words: &str) -> Vec<Value> {
    let ended = plain(desk, &format!("status --json {words}")).expect(0);
    let all: Value = serde_json::from_str(&ended.stdout).unwrap();
    all["processes"].as_array().unwrap().clone()
}

#[track_caller]
fn adds_up(process: &Value) {
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
fn submit_prints_the_id_alone_and_says_the_rest() {
    let desk = Desk::new();
    desk.prompts("in.jsonl", 3);
    let ended = plain(&desk, "submit in.jsonl --priority 9 --max-retries 1").expect(0);
    let ended = ended.says("3 jobs are queued").says("work --data-dir data");
    let id: ProcessId = ended.stdout.strip_suffix('\n').unwrap().parse().unwrap();
    let counts = queue(&desk).progress(id).unwrap().unwrap().counts;
    assert_eq!((counts.total, counts.pending), (3, 3));
    let quiet = plain(&desk, "submit in.jsonl --quiet --json").expect(0);
    assert_eq!(quiet.stderr, "");
    let facts: Value = serde_json::from_str(&quiet.stdout).unwrap();
    assert_eq!(facts["total"], 3);
    assert_eq!(queue(&desk).open_processes().unwrap().len(), 2);
}

#[test]
fn what_the_queue_answered_need_not_be_run_again() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("in.txt", "one\ntwo\none\n");
    let id = submit(&desk, "in.txt --model sim-1 --system brief --max-tokens 9");
    let client = Arc::new(ScriptedClient::new());
    worker(&desk, &client).run().unwrap();
    plain(&desk, &format!("results {id} -o out.jsonl")).expect(0);
    let words = "in.txt -o out.jsonl --model sim-1 --system brief --max-tokens 9";
    desk.run(&sim, words).expect(0).says("3 finished before");
    assert_eq!(sim.stats().calls, 0);
}

#[test]
fn priority_and_retries_reach_the_jobs() {
    let desk = Desk::new();
    desk.write("late.txt", "late\n");
    desk.write("soon.txt", "soon\n");
    submit(&desk, "late.txt --priority 2");
    submit(&desk, "soon.txt --priority 10 --max-retries 1");
    let client = Arc::new(ScriptedClient::new());
    let busy = || Error::new(ErrorKind::Transient, "busy").with_status(503);
    client.refuse("soon", busy());
    let quick = RetryPolicy::default().base_delay(std::time::Duration::from_millis(1));
    Worker::new(&queue(&desk))
        .retry(quick)
        .scale(Scale::fixed(1))
        .until_empty(true)
        .completions(Route::new(client.clone()).retry(quick))
        .run()
        .unwrap();
    let calls = client.calls();
    assert_eq!(calls[0], "soon");
    assert_eq!(calls.iter().filter(|call| *call == "soon").count(), 2);
}

#[test]
fn bad_input_is_told_by_its_lines_and_leaves_nothing() {
    let desk = Desk::new();
    desk.write("bad.jsonl", format!("{}{{}}\nnonsense\n", prompt_line(0)));
    let ended = plain(&desk, "submit bad.jsonl").expect(2);
    assert_eq!(ended.stdout, "");
    ended.says("bad.jsonl:2:").says("bad.jsonl:3:");
    desk.write("empty.txt", "\n");
    plain(&desk, "submit empty.txt")
        .expect(2)
        .says("no prompts");
    plain(&desk, "submit none.jsonl")
        .expect(2)
        .says("none.jsonl");
    plain(&desk, "submit bad.jsonl --task embed --system x")
        .expect(2)
        .says("--system");
    assert!(!database(&desk).exists());
}

fn piped(desk: &Desk) -> Running {
    Running::start(on_queue(desk, "submit -").stdin(Stdio::piped()))
}

#[test]
fn standard_input_is_queued_when_it_ends() {
    let desk = Desk::new();
    let mut running = piped(&desk);
    running.feed(&prompt_lines(5));
    drop(running.child.stdin.take());
    let ended = running.wait().expect(0);
    let id: ProcessId = ended.stdout.trim().parse().unwrap();
    work(&desk);
    let ids = stored(&desk, id);
    let ids = ids
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].clone());
    assert_eq!(ids.collect::<Vec<_>>(), ids_in_order(5));
    let mut running = piped(&desk);
    drop(running.child.stdin.take());
    running.wait().expect(2).says("no prompts");
}

/// More than are written at once.
const GROUP: usize = 1000;

fn is_half_queued(desk: &Desk) -> bool {
    let queue = database(desk)
        .exists()
        .then(|| JobQueue::open(&database(desk)));
    let Some(Ok(queue)) = queue else { return false };
    let all = queue.open_processes().unwrap();
    all.iter()
        .any(|process| process.counts.total >= GROUP as u64 && !process.sealed)
}

#[test]
fn a_bad_line_of_standard_input_takes_all_of_it_back() {
    let desk = Desk::new();
    let mut running = piped(&desk);
    running.feed(&prompt_lines(GROUP));
    assert!(eventually(|| is_half_queued(&desk)));
    running.feed("{\"id\":\"i-7\",\"prompt\":\"again\"}\n");
    let ended = running.wait().expect(2);
    assert_eq!(ended.stdout, "");
    ended
        .says(":1001:")
        .says("line 8")
        .says("1,000 jobs")
        .says("nothing is left");
    assert!(queue(&desk).open_processes().unwrap().is_empty());
}

#[cfg(unix)]
#[test]
fn a_signal_takes_back_what_was_queued() {
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let desk = Desk::new();
        let mut running = piped(&desk);
        running.feed(&prompt_lines(GROUP));
        assert!(eventually(|| is_half_queued(&desk)));
        running.signal(name);
        let pipe = running.child.stdin.take();
        let ended = running.wait().expect(code);
        drop(pipe);
        assert_eq!(ended.stdout, "");
        ended
            .says("interrupted")
            .says("1,000 jobs")
            .says("nothing is left");
        assert!(queue(&desk).open_processes().unwrap().is_empty());
    }
}

#[cfg(unix)]
#[test]
fn a_submission_that_was_killed_is_shown_and_can_be_given_up() {
    let desk = Desk::new();
    let id = ProcessId::new();
    let words = format!("submit - --process {id}");
    let mut running = Running::start(on_queue(&desk, &words).stdin(Stdio::piped()));
    running.feed(&prompt_lines(GROUP));
    assert!(eventually(|| is_half_queued(&desk)));
    drop(running);
    let ended = plain(&desk, "status").expect(0);
    assert!(ended.stdout.contains("unsealed"), "{}", ended.stdout);
    ended.says("interrupted");
    let doctor = plain(&desk, "doctor").expect(0);
    assert!(
        doctor.stdout.contains("note     unsealed"),
        "{}",
        doctor.stdout
    );
    desk.prompts("in.jsonl", 2);
    let again = format!("submit in.jsonl --process {id}");
    plain(&desk, &again)
        .expect(2)
        .says("cancel")
        .says("--delete");
    plain(&desk, &format!("cancel {id} --delete"))
        .expect(0)
        .says("1,000 jobs");
    plain(&desk, &again).expect(0);
    // A script that is run twice does not buy its prompts twice.
    plain(&desk, &again).expect(2).says("already");
    assert_eq!(queue(&desk).progress(id).unwrap().unwrap().counts.total, 2);
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
    let ended = plain(&desk, &format!("results {id}")).expect(3);
    assert_eq!(ended.stdout.lines().collect::<Vec<_>>(), lines);
    let found = results(&ended.stdout);
    assert_eq!(found[0]["text"], "echo: prompt 0");
    assert_eq!(found[1]["error"]["kind"], "invalid");
    assert!(queue(&desk).progress(id).unwrap().is_none());
    plain(&desk, &format!("results {id}"))
        .expect(2)
        .says(&id.to_string());
}

#[test]
fn lines_that_were_written_before_a_kill_are_not_written_again() {
    let (desk, id) = submitted(5);
    work(&desk);
    let lines = stored(&desk, id);
    // Killed in the middle of its third line: nothing is deleted yet.
    let torn = &lines[2][..lines[2].len() / 2];
    desk.write("out.jsonl", format!("{}\n{}\n{torn}", lines[0], lines[1]));
    let words = format!("results {id} -o out.jsonl");
    let ended = plain(&desk, &words).expect(3);
    ended
        .says("3 results written to out.jsonl")
        .says("2 were there already");
    let text = desk.read("out.jsonl");
    assert_eq!(text.lines().collect::<Vec<_>>(), lines);
    assert!(queue(&desk).progress(id).unwrap().is_none());
}

#[test]
fn results_come_as_far_as_there_are_any() {
    let (desk, id) = submitted(3);
    let client = Arc::new(ScriptedClient::new());
    client.hold();
    let running = worker(&desk, &client).start().unwrap();
    assert!(client.wait_for_in_flight(2));
    let [now] = &status(&desk, &id.to_string())[..] else {
        panic!()
    };
    adds_up(now);
    assert_eq!(
        (&now["in_progress"], &now["pending"]),
        (&json!(2), &json!(1))
    );
    plain(&desk, &format!("results {id} -o out.jsonl"))
        .expect(0)
        .says("3 jobs are still open");
    client.release();
    running.join().unwrap();
    plain(&desk, &format!("results {id} -o out.jsonl"))
        .expect(0)
        .says("3 results");
    assert_eq!(desk.ids("out.jsonl"), all_ids(3));
}

#[test]
fn a_file_that_cannot_take_results_costs_none() {
    let (desk, id) = submitted(2);
    work(&desk);
    desk.write("notes.txt", "dear diary\n");
    plain(&desk, &format!("results {id} -o notes.txt"))
        .expect(2)
        .says("left untouched");
    assert_eq!(desk.read("notes.txt"), "dear diary\n");
    let path = desk.path("busy.jsonl");
    let held = ResultsAppender::open(&path).unwrap_or_else(|error| panic!("{error}"));
    plain(&desk, &format!("results {id} -o busy.jsonl"))
        .expect(1)
        .says("another run");
    drop(held);
    plain(&desk, &format!("results {id} -o none/out.jsonl"))
        .expect(1)
        .says("none/out.jsonl");
    assert_eq!(stored(&desk, id).len(), 2);
}

#[test]
fn a_reader_that_goes_away_costs_no_result() {
    let desk = Desk::new();
    let id = ProcessId::new();
    // A pipe does not hold the first chunk.
    let long = "x".repeat(2000);
    let prompt = |i: usize| Job::from(Request::new(format!("{i} {long}")));
    queue(&desk)
        .enqueue(id, (0..300).map(prompt).collect::<Vec<_>>())
        .unwrap();
    work(&desk);
    let mut running = Running::start(&mut on_queue(&desk, &format!("results {id}")));
    let mut stdout = BufReader::new(running.child.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    drop(stdout);
    running
        .wait()
        .expect(4)
        .says("the reader of the results went away");
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
        // On several lines, as a handler may have it from elsewhere.
        Ok(RawValue::from_string(format!("{{\n \"n\": {}}}", 2 * n)).unwrap())
    });
    let worker = Worker::new(&queue)
        .until_empty(true)
        .handle("double", double);
    worker.run().unwrap();
    let ended = plain(&desk, &format!("results {id} -o out.jsonl")).expect(3);
    drop(ended);
    let lines = desk.results("out.jsonl");
    assert_eq!(lines[0]["id"], "good");
    assert_eq!(
        (&lines[0]["kind"], &lines[0]["result"]["n"]),
        (&json!("double"), &json!(42))
    );
    assert_eq!(lines[1]["error"]["message"], "negative");
    assert_eq!(
        (&lines[1]["success"], &lines[1]["request_hash"]),
        (&json!(false), &json!("ff"))
    );
    assert_eq!(lines[2]["id"], ids[2].to_string());
    // The file takes more, although some of its lines have no fingerprint.
    let id = submit_one(&desk);
    plain(&desk, &format!("cancel {id}"))
        .expect(0)
        .says("1 jobs cancelled");
    plain(&desk, &format!("results {id} -o out.jsonl")).expect(3);
    let line = desk.results("out.jsonl").pop().unwrap();
    assert_eq!(
        (&line["id"], &line["error"]["kind"]),
        (&json!("i-0"), &json!("cancelled"))
    );
    assert_eq!(line["request_hash"].as_str().unwrap().len(), 64);
}

fn submit_one(desk: &Desk) -> ProcessId {
    desk.prompts("one.jsonl", 1);
    submit(desk, "one.jsonl")
}

#[test]
fn status_tells_numbers_that_add_up() {
    let (desk, first) = submitted(4);
    work(&desk);
    let second = submit_one(&desk);
    let third = submit_one(&desk);
    queue(&desk).cancel(third).unwrap();
    let all = status(&desk, "");
    all.iter().for_each(adds_up);
    let ids: Vec<_> = all
        .iter()
        .map(|p| p["process_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids, [first, second, third].map(|id| id.to_string()));
    let expected = json!({"process_id": first, "strategy": "sync", "fallback_reason": null,
        "total": 4, "pending": 0, "in_progress": 0, "at_provider": 0, "completed": 3, "failed": 1,
        "cancelled": 0, "eta_seconds": null, "batches": []});
    assert_eq!(all[0], expected);
    assert_eq!(status(&desk, &first.to_string()), [expected]);
    let people = plain(&desk, "status").expect(0);
    let rows: Vec<&str> = people.stdout.lines().collect();
    assert_eq!(rows.len(), 4);
    assert!(rows[1].ends_with("100.0 %  finished"), "{}", rows[1]);
    assert!(rows[2].ends_with("0.0 %"), "{}", rows[2]);
    assert!(rows[3].ends_with("cancelled, finished"), "{}", rows[3]);
    people
        .says("batchwright work")
        .says("results PROCESS")
        .says("retry PROCESS");
}

#[test]
fn a_process_is_found_by_the_beginning_of_its_id() {
    let (desk, id) = submitted(1);
    let id = id.to_string();
    assert_eq!(status(&desk, &id[..20]).len(), 1);
    submit_one(&desk);
    plain(&desk, &format!("status {}", &id[..4]))
        .expect(2)
        .says("2 processes begin with");
    plain(&desk, &format!("status {}", &id[..3]))
        .expect(2)
        .says("no process id");
    plain(&desk, "status ffff-ffff")
        .expect(2)
        .says("there is no process");
    plain(&desk, &format!("retry {}", ProcessId::new()))
        .expect(2)
        .says("there is no process");
}

#[test]
fn a_watch_ends_when_all_is_finished() {
    let (desk, id) = submitted(3);
    let client = Arc::new(ScriptedClient::new());
    client.hold();
    let running = worker(&desk, &client).start().unwrap();
    assert!(client.wait_for_in_flight(2));
    let mut json = Running::start(&mut on_queue(&desk, &format!("status {id} --watch --json")));
    let mut lines = BufReader::new(json.child.stdout.take().unwrap()).lines();
    let people = Running::start(&mut on_queue(&desk, "status --watch"));
    let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(first["processes"][0]["completed"], 0);
    client.release();
    running.join().unwrap();
    let seen: Vec<Value> = lines
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    seen.iter().for_each(|line| adds_up(&line["processes"][0]));
    assert_eq!(seen.last().unwrap()["processes"][0]["completed"], 3);
    json.wait().expect(0);
    let people = people.wait().expect(0);
    let last = people.stdout.lines().last().unwrap();
    assert!(last.starts_with(&format!("{id} 3/3 100%")), "{last}");
    assert!(last.ends_with("finished"), "{last}");
    people.says("results");
}

#[test]
fn cancel_and_retry_say_what_happened() {
    let (desk, id) = submitted(3);
    work(&desk);
    let retried = plain(&desk, &format!("retry {id} --json"))
        .expect(0)
        .says("1 jobs put back");
    let facts: Value = serde_json::from_str(&retried.stdout).unwrap();
    assert_eq!(facts, json!({"process_id": id, "retried": 1}));
    let cancelled = plain(&desk, &format!("cancel {id} --json"))
        .expect(0)
        .says("1 jobs cancelled");
    let facts: Value = serde_json::from_str(&cancelled.stdout).unwrap();
    assert_eq!(
        facts,
        json!({"process_id": id, "cancelled": 1, "in_progress": 0})
    );
    let [now] = &status(&desk, "")[..] else {
        panic!()
    };
    assert_eq!(
        (&now["completed"], &now["cancelled"]),
        (&json!(2), &json!(1))
    );
    plain(&desk, &format!("retry {id}"))
        .expect(0)
        .says("1 jobs put back");
    let client = Arc::new(ScriptedClient::new());
    worker(&desk, &client).run().unwrap();
    assert_eq!(client.calls(), ["prompt 1"]);
    plain(&desk, &format!("retry {id}"))
        .expect(0)
        .says("nothing to put back");
    plain(&desk, &format!("cancel {id} --delete"))
        .expect(0)
        .says("deleted with 3 jobs");
    assert!(queue(&desk).open_processes().unwrap().is_empty());
}

#[test]
fn looking_makes_no_database() {
    let desk = Desk::new();
    assert_eq!(status(&desk, ""), [] as [Value; 0]);
    plain(&desk, "status --watch")
        .expect(0)
        .says("nothing is queued");
    plain(&desk, &format!("status {}", ProcessId::new()))
        .expect(2)
        .says("there is no process");
    let doctor = plain(&desk, "doctor").expect(0);
    assert!(
        doctor.stdout.contains("note     database"),
        "{}",
        doctor.stdout
    );
    assert!(!desk.exists("data"));
}

#[test]
fn the_doctor_finds_a_healthy_queue_healthy() {
    let (desk, _) = submitted(3);
    work(&desk);
    let mut command = on_queue(&desk, "doctor");
    command.env("GROQ_API_KEY", "gsk-very-secret");
    let ended = Running::start(&mut command).wait().expect(0);
    for seen in [
        "ok       integrity",
        "ok       clock",
        "writable",
        "GROQ_API_KEY (groq)",
    ] {
        assert!(ended.stdout.contains(seen), "no {seen}: {}", ended.stdout);
    }
    assert!(!ended.stdout.contains("very-secret"));
    let json = plain(&desk, "doctor --json").expect(0);
    let facts: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(facts["healthy"], true);
    let findings = facts["findings"].as_array().unwrap();
    assert!(
        findings
            .iter()
            .any(|f| f["what"] == "schema" && f["verdict"] == "good")
    );
    let left: Vec<_> = std::fs::read_dir(desk.path("data")).unwrap().collect();
    let probe = |file: &std::io::Result<std::fs::DirEntry>| {
        file.as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .contains("doctor")
    };
    assert!(!left.iter().any(probe));
}

#[test]
fn the_doctor_says_what_to_do_about_a_damaged_file() {
    let (desk, _) = submitted(500);
    // Out of the log, which would hide the damage.
    let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
    let conn = rusqlite::Connection::open(database(&desk)).unwrap();
    conn.query_row(checkpoint, [], |_| Ok(())).unwrap();
    drop(conn);
    let mut bytes = std::fs::read(database(&desk)).unwrap();
    let (start, end) = (bytes.len() / 3, bytes.len() * 2 / 3);
    bytes[start..end].fill(0x5a);
    std::fs::write(database(&desk), &bytes).unwrap();
    let ended = plain(&desk, "doctor").expect(1);
    assert!(ended.stdout.contains("\nbad "), "{}", ended.stdout);
    assert!(ended.stdout.contains(".recover"), "{}", ended.stdout);
    let mut file = std::fs::File::create(database(&desk)).unwrap();
    file.write_all("dear diary".repeat(1000).as_bytes())
        .unwrap();
    drop(file);
    let ended = plain(&desk, "doctor --json").expect(1);
    let facts: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(facts["healthy"], false);
    assert!(
        ended.stdout.contains("no SQLite database"),
        "{}",
        ended.stdout
    );
    assert!(desk.read("data/llm_jobs.db").starts_with("dear diary"));
    plain(&desk, "status").expect(1).says("no SQLite database");
}
