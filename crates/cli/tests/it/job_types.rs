//! Jobs of the built-in types, from `submit --type` to `results`.

use std::collections::BTreeMap;
use std::time::Duration;

use batchwright::ProcessId;
use batchwright_simulate::{SimConfig, Simulator, Trouble};
use serde_json::{Value, json};

use super::common::{Desk, Has, PATIENCE, RunToEnd, Running, cases, good, simulator};
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
    let lines = desk.results(&name).into_iter();
    lines.map(|line| (super::common::id(&line), line)).collect()
}

#[test]
fn invalid_payloads_are_rejected_with_line_and_field() {
    let desk = Desk::new();
    let good = r#"{"article_id":"a","content":"text"}"#;
    desk.input(format!("{good}\n{{\"article_id\":\"b\"}}\n"));
    desk.write("in.csv", "article_id\na\n");
    for (words, says) in cases(
        "
        summarize in.jsonl => in.jsonl line 2: field `content`: it is missing
        sumarize in.jsonl => unknown type; known types: batch_process, calculate_similarity, completion, embedding, extract_content,
        summarize in.csv => .jsonl
        summarize in.jsonl --system brief => --system
    ",
    ) {
        plain(&desk, &format!("submit --type {words}")).ends(2, says);
    }
    assert!(queue(&desk).open_processes().unwrap().is_empty());
    let help = desk.plain("help submit").expect(0);
    help.shows("summarize: Summary of an article in a few sentences");
}

#[test]
fn a_summary_is_judged() {
    let (desk, sim) = (Desk::new(), good());
    let source = "The river Aare rose by half a metre in Bern, said the office.";
    let summary =
        json!({"id": "a", "summary": "In Bern the Aare rose.", "source": source, "judge": true});
    desk.input(summary.to_string());
    let id = submit(&desk, "--type validate_summary in.jsonl");
    working(&desk, &sim, "--until-empty").wait().expect(0);
    let result = &taken(&desk, id)["a"]["result"];
    assert!(result["judge"]["score"].is_u64(), "{result}");
    assert_eq!(sim.stats().answered, 1);
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
    desk.input(json!({"id": "b", "jobs": members}).to_string());
    let id = submit(&desk, "--type batch_process in.jsonl");
    // One worker is killed while it enqueues the jobs or soon after, another one in the middle.
    for calls in [0, 20] {
        let killed = working(&desk, &sim, "-j 4");
        assert!(sim.wait_until(|s| s.calls > calls, PATIENCE));
        drop(killed);
    }
    let words = format!("-j 4 --until-empty --processes {id}");
    // Some of its jobs failed; the batch itself did not.
    working(&desk, &sim, &words).wait().expect(3);
    let results = taken(&desk, id);
    let result = &results["b"]["result"];
    let failed = |i: &usize| sim.config().plan(&format!("member {i}")) == Some(Trouble::BadRequest);
    let (total, failed) = (MEMBERS + 1, (0..MEMBERS).filter(failed).count() + 1);
    result.has(json!({"total": total, "failed": failed, "completed": total - failed}));
    let ids = result["results"].as_array().unwrap().iter();
    let ids: Vec<String> = ids.map(super::common::id).collect();
    let expected = (0..MEMBERS).map(|i| format!("m-{i}"));
    let expected: Vec<String> = expected.chain(["60".to_owned()]).collect();
    assert_eq!(ids, expected);
    // Each prompt is sent once, except the four that were in flight at each kill.
    let stats = sim.stats();
    assert!(stats.calls <= (MEMBERS + 2 * 4) as u64, "{stats:?}");
    assert!(queue(&desk).open_processes().unwrap().is_empty());
}

#[test]
fn summaries_go_to_groq_then_anthropic_then_the_extract_by_default() {
    let both = "groq=llama,anthropic=claude";
    for (fails, models, words, by) in [
        ([false, false], both, "", "groq llama"),
        ([true, false], both, "", "anthropic claude"),
        ([true, true], both, "", "extract extract"),
        // A key without a model, with which no call is made.
        ([true, false], "anthropic=claude", "", "anthropic claude"),
        // The named provider comes first, and its model before the default one.
        (
            [false, false],
            both,
            "--provider anthropic --model own",
            "anthropic own",
        ),
        ([false, true], both, "--provider anthropic", "groq llama"),
    ] {
        let [groq, anthropic] = fails.map(|fails| {
            let share = f64::from(u8::from(fails));
            simulator(SimConfig::default().trouble(Trouble::BadRequest, share))
        });
        let desk = Desk::new();
        desk.input(r#"{"article_id": "a-0", "content": "Article 0. It rained."}"#);
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
        let (provider, model) = by.split_once(' ').unwrap();
        result.has(json!({"provider": provider, "model": model}));
        // What the models failed with is kept with an extract.
        assert_eq!(result["degraded"].is_string(), provider == "extract");
        assert!(
            models == both || groq.stats().calls == 0,
            "it has no model to be asked for"
        );
    }
}
