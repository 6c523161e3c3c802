//! `--task embed` with several runs, or with embeddings of several models.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use batchwright::client::PackLimits;
use batchwright::{
    Bulk, Context, Error, ErrorKind, LlmClient, Request, Response, RetryPolicy, Route,
};
use serde_json::{Value, json};

use super::common::{Desk, Has, RunToEnd, Running, eventually};
use super::embed::{Server, good, refused};

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
fn another_length_or_model_creates_new_embeddings() {
    let (desk, server) = (Desk::new(), Server::start(|texts, _| good(texts)));
    desk.prompts("in.jsonl", 40);
    let mut seen = 0;
    for (flags, what, calls) in [
        ("--model a", "40 to send", 2),
        ("--model a", "nothing to send", 0),
        ("--model a --extra {\"dimensions\":3}", "40 changed", 2),
        ("--model b --extra {\"dimensions\":3}", "40 changed", 2),
        ("--model b --extra {\"dimensions\":3}", "nothing to send", 0),
    ] {
        let words = format!("in.jsonl -o out.jsonl {flags}");
        desk.embedded(&server, &words).ends(0, what);
        assert_eq!(server.calls().len() - seen, calls, "{flags}");
        seen += calls;
        desk.has_vectors("out.jsonl", 40);
    }
}

#[cfg(unix)]
#[test]
fn an_interrupt_lets_a_pack_finish_and_starts_no_other() {
    let open = Arc::new(AtomicBool::new(false));
    let gate = open.clone();
    let server = Server::start(move |texts, _| {
        eventually(|| gate.load(Ordering::SeqCst));
        good(texts)
    });
    let desk = Desk::with(200);
    let running = Running::start(&mut desk.embed(&server, "in.jsonl -o out.jsonl -j 2"));
    assert!(eventually(|| server.calls().len() == 2));
    running.signal("INT");
    running.hears("stopping: calls in flight have up to 30 s to finish");
    open.store(true, Ordering::SeqCst);
    running
        .wait()
        .ends(130, "64 completed, 0 failed, 136 pending");
    desk.has_vectors("out.jsonl", 64);
    desk.embedded(&server, "in.jsonl -o out.jsonl").expect(0);
    desk.has_vectors("out.jsonl", 200);
    assert_eq!(server.calls().concat().len(), 200);
}

#[test]
fn a_call_above_the_allowance_of_a_minute_is_split() {
    let server = Server::start(|texts, _| match texts.len() {
        9.. => {
            let message = "Request too large for m on tokens per min (TPM): Limit 8, Requested 32.";
            let (_, body) = refused(message);
            (429, body)
        }
        _ => good(texts),
    });
    let desk = Desk::with(32);
    desk.embedded(&server, "in.jsonl -o out.jsonl -j 1")
        .ends(0, "calls      7 (6 to single out refused texts)");
    desk.has_vectors("out.jsonl", 32);
    let sizes: Vec<usize> = server.calls().iter().map(Vec::len).collect();
    assert_eq!(sizes, [32, 16, 16, 8, 8, 8, 8]);
}

#[test]
fn each_vector_with_a_warning_counts() {
    struct Warns;
    impl LlmClient for Warns {
        fn complete(&self, _: &Request, _: &Context) -> Result<Response, Error> {
            unreachable!("for embeddings, use")
        }
        fn embed(
            &self,
            requests: &[&Request],
            _: &Context,
        ) -> Result<Vec<Result<Response, Error>>, Error> {
            let vector =
                |_: &&Request| Ok(Response::vector("warns", vec![1.0]).with_warning("cut"));
            Ok(requests.iter().map(vector).collect())
        }
        fn pack_limits(&self) -> PackLimits {
            PackLimits {
                inputs: 8,
                tokens: u32::MAX,
            }
        }
    }
    let items = (0..20).map(|i| Request::embedding(format!("text {i}")));
    let summary = Bulk::new(Warns)
        .for_each(items, |_| ControlFlow::Continue(()))
        .unwrap();
    assert_eq!((summary.vectors, summary.warnings), (20, 20));
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
