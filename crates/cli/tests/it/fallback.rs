//! Fallbacks through the program: which failures fail over, what is reported, and what is rejected.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use batchwright_simulate::{SimConfig, Simulator, Trouble};
use serde_json::json;

use super::common::{Desk, Ended, HOME, Has, RunToEnd, Running, all_ids, cases, good, simulator};
use super::fake::{Answer, Asked, Fake, reply, says};
use super::serve::ask;

/// A run of nine prompts for `custom`, model `big`, with these words; `xai` is the other simulator.
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
fn the_route_is_named_and_answers_are_counted_per_provider() {
    let half = SimConfig::default().trouble(Trouble::BadRequest, 0.5);
    let (desk, first, second) = (Desk::new(), simulator(half), good());
    let words = "--fallback xai:small,extract -j 4";
    let url = first.base_url();
    let route =
        format!("provider custom at {url}, model big, then xai/small, then extract, 4 in flight");
    nine(&desk, &first, &second, &format!("{words} --dry-run")).ends(0, &route);
    let ended = nine(&desk, &first, &second, &format!("{words} --json")).ends(0, &route);
    let (own, other) = (first.stats().answered, 9 - first.stats().answered);
    assert!(own > 0 && other > 0, "choose another seed: {own}");
    let by = json!({"/summary/answered_by": {"custom": own, "xai": other}});
    ended.json().has(by);
    ended.tells(&format!("answers by custom {own}, xai {other}\n"));

    let (desk, first) = (Desk::new(), good());
    nine(&desk, &first, &second, words)
        .expect(0)
        .hides("answers by");
}

#[test]
fn a_fallback_gets_further_fields_only_in_the_same_wire_format() {
    for (other, left_out) in [("local", json!(null)), ("anthropic", json!(["min_p"]))] {
        let (desk, first, second) = (Desk::with(1), always(Trouble::Error500), good());
        let words = "run in.jsonl -o out.jsonl --provider custom --model m --max-retries 0";
        let mut command = desk.command(words.split_whitespace());
        command
            .args(["--extra", r#"{"min_p":0.05}"#])
            .args(["--fallback", &format!("{other}:m")])
            .env("CUSTOM_LLM_BASE_URL", first.base_url())
            .env("ANTHROPIC_API_KEY", "k")
            .env("ANTHROPIC_BASE_URL", second.base_url())
            .env("LOCAL_LLM_BASE_URL", second.base_url());
        command.ended().expect(0);
        let line = &desk.results("out.jsonl")[0];
        line.has(json!({"provider": other, "left_out": left_out}));
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
        let ended = command.env("XAI_API_KEY", "k").ended().expect(2);
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
    let (desk, xai) = (Desk::with(2), good());
    let run = |words: &str| {
        let mut command = desk.command(words.split_whitespace());
        command
            .env("XAI_API_KEY", "k")
            .env("XAI_BASE_URL", xai.base_url());
        command.ended()
    };
    let to = "run in.jsonl -o out.jsonl --provider local --fallback xai:small";
    for words in [to, "work --until-empty --provider local --fallback extract"] {
        run(words).ends(1, "local: no usable server at http://127.0.0.1:9/v1");
        assert!(!desk.exists("out.jsonl") && xai.stats().calls == 0);
    }
    run(&format!("{to} --model tiny")).expect(0);
    for line in desk.results("out.jsonl") {
        line.has(json!({"provider": "xai", "model": "small"}));
    }
    assert_eq!(xai.stats().calls, 2);
}

/// A provider is not charged with a limit of this machine. Each model has a separate quota, and each quota a file.
#[test]
fn too_few_open_files_neither_fail_an_item_nor_move_it_to_a_fallback() {
    let slow = SimConfig::default().latency(Duration::from_millis(200));
    let (desk, sim, other) = (Desk::new(), simulator(slow), good());
    let line = |i| {
        let model = i % 100;
        format!("{{\"id\":\"i-{i}\",\"prompt\":\"prompt {i}\",\"model\":\"m{model}\"}}\n")
    };
    desk.input((0..600).map(line).collect::<String>());
    let words =
        "run in.jsonl -o out.jsonl --provider openai --model big -j 100 --fallback xai:small";
    let program = env!("CARGO_BIN_EXE_batchwright");
    let mut limited = desk.other("sh", ["-c", "ulimit -n 40 && exec \"$@\"", "sh", program]);
    limited
        .args(words.split_whitespace())
        .args(["--base-url", &sim.base_url()])
        .env("OPENAI_API_KEY", "sk-shared-0123456789")
        .env("XAI_API_KEY", "k")
        .env("XAI_BASE_URL", other.base_url());
    let ended = limited.ended().expect(0);
    assert_eq!(ended.stderr.matches("this machine allows fewer").count(), 1);
    assert_eq!((sim.stats().calls, other.stats().calls), (600, 0));
    assert_eq!(desk.ids("out.jsonl"), all_ids(600));
    let quotas = std::fs::read_dir(desk.path(HOME).join("quotas")).unwrap();
    assert_eq!(quotas.count(), 101, "one is of the fallback");
}

/// A server that answers these paths.
fn serve(answer: impl Fn(&str) -> Option<Answer> + Send + Sync + 'static) -> String {
    let unknown = json!({"error": {"message": "File Not Found", "type": "not_found_error"}});
    let answer = move |asked: &Asked| {
        let answer = answer(&asked.path);
        answer.unwrap_or_else(|| says(404, &unknown))
    };
    Fake::start(answer).url()
}

fn answer() -> Answer {
    says(200, reply(json!({"content": "Blue."})))
}

/// `run in.jsonl -o out.jsonl --json` against the server at `url`.
fn run(desk: &Desk, url: &str, words: &str) -> Ended {
    desk.plain(&format!(
        "run in.jsonl -o out.jsonl --json --base-url {url} {words}"
    ))
}

#[test]
fn a_server_that_only_its_address_names_is_asked_what_it_is() {
    // llama.cpp reports its slots, and gets as many calls at once, whether the model is named or not.
    let models = json!({"data": [{"id": "tiny", "owned_by": "llamacpp"}]});
    let url = serve(move |path| match path {
        "/v1/models" => Some(says(200, &models)),
        "/props" => Some(says(200, json!({"total_slots": 3}))),
        "/v1/chat/completions" => Some(answer()),
        _ => None,
    });
    for (words, says) in cases(
        "
         => model tiny, 3 in flight
        --model tiny => model tiny, 3 in flight
        -j 2 => model tiny, 2 in flight
    ",
    ) {
        run(&Desk::with(6), &url, words).ends(0, says);
    }
    let desk = Desk::with(15);
    let mut command = desk.command(["providers"]);
    let table = command.env("LOCAL_LLM_BASE_URL", &url).ended();
    table.shows("serves tiny, 3 slots");
    // Any other server on this machine starts with one call.
    let sim = simulator(SimConfig::default().models(["tiny"]));
    let one = "model tiny, 1 in flight, up to 256 while that helps";
    run(&desk, &sim.base_url(), "").ends(0, one);
    // Elsewhere is another service, which must name its model or have only one.
    run(
        &Desk::with(1),
        "http://192.0.2.1:9/v1",
        "--model m --dry-run",
    )
    .ends(0, "taking an OpenAI-compatible server (custom)")
    .tells("provider custom at http://192.0.2.1:9/v1, model m, 5 in flight");
}

#[test]
fn texts_of_a_server_cannot_control_the_terminal() {
    let named = "\u{1b}]0;owned\u{7}\u{1b}[31mm";
    let url = serve(move |path| match path {
        "/v1/models" => Some(says(200, json!({"data": [{"id": named}]}))),
        "/v1/chat/completions" => Some(says(400, json!({"error": {"message": named}}))),
        _ => None,
    });
    let desk = Desk::with(1);
    let ended = run(&desk, &url, "--provider local --log-level info");
    let ended = ended.ends(3, r"local answered 400: \u{1b}]0;owned");
    assert!(!ended.stderr.contains(['\u{1b}', '\u{7}']));
    // Data are not changed.
    let error = &desk.results("out.jsonl")[0]["error"]["message"];
    assert!(error.as_str().unwrap().contains(named), "{error}");
}

#[test]
fn a_model_that_loads_during_the_run_is_waited_for() {
    let prompts = AtomicUsize::new(0);
    let loading = json!({"error": {"code": 503, "message": "Loading model"}});
    let url = serve(move |path| match path {
        "/v1/chat/completions" => match prompts.fetch_add(1, Ordering::SeqCst) {
            2..=3 => Some(says(503, &loading)),
            _ => Some(answer()),
        },
        _ => None,
    });
    let desk = Desk::with(6);
    let ended = run(&desk, &url, "--provider local --model tiny --max-retries 0").expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(6));
    let lines = desk.results("out.jsonl");
    assert!(lines.iter().all(|line| line["attempts"] == 1));
    ended.json().has(json!({"/summary/calls": 6}));
}

/// Prompts of which these contain SQL.
fn rows(count: usize, sql: Range<usize>) -> String {
    let row = |at| {
        let text = if sql.contains(&at) { "SELECT" } else { "Color" };
        format!("{{\"id\": \"{at}\", \"prompt\": \"{text} {at}?\"}}\n")
    };
    (0..count).map(row).collect()
}

#[test]
fn a_firewall_costs_the_prompts_that_it_blocks_and_a_revoked_key_fails_none() {
    let page = "<html><head><title>Request blocked</title></head></html>";
    let bodies = [page, r#"{"message":"Forbidden"}"#, ""];
    for (body, words) in bodies.into_iter().zip(["-j 1", "-j 20", "-j 100"]) {
        let firewall = Fake::start(move |asked| {
            let has_sql = String::from_utf8_lossy(&asked.body).contains("SELECT");
            if has_sql { says(403, body) } else { answer() }
        });
        let (desk, other) = (Desk::new(), good());
        desk.input(rows(52, 4..12));
        let ended = firewall.run(&desk, words).ended();
        ended.ends(3, "44 completed, 8 failed");
        let desk_2 = Desk::new();
        std::fs::copy(desk.path("in.jsonl"), desk_2.path("in.jsonl")).unwrap();
        let mut command = firewall.run(&desk_2, &format!("{words} --fallback xai:small"));
        command.env("XAI_API_KEY", "k");
        let ended = command.env("XAI_BASE_URL", other.base_url()).ended();
        ended.ends(0, "52 completed, 0 failed");
        assert_eq!(other.stats().calls, 8);
        // Every call after the fifth is rejected.
        let served = AtomicUsize::new(0);
        let revoked = Fake::start(move |_| match served.fetch_add(1, Ordering::SeqCst) {
            0..5 => answer(),
            _ => says(403, body),
        });
        let desk = Desk::new();
        std::fs::copy(desk_2.path("in.jsonl"), desk.path("in.jsonl")).unwrap();
        let ended = revoked.run(&desk, words).ended();
        ended.ends(4, "5 completed, 0 failed, 47 pending");
    }
}

/// Prompts with SQL are blocked, and all others answered.
fn firewall() -> Fake {
    Fake::start(|asked| {
        let page = "<html><head><title>Request blocked</title></head></html>";
        let has_sql = String::from_utf8_lossy(&asked.body).contains("SELECT");
        if has_sql { says(403, page) } else { answer() }
    })
}

#[test]
fn a_firewall_blocks_one_process_of_a_queue_and_no_other() {
    for words in ["-j 1", "-j 20", "-j 100"] {
        let (desk, fake) = (Desk::new(), firewall());
        for (count, blocked) in [(120, 0..120), (52, 4..12)] {
            desk.input(rows(count, blocked));
            desk.plain("submit in.jsonl").expect(0);
        }
        let url = fake.url();
        let work =
            format!("work --until-empty --provider custom --model m {words} --base-url {url}");
        let has_sql = |body: &[u8]| String::from_utf8_lossy(body).contains("SELECT");
        let good = || {
            fake.calls()
                .iter()
                .filter(|call| !has_sql(&call.body))
                .count()
        };
        for _ in 0..3 {
            desk.plain(&work);
        }
        // The last few may be behind too many others.
        assert!((31..=44).contains(&good()), "{words}: {}", good());
    }
}

/// A job of another model has no other one that explains its end.
#[test]
fn a_blocked_job_of_one_model_ends_no_worker_before_the_jobs_of_another() {
    let (desk, fake) = (Desk::new(), firewall());
    for (model, count, blocked) in [("b", 1, 0..1), ("a", 300, 0..0)] {
        desk.input(rows(count, blocked));
        desk.plain(&format!("submit in.jsonl --model {model}"))
            .expect(0);
    }
    let url = fake.url();
    let work = format!("work --until-empty --provider custom --model m -j 5 --base-url {url}");
    desk.plain(&work).ends(4, "300 done");
}

#[test]
fn a_worker_whose_fallback_answers_all_that_is_blocked_succeeds() {
    let (desk, fake) = (Desk::new(), firewall());
    desk.input(rows(30, 0..30));
    desk.plain("submit in.jsonl").expect(0);
    let url = fake.url();
    let work = format!("work --until-empty --provider custom --model m -j 2 --base-url {url}");
    desk.plain(&format!("{work} --fallback extract"))
        .ends(0, "30 done");
}

#[test]
fn three_thousand_blocked_rows_end_a_run_that_fails_none_of_them() {
    let (desk, fake) = (Desk::new(), firewall());
    desk.input(rows(3_100, 0..3_000));
    let ended = fake.run(&desk, "-j 20").ended();
    ended.ends(4, "0 completed, 0 failed, 3,100 pending");
    assert!(fake.calls().len() < 60, "{}", fake.calls().len());
}

/// A key that was never accepted may be wrong, too. One that was shows that the firewall means the prompt.
#[test]
fn a_chat_that_a_firewall_blocks_gets_its_status() {
    let (desk, fake) = (Desk::new(), firewall());
    let words = format!(
        "serve --base-url {} --provider custom --model m --port 0",
        fake.url()
    );
    let running = Running::start(&mut desk.command(words.split_whitespace()));
    running.hears("OpenAI clients http://");
    let said = running.said();
    let address = said.split("OpenAI clients http://").nth(1).unwrap();
    let address = address.split("/v1").next().unwrap();
    let chat = |text: &str| {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": text}]});
        ask(
            address,
            "POST",
            "/v1/chat/completions",
            "",
            &body.to_string(),
        )
        .unwrap()
    };
    for wanted in [403, 200, 403] {
        let text = if wanted == 200 { "Hello." } else { "SELECT" };
        let (status, said) = chat(text);
        assert_eq!(status, wanted, "{said}");
        assert!(wanted == 200 || said.contains("Request blocked"), "{said}");
    }
}
