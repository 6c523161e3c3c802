//! `--task embed` with several runs, or with embeddings of several models.

use batchwright::{
    Bulk, Context, Error, ErrorKind, LlmClient, Request, Response, RetryPolicy, Route,
};
use serde_json::{Value, json};

use super::common::{Desk, Has, RunToEnd};
use super::embed::Server;

/// A reply with embeddings of this number of dimensions.
fn sized(texts: &[String], numbers: usize) -> (u16, Value) {
    let entry = |index| json!({"index": index, "embedding": vec![0.5; numbers]});
    let data: Vec<Value> = (0..texts.len()).map(entry).collect();
    (200, json!({"data": data}))
}

#[test]
fn embeddings_of_different_lengths_are_reported() {
    // As if two models had the same name.
    let server = Server::start(|texts, nth| sized(texts, 4 + nth % 2));
    let desk = Desk::with(100);
    let ended = desk
        .embedded(&server, "in.jsonl -o out.jsonl -j 1 --json")
        .expect(0)
        .says("100 of 4 to 5 numbers: they differ in length, so they cannot be compared");
    let printed = ended.json();
    let summary = &printed["summary"];
    summary.has(json!({"min_dimensions": 4, "dimensions": 5}));
}

#[test]
fn the_dimensions_of_vectors_are_reported() {
    let (desk, server) = (Desk::new(), Server::start(|texts, _| sized(texts, 4)));
    desk.prompts("in.jsonl", 10);
    desk.embedded(&server, "in.jsonl -o out.jsonl --extra {\"dimensions\":2}")
        .ends(0, "10 of 4 numbers");
    let same = desk
        .embedded(&server, "in.jsonl -o same.jsonl --extra {\"dimensions\":4}")
        .expect(0);
    same.hides("although");
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

#[test]
fn embeddings_of_two_models_are_not_mixed_in_one_file() {
    let (desk, server) = (Desk::new(), Server::start(|texts, _| sized(texts, 4)));
    desk.prompts("in.jsonl", 10);
    let run = |provider: &str, model: &str, words: &str| {
        let given = ["run", "--task", "embed", "--base-url", &server.url()];
        let mut command = desk.command(given);
        command.args(["--provider", provider]);
        command.args("in.jsonl -o out.jsonl".split(' '));
        command.args(words.split_whitespace());
        command.env("BATCHWRIGHT_MODEL", model);
        command.env("OPENAI_API_KEY", "k");
        command.ended()
    };
    run("local", "a", "--max-items 5").expect(0);
    let before = desk.read("out.jsonl");
    for (provider, model, words, now) in [
        ("local", "b", "", "local/b"),
        ("local", "b", "--dry-run", "local/b"),
        ("openai", "a", "", "openai/a"),
    ] {
        let ended = run(provider, model, words).expect(2);
        let error = ended.error();
        let says = format!(
            "out.jsonl has embeddings of local/a, but this run uses {now}; embeddings of two \
             models cannot be compared: name a new output, or use the same model"
        );
        assert!(error.contains(&says), "{error}");
        assert_eq!(
            (server.calls().len(), desk.read("out.jsonl")),
            (1, before.clone())
        );
    }
    // Without a named model, the same model continues; naming a model creates all embeddings again.
    run("local", "a", "--max-items 2").ends(0, "2 to send");
    run("local", "a", "--model b").ends(0, "7 changed, 10 to send");
    // Seven embeddings of the first model still exist.
    run("local", "a", "")
        .ends(0, "7 answers are taken back")
        .says("3 to send");
    // Finished items stay unchanged.
    run("local", "b", "").ends(0, "nothing to send");
}
