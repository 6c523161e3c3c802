//! Errors before a run begins: as JSON for scripts, and with a tip after a typing error.

use serde_json::Value;

use batchwright_simulate::{SimConfig, Trouble};

use super::common::{Desk, Ended, RunToEnd, good, simulator};

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
        let said = ended
            .stderr
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        assert!(said.contains(&begins), "{begins}: {}", ended.stderr);
        let quiet = run(&format!("{words} --quiet")).expect(code);
        assert_eq!(quiet.stderr, "", "{words}");
        assert_eq!(told(&quiet, kind), value);
        // Without --json standard output stays empty.
        assert_eq!(desk.run(&sim, words).expect(code).stdout, "");
    }
    let no_key = desk.plain("run in.jsonl -o out.jsonl --provider groq --model m --json");
    let value = told(&no_key.expect(1), "provider");
    assert!(
        value["error"]["message"]
            .as_str()
            .unwrap()
            .contains("GROQ_API_KEY")
    );
    let none = desk
        .plain("run in.jsonl -o out.jsonl --task embed --json")
        .expect(2);
    let hint = told(&none, "provider")["error"]["hint"].clone();
    assert!(hint.as_str().unwrap().contains("OPENAI_API_KEY"), "{hint}");
    assert_eq!(sim.stats().calls, 0);
    assert!(!desk.exists("out.jsonl"));
}

#[test]
fn other_commands_report_errors_as_json_too() {
    let desk = Desk::new();
    for (words, kind, code) in [
        ("providers --json --surely", "usage", 2),
        ("simulate --json --port many", "usage", 2),
    ] {
        told(&desk.plain(words).expect(code), kind);
    }
    for (words, kind, code) in [
        ("submit none.jsonl --json", "input", 2),
        ("status 0123456789 --json", "queue", 2),
        ("cancel 0123456789 --json", "queue", 2),
        ("retry 0123456789 --json", "queue", 2),
        ("config get llm.nothing --json", "usage", 2),
        (
            "work --until-empty --json --provider groq --model m",
            "provider",
            1,
        ),
    ] {
        told(&desk.plain(words).expect(code), kind);
    }
}

#[test]
fn an_unknown_flag_is_corrected_and_not_repeated() {
    let desk = Desk::new();
    desk.plain("run in.jsonl --max-item 5")
        .ends(2, "'--max-items'");
    // A key on the command line is not repeated.
    let key = desk
        .plain("run in.jsonl --api-key=sk-secret-9 --json")
        .expect(2);
    assert!(!(key.stderr + &key.stdout).contains("sk-secret-9"));
    let mut bare = desk.command(Vec::<&str>::new());
    bare.ended().ends(2, "Usage");
}

#[test]
fn the_summary_lists_every_cause_with_its_count() {
    let desk = Desk::new();
    let config = SimConfig::default();
    let config = config.trouble(Trouble::BadRequest, 0.4);
    let sim = simulator(config.trouble(Trouble::ContentFilter, 0.3));
    desk.prompts("in.jsonl", 60);
    let ended = desk.run(&sim, "in.jsonl -o out.jsonl --json").expect(3);
    let value = ended.json();
    let causes = value["summary"]["causes"].as_array().unwrap();
    let items = |cause: &Value| cause["items"].as_u64().unwrap();
    let failed = value["summary"]["failed"].as_u64().unwrap();
    assert_eq!(causes.iter().map(items).sum::<u64>(), failed);
    assert!(
        causes.len() >= 2 && items(&causes[0]) >= items(&causes[1]),
        "{causes:?}"
    );
    let rows = ended.stderr.matches("  failures ").count();
    assert_eq!(rows, causes.len(), "{}", ended.stderr);
    for cause in causes {
        let row = format!("{} {}: ", cause["items"], cause["kind"].as_str().unwrap());
        ended.tells(&row);
    }
    // Failures that a run does not retry are counted too.
    desk.run(&sim, "in.jsonl -o out.jsonl --resend none")
        .ends(3, &format!("{failed} in earlier runs, not sent again"));
}
