//! `--task embed`: many texts per call, and each embedding is assigned to its own id.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use batchwright::{Bulk, LlmConfig, Request};
use batchwright_simulate::SimConfig;
use serde_json::{Value, json};

use super::common::{Desk, Ended, Has, RunToEnd, Running, cases, simulator};
use super::fake::{Asked, Fake, says};

/// A server with embeddings that stores its requests.
pub(crate) struct Server(Fake);

fn is_call(asked: &Asked) -> bool {
    asked.path == "/v1/embeddings"
}

fn texts(asked: &Asked) -> Vec<String> {
    serde_json::from_value(asked.json()["input"].take()).unwrap()
}

/// An embedding that is different for every text used here.
pub(crate) fn vector(text: &str) -> Vec<f32> {
    let hash = text.bytes().fold(17_u32, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(u32::from(byte))
    });
    vec![(hash >> 16) as f32 / 7.0, (hash & 0xffff) as f32, -0.1]
}

/// A valid reply with the embeddings in another order than the texts.
pub(crate) fn good(texts: &[String]) -> (u16, Value) {
    let entry =
        |(index, text): (usize, &String)| json!({"index": index, "embedding": vector(text)});
    let mut data: Vec<Value> = texts.iter().enumerate().map(entry).collect();
    data.reverse();
    let used = 3 * texts.len();
    let usage = json!({"prompt_tokens": used, "total_tokens": used});
    (
        200,
        json!({"object": "list", "model": "m", "data": data, "usage": usage}),
    )
}

pub(crate) fn refused(message: &str) -> (u16, Value) {
    (
        400,
        json!({"error": {"message": message, "type": "invalid_request_error"}}),
    )
}

impl Server {
    /// A server that calls this function with the texts of a call and the number of the call, from 1.
    pub(crate) fn start(
        manner: impl Fn(&[String], usize) -> (u16, Value) + Send + Sync + 'static,
    ) -> Self {
        let calls = AtomicUsize::new(0);
        Self(Fake::start(move |asked| match &*asked.path {
            "/v1/embeddings" => {
                let nth = 1 + calls.fetch_add(1, Ordering::SeqCst);
                match manner(&texts(asked), nth) {
                    (429, body) => Some((
                        "429 X\r\nretry-after: 0\r\n".to_owned(),
                        body.to_string().into(),
                    )),
                    (status, body) => says(status, body),
                }
            }
            "/v1/models" => says(200, json!({"data": [{"id": "m"}]})),
            _ => says(404, json!({})),
        }))
    }

    pub(crate) fn url(&self) -> String {
        self.0.url()
    }

    pub(crate) fn calls(&self) -> Vec<Vec<String>> {
        let asked = self.0.asked().into_iter();
        let calls = asked.filter(|asked| is_call(asked));
        calls.map(|asked| texts(&asked)).collect()
    }

    /// The client of a provider for this server.
    pub(crate) fn client(&self, provider: &str) -> batchwright::Client {
        LlmConfig::new(provider)
            .api_key(batchwright::Secret::new("k"))
            .base_url(self.url())
            .model("m")
            .client()
            .unwrap()
    }
}

impl Desk {
    pub(crate) fn embed(&self, server: &Server, words: &str) -> std::process::Command {
        let url = server.url();
        let words = format!("run --task embed --provider local --base-url {url} {words}");
        self.command(words.split_whitespace())
    }

    pub(crate) fn embedded(&self, server: &Server, words: &str) -> Ended {
        self.embed(server, words).ended()
    }

    /// Asserts that every id of `n` prompts occurs once, with the embedding of its own text.
    #[track_caller]
    pub(crate) fn has_vectors(&self, name: &str, n: usize) {
        let results = self.results(name);
        let mut seen = HashSet::new();
        for line in results.iter().filter(|line| line["success"] == true) {
            let id = line["id"].as_str().unwrap();
            let text = id.replace("i-", "prompt ");
            let found: Vec<f32> = serde_json::from_value(line["embedding"].clone()).unwrap();
            assert_eq!(found, vector(&text), "{id}");
            assert_eq!(line["text"], Value::Null);
            assert!(seen.insert(id.to_owned()), "{id} twice");
        }
        assert_eq!(seen.len(), n);
    }
}

#[test]
fn a_thousand_texts_take_few_calls_and_each_id_has_its_own_vector() {
    let (desk, server) = (Desk::new(), Server::start(|texts, _| good(texts)));
    desk.prompts("in.jsonl", 1000);
    let ended = desk
        .embedded(&server, "in.jsonl -o out.jsonl -j 4 --json")
        .expect(0);
    desk.has_vectors("out.jsonl", 1000);
    let calls = server.calls();
    assert_eq!(calls.len(), 1000_usize.div_ceil(32));
    let summary = ended.json();
    let summary = &summary["summary"];
    assert_eq!(summary["calls"], calls.len());
    summary.has(json!({"vectors": 1000, "dimensions": 3}));
    assert_eq!(summary["usage"]["input_tokens"], 3000);
    let used = desk.results("out.jsonl");
    let used = used
        .iter()
        .map(|line| line["usage"]["input_tokens"].as_u64().unwrap());
    assert_eq!(used.sum::<u64>(), 3000);
    ended.says("1,000 of 3 numbers");
    desk.embedded(&server, "in.jsonl -o out.jsonl")
        .ends(0, "nothing to send");
    assert_eq!(server.calls().len(), calls.len());
}

fn bad(text: &str) -> bool {
    ["prompt 7", "prompt 500", "prompt 999"].contains(&text)
}

#[test]
fn three_bad_texts_among_a_thousand_fail_alone() {
    let server = Server::start(|texts, _| {
        if texts.iter().any(|text| bad(text)) {
            refused("input is too long")
        } else {
            good(texts)
        }
    });
    let desk = Desk::with(1000);
    desk.embedded(&server, "in.jsonl -o out.jsonl -j 4")
        .ends(3, "997 completed, 3 failed");
    desk.has_vectors("out.jsonl", 997);
    let results = desk.results("out.jsonl");
    let failed = results.iter().filter(|line| line["success"] == false);
    let mut ids: Vec<_> = failed.map(|line| line["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["i-500", "i-7", "i-999"]);
    // A pack of 32 is divided five times to isolate one text.
    let few = 1000_usize.div_ceil(32) + 3 * 2 * 6;
    assert!(
        server.calls().len() <= few,
        "{} calls",
        server.calls().len()
    );
    assert!(
        results
            .iter()
            .all(|line| line["attempts"].as_u64() <= Some(6))
    );
}

#[test]
fn one_bad_text_does_not_stop_a_run_before_it_is_alone() {
    let server = Server::start(|texts, _| {
        if texts.iter().any(|text| bad(text)) {
            refused("no")
        } else {
            good(texts)
        }
    });
    let desk = Desk::with(30);
    desk.embedded(&server, "in.jsonl -o out.jsonl -j 1 --on-error stop")
        .expect(4);
    let results = desk.results("out.jsonl");
    let failed: Vec<_> = results
        .iter()
        .filter(|line| line["success"] == false)
        .collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(failed[0]["id"], "i-7");
    // Items that waited at the stop are neither failed nor lost.
    desk.embedded(&server, "in.jsonl -o out.jsonl --resend none")
        .expect(3);
    desk.has_vectors("out.jsonl", 29);
}

#[test]
fn standard_input_fills_packs_and_a_pipe_gets_complete_lines() {
    let (desk, server) = (Desk::new(), Server::start(|texts, _| good(texts)));
    let mut command = desk.embed(&server, "- -j 2");
    let mut running = Running::start(command.stdin(Stdio::piped()));
    let lines: String = (0..2000).map(|i| format!("prompt {i}\n")).collect();
    running.feed(&lines);
    drop(running.child.stdin.take());
    let ended = running.wait().expect(0);
    let results = super::common::results(&ended.stdout);
    let vectors: HashSet<String> = results
        .iter()
        .map(|line| line["embedding"].to_string())
        .collect();
    assert_eq!((results.len(), vectors.len()), (2000, 2000));
    let calls = server.calls();
    assert!(calls.len() < 200, "{} calls", calls.len());
    assert!(calls.iter().any(|call| call.len() == 32));
}

#[test]
fn texts_and_lists_of_tokens_share_no_call() {
    let (desk, sim) = (Desk::new(), simulator(SimConfig::default()));
    let line = |n: usize, input: Value| {
        json!({"custom_id": format!("r{n}"), "url": "/v1/embeddings",
            "body": {"model": "sim-1", "input": input}})
    };
    let lines = (0..6).map(|n| match n % 2 {
        0 => line(n, json!(format!("text {n}"))),
        _ => line(n, json!([n, 17])),
    });
    let lines: Vec<String> = lines.map(|line| line.to_string()).collect();
    desk.write("in.jsonl", lines.join("\n"));
    let url = sim.base_url();
    desk.plain(&format!(
        "run in.jsonl -o out.jsonl --task embed --provider local --base-url {url}"
    ))
    .expect(0);
    let stats = sim.stats();
    assert_eq!((stats.embedding_calls, stats.embedded), (2, 6), "{stats:?}");
}

#[test]
fn batch_lines_for_embeddings_are_input_for_that_task_only() {
    let (desk, server) = (Desk::new(), Server::start(|texts, _| good(texts)));
    let line = |url: &str, body: &str| {
        format!("{{\"custom_id\":\"i-1\",\"method\":\"POST\",\"url\":\"{url}\",\"body\":{body}}}\n")
    };
    let embed = line(
        "/v1/embeddings",
        r#"{"model":"m","input":"prompt 1","encoding_format":"float"}"#,
    );
    desk.write("in.jsonl", &embed);
    desk.embedded(&server, "in.jsonl -o out.jsonl").expect(0);
    desk.has_vectors("out.jsonl", 1);
    let chat = r#"{"messages":[{"role":"user","content":"x"}]}"#;
    desk.write("chat.jsonl", line("/v1/chat/completions", chat));
    let ended = desk.embedded(&server, "chat.jsonl -o o.jsonl").expect(2);
    ended.errs("expected \"/v1/embeddings\", since the task is to embed");
    let ended = desk
        .plain("run in.jsonl -o o.jsonl --provider extract")
        .expect(2);
    ended.errs("for embeddings, use --task embed");
    let list = r#"{"model":"m","input":["a","b"]}"#;
    desk.write("list.jsonl", line("/v1/embeddings", list));
    desk.embedded(&server, "list.jsonl -o o.jsonl")
        .ends(2, "one text a line");
}

#[test]
fn options_without_a_meaning_for_embeddings_are_rejected() {
    let (desk, server) = (Desk::new(), Server::start(|texts, _| good(texts)));
    desk.prompts("in.jsonl", 1);
    for (flags, said) in cases(
        "
        --temperature 0 => --temperature is for answers
        --max-tokens 5 => --max-tokens is for answers
        --system x => --system is for answers
        --json-schema object => --json-schema is for answers
        --fallback extract => --fallback does not go with --task embed
    ",
    ) {
        let words = format!("in.jsonl -o out.jsonl {flags}");
        let ended = desk.embedded(&server, &words).expect(2);
        ended.errs(said);
    }
    let plain = "run in.jsonl -o out.jsonl --provider extract";
    desk.plain(&format!("{plain} --task embed"))
        .expect(2)
        .says("extract makes no embeddings; these do: openai, gemini, mistral, openrouter, ");
    desk.write("sys.jsonl", "{\"prompt\":\"a\",\"system\":\"b\"}\n");
    let ended = desk.embedded(&server, "sys.jsonl -o out.jsonl").expect(2);
    assert!(
        ended
            .error()
            .contains("found a system text; expected only the text")
    );
    assert!(server.calls().is_empty() && !desk.exists("out.jsonl"));
}

#[test]
fn chat_answers_are_not_embeddings() {
    let (desk, server) = (Desk::new(), Server::start(|texts, _| good(texts)));
    desk.prompts("in.jsonl", 3);
    desk.plain("run in.jsonl -o out.jsonl --provider extract")
        .expect(0);
    desk.embedded(&server, "in.jsonl -o out.jsonl")
        .ends(0, "3 changed");
    desk.has_vectors("out.jsonl", 3);
}

#[test]
fn the_first_provider_that_embeds_is_taken() {
    let (desk, server) = (Desk::new(), Server::start(|texts, _| good(texts)));
    desk.prompts("in.jsonl", 3);
    let mut command = desk.command("run in.jsonl -o out.jsonl --task embed --model m".split(' '));
    command
        .env("GROQ_API_KEY", "k")
        .env("LOCAL_LLM_BASE_URL", server.url());
    let ended = command.ended().expect(0);
    ended.tells("taking local");
    desk.has_vectors("out.jsonl", 3);
}

#[test]
fn a_server_without_an_embedding_model_soon_gets_no_more_calls() {
    let server = Server::start(|_, _| {
        let error = json!({"message": "This server does not support embeddings", "code": 501});
        (501, json!({ "error": error }))
    });
    let desk = Desk::with(1000);
    desk.embedded(&server, "in.jsonl -o out.jsonl -j 1")
        .ends(4, "does not support embeddings");
    assert!(server.calls().len() <= 5, "{} calls", server.calls().len());
}

#[test]
fn a_sink_that_breaks_within_a_call_gets_the_rest_of_it() {
    let server = Server::start(|texts, _| good(texts));
    let (mut seen, mut answers, pulled) = (0, 0, AtomicUsize::new(0));
    let items = (0..100).map(|i| {
        pulled.fetch_add(1, Ordering::SeqCst);
        Request::embedding(format!("text {i}"))
    });
    let summary = Bulk::new(server.client("local"))
        .concurrency(1)
        .for_each(items, |outcome| {
            seen += 1;
            answers += usize::from(outcome.is_success());
            if seen == 40 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .unwrap();
    // Every item that was read has an outcome, including every billed answer.
    assert_eq!(seen, pulled.into_inner());
    let paid = server.calls().concat().len();
    assert_eq!((answers, summary.completed), (paid, paid as u64));
}
