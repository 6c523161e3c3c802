use super::*;
use crate::tree::Spelling;

fn root(value: &Value) -> Object<'_> {
    Object::new(value, "", Spelling::Exact).unwrap()
}

fn messages(more: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "hi"}]});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn function(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name, "parameters": {"type": "object",
        "properties": {"city": {"type": "string"}}, "required": ["city"]}}})
}

#[test]
fn every_tool_is_called_once_unless_that_is_forbidden() {
    let called = |more: Value, after: bool| {
        let mut body = messages(json!({"tools": [function("f"), function("g")]}));
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        let mut tools = openai(&root(&body), None, false, None).unwrap().unwrap();
        tools.answered = after;
        let calls = tools.calls("hi");
        let names: Vec<String> = calls.into_iter().map(|call| call.name).collect();
        names.join(" ")
    };
    assert_eq!(called(json!({}), false), "f g");
    assert_eq!(called(json!({}), true), "");
    assert_eq!(called(json!({"tool_choice": "none"}), false), "");
    assert_eq!(called(json!({"tool_choice": "required"}), true), "f g");
    assert_eq!(called(json!({"parallel_tool_calls": false}), false), "f");
    let one = json!({"type": "function", "function": {"name": "g"}});
    assert_eq!(called(json!({"tool_choice": one}), false), "g");
}

#[test]
fn openais_mistakes_are_refused() {
    let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let turn = |role: &str, more: Value| {
        let mut turn = json!({"role": role, "content": "x"});
        for (name, value) in more.as_object().unwrap() {
            turn[name] = value.clone();
        }
        turn
    };
    let called = turn("assistant", json!({"tool_calls": [call]}));
    let result = turn("tool", json!({"tool_call_id": "c"}));
    let good = json!({"messages": [called, result, turn("user", json!({}))]});
    assert_eq!(openai(&root(&good), None, false, None), Ok(None));
    for (ids, taken) in [
        (forty_characters as IdCheck, true),
        (nine_characters as IdCheck, false),
    ] {
        let read = openai(&root(&good), None, false, Some(ids));
        assert_eq!(read.is_ok(), taken);
    }
    assert!(nine_characters("aB3456789").is_ok());
    for bad in ["aB345678", "call_1234", "aB34567890"] {
        assert!(nine_characters(bad).is_err(), "{bad}");
    }
    assert!(forty_characters(&"c".repeat(41)).is_err());
    let mut ours = call.clone();
    ours["function"]["arguments"] = json!({});
    for bad in [
        json!({"tools": [{"name": "f", "input_schema": {}}]}),
        json!({"tools": [{"type": "function", "function": {"name": "a b"}}]}),
        json!({"tools": [{"type": "custom", "custom": {"name": "f"}}]}),
        json!({"tools": [function("f"), function("f")]}),
        json!({"tools": [function("f")], "tool_choice": "any"}),
        json!({"tools": [function("f")],
            "tool_choice": {"type": "function", "function": {"name": "g"}}}),
        json!({"messages": [result]}),
        json!({"messages": [called, turn("user", json!({}))]}),
        json!({"messages": [turn("assistant", json!({"tool_calls": [ours]}))]}),
        json!({"messages": [turn("assistant", json!({"tool_calls": [{"id": "c", "name": "f"}]}))]}),
    ] {
        let body = messages(bad);
        assert!(openai(&root(&body), None, false, None).is_err(), "{body}");
    }
}

#[test]
fn anthropics_mistakes_are_refused() {
    let tool = json!({"name": "f", "input_schema": {"type": "object"}});
    let used = json!({"role": "assistant", "content": [
        {"type": "thinking", "thinking": "", "signature": "s"},
        {"type": "tool_use", "id": "c", "name": "f", "input": {}}]});
    let result = json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c"}]});
    let good = json!({"tools": [tool], "tool_choice": {"type": "tool", "name": "f"},
        "messages": [used, result]});
    assert!(anthropic(&root(&good)).unwrap().is_some());
    let mut foreign = used.clone();
    foreign["content"][1]["id"] = json!("functions.f:0");
    let foreigner = json!({"role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "functions.f:0"}]});
    let unsigned = json!({"role": "assistant", "content": [{"type": "thinking", "thinking": ""}]});
    let late = json!({"role": "assistant", "content": [{"type": "text", "text": "x"},
        {"type": "thinking", "thinking": "", "signature": "s"}]});
    for bad in [
        json!({"tools": [function("f")]}),
        json!({"tools": [{"name": "f", "input_schema": {}}]}),
        json!({"tools": [{"name": "f", "strict": true,
            "input_schema": {"type": "object", "additionalProperties": true}}]}),
        json!({"tools": [tool], "tool_choice": {"type": "none", "disable_parallel_tool_use": true}}),
        json!({"tools": [tool], "tool_choice": "auto"}),
        json!({"tool_choice": {"type": "auto"}}),
        json!({"messages": [used, result]}),
        json!({"tools": [tool], "messages": [used, {"role": "user", "content": "x"}]}),
        json!({"tools": [tool], "messages": [result]}),
        json!({"tools": [tool], "messages": [foreign, foreigner]}),
        json!({"messages": [unsigned]}),
        json!({"messages": [late]}),
    ] {
        let body = messages(bad);
        assert!(anthropic(&root(&body)).is_err(), "{body}");
    }
}

#[test]
fn geminis_mistakes_are_refused() {
    let declared = json!([{"functionDeclarations": [{"name": "f",
        "parametersJsonSchema": {"type": "object"}}]}]);
    let call = json!({"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}}]});
    let result = json!({"role": "user",
        "parts": [{"functionResponse": {"name": "f", "response": {}}}]});
    let good = json!({"tools": declared, "contents": [call, result],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}}});
    assert!(gemini(&root(&good), "gemini-2.5").unwrap().is_some());
    assert!(gemini(&root(&good), "gemini-3-pro").is_err());
    for bad in [
        json!({"tools": [{"functionDeclarations": [{"name": "f", "input_schema": {}}]}]}),
        json!({"tools": [{"functionDeclarations": [{"name": "f", "parameters": {},
            "parametersJsonSchema": {}}]}]}),
        json!({"tools": declared, "toolConfig": {"mode": "ANY"}}),
        json!({"tools": declared, "toolConfig": {"functionCallingConfig": {"mode": "any"}}}),
        json!({"tools": declared, "toolConfig": {"functionCallingConfig":
            {"mode": "AUTO", "allowedFunctionNames": ["f"]}}}),
        json!({"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}),
        json!({"contents": [call]  , "tools": [{"functionDeclarations": [{"name": "a b"}]}]}),
        json!({"contents": [call, {"role": "user", "parts": [{"text": "x"}]}]}),
        json!({"contents": [result]}),
    ] {
        assert!(gemini(&root(&bad), "m").is_err(), "{bad}");
    }
}
