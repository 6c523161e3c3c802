//! Fallbacks through the program: which failures fail over, what is reported, and what is rejected.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use batchwright_simulate::{SimConfig, Simulator, Trouble};
use serde_json::json;

use super::common::{Desk, Ended, RunToEnd, Running, all_ids, cases, good, simulator};
use super::fake::{Answer, Fake, reply, says};

/// A run of `in.jsonl` for `custom`, model `big`, with these words; `xai` is the other simulator.
fn called(desk: &Desk, first: &Simulator, second: &Simulator, words: &str) -> Ended {
    let words = format!("run in.jsonl -o out.jsonl --provider custom --model big {words}");
    let mut command = desk.command(words.split_whitespace());
    command
        .env("CUSTOM_LLM_BASE_URL", first.base_url())
        .env("XAI_API_KEY", "k")
        .env("XAI_BASE_URL", second.base_url());
    command.ended()
}

/// The same with nine prompts.
fn nine(desk: &Desk, first: &Simulator, second: &Simulator, words: &str) -> Ended {
    desk.prompts("in.jsonl", 9);
    called(desk, first, second, words)
}

fn always(trouble: Trouble) -> Simulator {
    simulator(SimConfig::default().trouble(trouble, 1.0))
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

/// A minimal server: `answer` receives the path.
fn serve(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> String {
    Fake::start(move |asked| answer(&asked.path)).url()
}

fn answer() -> Answer {
    says(200, reply(json!({"content": "Blue."})))
}

fn unknown() -> Answer {
    says(
        404,
        json!({"error": {"message": "File Not Found", "type": "not_found_error"}}),
    )
}

/// `run in.jsonl -o out.jsonl --json` against the server at `url`.
fn start(desk: &Desk, url: &str, words: &[&str]) -> Running {
    let run = format!("run in.jsonl -o out.jsonl --json --base-url {url}");
    Running::start(desk.command(run.split(' ')).args(words))
}

#[test]
fn a_server_that_only_its_address_names_is_asked_what_it_is() {
    // llama.cpp reports its slots, and gets as many calls at once, whether the model is named or not.
    let url = serve(|path| match path {
        "/v1/models" => says(
            200,
            json!({"data": [{"id": "tiny", "owned_by": "llamacpp"}]}),
        ),
        "/props" => says(200, json!({"total_slots": 3})),
        "/v1/chat/completions" => answer(),
        _ => unknown(),
    });
    let desk = Desk::with(6);
    start(&desk, &url, &[])
        .wait()
        .ends(0, "provider local at ")
        .says("model tiny, 3 in flight\n");
    desk.prompts("in.jsonl", 9);
    start(&desk, &url, &["--model", "tiny"])
        .wait()
        .ends(0, "model tiny, 3 in flight\n");
    desk.prompts("in.jsonl", 12);
    start(&desk, &url, &["-j", "2"])
        .wait()
        .ends(0, "model tiny, 2 in flight");
    let mut command = desk.command(["providers"]);
    let table = command.env("LOCAL_LLM_BASE_URL", &url).ended();
    table.shows("serves tiny, 3 slots");
    // Any other server on this machine starts with one call.
    let sim = simulator(SimConfig::default().models(["tiny"]));
    desk.prompts("in.jsonl", 15);
    start(&desk, &sim.base_url(), &[])
        .wait()
        .ends(0, "model tiny, 1 in flight, up to 256 while that helps");
    // Elsewhere is another service, which must name its model or have only one.
    desk.prompts("in.jsonl", 18);
    start(
        &desk,
        "http://192.0.2.1:9/v1",
        &["--model", "m", "--dry-run"],
    )
    .wait()
    .ends(0, "taking an OpenAI-compatible server (custom)")
    .says("provider custom at http://192.0.2.1:9/v1, model m, 5 in flight");
}

#[test]
fn texts_of_a_server_cannot_control_the_terminal() {
    let named = "\u{1b}]0;owned\u{7}\u{1b}[31mm";
    let url = serve(move |path| match path {
        "/v1/models" => says(200, json!({"data": [{"id": named}]})),
        "/v1/chat/completions" => says(400, json!({"error": {"message": named}})),
        _ => unknown(),
    });
    let desk = Desk::with(1);
    let words = "run in.jsonl -o out.jsonl --provider local --log-level info";
    let mut command = desk.command(words.split(' '));
    let ended = command.env("LOCAL_LLM_BASE_URL", url).ended();
    let ended = ended.ends(3, "local answered 400:  ]0;owned");
    assert!(!ended.stderr.contains(['\u{1b}', '\u{7}']));
    // Data are not changed.
    let error = &desk.results("out.jsonl")[0]["error"]["message"];
    assert!(error.as_str().unwrap().ends_with(named), "{error}");
}

#[test]
fn a_model_that_loads_during_the_run_is_waited_for_and_reported_once() {
    let prompts = AtomicUsize::new(0);
    let url = serve(move |path| match path {
        "/v1/chat/completions" => match prompts.fetch_add(1, Ordering::SeqCst) {
            2..=3 => {
                let error = json!({"code": 503, "message": "Loading model"});
                says(503, json!({"error": error}))
            }
            _ => answer(),
        },
        _ => unknown(),
    });
    let desk = Desk::with(6);
    let words = "--provider local --model tiny --max-retries 0";
    let words: Vec<&str> = words.split(' ').collect();
    let ended = start(&desk, &url, &words).wait().expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(6));
    let lines = desk.results("out.jsonl");
    assert!(lines.iter().all(|line| line["attempts"] == 1));
    assert_eq!(ended.json()["summary"]["calls"], 6);
    let waiting = "local: the server is still loading its model; waiting\n";
    let ready = "batchwright: the server is ready after ";
    for said in [waiting, ready] {
        assert_eq!(ended.stderr.matches(said).count(), 1, "{}", ended.stderr);
    }
}
