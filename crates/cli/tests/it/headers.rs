//! Settings that are sent with every request: `--header`, `--extra` and `--service-tier`.

use std::process::Command;

use serde_json::{Value, json};

use super::common::{Desk, Ended, RunToEnd, cases};
use super::fake::Fake;

const TOKEN: &str = "tok-Zx9Qab0123456789hijklMNOP";

fn heads(server: &Fake) -> Vec<String> {
    let calls = server.calls().into_iter();
    calls.map(|asked| asked.head.to_ascii_lowercase()).collect()
}

fn run(desk: &Desk, words: &[&str]) -> Ended {
    desk.command(words).ended()
}

#[test]
fn a_header_goes_with_every_call_and_is_shown_nowhere() {
    for status in [200, 400, 401, 500] {
        let (desk, server) = (Desk::new(), Fake::echo(status));
        desk.prompts("in.jsonl", 2);
        desk.write(
            "headers.txt",
            format!("\nX-Team-Token: {TOKEN}\nX-Title: my own title\n"),
        );
        let bearer = format!("Authorization: Bearer {TOKEN}2");
        let more = ["--header", &bearer, "--header=@headers.txt"];
        let mut command = run_at(&desk, "openai", &server.url(), &more);
        command.args(["--log-level", "debug", "--max-retries", "0"]);
        let ended = command.env("RUST_LOG", "trace").ended();
        let heads = heads(&server);
        assert!(!heads.is_empty(), "{}", ended.stderr);
        for head in heads {
            let lower = TOKEN.to_ascii_lowercase();
            assert!(
                head.contains(&format!("authorization: bearer {lower}2\r\n")),
                "{head}"
            );
            assert!(
                head.contains(&format!("x-team-token: {lower}\r\n")),
                "{head}"
            );
            assert!(head.contains("x-title: my own title\r\n"), "{head}");
        }
        let output = desk.read("out.jsonl");
        assert!(!output.is_empty());
        for text in [&ended.stdout, &ended.stderr, &output] {
            assert!(!text.contains("0123456789hijkl"), "{text}");
        }
        // A header that is not a key does not mask parts of an answer.
        assert_eq!(output.contains("my own title"), status == 200, "{output}");
    }
}

#[test]
fn a_header_reaches_no_fallback() {
    let (desk, first, second) = (Desk::new(), Fake::echo(400), Fake::echo(200));
    desk.prompts("in.jsonl", 3);
    let more = ["--fallback", "xai:small", "--header", "X-Team: maps"];
    let mut command = run_at(&desk, "custom", &first.url(), &more);
    command
        .env("XAI_API_KEY", "k")
        .env("XAI_BASE_URL", &second.url());
    command.ended().expect(0);
    let has_it = |head: &String| head.contains("x-team: maps");
    assert!(heads(&first).iter().all(has_it));
    assert_eq!(heads(&second).len(), 3);
    assert!(!heads(&second).iter().any(has_it));
}

/// A run against a provider at this address.
fn run_at(desk: &Desk, provider: &str, url: &str, more: &[&str]) -> Command {
    let words =
        format!("run in.jsonl -o out.jsonl --provider {provider} --model m --base-url {url}");
    desk.command(words.split(' ').chain(more.iter().copied()))
}

#[test]
fn fields_of_a_line_override_extra_and_both_are_part_of_the_request() {
    let (desk, server) = (Desk::new(), Fake::echo(200));
    desk.write(
        "in.jsonl",
        "{\"id\": \"a\", \"prompt\": \"one\"}\n\
         {\"id\": \"b\", \"prompt\": \"two\", \"extra\": {\"top_k\": 1}}\n",
    );
    let run = |more: &[&str]| {
        let mut command = run_at(&desk, "custom", &server.url(), more);
        command.args(["-j", "1"]).ended()
    };
    run(&[
        "--extra",
        "{\"top_k\": 40, \"user\": \"u\"}",
        "--service-tier",
        "flex",
    ])
    .expect(0);
    let bodies = server.bodies();
    assert_eq!(
        (&bodies[0]["top_k"], &bodies[1]["top_k"]),
        (&json!(40), &json!(1))
    );
    assert!(
        bodies
            .iter()
            .all(|body| body["user"] == "u" && body["service_tier"] == "flex")
    );
    // The same fields in another format are the same request, and other fields are another request.
    desk.write(
        "extra.json",
        "{\"user\": \"u\", \"service_tier\": \"flex\", \"top_k\": 40}\n",
    );
    run(&["--extra", "@extra.json"]).ends(0, "nothing to send");
    run(&["--extra", "{\"user\": \"v\"}"]).ends(0, "2 changed");
    for (extra, said) in cases(
        r#"
        {"temperature": 1} => --extra: `temperature` is set by --temperature
        {"stream": true} => --extra: `stream` has its own flag or field
        { => --extra: no JSON
    "#,
    ) {
        let ended = run(&["--extra", extra]).expect(2);
        ended.errs(said);
    }
    let twice = [
        "--extra",
        "{\"service_tier\": \"a\"}",
        "--service-tier",
        "b",
    ];
    let ended = run(&twice).expect(2);
    ended.errs("`service_tier` is set by --service-tier");
    let vectors = run(&["--task", "embed", "--service-tier", "flex"]).expect(2);
    vectors.errs("--service-tier is for answers");
}

#[test]
fn queue_jobs_contain_extra_fields_and_the_worker_adds_headers() {
    let (desk, server) = (Desk::new(), Fake::echo(200));
    desk.prompts("in.jsonl", 2);
    let extra = [
        "submit",
        "in.jsonl",
        "--extra",
        "{\"top_k\": 7}",
        "--service-tier",
        "flex",
    ];
    let id = run(&desk, &extra).expect(0).stdout;
    let url = &server.url();
    let work = format!("work --until-empty --provider custom --model m --base-url {url} --header");
    let work: Vec<&str> = work.split(' ').chain(["X-Team: maps"]).collect();
    run(&desk, &work).expect(0);
    let has_it = |head: &String| head.contains("x-team: maps");
    assert!(heads(&server).iter().all(has_it));
    let asked = |body: &Value| body["top_k"] == 7 && body["service_tier"] == "flex";
    assert_eq!(server.bodies().iter().filter(|body| asked(body)).count(), 2);
    run(&desk, &["results", id.trim(), "-o", "out.jsonl"]).expect(0);
    assert_eq!(desk.ids("out.jsonl").len(), 2);
}
