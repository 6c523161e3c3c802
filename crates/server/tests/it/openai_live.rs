//! Streams of `/v1` whose pieces reach the client while the provider still writes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use batchwright::queue::WorkerSettings;
use batchwright::{JobQueue, LlmConfig, RetryPolicy, Worker};
use batchwright_server::Server;
use batchwright_simulate::{SimConfig, Trouble, Vendor};
use serde_json::{Value, json};

use super::common::{Answer, Desk, PATIENCE, keyed};
use super::openai::{CHAT, unlimited};

const COMPLETIONS: &str = "/v1/completions";
const RESPONSES: &str = "/v1/responses";

fn chat(text: &str) -> Value {
    json!({"model": "sim-1", "messages": [{"role": "user", "content": text}]})
}

fn body(path: &str) -> Value {
    match path {
        CHAT => chat("Three more words."),
        COMPLETIONS => json!({"model": "sim-1", "prompt": "Three more words."}),
        _ => json!({"model": "sim-1", "input": "Three more words."}),
    }
}

/// A connection on which a request for a stream was sent, and what has come of its response.
struct Client {
    stream: TcpStream,
    came: String,
}

impl Client {
    fn new(desk: &Desk, path: &str, headers: &str, body: Value) -> Self {
        Self::at(desk.server().address(), path, headers, body)
    }

    fn at(address: SocketAddr, path: &str, headers: &str, mut body: Value) -> Self {
        body["stream"] = true.into();
        let body = body.to_string();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).unwrap();
        let came = String::new();
        Self { stream, came }
    }

    /// Reads until this text has come.
    fn until(&mut self, text: &str) {
        while !self.came.contains(text) {
            let mut bytes = [0; 4096];
            let read = self.stream.read(&mut bytes).unwrap();
            assert!(read > 0, "{text} is missing: {}", self.came);
            self.came += &String::from_utf8_lossy(&bytes[..read]);
        }
    }

    /// The data of all events, to the end of the response.
    fn rest(mut self) -> Vec<Value> {
        self.until("\r\n0\r\n\r\n");
        let lines = self
            .came
            .lines()
            .filter_map(|line| line.strip_prefix("data: "));
        let lines = lines.filter(|data| *data != "[DONE]");
        lines
            .map(|data| serde_json::from_str(data).unwrap())
            .collect()
    }
}

/// The text that events have together.
fn text(events: &[Value]) -> String {
    let text = |event: &Value| {
        let delta = match event["type"].as_str() {
            Some("response.output_text.delta") => &event["delta"],
            Some(_) => return None,
            None => {
                let choice = &event["choices"][0];
                choice["delta"].get("content").unwrap_or(&choice["text"])
            }
        };
        delta.as_str().map(str::to_owned)
    };
    events.iter().filter_map(text).collect()
}

const ANSWER: &str = "echo: Three more words.";

#[test]
fn the_first_piece_reaches_the_client_while_the_provider_writes_the_second() {
    for path in [CHAT, COMPLETIONS, RESPONSES] {
        let desk = unlimited(SimConfig::default());
        desk.sim.hold_streams(1);
        let mut client = Client::new(&desk, path, "", body(path));
        client.until("\"echo: \"");
        let stats = desk.sim.stats();
        assert_eq!((stats.answered, stats.in_flight), (0, 1), "{path}");
        desk.sim.release_streams();
        let events = client.rest();
        assert_eq!(text(&events), ANSWER, "{path}");
        let ids = events.iter().filter_map(|event| event["id"].as_str());
        let ids: Vec<&str> = ids.collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{path}: {ids:?}");
        assert_eq!(desk.sim.stats().malformed, 0);
        if path == RESPONSES {
            let response = &events.last().unwrap()["response"];
            let stored = format!("{RESPONSES}/{}", response["id"].as_str().unwrap());
            assert_eq!(desk.read(&stored), *response);
            assert_eq!(events[0]["response"]["id"], response["id"]);
        }
    }
}

#[test]
fn a_client_that_leaves_in_the_middle_fetches_the_answer_with_its_key() {
    for path in [CHAT, RESPONSES] {
        let desk = unlimited(SimConfig::default());
        desk.sim.hold_streams(1);
        let mut client = Client::new(&desk, path, "idempotency-key: k\r\n", body(path));
        client.until("\"echo: \"");
        drop(client);
        desk.sim.release_streams();
        let answer = keyed(&desk, &desk.url(path), "k", &body(path).to_string()).is(200);
        assert!(answer.text.contains(ANSWER), "{}", answer.text);
        let again = keyed(&desk, &desk.url(path), "k", &body(path).to_string()).is(200);
        assert_eq!(again.json(), answer.json());
        assert_eq!(desk.sim.stats().calls, 1);
    }
}

#[test]
fn an_answer_that_is_checked_is_sent_when_it_is_complete() {
    let schema = json!({"type": "json_object"});
    let mut json_mode = chat("Answer in JSON.");
    json_mode["response_format"] = schema;
    for (headers, body) in [
        ("x-batchwright-strict: true\r\n", body(CHAT)),
        ("", json_mode),
    ] {
        let desk = unlimited(SimConfig::default());
        // The call is not streamed.
        desk.sim.hold_streams(0);
        let events = Client::new(&desk, CHAT, headers, body).rest();
        assert_eq!(events.len(), 2, "{events:?}");
        assert!(!text(&events).is_empty());
    }
}

#[test]
fn a_stream_that_breaks_goes_on_with_the_answer_of_the_repeated_call() {
    for path in [CHAT, COMPLETIONS, RESPONSES] {
        let desk = unlimited(SimConfig::default().trouble(Trouble::Truncated, 1.0));
        let events = Client::new(&desk, path, "", body(path)).rest();
        assert_eq!(text(&events), ANSWER, "{path}: {events:?}");
        assert_eq!(desk.sim.stats().calls, 2);
    }
}

#[test]
fn tool_calls_and_reasoning_come_in_pieces() {
    let tool = json!({"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}});
    for path in [CHAT, RESPONSES] {
        // DeepSeek's answers have the text of the reasoning.
        let sim = SimConfig::default().vendor(Vendor::DeepSeek);
        let desk = unlimited(sim.reasoning_tokens(3));
        let mut request = body(path);
        let mut tool = tool.clone();
        request["tools"] = if path == CHAT {
            json!([{"type": "function", "function": tool}])
        } else {
            tool["type"] = "function".into();
            json!([tool])
        };
        let plain = Answer::of(
            desk.agent()
                .post(desk.url(path))
                .content_type("application/json")
                .send(request.to_string())
                .unwrap(),
        );
        let plain = plain.is(200).json();
        let events = Client::new(&desk, path, "", request).rest();
        if path == RESPONSES {
            let response = &events.last().unwrap()["response"];
            let parts = |response: &Value| {
                let items = response["output"].as_array().unwrap().iter();
                items
                    .map(|item| {
                        (
                            item["type"].clone(),
                            item["arguments"].clone(),
                            item["summary"].clone(),
                        )
                    })
                    .collect::<Vec<_>>()
            };
            assert_eq!(parts(response), parts(&plain));
            continue;
        }
        let message = &plain["choices"][0]["message"];
        let join = |place: &str| -> String {
            let pieces = events
                .iter()
                .filter_map(|event| event.pointer(place)?.as_str());
            pieces.collect()
        };
        let reasoning = join("/choices/0/delta/reasoning_content");
        assert_eq!(reasoning, message["reasoning_content"].as_str().unwrap());
        let arguments = join("/choices/0/delta/tool_calls/0/function/arguments");
        let expected = message["tool_calls"][0]["function"]["arguments"]
            .as_str()
            .unwrap();
        let read = |json: &str| serde_json::from_str::<Value>(json).unwrap();
        assert_eq!(read(&arguments), read(expected));
        let ends = events
            .iter()
            .filter(|event| event["choices"][0]["finish_reason"] == "tool_calls");
        assert_eq!(ends.count(), 1);
    }
}

/// A provider that breaks its first answer off, and gives another one to the next call.
fn fickle() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/v1", listener.local_addr().unwrap());
    let chunk = |choice: Value| format!("data: {}\n\n", json!({"model": "m", "choices": [choice]}));
    let piece = move |text: &str| chunk(json!({"index": 0, "delta": {"content": text}}));
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let (mut came, mut bytes) = (String::new(), [0; 4096]);
            while !came.contains("\"messages\"") {
                let read = stream.read(&mut bytes).unwrap();
                came += &String::from_utf8_lossy(&bytes[..read]);
            }
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n";
            let body = match number {
                0 => piece("Hello wor"),
                _ => {
                    let end = json!({"index": 0, "delta": {}, "finish_reason": "stop"});
                    let usage = json!({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}});
                    piece("Bye.") + &chunk(end) + &format!("data: {usage}\n\ndata: [DONE]\n\n")
                }
            };
            // The first answer is shorter than its head says.
            let length = body.len() + usize::from(number == 0);
            let reply = format!("{head}content-length: {length}\r\n\r\n{body}");
            stream.write_all(reply.as_bytes()).unwrap();
        }
    });
    address
}

#[test]
fn an_answer_that_differs_from_its_pieces_is_an_error_with_the_answer() {
    for path in [CHAT, RESPONSES] {
        let client = LlmConfig::new("custom").base_url(fickle()).model("m");
        let folder = tempfile::tempdir().unwrap();
        let queue = JobQueue::open(&folder.path().join("llm_jobs.db")).unwrap();
        let retry = RetryPolicy::default().base_delay(Duration::from_millis(1));
        let worker = Worker::new(&queue)
            .completions(client.client().unwrap())
            .settings(WorkerSettings::default().retry(retry));
        let server = Server::new(queue, worker).address(([127, 0, 0, 1], 0).into());
        let server = server.start().unwrap();
        let events = Client::at(server.address(), path, "", body(path)).rest();
        assert_eq!(text(&events), "Hello wor", "{events:?}");
        let last = events.last().unwrap();
        let (code, answer) = if path == CHAT {
            let answer = &last["error"]["answer"]["choices"][0]["message"]["content"];
            (&last["error"]["code"], answer)
        } else {
            let answer = &last["response"]["output"][0]["content"][0]["text"];
            (&last["code"], answer)
        };
        assert_eq!((code, answer), (&json!("answer_changed"), &json!("Bye.")));
    }
}
