use super::super::dialect::testing;
use super::*;

#[test]
fn bodies_that_are_not_streams_are_distinguished() {
    for body in ["", "{}", "<html>", "database: x", "[1]"] {
        for dialect in [Dialect::OpenAi, Dialect::Anthropic, Dialect::Gemini] {
            assert_eq!(streamed(dialect, body.as_bytes()), None, "{body}");
        }
    }
}

fn line(dialect: &str, stream: &str) -> Value {
    testing::line(&testing::decoded(dialect, stream).unwrap())
}

fn sent(events: &[Value]) -> String {
    events
        .iter()
        .map(|event| format!("data: {event}\n\n"))
        .collect()
}

#[test]
fn calls_thoughts_and_sources_in_pieces_are_joined() {
    let delta = |delta: Value| json!({"choices": [{"index": 0, "delta": delta}]});
    let call = |call: Value| delta(json!({"tool_calls": [call]}));
    let openai = sent(&[
        delta(json!({"role": "assistant", "content": null, "reasoning_content": "I "})),
        delta(json!({"reasoning_content": "look."})),
        call(json!({"index": 0, "id": "c1", "type": "function",
            "function": {"name": "get_weather", "arguments": ""}})),
        call(json!({"index": 0, "function": {"arguments": "{\"city\":"}})),
        call(json!({"index": 1, "id": "c2", "type": "function",
            "function": {"name": "get_time", "arguments": "{}"}})),
        call(json!({"index": 0, "function": {"arguments": "\"Oslo\"}"}})),
        delta(json!({"annotations": [{"type": "url_citation"}]})),
        json!({"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "tool_calls",
            "logprobs": {"content": [{"token": "a"}]}}]}),
    ]);
    let read = line("openai", &openai);
    let calls = json!([
        {"id": "c1", "name": "get_weather", "arguments": {"city": "Oslo"}},
        {"id": "c2", "name": "get_time", "arguments": {}},
    ]);
    assert_eq!((&read["tool_calls"], &read["text"]), (&calls, &Value::Null));
    assert_eq!(read["reasoning"], json!({"text": "I look."}));
    assert_eq!(read["citations"], json!([{"type": "url_citation"}]));
    assert_eq!(read["logprobs"], json!({"content": [{"token": "a"}]}));

    let start = |index: u8, block: Value| json!({"type": "content_block_start", "index": index, "content_block": block});
    let delta = |index: u8, delta: Value| json!({"type": "content_block_delta", "index": index, "delta": delta});
    let anthropic = sent(&[
        json!({"type": "message_start", "message": {"id": "msg_1", "type": "message",
            "content": [], "usage": {"input_tokens": 1}}}),
        start(
            0,
            json!({"type": "thinking", "thinking": "", "signature": ""}),
        ),
        delta(0, json!({"type": "thinking_delta", "thinking": "I "})),
        delta(0, json!({"type": "thinking_delta", "thinking": "look."})),
        delta(0, json!({"type": "signature_delta", "signature": "EqQB"})),
        start(1, json!({"type": "text", "text": ""})),
        delta(
            1,
            json!({"type": "citations_delta", "citation": {"url": "https://a"}}),
        ),
        delta(1, json!({"type": "text_delta", "text": "So."})),
        start(
            2,
            json!({"type": "tool_use", "id": "c1", "name": "get_weather", "input": {}}),
        ),
        delta(2, json!({"type": "input_json_delta", "partial_json": ""})),
        delta(
            2,
            json!({"type": "input_json_delta", "partial_json": "{\"city\": \"Os"}),
        ),
        delta(
            2,
            json!({"type": "input_json_delta", "partial_json": "lo\"}"}),
        ),
        start(
            3,
            json!({"type": "tool_use", "id": "c2", "name": "get_time", "input": {}}),
        ),
        json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"},
            "usage": {"output_tokens": 2}}),
        json!({"type": "message_stop"}),
    ]);
    let read = line("anthropic", &anthropic);
    assert_eq!(
        (&read["tool_calls"], &read["text"]),
        (&calls, &json!("So."))
    );
    let block = json!({"type": "thinking", "thinking": "I look.", "signature": "EqQB"});
    assert_eq!(
        read["reasoning"],
        json!({"text": "I look.", "details": [block]})
    );
    assert_eq!(read["citations"], json!([{"url": "https://a"}]));

    let parts = |parts: Value| json!({"candidates": [{"content": {"parts": parts}}]});
    let gemini = sent(&[
        parts(json!([{"text": "I ", "thought": true}])),
        parts(json!([{"text": "look.", "thought": true}])),
        parts(json!([{"functionCall": {"id": "c1", "name": "get_weather",
            "args": {"city": "Oslo"}}}])),
        parts(json!([{"functionCall": {"id": "c2", "name": "get_time"}}])),
        json!({"candidates": [{"finishReason": "STOP",
            "groundingMetadata": {"webSearchQueries": ["a"]}}]}),
    ]);
    let read = line("gemini", &gemini);
    assert_eq!((&read["tool_calls"], &read["text"]), (&calls, &Value::Null));
    assert_eq!(read["reasoning"], json!({"text": "I look."}));
    assert_eq!(read["citations"], json!([{"webSearchQueries": ["a"]}]));
}

#[test]
fn malformed_pieces_cause_no_panic() {
    for strange in [
        json!("x"),
        json!([1]),
        json!(7),
        Value::Null,
        json!({"text": 5}),
    ] {
        let anthropic = sent(&[
            json!({"type": "message_start", "message": {"type": "message"}}),
            json!({"type": "content_block_start", "index": 0, "content_block": strange}),
            json!({"type": "content_block_delta", "index": 0, "delta": strange}),
            json!({"type": "content_block_delta", "index": 0,
                "delta": {"text": strange, "citation": strange}}),
            json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}),
        ]);
        let _ = testing::decoded("anthropic", &anthropic);
        let delta = json!({"tool_calls": [strange, {"index": 0, "function": strange}],
            "function_call": strange, "reasoning_details": [strange], "annotations": strange});
        let ended = json!({"choices": [{"delta": delta, "logprobs": {"content": strange},
            "finish_reason": "stop"}]});
        let _ = testing::decoded("openai", &sent(&[ended.clone(), ended]));
    }
}

#[test]
fn calls_with_the_same_number_are_distinguished_by_their_ids() {
    let call = |id: &str, name: &str, arguments: &str| {
        let call = json!({"index": 0, "id": id, "type": "function",
            "function": {"name": name, "arguments": arguments}});
        json!({"choices": [{"delta": {"tool_calls": [call]}}]})
    };
    let stream = sent(&[
        call("c1", "f", "{\"a\":"),
        // Some say the id in every piece, some with it another one.
        call("c1", "", "1"),
        call("cx", "", "}"),
        call("c2", "f", "{\"a\":"),
        call("", "", "2}"),
        json!({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}),
    ]);
    let calls = json!([
        {"id": "c1", "name": "f", "arguments": {"a": 1}},
        {"id": "c2", "name": "f", "arguments": {"a": 2}},
    ]);
    assert_eq!(line("custom", &stream)["tool_calls"], calls);
}

#[test]
fn a_stream_of_many_pieces_is_joined_quickly() {
    const MANY: u32 = 100_000;
    let pieces: Vec<Value> = (0..MANY).map(|i| json!({"index": i})).collect();
    let delta = json!({"choices": [{"delta": {"tool_calls": pieces}, "finish_reason": "stop"}]});
    let Some(Streamed::Whole(whole)) = streamed(Dialect::OpenAi, sent(&[delta]).as_bytes()) else {
        panic!("it is whole");
    };
    let calls = whole["choices"][0]["message"]["tool_calls"].as_array();
    assert_eq!(calls.map(Vec::len), Some(MANY as usize));
    let start = |i| json!({"type": "content_block_start", "index": i, "content_block": {}});
    let mut events = vec![json!({"type": "message_start", "message": {}})];
    events.extend((0..MANY).map(start));
    events.push(json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}));
    let Some(Streamed::Whole(whole)) = streamed(Dialect::Anthropic, sent(&events).as_bytes())
    else {
        panic!("it is whole");
    };
    assert_eq!(
        whole["content"].as_array().map(Vec::len),
        Some(MANY as usize)
    );
}

#[test]
fn pieces_without_a_number_belong_to_the_last_open_one() {
    let delta = |delta: Value| json!({"choices": [{"delta": delta}]});
    let stream = sent(&[
        delta(
            json!({"tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": "{\"a\""}}]}),
        ),
        delta(json!({"tool_calls": [{"function": {"arguments": ":1}"}}]})),
        delta(json!({"tool_calls": [{"id": "c2", "function": {"name": "g", "arguments": "{}"}}]})),
        delta(json!({"function_call": {"name": "h", "arguments": "["}})),
        delta(json!({"function_call": {"arguments": "2]"}})),
        json!({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}),
    ]);
    let read = line("local", &stream);
    let calls = read["tool_calls"].as_array().unwrap();
    let calls: Vec<_> = calls
        .iter()
        .map(|call| (&call["name"], &call["arguments"]))
        .collect();
    let expected = [("f", json!({"a": 1})), ("g", json!({})), ("h", json!([2]))];
    let expected = expected.map(|(name, arguments)| (json!(name), arguments));
    let expected: Vec<_> = expected
        .iter()
        .map(|(name, arguments)| (name, arguments))
        .collect();
    assert_eq!(calls, expected);
}

#[test]
fn lists_images_sound_and_probabilities_in_pieces_are_joined() {
    let delta = |delta: Value| json!({"choices": [{"delta": delta}]});
    let end = json!({"choices": [{"delta": {}, "finish_reason": "stop"}]});
    let thought = |text: &str| {
        let thought = json!([{"type": "text", "text": text}]);
        delta(json!({"content": [{"type": "thinking", "thinking": thought}]}))
    };
    let mistral = [
        thought("I "),
        thought("look."),
        delta(json!({"content": [{"type": "text", "text": "So"}]})),
        delta(json!({"content": "."})),
        end.clone(),
    ];
    let read = line("mistral", &sent(&mistral));
    assert_eq!(
        (&read["text"], &read["warning"]),
        (&json!("So."), &Value::Null)
    );
    assert_eq!(read["reasoning"], json!({"text": "I look."}));

    let image = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}});
    let images = [
        delta(json!({"content": "So."})),
        delta(json!({"images": [image]})),
        end.clone(),
    ];
    let read = line("openrouter", &sent(&images));
    assert_eq!(read["text"], "So.");
    assert_eq!(read["reply"], sent(&images));
    let sound = [
        delta(json!({"audio": {"id": "a1", "transcript": "S"}})),
        delta(json!({"audio": {"transcript": "o.", "data": "AA"}})),
        delta(json!({"audio": {"data": "AA", "expires_at": 7}})),
        end,
    ];
    assert_eq!(line("openai", &sent(&sound))["text"], "So.");

    let piece = |text: &str, more: Value| {
        let mut candidate = json!({"content": {"parts": [{"text": text}]},
            "logprobsResult": {"chosenCandidates": [{"token": text}]}});
        for (name, value) in more.as_object().into_iter().flatten() {
            candidate[name] = value.clone();
        }
        json!({"candidates": [candidate]})
    };
    let gemini = [
        piece("So", Value::Null),
        piece(".", json!({"finishReason": "STOP", "avgLogprobs": -0.25})),
    ];
    let read = line("gemini", &sent(&gemini));
    let each = json!({"chosenCandidates": [{"token": "So"}, {"token": "."}]});
    assert_eq!(
        read["logprobs"],
        json!({"avgLogprobs": -0.25, "logprobsResult": each})
    );
}

/// Each beginning of a stream is cut off, until the event that ends the answer is there.
#[test]
fn a_stream_without_its_end_is_cut_off() {
    let openai = concat!(
        ": a comment\n\ndata: {\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Os\"}}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"lo\"}}]}\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n",
    );
    let end = openai.trim_end().len();
    for cut in 1..end {
        let found = streamed(Dialect::OpenAi, &openai.as_bytes()[..cut]);
        if !openai[..cut].starts_with(": a comment\n\nd") {
            continue;
        }
        assert_eq!(found, Some(Streamed::CutOff), "{}", &openai[..cut]);
    }
    let Some(Streamed::Whole(whole)) = streamed(Dialect::OpenAi, openai.as_bytes()) else {
        panic!("it is whole");
    };
    assert_eq!(whole["choices"][0]["message"]["content"], "Oslo");
    assert_eq!(whole["model"], "m");
}

#[test]
fn a_long_answer_of_many_events_is_joined_while_it_is_read() {
    const WORDS: usize = 70_000;
    let word = |n: usize| {
        json!({"id": "c", "object": "chat.completion.chunk", "created": n / 100, "model": "m", "obfuscation": "x".repeat(n % 9),
            "usage": {"prompt_tokens": 1, "completion_tokens": n},
            "choices": [{"index": 0, "delta": {"content": "a "}, "logprobs": null, "finish_reason": null}]})
    };
    let mut events: Vec<Value> = (0..WORDS).map(word).collect();
    events.push(
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": null}),
    );
    let answer = testing::decoded("openai", &sent(&events)).unwrap();
    assert_eq!(answer.text, "a ".repeat(WORDS));
    assert_eq!(answer.usage.unwrap().output_tokens, WORDS as u64 - 1);

    let delta = |index: u8, delta: Value| json!({"type": "content_block_delta", "index": index, "delta": delta});
    let mut events = vec![
        json!({"type": "message_start", "message": {"id": "m", "content": [], "usage": {"input_tokens": 1}}}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        json!({"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}}),
    ];
    let text = |text: &str| json!({"type": "text_delta", "text": text});
    events.extend((0..1000).map(|_| delta(0, text("a "))));
    events.extend((0..1000).map(|_| delta(1, text("b "))));
    events.push(json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}}));
    let answer = testing::decoded("anthropic", &sent(&events)).unwrap();
    assert_eq!(answer.text, "a ".repeat(1000) + &"b ".repeat(1000));
}

#[test]
fn an_error_of_the_responses_api_is_the_error() {
    let events = [
        json!({"type": "response.created", "response": {"output": []}, "sequence_number": 0}),
        json!({"type": "error", "code": "server_error", "message": "It broke.", "param": null, "sequence_number": 1}),
    ];
    let error = testing::decoded("openai", &sent(&events)).unwrap_err();
    assert!(error.message().contains("It broke."), "{error}");
}
