//! The parts that every single call pays: its row, a route with and without limits, the fingerprint, the way from a
//! request to bytes and from a reply's bytes to an answer, and the result line.

use std::sync::Arc;
use std::time::Duration;

use batchwright::client::{QuotaKey, request_hash};
use batchwright::files::PromptSettings;
use batchwright::unstable::{HttpHeaders, HttpReply, HttpRequest, Transport};
use batchwright::{
    Context, Error, Limits, LlmClient, LlmConfig, Prompts, Request, Response, Route, Secret,
    client_fn, execute_bulk_sync,
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Answers at once, and has a quota: without one there is nothing to limit.
struct Limited;

impl LlmClient for Limited {
    fn complete(&self, _: &Request, _: &Context) -> Result<Response, Error> {
        Ok(Response::new("none", ""))
    }

    fn quota(&self, _: &Request) -> QuotaKey {
        QuotaKey::new(&["bench"])
    }
}

fn route(c: &mut Criterion) {
    let mut group = c.benchmark_group("route");
    let (request, ctx) = (Request::new("x"), Context::new());
    // So many that no call ever waits: the cost of asking is measured, not the limit.
    let plenty = Limits::default().requests_per_minute(1e9);
    for (name, limits) in [("no limits", Limits::default()), ("1e9 rpm", plenty)] {
        let route = Route::limited(Limited, limits);
        group.bench_function(name, |b| b.iter(|| route.complete(&request, &ctx)));
    }
    group.finish();
}

fn hash(c: &mut Criterion) {
    let mut group = c.benchmark_group("request_hash");
    for size in [1_024, 102_400] {
        group.throughput(Throughput::Bytes(size as u64));
        let request = Request::new(text(size));
        group.bench_with_input(BenchmarkId::from_parameter(size), &request, |b, request| {
            b.iter(|| request_hash(request));
        });
    }
    group.finish();
}

/// The check of a file and the second reading of its rows, as a run does both; with fields that most files do not have,
/// too.
fn rows(c: &mut Criterion) {
    const ROWS: usize = 1_000;
    let mut group = c.benchmark_group("check and read rows");
    group.throughput(Throughput::Elements(ROWS as u64));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ctx = Context::new();
    for (name, further) in [
        ("id and prompt", ""),
        ("with temperature", r#","temperature":0.5"#),
    ] {
        let path = folder.path().join(format!("{name}.jsonl"));
        let prompt = serde_json::Value::from(text(200));
        let row = |i| format!(r#"{{"id":"row-{i}","prompt":{prompt}{further}}}"#) + "\n";
        let text: String = (0..ROWS).map(row).collect();
        std::fs::write(&path, text).expect("the folder can be written to");
        group.bench_with_input(BenchmarkId::from_parameter(name), &path, |b, path| {
            b.iter(|| {
                let prompts = Prompts::open(path, &PromptSettings::new(), &ctx, &|_, _| {});
                let requests = prompts.expect("all rows are prompts").into_requests();
                assert_eq!(requests.filter(Result::is_ok).count(), ROWS);
            });
        });
    }
    group.finish();
}

fn result_line(c: &mut Criterion) {
    let client = client_fn(|_: &Request, _: &Context| Ok(Response::new("none", text(200))));
    let request = Request::new("x").with_id("row-1");
    let outcomes = execute_bulk_sync(&Context::new(), &client, &[request], 1);
    let outcome = outcomes.expect("nothing stops this run").remove(0);
    c.bench_function("result line", |b| b.iter(|| serde_json::to_vec(&outcome)));
}

/// A transport that has the same reply for everything.
struct Canned(HttpReply);

impl Transport for Canned {
    fn send(&self, _: &HttpRequest<'_>, _: &Context) -> Result<HttpReply, Error> {
        Ok(self.0.clone())
    }
}

fn reply(answer: &str) -> HttpReply {
    let body = serde_json::json!({
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": answer, "refusal": null},
            "finish_reason": "stop",
            "logprobs": null,
        }],
        "usage": {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18},
    });
    let headers = [
        ("content-type", "application/json"),
        ("x-ratelimit-limit-requests", "10000"),
        ("x-ratelimit-remaining-requests", "9999"),
        ("x-ratelimit-reset-requests", "6ms"),
    ];
    HttpReply {
        status: 200,
        headers: HttpHeaders::from_iter(headers),
        body: body.to_string().into_bytes(),
    }
}

fn codec(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode and decode");
    for size in [1_024, 102_400] {
        group.throughput(Throughput::Bytes(2 * size as u64));
        let text = text(size);
        let client = LlmConfig::new("openai")
            .model("m")
            .base_url("http://127.0.0.1:9/v1")
            .api_key(Secret::new("sk-0123456789abcdef"))
            .client_over(Arc::new(Canned(reply(&text))))
            .expect("the settings are complete");
        let (request, ctx) = (Request::new(text), Context::new());
        assert!(client.complete(&request, &ctx).is_ok());
        group.bench_with_input(BenchmarkId::from_parameter(size), &request, |b, request| {
            b.iter(|| client.complete(request, &ctx));
        });
    }
    group.finish();
}

/// Prose with a line break now and then, since escapes are what costs.
fn text(size: usize) -> String {
    const LINE: &str = "The quick brown fox jumps over the lazy dog, \"twice\" as they say.\n";
    let mut text = LINE.repeat(size / LINE.len() + 1);
    text.truncate(size);
    text
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = rows, route, hash, codec, result_line
}
criterion_main!(benches);
