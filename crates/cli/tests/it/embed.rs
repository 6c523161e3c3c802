//! `--task embed`: many texts per call, and each embedding is assigned to its own id.

use std::sync::atomic::{AtomicUsize, Ordering};

use batchwright::{
    Bulk, Context, Error, ErrorKind, LlmClient, Request, Response, RetryPolicy, Route,
};
use batchwright_simulate::embedding;
use serde_json::{Value, json};

use super::common::{Desk, Has, RunToEnd, all_ids, cases, good, id};
use super::fake::Fake;

#[test]
fn a_thousand_texts_take_few_calls_and_each_id_has_its_own_vector() {
    let (desk, sim) = (Desk::with(1000), good());
    let words = "in.jsonl -o out.jsonl --task embed";
    let ended = desk.run(&sim, &format!("{words} -j 4 --json")).expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(1000));
    let lines = desk.results("out.jsonl");
    let mut dimensions = 0;
    for line in &lines {
        let found: Vec<f32> = serde_json::from_value(line["embedding"].clone()).unwrap();
        dimensions = found.len();
        let text = id(line).replace("i-", "prompt ");
        assert_eq!(found, embedding(&text, dimensions), "{line}");
        assert_eq!(line["text"], Value::Null);
    }
    let calls = sim.stats().calls;
    assert_eq!(calls, 1000_u64.div_ceil(32));
    let summary = ended.json()["summary"].take();
    summary.has(json!({"calls": calls, "vectors": 1000, "dimensions": dimensions}));
    let used = lines
        .iter()
        .map(|line| line["usage"]["input_tokens"].as_u64());
    assert_eq!(
        summary["usage"]["input_tokens"],
        used.sum::<Option<u64>>().unwrap()
    );
    ended.says(&format!("1,000 of {dimensions} numbers"));
    desk.run(&sim, words).ends(0, "nothing to send");
    assert_eq!(sim.stats().calls, calls);
}

#[test]
fn options_without_a_meaning_for_embeddings_are_rejected() {
    let (desk, sim) = (Desk::with(1), good());
    for (flags, said) in cases(
        "
        --temperature 0 => --temperature is for answers
        --max-tokens 5 => --max-tokens is for answers
        --system x => --system is for answers
        --json-schema object => --json-schema is for answers
        --fallback extract => --fallback does not go with --task embed
    ",
    ) {
        let words = format!("in.jsonl -o out.jsonl --task embed {flags}");
        desk.run(&sim, &words).expect(2).errs(said);
    }
    let plain = "run in.jsonl -o out.jsonl --provider extract";
    desk.plain(&format!("{plain} --task embed"))
        .expect(2)
        .says("extract makes no embeddings; these do: openai, gemini, mistral, openrouter, ");
    desk.write("sys.jsonl", "{\"prompt\":\"a\",\"system\":\"b\"}\n");
    desk.run(&sim, "sys.jsonl -o out.jsonl --task embed")
        .expect(2)
        .errs("found a system text; expected only the text");
    assert!(sim.stats().embedded == 0 && !desk.exists("out.jsonl"));
}

#[test]
fn embeddings_of_different_lengths_are_reported() {
    // As if two models had the same name.
    let calls = AtomicUsize::new(0);
    let server = Fake::answering(move |body| {
        let numbers = 4 + calls.fetch_add(1, Ordering::SeqCst) % 2;
        let texts = body["input"].as_array().map_or(0, Vec::len);
        let entry = |index| json!({"index": index, "embedding": vec![0.5; numbers]});
        json!({"data": (0..texts).map(entry).collect::<Vec<_>>()})
    });
    let desk = Desk::with(100);
    let ended = server.run(&desk, "--task embed -j 1 --json").ended();
    let ended = ended
        .expect(0)
        .says("100 of 4 to 5 numbers: they differ in length, so they cannot be compared");
    ended.json()["summary"].has(json!({"min_dimensions": 4, "dimensions": 5}));
}

#[test]
fn a_wrong_number_of_embeddings_is_rejected() {
    struct Miscounts(usize);
    impl LlmClient for Miscounts {
        fn complete(&self, _: &Request, _: &Context) -> Result<Response, Error> {
            unreachable!("for embeddings, use")
        }
        fn embed(
            &self,
            _: &[&Request],
            _: &Context,
        ) -> Result<Vec<Result<Response, Error>>, Error> {
            Ok(vec![Ok(Response::vector("miscounts", vec![1.0])); self.0])
        }
    }
    for number in [0, 2] {
        let route = Route::new(Miscounts(number)).retry(RetryPolicy::default().max_retries(0));
        let outcomes = Bulk::new(route).collect(&[Request::embedding("text")]);
        let error = outcomes.unwrap().remove(0).result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed, "{number}");
    }
}
