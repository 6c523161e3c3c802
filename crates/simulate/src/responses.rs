//! OpenAI's Responses API.

use serde_json::{Value, json};

use super::objects;
use super::openai;
use super::prompt::{Answer, Conversation, Fault, Finish, Prompt};
use super::response_tools;
use super::shape::Shape;
use super::tree::{Object, Spelling};

/// The value in `include` that requests the probabilities of tokens.
const LOGPROBS: &str = "message.output_text.logprobs";

/// Reads a request's body.
pub(super) fn parse(body: &[u8]) -> Result<Prompt, Fault> {
    let value: Value = serde_json::from_slice(body).map_err(|_| Fault::NotJson)?;
    let root = objects::request(&value, Spelling::Exact, "openai", "response")?;
    let cap = root.whole("max_output_tokens", 16)?;
    let mut conversation = Conversation::default();
    conversation.instruct(root.text("instructions")?.unwrap_or_default());
    match root.get("input") {
        Some(Value::String(text)) => conversation.say(true, text.clone()),
        Some(Value::Array(items)) if !items.is_empty() => {
            for item in root.objects("input")?.unwrap_or_default() {
                let said = item_text(&item)?;
                conversation.say(item.text("role")? == Some("user"), said);
            }
        }
        _ => return Err(root.missing("input")),
    }
    let mut included = root.list("include")?.into_iter().flatten();
    let logprobs = included.any(|part| part == LOGPROBS);
    Ok(Prompt {
        cache_use: None,
        tools: response_tools::read(&root)?.map(Box::new),
        flex: root.text("service_tier")? == Some("flex"),
        logprobs,
        model: root.text("model")?.unwrap_or_default().to_owned(),
        tokens: conversation.tokens(),
        text: conversation.prompt(),
        cap,
        shape: shape(&root)?,
    })
}

fn item_text(item: &Object<'_>) -> Result<String, Fault> {
    let rule = match item.text("type")? {
        None | Some("message") => "item_message",
        Some("function_call") => "item_function_call",
        Some("function_call_output") => "item_function_call_output",
        Some(_) => return Ok(String::new()),
    };
    objects::check(item, "openai", rule)?;
    if rule != "item_message" {
        return Ok(String::new());
    }
    if let Some(Value::String(text)) = item.get("content") {
        return Ok(text.clone());
    }
    let parts = item.objects("content")?.unwrap_or_default();
    let texts = parts.iter().map(|part| match part.text("type")? {
        Some("input_text" | "output_text") => part.text("text"),
        _ => Ok(None),
    });
    texts.map(|text| Ok(text?.unwrap_or_default())).collect()
}

fn shape(root: &Object<'_>) -> Result<Option<Shape>, Fault> {
    let Some(text) = root.object("text")? else {
        return Ok(None);
    };
    objects::check(&text, "openai", "response_text")?;
    let Some(format) = text.object("format")? else {
        return Ok(None);
    };
    match format.text("type")? {
        Some("json_object") => Ok(Some(Shape::Object)),
        Some("json_schema") => {
            objects::check(&format, "openai", "response_schema")?;
            Ok(format.get("schema").cloned().map(Shape::Schema))
        }
        _ => Ok(None),
    }
}

/// Appends a response.
pub(super) fn answer(out: &mut Vec<u8>, answer: &Answer<'_>) {
    let tokens = answer.tokens;
    let mut output = Vec::new();
    if tokens.reasoning > 0 {
        let text = "The simulator thinks of an answer.";
        output.push(
            json!({"type": "reasoning", "id": format!("rs_sim_{}", answer.call),
            "summary": [{"type": "summary_text", "text": text}]}),
        );
    }
    output.extend(response_tools::calls(answer));
    if answer.calls.is_empty() {
        let mut annotations = Vec::new();
        if let Some(url) = answer.found {
            output.push(response_tools::search(answer));
            let end = answer.text.chars().count();
            annotations.push(
                json!({"type": "url_citation", "url": url, "title": "A page",
                "start_index": 0, "end_index": end}),
            );
        }
        let logprobs = if answer.logprobs {
            openai::logprobs(answer.text)["content"].take()
        } else {
            json!([])
        };
        let part = match answer.finish {
            Finish::Refused => json!({"type": "refusal", "refusal": answer.text}),
            _ => json!({"type": "output_text", "text": answer.text, "annotations": annotations,
                "logprobs": logprobs}),
        };
        output.push(
            json!({"type": "message", "id": format!("msg_sim_{}", answer.call),
            "status": "completed", "role": "assistant", "content": [part]}),
        );
    }
    let (status, why) = match answer.finish {
        Finish::Stop | Finish::Refused => ("completed", Value::Null),
        Finish::Length => ("incomplete", json!({"reason": "max_output_tokens"})),
        Finish::Filtered | Finish::Blocked => ("incomplete", json!({"reason": "content_filter"})),
    };
    let response = json!({
        "id": format!("resp_sim_{}", answer.call), "object": "response",
        "created_at": answer.created, "status": status, "error": null,
        "incomplete_details": why, "model": answer.model, "output": output,
        "service_tier": if answer.flex { "flex" } else { "default" },
        "usage": {
            "input_tokens": tokens.prompt,
            "input_tokens_details": {"cached_tokens": tokens.cached},
            "output_tokens": tokens.completion(),
            "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
            "total_tokens": tokens.total()}});
    // Writing into memory does not fail.
    let _ = serde_json::to_writer(out, &response);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: Value) -> Result<Prompt, Fault> {
        parse(body.to_string().as_bytes())
    }

    #[test]
    fn a_prompt_is_read_from_a_text_and_from_items() {
        let text = read(json!({"model": "m", "input": "hi"})).unwrap();
        assert_eq!((&*text.model, &*text.text), ("m", "hi"));
        let items = json!([
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "input_text", "text": "one"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        ]);
        let body = json!({"model": "m", "input": items, "max_output_tokens": 16});
        let prompt = read(body).unwrap();
        assert_eq!((&*prompt.text, prompt.cap), ("one", Some(16)));
    }

    #[test]
    fn what_chat_has_under_other_names_is_refused() {
        for body in [
            json!({"model": "m", "messages": []}),
            json!({"model": "m", "input": "x", "max_tokens": 5}),
            json!({"model": "m", "input": "x", "response_format": {}}),
            json!({"model": "m", "input": []}),
            json!({"model": "m", "input": "x", "tools": [{"type": "function", "function": {}}]}),
            json!({"input": "x"}),
        ] {
            assert!(read(body.clone()).is_err(), "{body}");
        }
    }
}
