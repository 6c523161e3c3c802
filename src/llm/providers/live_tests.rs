use parking_lot::Mutex;
use serde_json::json;

use super::super::address::ApiAddress;
use super::super::dialect::testing::{self, vendor};
use super::*;
use crate::base::Secret;

/// Writes down what it hears.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl AnswerListener for Heard {
    fn on_call(&self) {}

    fn on_piece(&self, piece: AnswerPiece<'_>) {
        self.0.lock().push(match piece {
            AnswerPiece::Text(text) => format!("text {text}"),
            AnswerPiece::Reasoning(text) => format!("reasoning {text}"),
            AnswerPiece::ToolCall { number, id, name } => format!("call {number} {id} {name}"),
            AnswerPiece::Arguments { number, text } => format!("arguments {number} {text}"),
            AnswerPiece::Item(item) => format!("item {}", item["type"]),
            AnswerPiece::Part(part) => format!("part {}", part["type"]),
        });
    }
}

fn access(keys: &[&str]) -> Access {
    Access {
        address: ApiAddress {
            base_url: String::new(),
            query: String::new(),
            by_deployment: false,
        },
        headers: Vec::new(),
        secrets: Vec::new(),
        keys: keys.iter().map(|key| Secret::new(*key)).collect(),
        key_hint: String::new(),
        account: String::new(),
    }
}

fn heard_with(keys: &[&str], dialect: Dialect, stream: &str, step: usize) -> Vec<String> {
    let (heard, access) = (Heard::default(), access(keys));
    let mut live = LiveReader::new(dialect, &access, &heard);
    for bytes in stream.as_bytes().chunks(step) {
        live.read(bytes);
    }
    heard.0.into_inner()
}

fn heard(dialect: Dialect, stream: &str) -> Vec<String> {
    let heard = heard_with(&[], dialect, stream, stream.len());
    assert_eq!(heard_with(&[], dialect, stream, 1), heard);
    heard
}

fn sent(events: &[Value]) -> String {
    let lines = events
        .iter()
        .map(|event| format!("event: x\r\ndata: {event}\r\n\r\n"));
    lines.collect::<String>() + "data: [DONE]\n\n"
}

fn delta(delta: Value) -> Value {
    json!({"choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
}

#[test]
fn a_chat_is_heard_in_pieces() {
    let call = |call: Value| delta(json!({"tool_calls": [call]}));
    let stream = sent(&[
        delta(json!({"role": "assistant", "content": ""})),
        delta(json!({"reasoning_content": "Hm."})),
        delta(json!({"content": "ä"})),
        delta(json!({"content": [
            {"type": "thinking", "thinking": [{"type": "text", "text": "And"}]}, {"type": "text", "text": "b"}]})),
        call(json!({"index": 0, "id": "c1", "function": {"name": "f", "arguments": ""}})),
        call(json!({"index": 0, "function": {"arguments": "{\"a\""}})),
        call(json!({"index": 0, "function": {"arguments": ":1}"}})),
        call(json!({"index": 0, "id": "c2", "function": {"name": "g", "arguments": "{}"}})),
        call(
            json!({"index": 1, "id": "c3", "type": "custom", "custom": {"name": "h", "input": "x"}}),
        ),
        json!({"choices": [], "usage": {"prompt_tokens": 1}}),
    ]);
    let expected = [
        "reasoning Hm.",
        "text ä",
        "reasoning And",
        "text b",
        "call 0 c1 f",
        "arguments 0 {\"a\"",
        "arguments 0 :1}",
        "call 1 c2 g",
        "arguments 1 {}",
        "call 2 c3 h",
        "arguments 2 x",
    ];
    assert_eq!(heard(Dialect::OpenAi, &stream), expected);
}

#[test]
fn the_pieces_of_other_formats_are_those_of_their_answers() {
    let start = |index: u8, block: Value| json!({"type": "content_block_start", "index": index, "content_block": block});
    let delta = |index: u8, delta: Value| json!({"type": "content_block_delta", "index": index, "delta": delta});
    let anthropic = sent(&[
        json!({"type": "message_start", "message": {"id": "m", "content": [], "usage": {"input_tokens": 1}}}),
        start(0, json!({"type": "thinking", "thinking": ""})),
        delta(0, json!({"type": "thinking_delta", "thinking": "Hm."})),
        delta(0, json!({"type": "signature_delta", "signature": "s"})),
        start(1, json!({"type": "text", "text": ""})),
        delta(1, json!({"type": "text_delta", "text": "So."})),
        start(2, json!({"type": "thinking", "thinking": ""})),
        delta(2, json!({"type": "thinking_delta", "thinking": "Oh."})),
        start(
            3,
            json!({"type": "tool_use", "id": "c1", "name": "f", "input": {}}),
        ),
        delta(
            3,
            json!({"type": "input_json_delta", "partial_json": "{\"a\": 1}"}),
        ),
        json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 2}}),
    ]);
    let expected = [
        "reasoning Hm.",
        "text So.",
        "reasoning \n\n",
        "reasoning Oh.",
        "call 0 c1 f",
        "arguments 0 {\"a\": 1}",
    ];
    assert_eq!(heard(Dialect::Anthropic, &anthropic), expected);
    let answer = testing::decoded("anthropic", &anthropic).unwrap();
    assert_eq!(answer.text, "So.");
    assert_eq!(
        answer.details().reasoning.as_ref().unwrap().text,
        "Hm.\n\nOh."
    );

    let parts = |parts: Value| json!({"candidates": [{"content": {"parts": parts}}]});
    let gemini = sent(&[
        parts(json!([{"text": "Hm.", "thought": true}, {"text": "So"}])),
        parts(json!([{"text": "."}])),
        parts(json!([{"functionCall": {"name": "f", "args": {}}}])),
        parts(json!([{"text": "later"}])),
    ]);
    assert_eq!(
        heard(Dialect::Gemini, &gemini),
        ["reasoning Hm.", "text So", "text ."]
    );

    let added = |index: u8, item: Value| json!({"type": "response.output_item.added", "output_index": index, "item": item});
    let responses = sent(&[
        json!({"type": "response.created", "response": {"output": []}}),
        added(0, json!({"type": "reasoning", "id": "rs", "summary": []})),
        json!({"type": "response.reasoning_summary_part.added", "output_index": 0, "part": {"type": "summary_text"}}),
        json!({"type": "response.reasoning_summary_text.delta", "output_index": 0, "delta": "Hm."}),
        added(1, json!({"type": "message", "id": "msg", "content": []})),
        json!({"type": "response.content_part.added", "output_index": 1, "part": {"type": "output_text"}}),
        json!({"type": "response.output_text.delta", "output_index": 1, "delta": "So."}),
        added(
            2,
            json!({"type": "function_call", "id": "fc", "call_id": "c1", "name": "f"}),
        ),
        json!({"type": "response.function_call_arguments.delta", "output_index": 2, "delta": "{}"}),
    ]);
    let expected = [
        "item \"reasoning\"",
        "part \"summary_text\"",
        "reasoning Hm.",
        "item \"message\"",
        "part \"output_text\"",
        "text So.",
        "item \"function_call\"",
        "call 0 c1 f",
        "arguments 0 {}",
    ];
    assert_eq!(heard(Dialect::OpenAi, &responses), expected);
}

#[test]
fn nothing_is_passed_on_after_what_only_the_complete_answer_explains() {
    let begin = delta(json!({"content": "a"}));
    let end = delta(json!({"content": "b"}));
    for strange in [
        delta(json!({"refusal": "no"})),
        delta(json!({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]})),
        delta(json!({"function_call": {"name": "f"}})),
        json!({"error": {"message": "overloaded"}}),
        json!({"choices": [{"message": {"content": "abc"}}]}),
    ] {
        let stream = sent(&[begin.clone(), strange.clone(), end.clone()]);
        assert_eq!(heard(Dialect::OpenAi, &stream), ["text a"], "{strange}");
    }
    let broken = format!(
        "{}data: {{\"choices\n\n{}",
        sent(std::slice::from_ref(&begin)),
        sent(std::slice::from_ref(&end))
    );
    assert_eq!(heard(Dialect::OpenAi, &broken), ["text a"]);
    let long = format!("{}data: {}", sent(&[begin]), "x".repeat(LONGEST_LINE));
    let long = heard_with(
        &[],
        Dialect::OpenAi,
        &format!("{long}\n\n{}", sent(&[end])),
        1 << 16,
    );
    assert_eq!(long, ["text a"]);
}

#[test]
fn a_key_that_is_repeated_in_pieces_is_not_passed_on() {
    let key = "sk-proj-0123456789abcdef";
    let pieces = |pieces: &[&str]| {
        let events: Vec<Value> = pieces
            .iter()
            .map(|text| delta(json!({"content": text})))
            .collect();
        heard_with(&[key], Dialect::OpenAi, &sent(&events), 7)
    };
    assert_eq!(
        pieces(&["a sk-pro", "mise", " is kept"]),
        ["text a sk-promise", "text  is kept"]
    );
    for leak in [
        ["My key: sk-p", "roj-0123", "456789abcdef."],
        ["My key: sk", "-proj-0123456789abcd", "ef."],
    ] {
        let heard = pieces(&leak).concat();
        assert!(heard.len() < "text My key: sk-".len(), "{heard}");
    }
}

#[test]
fn a_key_in_an_item_or_the_name_of_a_call_is_not_passed_on() {
    let key = "sk-proj-0123456789abcdef";
    let heard = |event: &Value| {
        let stream = sent(std::slice::from_ref(event));
        heard_with(&[key], Dialect::OpenAi, &stream, stream.len())
    };
    let call = |id: &str, name: &str| {
        let call = json!({"index": 0, "id": id, "function": {"name": name, "arguments": "{}"}});
        delta(json!({"tool_calls": [call]}))
    };
    assert_eq!(heard(&call("c", "f")).len(), 2);
    let item = |item: Value| json!({"type": "response.output_item.added", "output_index": 0, "item": item});
    assert_eq!(heard(&item(json!({"type": "message", "id": "m"}))).len(), 1);
    for event in [
        call(key, "f"),
        call("c", key),
        item(json!({"type": "message", "id": key})),
        item(json!({"type": "function_call", "id": "i", "call_id": "c", "name": key})),
        json!({"type": "response.content_part.added", "part": {"type": "output_text", "extra": key}}),
    ] {
        assert_eq!(heard(&event), Vec::<String>::new(), "{event}");
    }
}

#[test]
fn an_item_begins_without_its_contents() {
    /// Checks what it hears.
    struct Emptied;
    impl AnswerListener for Emptied {
        fn on_call(&self) {}
        fn on_piece(&self, piece: AnswerPiece<'_>) {
            let (heard, expected) = match piece {
                AnswerPiece::Item(item) => (
                    item,
                    json!({"type": "message", "id": "m", "content": [], "arguments": ""}),
                ),
                AnswerPiece::Part(part) => (part, json!({"type": "output_text", "text": ""})),
                _ => panic!("{piece:?}"),
            };
            assert_eq!(heard, &expected);
        }
    }
    let item = json!({"type": "message", "id": "m", "content": [{"text": "a"}], "arguments": "{}"});
    let stream = sent(&[
        json!({"type": "response.output_item.added", "item": item}),
        json!({"type": "response.content_part.added", "part": {"type": "output_text", "text": "a"}}),
    ]);
    let access = access(&[]);
    LiveReader::new(Dialect::OpenAi, &access, &Emptied).read(stream.as_bytes());
}

#[test]
fn an_answer_begins_with_its_first_part_also_if_that_is_not_passed_on() {
    let has_begun = |dialect, stream: &str| {
        let (heard, access) = (Heard::default(), access(&[]));
        let mut live = LiveReader::new(dialect, &access, &heard);
        live.read(stream.as_bytes());
        live.has_begun()
    };
    let overloaded = json!({"type": "error", "error": {"type": "overloaded_error"}});
    let block = |kind: &str| json!({"type": "content_block_start", "index": 0, "content_block": {"type": kind}});
    let item = json!({"type": "response.output_item.added", "item": {"type": "reasoning"}});
    let part = json!({"functionCall": {"name": "f", "args": {}}});
    for (dialect, event) in [
        (Dialect::Anthropic, block("redacted_thinking")),
        (Dialect::Anthropic, block("tool_use")),
        (Dialect::OpenAi, delta(json!({"refusal": "no"}))),
        (
            Dialect::OpenAi,
            delta(json!({"function_call": {"name": "f"}})),
        ),
        (
            Dialect::OpenAi,
            delta(json!({"reasoning_details": [{"data": "x"}]})),
        ),
        (Dialect::OpenAi, item),
        (
            Dialect::Gemini,
            json!({"candidates": [{"content": {"parts": [part]}}]}),
        ),
    ] {
        let stream = sent(&[event.clone(), overloaded.clone()]);
        assert!(has_begun(dialect, &stream), "{event}");
    }
    for (dialect, event) in [
        (
            Dialect::Anthropic,
            json!({"type": "message_start", "message": {"content": []}}),
        ),
        (Dialect::Anthropic, json!({"type": "ping"})),
        (Dialect::OpenAi, json!({"choices": [], "usage": null})),
        (
            Dialect::OpenAi,
            json!({"type": "response.created", "response": {"output": []}}),
        ),
        (Dialect::Gemini, json!({"usageMetadata": {}})),
    ] {
        let stream = sent(&[event.clone(), overloaded.clone()]);
        assert!(!has_begun(dialect, &stream), "{event}");
    }
    let long = format!("data: {}", "x".repeat(LONGEST_LINE));
    assert!(has_begun(Dialect::OpenAi, &long));
    assert!(has_begun(Dialect::OpenAi, "data: {\"choices\n\n"));
}

#[test]
fn vendors_stream_what_a_stream_can_carry() {
    let chat = || Request::new("hi");
    let body = |name: &str, request: &Request| {
        let vendor = vendor(name);
        let call = super::super::dialect::encode(vendor, request, Some("m")).unwrap();
        let call = call.streamed(vendor, streams(vendor, request).unwrap());
        let body: Value = serde_json::from_slice(&call.body).unwrap();
        (
            call.path.into_owned(),
            body["stream"].clone(),
            body["stream_options"].clone(),
        )
    };
    let usage = json!({"include_usage": true});
    assert_eq!(
        body("openai", &chat()),
        ("/chat/completions".to_owned(), json!(true), usage)
    );
    assert_eq!(body("mistral", &chat()).2, Value::Null);
    assert_eq!(
        body("anthropic", &chat()),
        ("/messages".to_owned(), json!(true), Value::Null)
    );
    let gemini = "/models/m:streamGenerateContent?alt=sse".to_owned();
    assert_eq!(body("gemini", &chat()), (gemini, Value::Null, Value::Null));
    for (field, value) in [("logprobs", json!(true)), ("modalities", json!(["audio"]))] {
        assert_eq!(
            streams(vendor("openai"), &chat().with_extra(field, value)),
            None
        );
    }
    let plain = chat().with_extra("logprobs", json!(false));
    assert!(streams(vendor("openai"), &plain).is_some());
    assert_eq!(streams(vendor("openai"), &Request::embedding("hi")), None);
}

#[test]
fn a_refusal_names_the_stream() {
    let refused = |status, body: &str| may_be_refused(&testing::reply(status, &[], body));
    assert!(refused(400, "{\"error\": {\"param\": \"stream\"}}"));
    assert!(refused(422, "extra fields not permitted: stream_options"));
    assert!(refused(400, "Streaming is not supported."));
    assert!(!refused(400, "The upstream provider failed."));
    assert!(!refused(500, "stream"));
}

#[test]
fn an_overload_after_the_beginning_is_an_answer_that_was_broken_off() {
    let failed = |events: &[Value]| {
        let mut reply = testing::reply(200, &[], &sent(events));
        super::super::dialect::join_stream(vendor("anthropic"), &mut reply);
        let error = super::super::dialect::decode(vendor("anthropic"), &reply, true).unwrap_err();
        (error.kind(), broken_off(error, &reply.body))
    };
    for (kind, expected) in [
        ("overloaded_error", ErrorKind::Transient),
        ("rate_limit_error", ErrorKind::RateLimited),
    ] {
        let event = json!({"type": "error", "error": {"type": kind, "message": "Too much"}});
        let (before, error) = failed(&[event]);
        assert_eq!(before, expected, "{kind}");
        assert_eq!(
            (error.kind(), error.sent()),
            (ErrorKind::Transient, Sent::Maybe)
        );
    }
    let broken = json!({"type": "error", "error": {"type": "api_error", "message": "Broke."}});
    assert_eq!(failed(&[broken]).1.sent(), Sent::Maybe);
    // A stream without its end is treated as before.
    let (before, error) = failed(&[json!({"type": "ping"})]);
    assert_eq!(
        (before, error.kind()),
        (ErrorKind::Malformed, ErrorKind::Malformed)
    );
}
