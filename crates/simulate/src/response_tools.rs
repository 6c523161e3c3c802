//! Tools in OpenAI's Responses API: their definitions, the choice of tools, and the items of input and output with
//! calls and their results.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::objects;
use super::prompt::{Answer, Fault};
use super::tool_rules::{checked, named, openai_choice};
use super::tools::{Choice, Function, Tools};
use super::tree::Object;

/// The tools that may be called.
pub(super) fn read(root: &Object<'_>) -> Result<Option<Tools>, Fault> {
    let mut tools = Tools::default();
    for tool in root.objects("tools")?.unwrap_or_default() {
        objects::check(&tool, "openai", "response_tool")?;
        let custom = match tool.text("type")?.unwrap_or_default() {
            "function" => false,
            "custom" => true,
            kind => {
                tools.search |= kind.starts_with("web_search");
                continue;
            }
        };
        let parameters = tool.get("parameters").cloned();
        tools.functions.push(Function {
            name: tool.text("name")?.unwrap_or_default().to_owned(),
            parameters: if custom {
                Value::Null
            } else {
                parameters.unwrap_or_else(|| json!({"type": "object"}))
            },
            custom,
        });
    }
    tools.single = root.flag("parallel_tool_calls")? == Some(false);
    tools.choice = openai_choice(root, |choice| match choice.text("type")? {
        Some("function" | "custom") => Ok(Choice::One(named(choice, 64, "")?)),
        _ => Ok(Choice::Auto),
    })?;
    tools.answered = answered(root)?;
    checked(tools)
}

/// Checks that each result belongs to an earlier call, unless OpenAI stores the earlier messages. Returns whether the
/// last item is a result.
fn answered(root: &Object<'_>) -> Result<bool, Fault> {
    let kept = ["previous_response_id", "conversation"];
    let is_whole = kept.iter().all(|name| root.get(name).is_none());
    let (mut made, mut last) = (BTreeSet::new(), false);
    let items = match root.get("input") {
        Some(Value::Array(_)) => root.objects("input")?.unwrap_or_default(),
        _ => Vec::new(),
    };
    for item in items {
        let kind = item.text("type")?.unwrap_or_default();
        last = kind.ends_with("_output");
        let Some(id) = item.text("call_id")? else {
            continue;
        };
        if !last {
            made.insert(id);
        } else if is_whole && !made.remove(id) {
            let message = format!("No tool call found for function call output with call_id {id}.");
            return Err(Fault::invalid("input", "", message));
        }
    }
    Ok(last)
}

/// The items of an answer that calls tools; empty for other answers.
pub(super) fn calls(answer: &Answer<'_>) -> Vec<Value> {
    let calls = answer.calls.iter().zip(1..);
    let calls = calls.map(|(call, number): (_, u32)| {
        let id = format!("call_sim_{}_{number}", answer.call);
        if call.custom {
            json!({"type": "custom_tool_call", "id": format!("ctc_{id}"), "call_id": id,
        "name": call.name, "input": call.arguments, "status": "completed"})
        } else {
            json!({"type": "function_call", "id": format!("fc_{id}"), "call_id": id,
        "name": call.name, "arguments": call.arguments.to_string(), "status": "completed"})
        }
    });
    calls.collect()
}

/// A web search that OpenAI performed itself.
pub(super) fn search(answer: &Answer<'_>) -> Value {
    json!({"type": "web_search_call", "id": format!("ws_sim_{}", answer.call), "status": "completed",
        "action": {"type": "search", "query": "the simulator"}})
}

#[cfg(test)]
mod tests {
    use super::super::tree::Spelling;
    use super::*;

    fn called(more: Value) -> Result<String, Fault> {
        let mut body = json!({"input": "hi", "tools": [
            {"type": "function", "name": "f", "parameters": {"type": "object"}},
            {"type": "custom", "name": "g"}, {"type": "web_search"}]});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        let tools = read(&Object::new(&body, "", Spelling::Exact)?)?.unwrap();
        let calls = tools.calls("hi").into_iter();
        let calls: Vec<String> = calls
            .map(|call| format!("{}({})", call.name, call.arguments))
            .collect();
        Ok(format!("{} {}", calls.join(" "), tools.search))
    }

    #[test]
    fn tools_are_called_once_and_results_answered() {
        let said = |more: Value| called(more).unwrap();
        assert_eq!(said(json!({})), "f({}) g(\"hi\") true");
        assert_eq!(said(json!({"tool_choice": "none"})), " true");
        let one = json!({"type": "custom", "name": "g"});
        assert_eq!(said(json!({"tool_choice": one})), "g(\"hi\") true");
        assert_eq!(said(json!({"parallel_tool_calls": false})), "f({}) true");
        let result = json!({"type": "function_call_output", "call_id": "c", "output": "7"});
        let call = json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"});
        assert_eq!(said(json!({"input": [call, result]})), " true");
        let kept = json!({"input": [result], "previous_response_id": "resp_1"});
        assert_eq!(said(kept), " true");
        for bad in [
            json!({"input": [result]}),
            json!({"tool_choice": "any"}),
            json!({"tool_choice": {"type": "function", "name": "h"}}),
            json!({"tools": [{"type": "function", "function": {"name": "f"}}]}),
            json!({"tools": [{"type": "function", "name": "a b"}]}),
            json!({"tools": [{"name": "f"}]}),
        ] {
            assert!(called(bad.clone()).is_err(), "{bad}");
        }
    }
}
