//! Settings that are sent with every request: `--header`, `--extra` and `--service-tier`.

use std::sync::Arc;

use serde_json::json;

use super::common::{Desk, Has, RunToEnd, cases};
use super::fake::{Asked, Fake};

/// Whether a call has the header of the run.
fn has_it(asked: &Arc<Asked>) -> bool {
    asked.head.to_ascii_lowercase().contains("x-team: maps")
}

#[test]
fn a_header_reaches_no_fallback() {
    let (desk, first, second) = (Desk::with(3), Fake::echo(400), Fake::echo(200));
    let mut command = first.run(&desk, "--fallback xai:small");
    command
        .args(["--header", "X-Team: maps"])
        .env("XAI_API_KEY", "k")
        .env("XAI_BASE_URL", second.url());
    command.ended().expect(0);
    assert!(first.calls().iter().all(has_it));
    assert_eq!(second.calls().len(), 3);
    assert!(!second.calls().iter().any(has_it));
}

#[test]
fn fields_of_a_line_override_extra_and_both_are_part_of_the_request() {
    let (desk, server) = (Desk::new(), Fake::echo(200));
    desk.input(
        "{\"id\": \"a\", \"prompt\": \"one\"}\n\
         {\"id\": \"b\", \"prompt\": \"two\", \"extra\": {\"top_k\": 1}}\n",
    );
    let run = |words: &str| server.run(&desk, &format!("-j 1 {words}")).ended();
    run("--extra {\"top_k\":40,\"user\":\"u\"} --service-tier flex").expect(0);
    for (body, top_k) in server.bodies().iter().zip([40, 1]) {
        body.has(json!({"top_k": top_k, "user": "u", "service_tier": "flex"}));
    }
    // The same fields in another format are the same request, and other fields are another request.
    let same = "{\"user\": \"u\", \"service_tier\": \"flex\", \"top_k\": 40}\n";
    desk.write("extra.json", same);
    run("--extra @extra.json").ends(0, "nothing to send");
    run("--extra {\"user\":\"v\"}").ends(0, "2 changed");
    for (words, said) in cases(
        r#"
        --extra {"temperature":1} => --extra: `temperature` is set by --temperature
        --extra {"stream":true} => --extra: `stream` has its own flag or field
        --extra { => --extra: no JSON
        --extra {"service_tier":"a"} --service-tier b => `service_tier` is set by --service-tier
        --task embed --service-tier flex => --service-tier is for answers
    "#,
    ) {
        run(words).expect(2).errs(said);
    }
}

#[test]
fn queue_jobs_contain_extra_fields_and_the_worker_adds_headers() {
    let (desk, server) = (Desk::with(2), Fake::echo(200));
    let submit = "submit in.jsonl --extra {\"top_k\":7} --service-tier flex";
    desk.plain(submit).expect(0);
    let work = "work --until-empty --provider custom --model m --header X-Team:maps --base-url";
    desk.plain(&format!("{work} {}", server.url())).expect(0);
    assert!(server.calls().iter().all(has_it));
    assert_eq!(server.calls().len(), 2);
    for body in server.bodies() {
        body.has(json!({"top_k": 7, "service_tier": "flex"}));
    }
}
