use super::*;

fn read(events: &str) -> Vec<Value> {
    let read = |event: &str| {
        let (name, data) = event.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: "), data["type"].as_str());
        data
    };
    events.split_terminator("\n\n").map(read).collect()
}

fn response(output: Value) -> Map<String, Value> {
    let response = json!({"id": "resp_1", "status": "completed", "usage": {"total_tokens": 1}, "output": output});
    response.as_object().unwrap().clone()
}

fn message(text: &str) -> Value {
    json!({
        "type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
        "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}],
    })
}

fn reasoning(text: &str) -> Value {
    let summary = json!([{"type": "summary_text", "text": text}]);
    json!({"type": "reasoning", "id": "rs_1", "summary": summary})
}

fn call(arguments: &str) -> Value {
    json!({
        "type": "function_call", "id": "fc_1_0", "status": "completed", "call_id": "c", "name": "f", "arguments": arguments,
    })
}

fn text(text: &str) -> Piece {
    Piece::Text(text.to_owned())
}

/// The events of pieces, then those of the rest, and the output as clients put it together from them.
fn streamed(
    pieces: &[Piece],
    complete: &Map<String, Value>,
) -> (Vec<Value>, Result<Value, Changed>) {
    let (mut events, mut complete) = (Events::default(), complete.clone());
    events.begin(&complete, "1");
    pieces.iter().for_each(|piece| events.piece(piece));
    events.keep_before_refusal(&mut complete);
    let end = events
        .order(&mut complete)
        .and_then(|()| events.end(&complete));
    let events = read(&events.take());
    let mut output: Vec<Value> = Vec::new();
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
        let kind = event["type"].as_str().unwrap();
        let index = event["output_index"].as_u64().unwrap_or(0) as usize;
        if kind == "response.output_item.added" {
            assert_eq!(index, output.len(), "items are added in their order");
            output.push(event["item"].clone());
            continue;
        }
        let Some(item) = output.get_mut(index) else {
            continue;
        };
        let number = |name: &str| event[name].as_u64().unwrap_or(0) as usize;
        let mut add = |place: &str| {
            assert_eq!(event["item_id"], item["id"]);
            let text = item.pointer_mut(place).unwrap();
            *text = (text.as_str().unwrap().to_owned() + event["delta"].as_str().unwrap()).into();
        };
        match kind {
            "response.output_text.delta" => {
                add(&format!("/content/{}/text", number("content_index")))
            }
            "response.reasoning_summary_text.delta" => {
                add(&format!("/summary/{}/text", number("summary_index")))
            }
            "response.function_call_arguments.delta" => add("/arguments"),
            "response.content_part.added" | "response.reasoning_summary_part.added" => {
                let list = if kind.contains("summary") {
                    "summary"
                } else {
                    "content"
                };
                let parts = item[list].as_array_mut().unwrap();
                parts.push(event["part"].clone());
            }
            "response.output_item.done" => *item = event["item"].clone(),
            _ => {}
        }
    }
    let output = end.map(|()| {
        assert_eq!(events.last().unwrap()["response"]["output"], json!(output));
        output.into()
    });
    (events, output)
}

#[test]
fn pieces_and_the_rest_are_the_events_of_the_complete_response() {
    let complete = response(json!([reasoning("Hm."), message("So."), call("{\"a\":1}")]));
    let all = [
        Piece::Reasoning("H".to_owned()),
        Piece::Reasoning("m.".to_owned()),
        text("S"),
        text("o."),
        Piece::ToolCall {
            number: 0,
            id: "c".to_owned(),
            name: "f".to_owned(),
        },
        Piece::Arguments {
            number: 0,
            text: "{\"a\": 1}".to_owned(),
        },
    ];
    for some in 0..=all.len() {
        let (events, output) = streamed(&all[..some], &complete);
        assert_eq!(output.as_ref(), Ok(&complete["output"]), "{some}");
        let kinds: Vec<&str> = events
            .iter()
            .filter_map(|event| event["type"].as_str())
            .collect();
        let once = ["created", "in_progress", "completed"];
        for kind in once {
            let kind = format!("response.{kind}");
            assert_eq!(
                kinds.iter().filter(|name| **name == kind).count(),
                1,
                "{kinds:?}"
            );
        }
        for (kind, count) in [
            ("output_item.added", 3),
            ("output_item.done", 3),
            ("content_part.added", 1),
            ("output_text.done", 1),
        ] {
            let kind = format!("response.{kind}");
            assert_eq!(
                kinds.iter().filter(|name| **name == kind).count(),
                count,
                "{kinds:?}"
            );
        }
    }
}

#[test]
fn items_that_come_late_follow_those_that_were_sent() {
    let complete = response(json!([reasoning("Late."), message("So.")]));
    let (_, output) = streamed(&[text("So")], &complete);
    assert_eq!(output, Ok(json!([message("So."), reasoning("Late.")])));
    let (_, output) = streamed(&[text("Or")], &complete);
    assert_eq!(output, Err(Changed));
    assert_eq!(
        streamed(&[text("So")], &response(json!([call("{}")]))).1,
        Err(Changed)
    );
}

#[test]
fn a_refusal_follows_the_items_that_were_sent() {
    let mut refusal = message("");
    refusal["content"] = json!([{"type": "refusal", "refusal": "No."}]);
    let refused = response(json!([refusal]));
    assert_eq!(streamed(&[], &refused).1, Ok(json!([refusal])));
    let tool = Piece::ToolCall {
        number: 0,
        id: "c".to_owned(),
        name: "f".to_owned(),
    };
    let arguments = Piece::Arguments {
        number: 0,
        text: "{\"a\"".to_owned(),
    };
    let sent = [
        Piece::Reasoning("Hm.".to_owned()),
        text("So."),
        tool,
        arguments,
    ];
    let (_, output) = streamed(&sent, &refused);
    let (mut said, mut begun) = (message("So."), call("{\"a\""));
    said["status"] = "incomplete".into();
    begun["status"] = "incomplete".into();
    refusal["id"] = "msg_1_refusal".into();
    assert_eq!(output, Ok(json!([reasoning("Hm."), said, begun, refusal])));
}

#[test]
fn the_items_of_the_provider_keep_their_ids() {
    let thought =
        json!({"type": "reasoning", "id": "rs_x", "summary": [], "encrypted_content": "e"});
    let mut said = message("So.");
    said["id"] = "msg_x".into();
    let complete = response(json!([thought, said]));
    let begun = json!({"type": "message", "id": "msg_x", "status": "in_progress", "role": "assistant", "content": []});
    let part = json!({"type": "output_text", "text": "", "annotations": [], "logprobs": []});
    let pieces = [
        Piece::Item(json!({"type": "reasoning", "id": "rs_x", "summary": []})),
        Piece::Item(begun),
        Piece::Part(part),
        text("So"),
    ];
    for some in 0..=pieces.len() {
        let (_, output) = streamed(&pieces[..some], &complete);
        assert_eq!(output.as_ref(), Ok(&complete["output"]), "{some}");
    }
    // A repeated call has other ids.
    assert_eq!(
        streamed(&pieces, &response(json!([message("So.")]))).1,
        Err(Changed)
    );
}

#[test]
fn events_after_a_number_are_those_of_the_whole() {
    let complete = response(json!([message("So.")]));
    let all = read(&events(&complete, None));
    assert_eq!(read(&events(&complete, Some(2))), all[3..]);
    assert_eq!(all[4]["delta"], "So.");
}
