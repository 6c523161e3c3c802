//! Exit codes, output streams, and the choice of a provider.

use batchwright_simulate::{SimConfig, Trouble};
use serde_json::{Value, json};

use super::common::{Desk, Ended, Has, NOBODY, RunToEnd, cases, good, simulator};

#[test]
fn bad_usage_is_2() {
    let desk = Desk::with(1);
    for (words, said) in cases(
        "
         => Usage
        run => <INPUT>
        fly => unrecognized subcommand 'fly'
        run in.jsonl --strategy slow => sync
        run in.jsonl --bugdet 5 => unexpected argument '--bugdet'
        run in.jsonl --max-item 5 => '--max-items'
        run in.jsonl --on-error pray => [possible values: continue, stop, stop-critical]
        run in.jsonl --progress maybe => [possible values: auto, always, never]
        run in.jsonl -j 0 => a whole number from 1 to 10000
        run in.jsonl -j 100000 => a whole number from 1 to 10000
        run in.jsonl -j many => write a whole number from 1 to 10000, or auto
        run in.jsonl --rpm 0 => a number above 0
        run in.jsonl --temperature 3 => a number from 0 to 2
        run in.jsonl --timeout soon => write a time, for example 50ms, 2s
        run in.jsonl --max-items 0 => a whole number of at least 1
        run in.jsonl --template @none.txt => cannot read none.txt: No such file
        run in.jsonl --json => --json needs -o FILE
        run in.jsonl --provider opnai => expected one of: groq, anthropic, openai, gemini
        run in.jsonl --provider extract --ordered => not a regular file
        run in.jsonl --provider extract --template {{a -o out.jsonl => column 1 is not closed
        run in.jsonl --provider extract --fallback groq => set GROQ_API_KEY
        exec --json -o - in.jsonl => would both print to standard output
        exec -o a --joblog a in.jsonl => -o and --joblog are the same file
    ",
    ) {
        desk.plain(words).ends(2, said);
    }
    let mut bare = desk.command(Vec::<&str>::new());
    bare.ended().ends(2, "Usage");
    // A key on the command line is not repeated.
    let key = "run in.jsonl --api-key=sk-secret-9 --json";
    let key = desk.plain(key).expect(2);
    assert!(!(key.stderr + &key.stdout).contains("sk-secret-9"));
}

#[test]
fn some_failed_is_3_and_the_rest_is_kept() {
    let desk = Desk::with(20);
    let sim = simulator(SimConfig::default().trouble(Trouble::BadRequest, 0.3));
    let ended = desk.run(&sim, "in.jsonl -o out.jsonl -j 4").expect(3);
    let lines = desk.results("out.jsonl");
    assert_eq!(lines.len(), 20);
    for line in &lines {
        let prompt = line["id"].as_str().unwrap().replace("i-", "prompt ");
        let is_bad = sim.config().plan(&prompt).is_some();
        assert_eq!(line["success"], !is_bad, "{line}");
        if is_bad {
            line["error"].has(json!({"kind": "invalid", "class": "non_retryable", "status": 400}));
        }
    }
    let ended = ended.says("to try the failed ones again");
    ended.tells("run --provider local");
}

#[test]
fn stopped_early_is_4_and_resumable() {
    let desk = Desk::with(20);
    let sim = simulator(SimConfig::default().trouble(Trouble::BadRequest, 1.0));
    let words = "in.jsonl -o out.jsonl -j 2 --on-error stop";
    let ended = desk.run(&sim, words).expect(4);
    assert!(sim.stats().calls <= 4, "{:?}", sim.stats());
    assert_eq!(
        desk.results("out.jsonl").len() as u64,
        sim.stats().calls,
        "what came back is saved"
    );
    ended.says("stopped: an item failed").says("to go on");
}

#[test]
fn help_and_version_are_on_standard_output() {
    let desk = Desk::new();
    let version = concat!("batchwright ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(desk.plain("--version").expect(0).stdout, version);
    let help = desk.plain("help run").expect(0);
    for words in ["Exit codes", "130, 143 interrupted", "--max-items", "csv"] {
        help.shows(words);
    }
}

#[test]
fn without_a_key_or_a_server_a_run_ends_with_2_and_lists_the_three_ways_on() {
    let desk = Desk::new();
    desk.write("in.txt", "one\ntwo\n");
    let run = "run in.txt -o out.jsonl";
    let ended = desk.plain(run).expect(2);
    for words in [
        "not local: no usable server",
        NOBODY,
        "add --model NAME",
        "start llama.cpp, Ollama or LM Studio",
        "add --provider extract",
    ] {
        ended.tells(words);
    }
    ended.error();
    assert!(!desk.exists("out.jsonl"));
    // A dry run calls no provider and needs none.
    desk.plain(&format!("{run} --dry-run --json"))
        .ends(0, "nothing could be sent: no provider can be used");

    desk.plain(&format!("{run} --provider extract"))
        .ends(0, "extract is a placeholder without a model");
    for line in desk.results("out.jsonl") {
        line.has(json!({"provider": "extract", "degraded": null}));
    }
}

#[test]
fn the_json_summary_adds_up() {
    let trouble = SimConfig::default().trouble(Trouble::BadRequest, 0.5);
    let (desk, sim) = (Desk::with(10), simulator(trouble));
    let words = "in.jsonl -o out.jsonl --json -q";
    let first = desk.run(&sim, &format!("{words} --max-items 6"));
    // Quiet prints no more than that.
    assert_eq!(first.stderr, "");
    let n = |value: &Value, name: &str| value["summary"][name].as_u64().unwrap();
    let first = first.json();
    first.has(json!({"/summary/total": 10, "/summary/pending": 4, "/summary/calls": 6}));
    assert_eq!(n(&first, "completed") + n(&first, "failed"), 6);
    let ended = desk.run(&sim, &format!("{words} --resend none"));
    let second = ended.json();
    let good = desk.results("out.jsonl");
    let good = good.iter().filter(|line| line["success"] == true).count();
    second.has(
        json!({"exit_code": ended.status.code(), "stopped": null, "output": "out.jsonl",
        "/summary/completed_before": n(&first, "completed"), "/summary/completed": good,
        "/summary/failed": 10 - good, "/summary/pending": 0}),
    );
}

/// The one JSON object on standard output.
#[track_caller]
fn told(ended: &Ended, kind: &str) -> Value {
    let mut lines = ended.stdout.lines();
    let line = lines
        .next()
        .unwrap_or_else(|| panic!("nothing: {}", ended.stderr));
    assert_eq!(lines.next(), None, "{}", ended.stdout);
    let value: Value = serde_json::from_str(line).unwrap();
    assert_eq!(value["error"]["kind"], kind, "{value}");
    assert_eq!(value["exit_code"], ended.status.code().unwrap(), "{value}");
    assert!(!value["error"]["message"].as_str().unwrap().is_empty());
    value
}

#[test]
fn errors_before_a_run_are_reported_as_json_with_json() {
    let (desk, sim) = (Desk::with(2), good());
    desk.write("bad.jsonl", "{\"id\": 1,\n");
    desk.write("other.txt", "no results\n");
    let run = |words: &str| desk.run(&sim, &format!("{words} --json"));
    for (words, kind, code) in [
        ("bad.jsonl -o out.jsonl", "input", 2),
        ("none.jsonl -o out.jsonl", "input", 2),
        ("in.jsonl -o out.jsonl --no-wait", "usage", 2),
        ("in.jsonl -o out.jsonl --rpm many", "usage", 2),
        ("in.jsonl -o out.jsonl --limit 5", "usage", 2),
        ("in.jsonl -o other.txt", "output", 2),
        ("in.jsonl -o none/out.jsonl", "output", 1),
    ] {
        let ended = run(words).expect(code);
        let value = told(&ended, kind);
        // Standard error has the same message, unless `-q` is set.
        let message = value["error"]["message"].as_str().unwrap();
        let begins: String = message.chars().take(30).collect();
        let said: Vec<&str> = ended.stderr.split_whitespace().collect();
        assert!(said.join(" ").contains(&begins), "{begins}: {said:?}");
        let quiet = run(&format!("{words} --quiet")).expect(code);
        assert_eq!((&*quiet.stderr, told(&quiet, kind)), ("", value));
        // Without --json standard output stays empty.
        assert_eq!(desk.run(&sim, words).expect(code).stdout, "");
    }
    assert_eq!(sim.stats().calls, 0);
    assert!(!desk.exists("out.jsonl"));
}

#[test]
fn other_commands_report_errors_as_json_too() {
    let desk = Desk::with(1);
    for (words, error) in cases(
        "
        providers --surely => usage: --surely
        simulate --port many => usage: --port
        submit none.jsonl => input: none.jsonl
        status 0123456789 => queue: 0123456789
        cancel 0123456789 => queue: 0123456789
        retry 0123456789 => queue: 0123456789
        config get llm.nothing => usage: llm.nothing
        work --until-empty --provider groq --model m => provider: GROQ_API_KEY
        run in.jsonl -o out.jsonl --provider groq --model m => provider: GROQ_API_KEY
        run in.jsonl -o out.jsonl --provider local => provider: no usable server at
        run in.jsonl -o out.jsonl --task embed => provider: OPENAI_API_KEY
    ",
    ) {
        let ended = desk.plain(&format!("{words} --json"));
        let (kind, says) = error.split_once(": ").unwrap();
        let error = told(&ended, kind)["error"].to_string();
        assert!(error.contains(says), "{words}: {error}");
        // A named provider that cannot be called is no wrong usage.
        let code = if words.contains("--provider") { 1 } else { 2 };
        ended.expect(code);
    }
}

#[test]
fn progress_is_plain_lines_without_a_terminal() {
    let (desk, sim) = (Desk::with(3), good());
    let ended = desk.run(&sim, "in.jsonl --progress always").expect(0);
    assert!(!ended.stderr.contains(['\x1b', '\r']), "{}", ended.stderr);
    assert!(ended.stderr.ends_with('\n'));
}
