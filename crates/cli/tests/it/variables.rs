//! Flags from the environment, and the log.

use super::common::{Desk, Ended, RunToEnd};

fn ended(desk: &Desk, words: &str, variables: &[(&str, &str)]) -> Ended {
    let mut command = desk.command(words.split(' '));
    command.envs(variables.iter().copied()).ended()
}

#[test]
fn a_flag_comes_from_its_variable_unless_it_is_given() {
    let desk = Desk::with(5);
    let variables = [
        ("BATCHWRIGHT_PROVIDER", "extract"),
        ("BATCHWRIGHT_OUTPUT", "out.jsonl"),
        ("BATCHWRIGHT_MAX_ITEMS", "2"),
        ("BATCHWRIGHT_ORDERED", "TRUE"),
        // Off, so that it does not exclude the schema.
        ("BATCHWRIGHT_JSON_MODE", "0"),
        ("BATCHWRIGHT_QUIET", ""),
    ];
    ended(&desk, "run in.jsonl", &variables).ends(0, "2 completed");
    assert_eq!(desk.results("out.jsonl").len(), 2);
    ended(
        &desk,
        "run in.jsonl --max-items 1 --json-schema none.json",
        &variables,
    )
    .ends(2, "none.json");
    ended(&desk, "run in.jsonl --max-items 1", &variables).expect(0);
    assert_eq!(desk.results("out.jsonl").len(), 3);

    let wrong = ended(&desk, "run in.jsonl", &[("BATCHWRIGHT_MAX_ITEMS", "many")]);
    wrong.ends(2, "BATCHWRIGHT_MAX_ITEMS in the environment sets it");
    let wrong = ended(
        &desk,
        "run in.jsonl --max-items few",
        &[("BATCHWRIGHT_MAX_ITEMS", "2")],
    )
    .expect(2);
    wrong.hides("in the environment");

    // The worker and the commands that show its queue use the same folder.
    let folder = [
        ("BATCHWRIGHT_DATA_DIR", "elsewhere"),
        ("BATCHWRIGHT_UNTIL_EMPTY", "yes"),
    ];
    ended(&desk, "work --provider extract", &folder).expect(0);
    assert!(desk.exists("elsewhere/llm_jobs.db"));
    let submitted = ended(&desk, "submit in.jsonl", &folder).expect(0);
    let shown = ended(&desk, "status --json", &folder).expect(0);
    shown.shows(submitted.stdout.trim());
}

#[test]
fn a_flag_on_the_command_line_overrides_variables_that_it_excludes() {
    let desk = Desk::new();
    let lines = "{\"id\":\"a\",\"prompt\":\"one\"}\n{\"id\":\"b\",\"prompt\":\"one\"}\n";
    desk.write("in.jsonl", lines);
    let dry = "run in.jsonl -o out.jsonl --provider openai --model m --dry-run";
    let words = |more: &str| format!("{dry} {more}");
    let never = [("BATCHWRIGHT_NO_DEDUPE", "1")];
    ended(&desk, dry, &never).ends(0, "2 to send");
    ended(&desk, &words("--dedupe"), &never).ends(0, "1 to send");
    ended(&desk, &words("--reuse"), &never).expect(0);
    let mode = [("BATCHWRIGHT_JSON_MODE", "1")];
    let schema = words("--json-schema {\"type\":\"object\"}");
    ended(&desk, &schema, &mode).expect(0);
    let until = [("BATCHWRIGHT_UNTIL_EMPTY", "1")];
    ended(&desk, "work --provider extract --until-submitted", &until).expect(0);
    // Flags that need others.
    let alone = [("BATCHWRIGHT_SHOW", "3"), ("BATCHWRIGHT_JSON", "1")];
    let run = "run in.jsonl --provider extract";
    let lines = ended(&desk, run, &alone).expect(0).stdout;
    assert_eq!(lines.lines().count(), 2, "{lines}");
    let with = [
        ("BATCHWRIGHT_OUTPUT", "found.jsonl"),
        ("BATCHWRIGHT_JSON", "1"),
    ];
    let summary = ended(&desk, run, &with).expect(0).stdout;
    assert!(summary.starts_with('{') && desk.exists("found.jsonl"));
    ended(&desk, &format!("{run} --show 1"), &alone).ends(2, "--dry-run");
    // Two variables may still exclude each other.
    let both = [
        ("BATCHWRIGHT_JSON_MODE", "1"),
        ("BATCHWRIGHT_JSON_SCHEMA", "{}"),
    ];
    ended(&desk, run, &both)
        .expect(2)
        .says("BATCHWRIGHT_JSON_MODE in the environment sets '--json-mode'")
        .says("BATCHWRIGHT_JSON_SCHEMA in the environment sets '--json-schema'");
}

#[test]
fn an_unknown_variable_is_warned_about_and_a_log_line_has_its_time() {
    let desk = Desk::with(1);
    let words = "run in.jsonl -o out.jsonl --provider extract --log-level WARN";
    let slip = [("BATCHWRIGHT_MAX_TOKEN", "sk-0123456789")];
    let warned = ended(&desk, words, &slip).expect(0);
    let line = warned
        .stderr
        .lines()
        .find(|line| line.contains(" warn: "))
        .unwrap();
    let text = line.strip_prefix("batchwright: ").unwrap();
    let (time, text) = text.split_once(" warn: ").unwrap();
    assert_eq!(
        text,
        "the variable BATCHWRIGHT_MAX_TOKEN has no meaning; did you mean BATCHWRIGHT_MAX_TOKENS?"
    );
    assert!(
        time.len() == 24 && time.ends_with('Z') && time.contains('T'),
        "{time}"
    );
    let kubernetes = [
        ("BATCHWRIGHT_SERVICE_HOST", "10.0.0.1"),
        ("BATCHWRIGHT_SERVICE_PORT", "80"),
        ("BATCHWRIGHT_SERVICE_PORT_HTTP", "80"),
        ("BATCHWRIGHT_PORT_80_TCP_ADDR", "10.0.0.1"),
    ];
    let silent = ended(&desk, words, &kubernetes).expect(0);
    silent.hides("BATCHWRIGHT_");
    let quiet = ended(&desk, &words.replace("WARN", "Error"), &slip).expect(0);
    quiet.hides("BATCHWRIGHT_");
}
