//! OpenAI's Responses API.

use serde_json::{Value, json};

use super::media;
use super::openai;
use super::prompt::{Answer, Fault, Finish, Prompt};
use super::response_tools;
use super::shape::Shape;
use super::tree::{Object, Spelling};

const FIELDS: [&str; 28] = [
    "model",
    "input",
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "temperature",
    "top_p",
    "top_logprobs",
    "text",
    "reasoning",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "previous_response_id",
    "conversation",
    "include",
    "metadata",
    "store",
    "stream",
    "background",
    "truncation",
    "service_tier",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt",
    "moderation",
];

/// What is asked for in `include` to be told the probabilities of tokens.
const LOGPROBS: &str = "message.output_text.logprobs";

/// Reads a request's body.
pub(super) fn parse(body: &[u8]) -> Result<Prompt<'static>, Fault> {
    let value: Value = serde_json::from_slice(body).map_err(|_| Fault::NotJson)?;
    let root = Object::new(&value, "", Spelling::Exact)?;
    root.only(&FIELDS)?;
    let model = root.text("model")?.ok_or_else(|| root.missing("model"))?;
    for asked in ["stream", "background"] {
        if root.flag(asked)? == Some(true) {
            let message = format!("Unsupported value: '{asked}' must be false.");
            return Err(Fault::invalid(asked, "unsupported_value", message));
        }
    }
    root.number("temperature", 0.0..=2.0)?;
    root.number("top_p", 0.0..=1.0)?;
    let cap = root.whole("max_output_tokens", 16)?;
    let mut bytes = root.text("instructions")?.unwrap_or_default().len();
    let (mut last, mut last_user) = (String::new(), None);
    match root.get("input") {
        Some(Value::String(text)) => {
            bytes += text.len();
            last_user = Some(text.clone());
        }
        Some(Value::Array(items)) if !items.is_empty() => {
            for item in root.objects("input")?.unwrap_or_default() {
                let said = item_text(&item)?;
                bytes += said.len();
                match item.text("role")? {
                    Some("user") => last_user = Some(said),
                    Some("system" | "developer" | "assistant") | None => last = said,
                    Some(role) => {
                        let message = format!("Invalid value: '{role}'.");
                        return Err(Fault::invalid(item.at("role"), "invalid_value", message));
                    }
                }
            }
        }
        _ => return Err(root.missing("input")),
    }
    if let Some(reasoning) = root.object("reasoning")? {
        reasoning.only(&["effort", "summary", "generate_summary"])?;
    }
    let mut included = root.list("include")?.into_iter().flatten();
    let logprobs = included.any(|part| part == LOGPROBS);
    Ok(Prompt {
        tools: response_tools::read(&root)?.map(Box::new),
        logprobs,
        model: model.to_owned().into(),
        text: last_user.unwrap_or(last).into(),
        tokens: (bytes as u64).div_ceil(4),
        cap,
        shape: shape(&root)?,
    })
}

fn item_text(item: &Object<'_>) -> Result<String, Fault> {
    match item.text("type")? {
        None | Some("message") => {}
        Some("function_call") => {
            item.only(&["type", "id", "call_id", "name", "arguments", "status"])?;
            return Ok(String::new());
        }
        Some("function_call_output") => {
            item.only(&["type", "id", "call_id", "output", "status"])?;
            return Ok(String::new());
        }
        Some(_) => return Ok(String::new()),
    }
    item.only(&["type", "role", "content", "id", "status"])?;
    if let Some(Value::String(text)) = item.get("content") {
        return Ok(text.clone());
    }
    let parts = item.objects("content")?;
    let mut all = String::new();
    for part in parts.ok_or_else(|| item.missing("content"))? {
        let fault = |name: &str, why: String| Fault::invalid(part.at(name), "invalid_value", why);
        match part.text("type")?.unwrap_or_default() {
            "input_text" | "output_text" => all += part.text("text")?.unwrap_or_default(),
            "input_image" => {
                part.only(&["type", "image_url", "file_id", "detail"])?;
                if let Some(url) = part.text("image_url")? {
                    let takes = ["image/png", "image/jpeg", "image/gif", "image/webp"];
                    media::check_url(url, &takes).map_err(|why| fault("image_url", why))?;
                }
            }
            "input_file" => {
                part.only(&[
                    "type",
                    "file_id",
                    "filename",
                    "file_data",
                    "file_url",
                    "detail",
                ])?;
                if let Some(data) = part.text("file_data")? {
                    media::check_url(data, &["application/pdf"])
                        .map_err(|why| fault("file_data", why))?;
                }
            }
            "refusal" => {}
            other => return Err(fault("type", format!("Invalid value: '{other}'."))),
        }
    }
    Ok(all)
}

fn shape(root: &Object<'_>) -> Result<Option<Shape>, Fault> {
    let Some(text) = root.object("text")? else {
        return Ok(None);
    };
    text.only(&["format", "verbosity"])?;
    let Some(format) = text.object("format")? else {
        return Ok(None);
    };
    match format.text("type")? {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(Shape::Object)),
        Some("json_schema") => {
            format.only(&["type", "name", "schema", "strict", "description"])?;
            format.text("name")?.ok_or_else(|| format.missing("name"))?;
            let schema = format
                .get("schema")
                .ok_or_else(|| format.missing("schema"))?;
            Ok(Some(Shape::Schema(schema.clone())))
        }
        _ => {
            let message = "Invalid value for 'text.format.type'.";
            Err(Fault::invalid("text.format.type", "invalid_value", message))
        }
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
        "service_tier": "default",
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

    fn read(body: Value) -> Result<Prompt<'static>, Fault> {
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
            json!({"model": "m", "input": "x", "stream": true}),
            json!({"model": "m", "input": "x", "tools": [{"type": "function", "function": {}}]}),
            json!({"input": "x"}),
        ] {
            assert!(read(body.clone()).is_err(), "{body}");
        }
    }
}
