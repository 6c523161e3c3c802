//! Fallbacks through the program: which failures fail over, what is reported, and what is rejected.

use std::time::Duration;

use batchwright_simulate::{SimConfig, Simulator, Trouble};
use serde_json::json;

use super::common::{Desk, Ended, RunToEnd, all_ids, cases, good, simulator};

/// Nine prompts for `custom`, model `big`, with these words; `xai` is the other simulator.
fn nine(desk: &Desk, first: &Simulator, second: &Simulator, words: &str) -> Ended {
    desk.prompts("in.jsonl", 9);
    let words = format!("run in.jsonl -o out.jsonl --provider custom --model big {words}");
    let mut command = desk.command(words.split_whitespace());
    command
        .env("CUSTOM_LLM_BASE_URL", first.base_url())
        .env("XAI_API_KEY", "k")
        .env("XAI_BASE_URL", second.base_url());
    command.ended()
}

fn always(trouble: Trouble) -> Simulator {
    simulator(SimConfig::default().trouble(trouble, 1.0))
}

#[test]
fn a_blocked_answer_does_not_fail_over() {
    for trouble in [Trouble::ContentFilter, Trouble::Refusal] {
        let (desk, first, second) = (Desk::new(), always(trouble), good());
        nine(&desk, &first, &second, "--fallback xai:small").ends(3, "9 blocked: ");
        assert_eq!(second.stats().calls, 0);
    }
}

#[test]
fn the_route_is_named_and_answers_are_counted_per_provider() {
    let (desk, first, second) = (Desk::new(), always(Trouble::BadRequest), good());
    let words = "--fallback xai:small,extract -j 4";
    let url = first.base_url();
    let route =
        format!("provider custom at {url}, model big, then xai/small, then extract, 4 in flight");
    nine(&desk, &first, &second, &format!("{words} --dry-run")).ends(0, &route);
    nine(&desk, &first, &second, words)
        .ends(0, &route)
        .says("answers by xai 9\n");

    let (desk, first) = (Desk::new(), good());
    let ended = nine(&desk, &first, &second, words).expect(0);
    ended.hides("answers by");

    let half = SimConfig::default().trouble(Trouble::BadRequest, 0.5);
    let (desk, first) = (Desk::new(), simulator(half));
    let ended = nine(&desk, &first, &second, &format!("{words} --json")).expect(0);
    let value = ended.json();
    let by = &value["summary"]["answered_by"];
    let (own, other) = (first.stats().answered, 9 - first.stats().answered);
    assert!(own > 0 && other > 0, "choose another seed: {own}");
    assert_eq!(*by, serde_json::json!({"custom": own, "xai": other}));
    ended.says(&format!("answers by custom {own}, xai {other}\n"));
}

#[test]
fn a_fallback_gets_further_fields_only_in_the_same_wire_format() {
    let extra = r#"{"min_p":0.05,"tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"none"}"#;
    for (other, left_out) in [("local", json!(null)), ("anthropic", json!(["min_p"]))] {
        let (desk, first, second) = (Desk::new(), always(Trouble::Error500), good());
        desk.prompts("in.jsonl", 1);
        let words = format!(
            "run in.jsonl -o out.jsonl --provider custom --model m --max-retries 0 --fallback {other}:m"
        );
        let mut command = desk.command(words.split_whitespace());
        command
            .args(["--extra", extra])
            .env("CUSTOM_LLM_BASE_URL", first.base_url())
            .env("ANTHROPIC_API_KEY", "k")
            .env("ANTHROPIC_BASE_URL", second.base_url())
            .env("LOCAL_LLM_BASE_URL", second.base_url());
        command.ended().expect(0);
        let line = &desk.results("out.jsonl")[0];
        assert_eq!(line["provider"], other);
        assert_eq!(line["left_out"], left_out, "{line}");
        assert_eq!(second.stats().malformed, 0);
    }
}

#[test]
fn an_unusable_fallback_names_the_missing_setting() {
    let desk = Desk::with(1);
    for (name, said) in cases(
        "
        xai => --fallback xai: name its model: xai:MODEL
        xai: => --fallback xai: name its model: xai:MODEL
        custom => --fallback custom: no address: set CUSTOM_LLM_BASE_URL
        groq:m => --fallback groq: no key: set GROQ_API_KEY
        claude => --fallback: unknown provider `claude`; did you mean anthropic?
    ",
    ) {
        let words = format!("run in.jsonl --provider extract --fallback {name}");
        let mut command = desk.command(words.split(' '));
        let ended = command.env("XAI_API_KEY", "k").ended();
        let ended = ended.expect(2);
        ended.errs(said);
        ended.hides("--base-url");
    }
}

#[test]
fn a_provider_that_is_not_called_again_is_named() {
    let (desk, first, second) = (Desk::new(), always(Trouble::Quota), good());
    let ended = nine(&desk, &first, &second, "--fallback xai:small")
        .expect(0)
        .says("no more calls to this provider in this run: custom answered 429");
    ended.hides("the provider is");
}

/// The models of a local server are unknown while it is away, so nothing starts without it, unless its model is named.
#[test]
fn a_local_server_that_is_away_at_the_start_ends_the_command() {
    let run = |words: &str| {
        let (desk, xai) = (Desk::with(2), good());
        let mut command = desk.command(words.split_whitespace());
        command
            .env("LOCAL_LLM_BASE_URL", "http://127.0.0.1:9/v1")
            .env("XAI_API_KEY", "k")
            .env("XAI_BASE_URL", xai.base_url());
        (command.ended(), desk, xai)
    };
    let to = "run in.jsonl -o out.jsonl --provider local";
    for words in [
        to,
        &format!("{to} --fallback xai:small"),
        "work --until-empty --provider local --fallback extract",
    ] {
        let (ended, desk, xai) = run(words);
        ended.ends(1, "local: no usable server at http://127.0.0.1:9/v1");
        assert!(!desk.exists("out.jsonl"));
        assert_eq!(xai.stats().calls, 0);
    }
    let (ended, desk, xai) = run(&format!("{to} --fallback xai:small --model tiny"));
    ended.expect(0);
    for line in desk.results("out.jsonl") {
        assert_eq!(
            (&line["provider"], &line["model"]),
            (&"xai".into(), &"small".into())
        );
    }
    assert_eq!(xai.stats().calls, 2);
}

/// A provider is not charged with a limit of this machine.
#[cfg(unix)]
#[test]
fn too_few_open_files_neither_fail_an_item_nor_move_it_to_a_fallback() {
    let slow = SimConfig::default().latency(Duration::from_millis(200));
    let (desk, sim, other) = (Desk::with(600), simulator(slow), good());
    let words =
        "run in.jsonl -o out.jsonl --provider custom --model big -j 100 --fallback xai:small";
    let program = env!("CARGO_BIN_EXE_batchwright");
    let mut limited = desk.other("sh", ["-c", "ulimit -n 40 && exec \"$@\"", "sh", program]);
    limited
        .args(words.split_whitespace())
        .env("CUSTOM_LLM_BASE_URL", sim.base_url())
        .env("XAI_API_KEY", "k")
        .env("XAI_BASE_URL", other.base_url());
    let ended = limited.ended().expect(0);
    assert_eq!(ended.stderr.matches("this machine allows fewer").count(), 1);
    assert_eq!((sim.stats().calls, other.stats().calls), (600, 0));
    assert_eq!(desk.ids("out.jsonl"), all_ids(600));
}
