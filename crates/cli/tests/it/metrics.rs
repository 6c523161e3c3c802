//! Output for other programs: metrics for Prometheus, and a JSON log.

use batchwright_simulate::{SimConfig, Trouble};
use serde_json::Value;

use super::common::{Desk, good, simulator};

/// The value of a series.
fn number(text: &str, series: &str) -> f64 {
    let line = text.lines().find(|line| line.starts_with(series));
    let line = line.unwrap_or_else(|| panic!("no {series} in\n{text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// The sum of all series with this name.
fn sum(text: &str, name: &str) -> f64 {
    let lines = text
        .lines()
        .filter(|line| line.starts_with(&format!("{name}{{")));
    lines.map(|line| number(line, line)).sum()
}

#[test]
fn a_run_writes_its_numbers_for_prometheus() {
    let trouble = SimConfig::default()
        .trouble(Trouble::BadRequest, 0.1)
        .trouble(Trouble::Html502, 0.1);
    let (desk, sim) = (Desk::with(50), simulator(trouble));
    desk.run(&sim, "in.jsonl -o out.jsonl -j 4 --metrics-file run.prom")
        .expect(3);
    let text = desk.read("run.prom");
    let failed = desk
        .results("out.jsonl")
        .iter()
        .filter(|line| line["success"] == false)
        .count();
    assert!(failed > 0);
    let items = |state: &str| number(&text, &format!("batchwright_items{{state=\"{state}\"}}"));
    assert_eq!(items("failed"), failed as f64);
    assert_eq!(items("completed"), (50 - failed) as f64);
    assert_eq!((items("pending"), items("in_flight")), (0.0, 0.0));
    let stats = sim.stats();
    let calls = "gen_ai_client_operation_duration_seconds_count";
    assert_eq!(sum(&text, calls), stats.calls as f64);
    let of = |kind: &str| {
        let labels = format!(
            "error_type=\"{kind}\",gen_ai_operation_name=\"chat\",gen_ai_provider_name=\"local\",\
             gen_ai_request_model=\"sim-1\""
        );
        number(&text, &format!("{calls}{{{labels}}}"))
    };
    assert_eq!(of(""), stats.answered as f64);
    assert_eq!(of("invalid"), failed as f64);
    assert!(of("transient") > 0.0);
    let tokens = "gen_ai_client_token_usage_count{gen_ai_operation_name=\"chat\",\
                  gen_ai_provider_name=\"local\",gen_ai_request_model=\"sim-1\",gen_ai_token_type=\"output\"}";
    assert_eq!(number(&text, tokens), stats.answered as f64);
    assert_eq!(number(&text, "batchwright_calls_in_flight"), 0.0);
    let ratio = number(&text, "batchwright_success_ratio");
    assert!((ratio - (50 - failed) as f64 / 50.0).abs() < 1e-9);
}

#[test]
fn a_worker_writes_how_long_the_queue_is() {
    let (desk, sim) = (Desk::with(5), good());
    desk.plain("submit in.jsonl").expect(0);
    let worker = format!(
        "work --until-empty --provider local --base-url {} --model sim-1 --metrics-file work.prom",
        sim.base_url()
    );
    desk.plain(&worker).expect(0);
    let text = desk.read("work.prom");
    assert_eq!(sum(&text, "batchwright_items"), 5.0);
    let jobs = "batchwright_job_duration_seconds_count{error_type=\"\",\
                gen_ai_provider_name=\"local\",kind=\"completion\"}";
    assert_eq!(number(&text, jobs), 5.0);
    assert!(number(&text, "batchwright_worker_slots ") >= 1.0);
    assert_eq!(number(&text, "batchwright_worker_slots_used "), 0.0);
    assert!(!text.contains("batchwright_queue_length{"), "{text}");
}

#[test]
fn an_unwritable_metrics_file_loses_no_billed_answer() {
    let (desk, sim) = (Desk::with(2), good());
    let refused = desk.run(
        &sim,
        "in.jsonl -o out.jsonl --metrics-file no/such/run.prom",
    );
    refused.ends(2, "cannot write the metrics");
    assert_eq!(sim.stats().calls, 0);
}

#[test]
fn a_log_of_json_has_one_event_a_line_and_no_text_of_prompts() {
    let (desk, sim) = (Desk::new(), good());
    desk.input("{\"id\":\"a-1\",\"prompt\":\"the secret question\"}\n");
    let ended = desk.run(
        &sim,
        "in.jsonl -o out.jsonl --log-format json --log-level debug --progress always",
    );
    let ended = ended.expect(0);
    let lines = ended
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let events: Vec<Value> = lines.collect();
    let call = events
        .iter()
        .find(|event| event["gen_ai.provider.name"] == "local");
    let call = call.unwrap_or_else(|| panic!("{}", ended.stderr));
    for (name, value) in [
        ("level", Value::from("debug")),
        ("gen_ai.operation.name", "chat".into()),
        ("gen_ai.request.model", "sim-1".into()),
        ("batchwright.item", "a-1".into()),
        ("batchwright.attempt", 1.into()),
    ] {
        assert_eq!(call[name], value, "{call}");
    }
    assert!(call["gen_ai.usage.output_tokens"].is_u64(), "{call}");
    assert!(call.get("error.type").is_none(), "{call}");
    for event in &events {
        let time = event["timestamp"].as_str().unwrap();
        assert!(time.starts_with("20") && time.ends_with('Z'), "{event}");
    }
    ended.hides("secret question");
}
