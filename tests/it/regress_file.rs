//! Former bugs of runs from a file or a stream to a file.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use batchwright::client::Sent;
use batchwright::files::{PromptSettings, RunOutput, RunReport};
use batchwright::{
    Context, Error, Extract, FileRun, FileRunOptions, LlmClient, Prompts, Request, StopReason,
    client_fn,
};

use super::common::Desk;
use super::hang::ends;

fn open(path: PathBuf) -> Result<Prompts, Error> {
    let settings = PromptSettings::new();
    Prompts::open(&path, &settings, &Context::new(), &|_, _| {})
}

fn lines(n: usize) -> String {
    (0..n).map(|i| format!("p{i}\n")).collect()
}

/// Runs `in.txt` to `out.jsonl`.
fn run(desk: &Desk, ctx: &Context, client: impl LlmClient) -> RunReport {
    run_of(open(desk.path("in.txt")).unwrap(), desk, ctx, client)
}

fn run_of(prompts: Prompts, desk: &Desk, ctx: &Context, client: impl LlmClient) -> RunReport {
    let output = RunOutput::file(desk.path("out.jsonl"));
    FileRun::prepare(prompts, output, FileRunOptions::new())
        .unwrap()
        .concurrency(4)
        .context(ctx)
        .run(client)
        .unwrap()
}

#[test]
fn a_result_line_truncated_at_any_byte_is_removed_and_sent_again() {
    let desk = Desk::new();
    desk.write("in.txt", lines(2));
    let ctx = Context::new();
    run(&desk, &ctx, Extract);
    let whole = desk.read("out.jsonl");
    let first = whole.find('\n').unwrap() + 1;
    let line = &whole[first..];
    // After another line, and as the only line of the file.
    for start in [&whole[..first], ""] {
        for cut in 1..line.len() - 1 {
            desk.write("out.jsonl", [start, &line[..cut]].concat());
            let report = run(&desk, &ctx, Extract);
            assert!(report.stop.is_none());
            let results = desk.results("out.jsonl");
            assert_eq!(results.len(), 2, "cut at {cut}");
            assert!(desk.read("out.jsonl").starts_with(start));
        }
    }
}

#[test]
fn a_stream_is_read_although_its_folder_cannot_be_created() {
    let desk = Desk::new();
    desk.write("taken", "");
    let settings = PromptSettings::new().spool_folder(desk.path("taken/data"));
    let prompts = Prompts::from_reader(lines(2).as_bytes(), &settings, &Context::new()).unwrap();
    let report = run_of(prompts, &desk, &Context::new(), Extract);
    assert!(report.stop.is_none(), "{:?}", report.stop);
    assert_eq!(desk.results("out.jsonl").len(), 2);
}

/// Blocks until its call is aborted.
fn until_ended(ctx: &Context) -> Error {
    let (ended, end) = channel();
    let _on_cancel = ctx.on_cancel(move || {
        let _ = ended.send(());
    });
    let _ = end.recv();
    ctx.check().unwrap_err().with_sent(Sent::Maybe)
}

#[test]
fn an_abort_leaves_calls_in_flight_pending() {
    for _ in 0..30 {
        let (report, text) = ends(|| {
            let desk = Desk::new();
            desk.write("in.txt", lines(20));
            let ctx = Context::new();
            let started = AtomicUsize::new(0);
            let client = client_fn(|_: &Request, call: &Context| {
                if started.fetch_add(1, Ordering::SeqCst) == 3 {
                    ctx.abort();
                }
                Err(until_ended(call))
            });
            let report = run(&desk, &ctx, client);
            (report, std::fs::read(desk.path("out.jsonl")))
        });
        assert!(matches!(report.stop, Some(StopReason::Cancelled)));
        assert_eq!(text.unwrap_or_default(), b"");
        let summary = report.summary;
        assert_eq!((summary.failed, summary.pending), (0, 20));
        assert_eq!((summary.calls, summary.cut_off), (4, 4));
    }
}

#[test]
fn an_extra_field_with_its_own_setting_is_an_error_of_the_input() {
    let desk = Desk::new();
    let opened = |name: &str| {
        desk.input(format!("{{\"prompt\":\"a\",\"extra\":{{\"{name}\":1}}}}\n"));
        open(desk.path("in.jsonl")).map(drop)
    };
    let own = "model messages max_tokens max_completion_tokens temperature top_p stop seed response_format n stream \
        stream_options";
    for name in own.split(' ') {
        let error = opened(name).unwrap_err();
        let found = format!("\"{name}\" inside \"extra\"");
        assert!(error.message().contains(&found), "{error}");
    }
    assert!(opened("top_k").is_ok());
}
