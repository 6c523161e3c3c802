//! `--task embed`: many texts per call, and each embedding is assigned to its own id.

use std::sync::atomic::{AtomicUsize, Ordering};

use batchwright::{Context, Error, ErrorKind, LlmClient, Request, Response, Route};
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
    let (mut dimensions, mut used) = (0, 0);
    for line in &desk.results("out.jsonl") {
        let found: Vec<f32> = serde_json::from_value(line["embedding"].clone()).unwrap();
        dimensions = found.len();
        used += line["usage"]["input_tokens"].as_u64().unwrap();
        let text = id(line).replace("i-", "prompt ");
        assert_eq!(found, embedding(&text, dimensions), "{line}");
        assert_eq!(line["text"], Value::Null);
    }
    let calls = 1000_u64.div_ceil(32);
    ended.json()["summary"].has(
        json!({"calls": calls, "vectors": 1000, "dimensions": dimensions,
        "/usage/input_tokens": used}),
    );
    desk.run(&sim, words).ends(0, "nothing to send");
    assert_eq!(sim.stats().calls, calls);
}

#[test]
fn options_without_a_meaning_for_embeddings_are_rejected() {
    let (desk, sim) = (Desk::with(1), good());
    desk.write("sys.jsonl", "{\"prompt\":\"a\",\"system\":\"b\"}\n");
    for (words, said) in cases(
        "
        in.jsonl --temperature 0 => --temperature is for answers
        in.jsonl --max-tokens 5 => --max-tokens is for answers
        in.jsonl --system x => --system is for answers
        in.jsonl --json-schema object => --json-schema is for answers
        in.jsonl --fallback extract => --fallback does not go with --task embed
        sys.jsonl => found a system text; expected only the text
    ",
    ) {
        let words = format!("{words} -o out.jsonl --task embed");
        desk.run(&sim, &words).expect(2).errs(said);
    }
    desk.plain("run in.jsonl -o out.jsonl --provider extract --task embed")
        .ends(
            2,
            "extract makes no embeddings; these do: openai, gemini, mistral, openrouter, ",
        );
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
    ended.expect(0).json()["summary"].has(json!({"min_dimensions": 4, "dimensions": 5}));
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
        let text = Request::embedding("text");
        let error = Route::new(Miscounts(number)).complete(&text, &Context::new());
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Malformed, "{number}");
    }
}
