//! Jobs of the built-in types, from `submit --type` to `results`.

use std::collections::BTreeMap;
use std::time::Duration;

use batchwright::ProcessId;
use batchwright_simulate::{SimConfig, Simulator, Trouble};
use serde_json::{Value, json};

use super::common::{Desk, Has, PATIENCE, RunToEnd, Running, simulator};
use super::queue::{on_queue, plain, queue, submit};

/// A worker whose models are simulated.
pub fn working(desk: &Desk, sim: &Simulator, words: &str) -> Running {
    let url = sim.base_url();
    let words = format!("work --provider local --base-url {url} --model sim-1 {words}");
    Running::start(&mut on_queue(desk, &words))
}

/// The lines of a process by id, taken from the queue.
pub fn taken(desk: &Desk, id: ProcessId) -> BTreeMap<String, Value> {
    let name = format!("{id}.jsonl");
    plain(desk, &format!("results {id} -o {name}"));
    let taken = std::fs::read_to_string(desk.path(&name)).unwrap();
    let lines = taken.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        (line["id"].as_str().unwrap().to_owned(), line)
    });
    lines.collect()
}

fn articles(n: usize) -> String {
    let article =
        |i| json!({"article_id": format!("a-{i}"), "content": format!("Article {i}. It rained.")});
    (0..n).map(|i| format!("{}\n", article(i))).collect()
}

#[test]
fn invalid_payloads_are_rejected_with_line_and_field() {
    let desk = Desk::new();
    let lines = [
        r#"{"article_id":"a","content":"text"}"#,
        r#"{"article_id":"b"}"#,
    ];
    desk.write("in.jsonl", lines.join("\n"));
    plain(&desk, "submit --type summarize in.jsonl")
        .ends(2, "in.jsonl line 2: field `content`: it is missing")
        .says("nothing");
    assert!(queue(&desk).open_processes().unwrap().is_empty());
    plain(&desk, "submit --type sumarize in.jsonl")
        .ends(2, "unknown type; known types: ")
        .says("extract_content, ");
    desk.write("in.csv", "article_id\na\n");
    plain(&desk, "submit --type summarize in.csv").ends(2, ".jsonl");
    plain(&desk, "submit --type summarize in.jsonl --system brief").ends(2, "--system");
    let help = desk.plain("help submit").expect(0);
    help.shows("summarize: Summary of an article in a few sentences");
}

#[test]
fn a_summary_is_checked_and_judged() {
    let (desk, sim) = (Desk::new(), simulator(SimConfig::default()));
    let source =
        "The river Aare rose by half a metre in Bern, said the office, and nobody was hurt.";
    let lines = [
        json!({"id": "good", "summary": "In Bern the Aare rose by half a metre.", "source": source}),
        json!({"id": "bad", "summary": "In Bern the Rhine rose by 7 metres.", "source": source}),
        json!({"id": "judged", "summary": "In Bern the Aare rose.", "source": source, "judge": true}),
    ];
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    desk.write("in.jsonl", &lines);
    let id = submit(&desk, "--type validate_summary in.jsonl");
    working(&desk, &sim, "--until-empty").wait().expect(0);
    let results = taken(&desk, id);
    let result = |id: &str| &results[id]["result"];
    result("good").has(json!({"valid": true, "judge": null}));
    let checks = result("bad")["problems"].as_array().unwrap().iter();
    let checks: Vec<&Value> = checks.map(|problem| &problem["check"]).collect();
    assert_eq!(checks, ["number"]);
    assert!(result("judged")["judge"]["score"].is_u64(), "{results:?}");
    assert_eq!(sim.stats().answered, 1);
}

#[test]
fn texts_are_compared_by_their_vectors() {
    let (desk, sim) = (Desk::new(), simulator(SimConfig::default()));
    let texts = ["It rained.", "It snowed.", "It rained."];
    let items: Vec<Value> = texts.iter().map(|text| json!({"text": text})).collect();
    let lines = [
        json!({"id": "pairs", "items": items, "top_k": 1}),
        json!({"id": "query", "items": items, "query": {"text": "It snowed."}, "top_k": 2}),
        json!({"id": "odd", "items": [{"text": "a"}, {"embedding": [1, 2, 3]}]}),
    ];
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    desk.write("in.jsonl", &lines);
    let id = submit(&desk, "--type calculate_similarity in.jsonl");
    working(&desk, &sim, "--until-empty").wait().expect(3);
    let results = taken(&desk, id);
    let pair = &results["pairs"]["result"]["pairs"];
    assert_eq!(pair, &json!([{"a": "0", "b": "2", "score": 1.0}]));
    let matches = results["query"]["result"]["matches"].as_array().unwrap();
    assert_eq!(
        (matches.len(), &matches[0]),
        (2, &json!({"id": "1", "score": 1.0}))
    );
    let error = results["odd"]["error"]["message"].as_str().unwrap();
    assert!(error.contains("cannot be compared"), "{error}");
}

#[test]
fn a_batch_has_all_results_and_enqueues_its_jobs_once_after_kills() {
    const MEMBERS: usize = 60;
    let desk = Desk::new();
    let config = SimConfig::default().latency(Duration::from_millis(30));
    let sim = simulator(config.trouble(Trouble::BadRequest, 0.2).seed(3));
    let prompt = |i| json!({"type": "completion", "id": format!("m-{i}"), "payload": {"prompt": format!("member {i}")}});
    let mut members: Vec<Value> = (0..MEMBERS).map(prompt).collect();
    members.push(json!({"type": "extract_content", "payload": {"html": "<p></p>"}}));
    desk.input(format!("{}\n", json!({"id": "b", "jobs": members})));
    let id = submit(&desk, "--type batch_process in.jsonl");
    // One worker is killed while it enqueues the jobs or soon after, another one in the middle.
    for calls in [0, 20] {
        let mut killed = working(&desk, &sim, "-j 4");
        assert!(sim.wait_until(|s| s.calls > calls, PATIENCE));
        killed.child.kill().unwrap();
        let _ = killed.child.wait();
    }
    let words = format!("-j 4 --until-empty --processes {id}");
    // Some of its jobs failed; the batch itself did not.
    working(&desk, &sim, &words).wait().expect(3);
    let results = taken(&desk, id);
    let result = &results["b"]["result"];
    let failed = |i: &usize| sim.config().plan(&format!("member {i}")) == Some(Trouble::BadRequest);
    let failed = (0..MEMBERS).filter(failed).count() + 1;
    assert_eq!(result["total"], MEMBERS + 1);
    assert_eq!(result["failed"], failed);
    assert_eq!(result["completed"], MEMBERS + 1 - failed);
    let lines = result["results"].as_array().unwrap();
    let ids: Vec<&str> = lines
        .iter()
        .map(|line| line["id"].as_str().unwrap())
        .collect();
    let expected: Vec<String> = (0..MEMBERS)
        .map(|i| format!("m-{i}"))
        .chain(["60".to_owned()])
        .collect();
    assert_eq!(ids, expected);
    // Each prompt is sent once, except the four that were in flight at each kill.
    assert!(
        sim.stats().calls <= (MEMBERS + 2 * 4) as u64,
        "{:?}",
        sim.stats()
    );
    assert!(queue(&desk).open_processes().unwrap().is_empty());
}

#[test]
fn summaries_go_to_groq_then_anthropic_then_the_extract_by_default() {
    let good = || simulator(SimConfig::default());
    let bad = || simulator(SimConfig::default().trouble(Trouble::BadRequest, 1.0));
    let both = "groq=llama,anthropic=claude";
    for (groq, anthropic, models, words, by) in [
        (good(), good(), both, "", "groq llama"),
        (bad(), good(), both, "", "anthropic claude"),
        (bad(), bad(), both, "", "extract extract"),
        // A key without a model, with which no call is made.
        (good(), good(), "anthropic=claude", "", "anthropic claude"),
        // The named provider comes first, and its model before the default one.
        (
            good(),
            good(),
            both,
            "--provider anthropic --model own",
            "anthropic own",
        ),
        (good(), bad(), both, "--provider anthropic", "groq llama"),
    ] {
        let desk = Desk::new();
        desk.write("in.jsonl", articles(1));
        let id = submit(&desk, "--type summarize in.jsonl");
        let mut command = on_queue(&desk, &format!("work --until-empty {words}"));
        let at = |sim: &Simulator| format!("http://{}", sim.addr());
        command
            .env("GROQ_API_KEY", "k")
            .env("GROQ_BASE_URL", at(&groq) + "/openai/v1")
            .env("ANTHROPIC_API_KEY", "k")
            .env("ANTHROPIC_BASE_URL", at(&anthropic))
            .env("BATCHWRIGHT_JOB_MODELS", models);
        command.ended().expect(0);
        let result = &taken(&desk, id)["a-0"]["result"];
        let name = |field: &str| result[field].as_str().unwrap().to_owned();
        assert_eq!(
            format!("{} {}", name("provider"), name("model")),
            by,
            "{models} {words}"
        );
        // What the models failed with is kept with an extract.
        assert_eq!(result["degraded"].is_string(), by.starts_with("extract"));
        if models == "anthropic=claude" {
            assert_eq!(groq.stats().calls, 0, "it has no model to be asked for");
        }
    }
}
