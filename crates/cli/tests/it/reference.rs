//! Every name, number and default about commands, job types, the program and the server that users rely on, row by row.
//! The library's own tests have a file with the same name for the other rows.

use batchwright::ErrorPolicy;
use batchwright_exec::{
    CommandJob, CommandRunner, JobCounts, JobRecord, JobStatus, Monitor, SubmittedJobs,
};
use batchwright_jobs::JobTypes;
use batchwright_simulate::SimConfig;
use serde_json::{Value, json};

use super::common::{Desk, Has, PATIENCE, RunToEnd, Running, eventually, good, simulator};
use super::serve::{ask, serve};

/// Sends a request and reads the reply: its status, and its body as JSON.
fn call(address: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let (status, body) = ask(address, method, path, "", &body).unwrap();
    (status, serde_json::from_str(&body).unwrap_or_default())
}

/// 1.1 to 1.3: a runner of commands, its records and its monitor.
#[test]
fn every_record_of_a_command_names_its_end() {
    let runner = CommandRunner::new();
    let monitor: Monitor = runner.monitor();
    let jobs = vec![
        CommandJob::new("true").with_id("good"),
        CommandJob::new("false").with_id("bad"),
    ];
    let ended: SubmittedJobs = runner.submit_jobs(jobs).unwrap();
    let mut records: Vec<JobRecord> = ended.collect();
    records.sort_by_key(|record| record.status == JobStatus::Completed);
    let fields: Value = serde_json::to_value(&records[0]).unwrap();
    fields.has(json!({"id": "bad", "command": ["false"], "file": null, "status": "failed"}));
    assert!(records[0].error.is_some() && records[1].error.is_none());
    let counts: JobCounts = monitor.counts();
    assert_eq!((counts.completed, counts.failed, counts.pending), (1, 1, 0));
    for (status, name) in [
        (JobStatus::Pending, "pending"),
        (JobStatus::Running, "running"),
        (JobStatus::Completed, "completed"),
        (JobStatus::Failed, "failed"),
        (JobStatus::Cancelled, "cancelled"),
    ] {
        assert_eq!(status.as_str(), name);
    }
}

/// 1.1, 1.4, 1.6: the same with the program: at most 10 at once unless the limit is raised, a rate, and policies.
#[test]
fn exec_has_a_limit_of_10_a_rate_and_policies() {
    assert_eq!(ErrorPolicy::default(), ErrorPolicy::ContinueOnError);
    let desk = Desk::new();
    desk.write("list", "true\nfalse\ntrue\n");
    desk.plain("exec --sandbox off --shell -j 11 list")
        .ends(2, "--more-than-10");
    desk.plain("exec --sandbox off --shell --rate 100 list")
        .expect(3);
    let stopped = "exec --sandbox off --shell -j 1 --on-error stop list";
    desk.plain(stopped).expect(4);
}

/// 3.2: six job types and their priorities.
#[test]
fn the_job_types_and_their_priorities() {
    let types = JobTypes::new();
    let text = json!({"article_id": "a", "content": "It rained."});
    for (name, payload, priority) in [
        ("summarize", text.clone(), 7),
        ("extract_content", json!({"html": "<p>It rained.</p>"}), 5),
        (
            "validate_summary",
            json!({"summary": "Rain.", "source": "It rained."}),
            5,
        ),
        ("generate_podcast", json!({"content": "It rained."}), 5),
        (
            "calculate_similarity",
            json!({"items": [{"text": "rain"}, {"text": "water"}]}),
            3,
        ),
        (
            "batch_process",
            json!({"jobs": [{"type": "summarize", "payload": text}]}),
            5,
        ),
    ] {
        let job = types
            .job(name, payload)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(
            format!("{job:?}").contains(&format!("priority: {priority}")),
            "{name}: {job:?}"
        );
    }
}

/// 3.6, 3.8: a summary over HTTP; without a model that answers, the first 300 characters.
#[test]
fn a_summary_is_created_read_and_falls_back_to_300_characters() {
    let (desk, sim) = (Desk::new(), good());
    let (running, address) = serve(&desk, &sim, "");
    let long = "It rained. ".repeat(60);
    let payload = json!({"article_id": "a-1", "content": long,
        "user_preferences": {"length": "short", "language": "en"}});
    let job = json!({"type": "summarize", "payload": payload, "priority": 7});
    let (status, made) = call(&address, "POST", "/api/v1/jobs", &job);
    assert_eq!(status, 201, "{made}");
    let path = format!("/api/v1/jobs/{}", made["job_id"].as_str().unwrap());
    assert!(eventually(|| call(&address, "GET", &path, &Value::Null).1
        ["status"]
        == "completed"));
    let (_, state) = call(&address, "GET", &path, &Value::Null);
    assert_eq!(state["error"], Value::Null);
    assert!(
        state["job_id"].is_string() && state.get("progress").is_some(),
        "{state}"
    );
    let result = &state["result"];
    assert!(
        result["summary"].is_string() && result["generated_at"].is_string(),
        "{state}"
    );

    // 3.5: duration, success, queue length and use of the worker. The worker counts a job after its end is stored.
    let has_all = |metrics: &str| {
        [
            "batchwright_job_duration_seconds_count",
            "batchwright_worker_slots ",
            "batchwright_worker_slots_used ",
        ]
        .iter()
        .all(|name| metrics.contains(name))
    };
    assert!(eventually(|| has_all(
        &ask(&address, "GET", "/metrics", "", "").unwrap().1
    )));

    // 0.3, 0.4: the strategy in the interface; local stays sync, and the reply says so.
    let key = "/api/v1/config/llm.bulk_strategy";
    let (status, shown) = call(&address, "PUT", key, &json!({"value": "batch"}));
    assert!(status < 300, "{shown}");
    let (_, shown) = call(&address, "GET", key, &Value::Null);
    assert_eq!(shown["value"], "batch", "{shown}");
    running.signal("TERM");
    running.wait().expect(0);
    let set = desk.plain("config get llm.bulk_strategy").expect(0).stdout;
    assert_eq!(set.trim(), "batch");

    let types = JobTypes::new();
    let queue = batchwright::JobQueue::in_memory().unwrap();
    let process = batchwright::ProcessId::new();
    let job = types
        .job("summarize", json!({"article_id": "a", "content": long}))
        .unwrap();
    queue.enqueue(process, [job]).unwrap();
    let route = batchwright::Route::new(batchwright::Extract);
    let worker = batchwright::Worker::new(&queue).job_types(&types, route);
    worker.until_empty(true).run().unwrap();
    let result = queue.get_results(process).next().unwrap().unwrap();
    let value: Value = result.parse().unwrap();
    let summary = value["summary"].as_str().unwrap();
    assert!((200..=300).contains(&summary.chars().count()), "{summary}");
    assert_eq!(batchwright::provider::EXTRACT_CHARS, 300);
}

/// 3.5: the levels of the log.
#[test]
fn the_log_has_four_levels() {
    let desk = Desk::with(1);
    for level in ["DEBUG", "INFO", "WARN", "ERROR"] {
        let words = format!("run in.jsonl -o {level}.jsonl --provider extract --log-level {level}");
        desk.plain(&words).expect(0);
    }
    desk.plain("run in.jsonl --provider extract --log-level chatty")
        .expect(2);
}

/// 3.9: a worker runs with the file of nine lines, and works by them.
#[test]
fn a_worker_runs_with_the_nine_lines_of_the_example() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/job-queue.env");
    let text = std::fs::read_to_string(file).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let nine: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once('=')).collect();
    let values: Vec<&str> = nine.iter().map(|(_, value)| *value).collect();
    let expected = ["5", "3", "10", "5s", "30s", "10", "true", "100", "10"];
    assert_eq!(values, expected, "{nine:?}");
    // Each call is held, so that the number in flight is the number of jobs at once.
    let sim = simulator(SimConfig::default());
    sim.hold();
    let desk = Desk::with(12);
    let submit = ["submit", "in.jsonl", "--model", "sim-1"];
    desk.command(submit).ended().expect(0);
    let work = [
        "work",
        "--until-empty",
        "--provider",
        "openai",
        "--model",
        "sim-1",
    ];
    let mut command = desk.command(work);
    command
        .args(["--base-url", &sim.base_url()])
        .env("OPENAI_API_KEY", "sk-test")
        .envs(nine);
    let running = Running::start(&mut command);
    let at_once = |n| sim.wait_until(|stats| stats.in_flight == n, PATIENCE);
    assert!(at_once(5), "{:?} {}", sim.stats(), running.said());
    sim.release();
    let said = running.wait().expect(0).stderr;
    assert_eq!(sim.stats().answered, 12, "{said}");
    assert!(sim.stats().max_in_flight <= 10, "{said}");
}
