use super::*;

fn completion() -> Value {
    json!({
        "id": "c", "created": 1, "model": "m-1", "system_fingerprint": null, "usage": {"total_tokens": 3},
        "choices": [{
            "index": 0,
            "message": {
                "role": "assistant", "content": "a\nb", "refusal": null, "reasoning_content": "Hm.",
                "tool_calls": [
                    {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}},
                    {"id": "u", "type": "custom", "custom": {"name": "g", "input": "x"}},
                ],
            },
            "logprobs": null,
            "finish_reason": "tool_calls",
        }, {
            "index": 1,
            "message": {"role": "assistant", "content": "c"},
            "logprobs": null,
            "finish_reason": "stop",
        }],
    })
}

fn read(events: &str) -> (Vec<Value>, String) {
    let data = events
        .split_terminator("\n\n")
        .map(|event| event.strip_prefix("data: ").unwrap());
    let (done, chunks): (Vec<&str>, Vec<&str>) = data.partition(|data| *data == "[DONE]");
    let chunks = chunks
        .into_iter()
        .map(|chunk| serde_json::from_str(chunk).unwrap());
    (chunks.collect(), done.concat())
}

fn form() -> Form {
    serde_json::from_value(json!({"custom_tools": ["g"]})).unwrap()
}

#[test]
fn a_completion_goes_out_as_pieces_and_their_end() {
    let completion = completion();
    let chunks = |with_usage| {
        let reply = Reply::Json(completion.clone());
        let events = ChatEvents::new(with_usage, form()).end(&reply).unwrap();
        let (chunks, done) = read(&events);
        assert_eq!(done, "[DONE]");
        chunks
    };
    let plain = chunks(false);
    assert_eq!(plain.len(), 4);
    let second = &plain[2]["choices"][0]["delta"];
    assert_eq!(second, &completion["choices"][1]["message"]);
    let delta = &plain[0]["choices"][0]["delta"];
    assert_eq!(
        (&delta["content"], &delta["tool_calls"][1]["index"]),
        (&json!("a\nb"), &json!(1))
    );
    assert_eq!(plain[1]["choices"][0]["finish_reason"], "tool_calls");
    assert!(plain.iter().all(|chunk| chunk.get("usage").is_none()));
    let chunks = chunks(true);
    assert_eq!(chunks[4]["usage"]["total_tokens"], 3);
    assert_eq!(chunks[4]["choices"], json!([]));
}

fn pieces(all: &[Piece], completion: &Value) -> (Vec<Value>, Result<(), Changed>) {
    let mut events = ChatEvents::new(false, form());
    let mut out = events.begin("c", "m");
    for piece in all {
        out += &events.piece(piece);
    }
    let (rest, end) = match events.end(&Reply::Json(completion.clone())) {
        Ok(rest) => (rest, Ok(())),
        Err((rest, changed)) => (rest, Err(changed)),
    };
    (read(&(out + &rest)).0, end)
}

/// Puts the deltas of the first choice together, as clients do.
fn joined(chunks: &[Value]) -> Value {
    let mut message = json!({"content": "", "reasoning_content": "", "calls": ["", ""]});
    for chunk in chunks
        .iter()
        .filter(|chunk| chunk["choices"][0]["index"] == 0)
    {
        let delta = &chunk["choices"][0]["delta"];
        let mut add = |place: &str, more: &Value| {
            let place = message.pointer_mut(place).unwrap();
            let text = place.as_str().unwrap_or_default().to_owned();
            *place = (text + more.as_str().unwrap_or_default()).into();
        };
        add("/content", &delta["content"]);
        add("/reasoning_content", &delta["reasoning_content"]);
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let place = format!("/calls/{}", call["index"]);
            add(&place, &call["function"]["arguments"]);
            add(&place, &call["custom"]["input"]);
        }
    }
    message
}

#[test]
fn pieces_and_the_rest_are_the_complete_answer() {
    let text = |text: &str| Piece::Text(text.to_owned());
    let call = |number, id: &str, name: &str| Piece::ToolCall {
        number,
        id: id.to_owned(),
        name: name.to_owned(),
    };
    let arguments = |number, text: &str| Piece::Arguments {
        number,
        text: text.to_owned(),
    };
    let all = [
        Piece::Reasoning("Hm.".to_owned()),
        text("a\n"),
        text("b"),
        call(0, "t", "f"),
        arguments(0, "{\"a\": "),
        arguments(0, "1}"),
        call(1, "u", "g"),
        arguments(1, "x"),
    ];
    let expected =
        json!({"content": "a\nb", "reasoning_content": "Hm.", "calls": ["{\"a\":1}", "x"]});
    for some in 0..all.len() {
        let (chunks, end) = pieces(&all[..some], &completion());
        assert_eq!(end, Ok(()), "{some}");
        let mut joined = joined(&chunks);
        let call = joined["calls"][0].as_str().unwrap().replace(' ', "");
        joined["calls"][0] = call.into();
        assert_eq!(joined, expected, "{some}");
        if some > 0 {
            assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
            assert_eq!(chunks[0]["model"], "m");
        }
        let created = &chunks[0]["created"];
        assert!(
            chunks
                .iter()
                .all(|chunk| chunk["id"] == "c" && chunk["created"] == *created)
        );
        let ends = chunks
            .iter()
            .filter(|chunk| !chunk["choices"][0]["finish_reason"].is_null());
        assert_eq!(ends.count(), 2);
    }
    let (chunks, _) = pieces(&all, &completion());
    let begun = &chunks[4]["choices"][0]["delta"]["tool_calls"][0];
    let expected = json!({"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": ""}});
    assert_eq!(begun, &expected);
}

#[test]
fn a_refusal_follows_the_pieces_that_were_sent() {
    let mut refused = completion();
    refused["choices"][0]["message"] =
        json!({"role": "assistant", "content": null, "refusal": "No."});
    let sent = [
        Piece::Reasoning("Hm.".to_owned()),
        Piece::Text("a".to_owned()),
    ];
    let (chunks, end) = pieces(&sent, &refused);
    assert_eq!(end, Ok(()));
    let deltas = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]);
    let deltas: Vec<&Value> = deltas.collect();
    assert_eq!(deltas[3], &json!({"refusal": "No."}));
    assert_eq!(chunks[4]["choices"][0]["finish_reason"], "tool_calls");
}

#[test]
fn an_answer_that_does_not_begin_with_its_pieces_is_an_error_with_the_answer() {
    let (chunks, end) = pieces(&[Piece::Text("other".to_owned())], &completion());
    assert_eq!((chunks.len(), end), (2, Err(Changed)));
    let mut events = ChatEvents::default();
    let event = events.changed(&Reply::Json(completion()));
    let (event, _) = read(&event);
    assert_eq!(event[0]["error"]["code"], "answer_changed");
    assert_eq!(event[0]["error"]["answer"], completion());
}
