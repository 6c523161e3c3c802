//! The deprecated `functions` and `function_call` of chat completions as tools, because most providers know only tools.

use batchwright::Request;
use serde_json::{Map, Value, json};

/// Translates the messages of a conversation: an assistant's `function_call`, and the result in a message of the role
/// `function`. A result belongs to the call before it.
pub(super) fn translate_messages(body: &mut Map<String, Value>) {
    let Some(Value::Array(messages)) = body.get_mut("messages") else {
        return;
    };
    let mut calls = 0;
    let messages = messages.iter_mut().filter_map(Value::as_object_mut);
    for message in messages {
        if let Some(call) = message.shift_remove("function_call")
            && !call.is_null()
        {
            calls += 1;
            let call = json!({"id": format!("call_{calls}"), "type": "function", "function": call});
            message.insert("tool_calls".to_owned(), json!([call]));
        }
        if calls > 0 && message.get("role").is_some_and(|role| role == "function") {
            message.shift_remove("name");
            message.insert("role".to_owned(), json!("tool"));
            message.insert("tool_call_id".to_owned(), json!(format!("call_{calls}")));
        }
    }
}

/// Translates the functions that the model may call, and the choice among them. The answer has one call at most.
pub(super) fn translate(request: &mut Request) {
    if request.extra.contains_key("tools") {
        return;
    }
    let Some(Value::Array(functions)) = request.extra.get("functions") else {
        return;
    };
    let tools = functions
        .iter()
        .map(|function| json!({"type": "function", "function": function}));
    let tools = Value::Array(tools.collect());
    request.extra.shift_remove("functions");
    request.extra.insert("tools".to_owned(), tools);
    let parallel = "parallel_tool_calls".to_owned();
    request.extra.insert(parallel, Value::Bool(false));
    match request.extra.shift_remove("function_call") {
        None | Some(Value::Null) => {}
        Some(Value::Object(function)) => {
            let choice = json!({"type": "function", "function": function});
            request.extra.insert("tool_choice".to_owned(), choice);
        }
        Some(mode) => drop(request.extra.insert("tool_choice".to_owned(), mode)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_become_tools() {
        let functions = json!([{"name": "f", "parameters": {"type": "object"}}]);
        for (choice, expected) in [
            (Value::Null, None),
            (json!("none"), Some(json!("none"))),
            (
                json!({"name": "f"}),
                Some(json!({"type": "function", "function": {"name": "f"}})),
            ),
        ] {
            let mut request = Request::new("q")
                .with_extra("functions", functions.clone())
                .with_extra("function_call", choice);
            translate(&mut request);
            let extra = &request.extra;
            let tools = json!([{"type": "function", "function": functions[0]}]);
            assert_eq!(extra.get("tools"), Some(&tools));
            assert_eq!(extra.get("tool_choice"), expected.as_ref());
            assert_eq!(extra["parallel_tool_calls"], false);
            assert!(!extra.contains_key("functions") && !extra.contains_key("function_call"));
        }
    }

    #[test]
    fn results_of_functions_belong_to_the_call_before_them() {
        let body = json!({"messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "7"},
        ]});
        let Value::Object(mut body) = body else {
            unreachable!()
        };
        translate_messages(&mut body);
        let call = json!({"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}});
        assert_eq!(
            body["messages"],
            json!([
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": null, "tool_calls": [call]},
                {"role": "tool", "content": "7", "tool_call_id": "call_1"},
            ])
        );
    }
}
