//! Local files in prompts, with the library only.

use std::sync::atomic::{AtomicUsize, Ordering};

use batchwright::client::{Part, Sent};
use batchwright::files::{PromptSettings, RunOutput};
use batchwright::{
    Context, ErrorKind, Extract, FileRun, FileRunOptions, LlmClient, LlmConfig, Message, Prompts,
    Request, Response, Role, Secret, client_fn,
};
use batchwright_simulate::{SimConfig, Simulator};

use super::common::Desk;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\nrest";

fn asking(part: Part) -> Request {
    Request::chat(vec![Message::of_parts(
        Role::User,
        [Part::text("what?"), part],
    )])
}

#[test]
fn a_file_is_read_when_it_is_sent_and_rejected_if_it_has_changed() {
    let (desk, sim) = (Desk::new(), Simulator::start(SimConfig::default()).unwrap());
    desk.write("a.png", PNG);
    let client = LlmConfig::new("openai").model("m").base_url(sim.base_url());
    let client = client.api_key(Secret::new("k")).client().unwrap();
    let request = asking(Part::image(desk.path("a.png")).unwrap());
    let ctx = Context::new();
    assert_eq!(client.complete(&request, &ctx).unwrap().text, "echo: what?");
    desk.write("a.png", [PNG, b"!"].concat());
    let error = client.complete(&request, &ctx).unwrap_err();
    assert_eq!((error.kind(), error.sent()), (ErrorKind::Invalid, Sent::No));
    assert_eq!(sim.stats().calls, 1);
    // `Extract` is not a model and must not pretend to see an image.
    assert!(Extract.complete(&request, &ctx).is_err());
    let shown = format!("{request:?} {:?}", Part::file(desk.path("a.png")));
    assert!(!shown.contains("a.png"), "{shown}");
    for wrong in [
        Part::audio(desk.path("a.png")),
        Part::file(desk.path("b.png")),
    ] {
        assert_eq!(wrong.unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[test]
fn a_file_that_changes_between_check_and_call_fails_its_items_alone() {
    let desk = Desk::new();
    for name in ["a.png", "b.png", "c.png"] {
        desk.write(name, PNG);
    }
    let line = |file: &str| {
        format!(
            r#"{{"messages":[{{"role":"user","content":[{{"type":"file","path":"{file}"}}]}}]}}"#
        )
    };
    let lines = ["a.png", "b.png", "c.png"].map(line).join("\n");
    desk.write("in.jsonl", lines);
    let prompts = || {
        let settings = PromptSettings::new();
        let (path, ctx) = (desk.path("in.jsonl"), Context::new());
        Prompts::open(&path, &settings, &ctx, &|_, _| {}).unwrap()
    };
    let output = || RunOutput::file(desk.path("out.jsonl"));
    let run = FileRun::prepare(prompts(), output(), FileRunOptions::new()).unwrap();
    desk.write("b.png", [PNG, b"!"].concat());
    std::fs::remove_file(desk.path("c.png")).unwrap();
    let calls = AtomicUsize::new(0);
    let client = client_fn(|_, _| {
        calls.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new("custom", "a picture"))
    });
    let report = run.run(&client).unwrap();
    assert_eq!((report.summary.completed, report.summary.failed), (1, 2));
    assert!(report.stop.is_none(), "{:?}", report.stop);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    let text = desk.read("out.jsonl");
    for why in [
        "has changed since it was checked",
        "c.png\\\", which is not there",
    ] {
        assert!(text.contains(why), "{why}: {text}");
    }
    // A new request sends the present contents of the file.
    desk.write("c.png", PNG);
    let run = FileRun::prepare(prompts(), output(), FileRunOptions::new()).unwrap();
    assert_eq!(run.plan().to_send, 2);
    run.run(&client).unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 3);
}
