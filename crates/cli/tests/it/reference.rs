//! Every name, number and default about commands, job types, the program and the server that users rely on, row by row.
//! The library's own tests have a file with the same name for the other rows.

use batchwright::ErrorPolicy;
use batchwright_exec::{
    CommandJob, CommandRunner, JobCounts, JobRecord, JobStatus, Monitor, SubmittedJobs,
};
use batchwright_jobs::JobTypes;
use serde_json::{Value, json};

use super::common::{Desk, Has, PATIENCE, Running, cases, eventually, good};
use super::serve::{ask, serve};

/// 1.1 to 1.3: a runner of commands, its records and its monitor.
#[test]
fn every_record_of_a_command_names_its_end() {
    let runner = CommandRunner::new();
    let monitor: Monitor = runner.monitor();
    let job = |command, id| CommandJob::new(command).with_id(id);
    let ended: SubmittedJobs = runner
        .submit_jobs(vec![job("true", "good"), job("false", "bad")])
        .unwrap();
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
        assert_eq!(status.to_string(), name);
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
    for (named, payload) in cases(
        r#"
        summarize 7 => {"article_id": "a", "content": "It rained."}
        extract_content 5 => {"html": "<p>It rained.</p>"}
        validate_summary 5 => {"summary": "Rain.", "source": "It rained."}
        generate_podcast 5 => {"content": "It rained."}
        calculate_similarity 3 => {"items": [{"text": "rain"}, {"text": "water"}]}
        batch_process 5 => {"jobs": [{"type": "extract_content", "payload": {"html": "<p>It rained.</p>"}}]}
    "#,
    ) {
        let (name, priority) = named.split_once(' ').unwrap();
        let payload: Value = serde_json::from_str(payload).unwrap();
        let job = types.job(name, payload);
        let job = format!(
            "{:?}",
            job.unwrap_or_else(|error| panic!("{name}: {error}"))
        );
        assert!(
            job.contains(&format!("priority: {priority}")),
            "{name}: {job}"
        );
    }
}

/// 3.6, 3.8: a summary over HTTP; without a model that answers, the first 300 characters.
#[test]
fn a_summary_is_created_read_and_falls_back_to_300_characters() {
    let (desk, sim) = (Desk::new(), good());
    let (running, address) = serve(&desk, &sim, "");
    let call = |method: &str, path: &str, body: &str| -> (u16, Value) {
        let (status, body) = ask(&address, method, path, "", body).unwrap();
        (status, serde_json::from_str(&body).unwrap_or_default())
    };
    let long = "It rained. ".repeat(60);
    let job = json!({"type": "summarize", "priority": 7, "payload": {"article_id": "a-1",
        "content": long, "user_preferences": {"length": "short", "language": "en"}}});
    let (status, made) = call("POST", "/api/v1/jobs", &job.to_string());
    assert_eq!(status, 201, "{made}");
    let path = format!("/api/v1/jobs/{}", made["job_id"].as_str().unwrap());
    let state = || call("GET", &path, "").1;
    assert!(eventually(|| state()["status"] == "completed"));
    let state = state();
    state.has(json!({"error": null, "job_id": made["job_id"]}));
    assert!(state.get("progress").is_some(), "{state}");
    let of_result = |name: &str| state["result"][name].is_string();
    assert!(of_result("summary") && of_result("generated_at"), "{state}");

    // 3.5: duration, success, queue length and use of the worker. The worker counts a job after its end is stored.
    for name in [
        "batchwright_job_duration_seconds_count",
        "batchwright_worker_slots ",
        "batchwright_worker_slots_used ",
    ] {
        let metrics = || ask(&address, "GET", "/metrics", "", "").unwrap().1;
        assert!(eventually(|| metrics().contains(name)), "{name}");
    }

    // 0.3, 0.4: the strategy in the interface; local stays sync, and the reply says so.
    let key = "/api/v1/config/llm.bulk_strategy";
    let (status, shown) = call("PUT", key, r#"{"value": "batch"}"#);
    assert!(status < 300, "{shown}");
    call("GET", key, "").1.has(json!({"value": "batch"}));
    running.signal("TERM");
    running.wait().expect(0);
    let set = desk.plain("config get llm.bulk_strategy").expect(0);
    assert_eq!(set.stdout, "batch\n");

    let types = JobTypes::new();
    let queue = batchwright::JobQueue::in_memory().unwrap();
    let process = batchwright::ProcessId::new();
    let job = types.job("summarize", json!({"article_id": "a", "content": long}));
    queue.enqueue(process, [job.unwrap()]).unwrap();
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
    let (desk, sim) = (Desk::with(12), good());
    sim.hold();
    desk.plain("submit in.jsonl --model sim-1").expect(0);
    let work = "work --until-empty --provider openai --model sim-1 --base-url";
    let mut command = desk.command(work.split(' ').chain([&*sim.base_url()]));
    command.env("OPENAI_API_KEY", "sk-test").envs(nine);
    let running = Running::start(&mut command);
    let at_five = sim.wait_until(|stats| stats.in_flight == 5, PATIENCE);
    assert!(at_five, "{:?} {}", sim.stats(), running.said());
    sim.release();
    let said = running.wait().expect(0).stderr;
    assert_eq!(sim.stats().answered, 12, "{said}");
    assert!(sim.stats().max_in_flight <= 10, "{said}");
}
