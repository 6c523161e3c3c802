//! Jobs of the built-in types, from `submit --type` to `results`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use batchwright::ProcessId;
use batchwright_simulate::{SimConfig, Simulator, Trouble, speech};
use serde_json::{Value, json};

use super::common::{Desk, Has, PATIENCE, RunToEnd, Running, cases, good, simulator};
use super::queue::{database, on_queue, plain, queue, submit};

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
        summarize in.csv => in.csv line 1: no JSON
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
fn a_column_that_names_jobs_is_no_part_of_a_prompt() {
    let (desk, sim) = (Desk::new(), good());
    desk.input(r#"{"key": "a", "prompt": "x"}"#);
    let id = submit(&desk, "--type completion --column id=key in.jsonl");
    working(&desk, &sim, "--until-empty").wait().expect(0);
    assert_eq!(taken(&desk, id)["a"]["success"], true);
    desk.input(r#"{"key": "a", "prompt": 7}"#);
    plain(&desk, "submit --type completion --column id=key in.jsonl").ends(2, "field `prompt`");
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
    // Which of the two fail, the models of both if they have one, flags, and what answers. A key without a model makes no
    // call. The named provider comes first, and its model before the default one.
    for (given, by) in cases(
        "
         groq=llama,anthropic=claude => groq llama
        groq fails; groq=llama,anthropic=claude => anthropic claude
        both fail; groq=llama,anthropic=claude => extract extract
        anthropic=claude => anthropic claude
        groq=llama,anthropic=claude --provider anthropic --model own => anthropic own
        anthropic fails; groq=llama,anthropic=claude --provider anthropic => groq llama
    ",
    ) {
        let (failing, given) = given.split_once("; ").unwrap_or(("", given));
        let (models, words) = given.split_once(' ').unwrap_or((given, ""));
        let [groq, anthropic] = ["groq", "anthropic"].map(|name| {
            let fails = failing.starts_with(name) || failing == "both fail";
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
        assert!(models.contains("groq") || groq.stats().calls == 0);
    }
}

const TURNS: usize = 60;

/// Speaker, voice and text of each turn.
fn turns() -> Vec<(&'static str, &'static str, String)> {
    let turn = |i: usize| {
        let (speaker, voice) = [("Host", "sage"), ("Guest", "echo")][i % 2];
        (speaker, voice, format!("This is number {i}, said in Bern."))
    };
    (0..TURNS).map(turn).collect()
}

#[test]
fn billed_audio_is_not_requested_again_after_kills() {
    let desk = Desk::new();
    let payload = json!({"id": "p", "content": "It rained all day in Bern.",
        "voices": ["sage", "echo"], "speech_model": "tts-1"});
    desk.input(payload.to_string());
    let id = submit(&desk, "--type generate_podcast in.jsonl");
    // The script that the model writes.
    let spoken = turns();
    let script = spoken.iter();
    let script = script.map(|(speaker, _, text)| json!({"speaker": speaker, "text": text}));
    let script = json!({"title": "Numbers", "turns": script.collect::<Vec<_>>()});
    let config = SimConfig::default().answer(script.to_string());
    let sim = simulator(config.latency(Duration::from_millis(30)));
    for calls in [0, 20, 40] {
        let killed = working(&desk, &sim, "-j 4");
        assert!(sim.wait_until(|s| s.speech_calls > calls, PATIENCE));
        drop(killed);
    }
    working(&desk, &sim, "-j 4 --until-empty").wait().expect(0);
    // Each piece is requested once, except the four that were in flight at each kill.
    let stats = sim.stats();
    assert!(stats.speech_calls <= (TURNS + 3 * 4) as u64, "{stats:?}");
    assert_eq!(stats.malformed, 0);

    // If no folder is set, the only file is next to the queue. It contains the complete text in order, and nothing else.
    let result = taken(&desk, id).remove("p").unwrap()["result"].take();
    let folder = database(&desk).with_file_name("audio");
    let files = std::fs::read_dir(&folder).unwrap();
    let files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    let path = folder.join(result["audio"].as_str().unwrap());
    assert_eq!(files, std::slice::from_ref(&path));
    let sound: Vec<i16> = spoken
        .iter()
        .flat_map(|(_, voice, text)| speech(text, voice))
        .collect();
    let file = std::fs::read(&path).unwrap();
    let (pairs, _) = file[44..].as_chunks();
    let samples: Vec<i16> = pairs.iter().map(|pair| i16::from_le_bytes(*pair)).collect();
    assert!(samples == sound, "{path:?}");
    // As Python reads it: channels, bytes per sample, samples per second, samples.
    let code = "import sys, wave; print(*wave.open(sys.argv[1]).getparams()[:4])";
    let python = Command::new("python3")
        .args(["-c", code])
        .arg(&path)
        .output();
    if let Ok(read) = python {
        let count = sound.len();
        let told = String::from_utf8_lossy(&read.stdout);
        assert_eq!(told.trim(), format!("1 2 24000 {count}"), "{read:?}");
    }
    let seconds = result["seconds"].as_f64().unwrap();
    assert!(
        (seconds - sound.len() as f64 / 24_000.0).abs() < 0.001,
        "{result}"
    );
}
