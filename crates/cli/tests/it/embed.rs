//! `--task embed`: many texts per call, and each embedding is assigned to its own id.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::common::{Desk, Ended, Has, RunToEnd, cases};
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
