//! Anthropic's Messages API.

use serde_json::{Value, json};

use super::grammar;
use super::http::{Request, Shown, Version};
use super::media;
use super::problems::dotted;
use super::prompt::{Answer, Fault, Finish, Problem, Prompt};
use super::shape::Shape;
use super::tool_rules;
use super::tree::{Object, Spelling};

const FIELDS: [&str; 21] = [
    "model",
    "messages",
    "max_tokens",
    "system",
    "stop_sequences",
    "output_config",
    "metadata",
    "stream",
    "thinking",
    "tools",
    "tool_choice",
    "service_tier",
    "container",
    "context_management",
    "inference_geo",
    "cache_control",
    "speed",
    "store",
    "mcp_servers",
    "cache_hint",
    "previous_thread_event_id",
];

/// Gone with version 2026-10-21.
const SAMPLING: [&str; 3] = ["temperature", "top_p", "top_k"];

/// Refuses a request without its version or without exactly one key.
pub(super) fn admit(request: &Request<'_>) -> Result<(), Problem<'static>> {
    let keys = request.credentials;
    let fault = |message: &str| Err(Problem::Fault(Fault::invalid("", "", message)));
    match (keys.x_api_key, keys.bearer) {
        (Shown::Nothing, Shown::Nothing) => return Err(Problem::NoKey),
        (Shown::Nothing, key) | (key, Shown::Nothing) => {
            if key == Shown::Wrong {
                return Err(Problem::WrongKey);
            }
        }
        _ => return fault("Only one of x-api-key and authorization may be sent."),
    }
    match request.version {
        Version::Absent => fault("anthropic-version: header is required"),
        Version::Other => fault("anthropic-version: this is not a valid version"),
        Version::Old | Version::New => Ok(()),
    }
}

/// Reads a request's body.
pub(super) fn parse(body: &[u8], version: Version) -> Result<Prompt<'static>, Fault> {
    let value: Value = serde_json::from_slice(body).map_err(|_| Fault::NotJson)?;
    let root = Object::new(&value, "", Spelling::Exact)?;
    match version {
        Version::New => root.only(&FIELDS)?,
        _ => root.only(&[&FIELDS[..], &SAMPLING].concat())?,
    }
    let model = root.text("model")?.ok_or_else(|| root.missing("model"))?;
    let cap = root.whole("max_tokens", 1)?;
    let cap = cap.ok_or_else(|| root.missing("max_tokens"))?;
    for name in ["temperature", "top_p"] {
        root.number(name, 0.0..=1.0)?;
    }
    if root.flag("stream")? == Some(true) {
        let message = "stream: the simulator does not stream";
        return Err(Fault::invalid("stream", "", message));
    }
    for stop in root.list("stop_sequences")?.into_iter().flatten() {
        if !stop.is_string() {
            let message = "stop_sequences: Input should be a list of strings";
            return Err(Fault::invalid("stop_sequences", "", message));
        }
        if stop.as_str().is_some_and(|stop| stop.trim().is_empty()) {
            let message = "stop_sequences: each stop sequence must contain non-whitespace";
            return Err(Fault::invalid("stop_sequences", "", message));
        }
    }
    settings(&root, cap)?;
    let system = match root.get("system") {
        Some(_) => text(&root, "system")?,
        None => String::new(),
    };
    let mut bytes = system.len();
    let messages = root.objects("messages")?;
    let messages = messages.ok_or_else(|| root.missing("messages"))?;
    if messages.is_empty() {
        let message = "messages: at least one message is required";
        return Err(Fault::invalid("messages", "", message));
    }
    let (mut last, mut last_user) = (String::new(), None);
    for message in &messages {
        message.only(&["role", "content"])?;
        let role = message
            .text("role")?
            .ok_or_else(|| message.missing("role"))?;
        let said = text(message, "content")?;
        bytes += said.len();
        match role {
            // What came of tools has no text of the user's.
            "user" if said.is_empty() && last_user.is_some() => {}
            "user" => last_user = Some(said),
            "assistant" => last = said,
            _ => {
                let at = message.at("role");
                let message = format!(
                    "messages: Unexpected role \"{role}\". The Messages API accepts \"user\" and \
                     \"assistant\"; a system prompt goes into the top-level field \"system\"."
                );
                return Err(Fault::invalid(at, "", message));
            }
        }
    }
    Ok(Prompt {
        tools: tool_rules::anthropic(&root)?.map(Box::new),
        logprobs: false,
        model: model.to_owned().into(),
        text: last_user.unwrap_or(last).into(),
        tokens: (bytes as u64).div_ceil(4),
        cap: Some(cap),
        shape: shape(&root)?.or_else(|| told(&system)),
    })
}

/// The shape that the system text asks for: there is no field for plain JSON, nor for every schema.
/// A model does as it is told.
fn told(system: &str) -> Option<Shape> {
    let schema = crate::shape::schema_told(system);
    let object = || system.contains("JSON object").then_some(Shape::Object);
    schema.map(Shape::Schema).or_else(object)
}

/// Refuses what other APIs have under the same names.
fn settings(root: &Object<'_>, cap: u64) -> Result<(), Fault> {
    let fault = |at: &str, message: String| Err(Fault::invalid(at, "", message));
    if let Some(metadata) = root.object("metadata")? {
        metadata.only(&["user_id"])?;
        metadata.text("user_id")?;
    }
    if let Some(tier) = root.text("service_tier")?
        && !["auto", "standard_only"].contains(&tier)
    {
        let message = "service_tier: Input should be 'auto' or 'standard_only'";
        return fault("service_tier", message.to_owned());
    }
    let thinking = root.object("thinking")?;
    let budget = thinking.map(|thinking| thinking.whole("budget_tokens", 1024));
    if let Some(budget) = budget.transpose()?.flatten()
        && budget >= cap
    {
        let message = "`max_tokens` must be greater than `thinking.budget_tokens`.".to_owned();
        return fault("max_tokens", message);
    }
    Ok(())
}

/// The text of a string or of a list of blocks.
fn text(object: &Object<'_>, name: &str) -> Result<String, Fault> {
    let empty = |at: String| {
        let message = format!("{}: text content must be non-empty", dotted(&at));
        Fault::invalid(at, "", message)
    };
    let value = object.get(name).ok_or_else(|| object.missing(name))?;
    if let Value::String(text) = value {
        return if text.is_empty() {
            Err(empty(object.at(name)))
        } else {
            Ok(text.clone())
        };
    }
    let blocks = object.objects(name)?.unwrap_or_default();
    if blocks.is_empty() {
        return Err(empty(object.at(name)));
    }
    let mut all = String::new();
    for block in blocks {
        let kind = block.text("type")?.ok_or_else(|| block.missing("type"))?;
        if kind == "text" {
            block.only(&["type", "text", "cache_control", "citations"])?;
            let text = block.text("text")?.ok_or_else(|| block.missing("text"))?;
            if text.is_empty() {
                return Err(empty(block.at("text")));
            }
            all += text;
        }
        if let "image" | "document" = kind {
            attached(&block, kind)?;
        }
    }
    Ok(all)
}

/// The largest picture, as base64.
const LARGEST_IMAGE: usize = 10 << 20;

/// Refuses a picture or document that the API would refuse.
fn attached(block: &Object<'_>, kind: &str) -> Result<(), Fault> {
    let known = [
        "type",
        "source",
        "cache_control",
        "title",
        "context",
        "citations",
    ];
    block.only(if kind == "image" { &known[..3] } else { &known })?;
    let source = block.object("source")?;
    let source = source.ok_or_else(|| block.missing("source"))?;
    let text = |name: &str| source.text(name)?.ok_or_else(|| source.missing(name));
    let fault = |name: &str, why: String| {
        let at = source.at(name);
        let message = format!("{}: {why}", dotted(&at));
        Err(Fault::invalid(at, "", message))
    };
    match (kind, text("type")?) {
        (_, "url") => source.only(&["type", "url"]),
        (_, "file") => source.only(&["type", "file_id"]),
        ("document", "content") => source.only(&["type", "content"]),
        ("document", "text") => {
            source.only(&["type", "media_type", "data"])?;
            text("data")?;
            match text("media_type")? {
                "text/plain" => Ok(()),
                _ => fault("media_type", "Input should be 'text/plain'".to_owned()),
            }
        }
        (kind, "base64") => {
            source.only(&["type", "media_type", "data"])?;
            let takes: &[&str] = match kind {
                "image" => &["image/jpeg", "image/png", "image/gif", "image/webp"],
                _ => &["application/pdf"],
            };
            let (media, data) = (text("media_type")?, text("data")?);
            if !takes.contains(&media) {
                let takes = takes.join("', '");
                return fault("media_type", format!("Input should be '{takes}'"));
            }
            if kind == "image" && data.len() > LARGEST_IMAGE {
                let length = data.len();
                let why =
                    format!("image exceeds 10 MB maximum: {length} bytes > {LARGEST_IMAGE} bytes");
                return fault("data", why);
            }
            media::check(media, data).or_else(|why| fault("data", why))
        }
        (_, other) => fault(
            "type",
            format!("Input tag '{other}' does not match any of the expected tags"),
        ),
    }
}

fn shape(root: &Object<'_>) -> Result<Option<Shape>, Fault> {
    let Some(output) = root.object("output_config")? else {
        return Ok(None);
    };
    output.only(&["format", "effort"])?;
    if let Some(effort) = output.text("effort")?
        && !["low", "medium", "high", "xhigh", "max"].contains(&effort)
    {
        let message = format!("output_config.effort: unexpected value '{effort}'");
        return Err(Fault::invalid("output_config.effort", "", message));
    }
    let Some(format) = output.object("format")? else {
        return Ok(None);
    };
    format.only(&["type", "schema"])?;
    let kind = format.text("type")?.ok_or_else(|| format.missing("type"))?;
    if kind != "json_schema" {
        let message = "output_config.format.type: Input should be 'json_schema'";
        return Err(Fault::invalid(format.at("type"), "", message));
    }
    let schema = format
        .get("schema")
        .ok_or_else(|| format.missing("schema"))?;
    let at = format.at("schema");
    Object::new(schema, at.as_str(), Spelling::Exact)?;
    grammar::check(schema).map_err(|problem| {
        let message = format!("{at}: {problem}");
        Fault::invalid(at, "", message)
    })?;
    Ok(Some(Shape::Schema(schema.clone())))
}

/// Appends a message.
pub(super) fn answer(out: &mut Vec<u8>, answer: &Answer<'_>) {
    let tokens = answer.tokens;
    let mut content = Vec::new();
    if tokens.reasoning > 0 {
        content.push(json!({"type": "thinking", "signature": "c2ltdWxhdGVk",
            "thinking": "The simulator thinks of an answer."}));
    }
    let refused = matches!(
        answer.finish,
        Finish::Refused | Finish::Filtered | Finish::Blocked
    );
    let found = answer.found.filter(|_| answer.calls.is_empty());
    if let Some(url) = found {
        let id = format!("srvtoolu_sim_{}", answer.call);
        content.push(
            json!({"type": "server_tool_use", "id": id, "name": "web_search",
            "input": {"query": "simulated"}}),
        );
        let page = json!({"type": "web_search_result", "url": url, "title": "A page",
            "encrypted_content": "c2ltdWxhdGVk", "page_age": null});
        content.push(json!({"type": "web_search_tool_result", "tool_use_id": id,
            "content": [page]}));
    }
    if !answer.text.is_empty() && !refused {
        let mut text = json!({"type": "text", "text": answer.text});
        if let Some(url) = found {
            text["citations"] = json!([{"type": "web_search_result_location", "url": url,
                "title": "A page", "encrypted_index": "c2ltdWxhdGVk", "cited_text": "A page."}]);
        }
        content.push(text);
    }
    for (call, number) in answer.calls.iter().zip(1_u32..) {
        let id = format!("toolu_sim_{}_{number}", answer.call);
        content.push(json!({"type": "tool_use", "id": id, "name": call.name,
            "input": call.arguments}));
    }
    let stop_reason = match answer.finish {
        Finish::Stop if !answer.calls.is_empty() => "tool_use",
        Finish::Stop => "end_turn",
        Finish::Length => "max_tokens",
        Finish::Refused | Finish::Filtered | Finish::Blocked => "refusal",
    };
    let mut message = json!({
        "id": format!("msg_sim_{}", answer.call), "type": "message", "role": "assistant",
        "model": answer.model, "content": content,
        "stop_reason": stop_reason, "stop_sequence": null,
        "usage": {
            "input_tokens": tokens.prompt - tokens.cached,
            "cache_creation_input_tokens": 0, "cache_read_input_tokens": tokens.cached,
            "output_tokens": tokens.completion(),
            "output_tokens_details": {"thinking_tokens": tokens.reasoning},
            "service_tier": "standard"}});
    if found.is_some() {
        message["usage"]["server_tool_use"] = json!({"web_search_requests": 1});
    }
    if refused {
        message["stop_details"] = json!({"type": "refusal", "category": "general_harms",
            "explanation": answer.text});
    }
    let _ = serde_json::to_writer(out, &message);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problems;

    fn fault(body: &Value, version: Version) -> String {
        let fault = parse(body.to_string().as_bytes(), version).unwrap_err();
        let mut out = Vec::new();
        let problem = Problem::Fault(fault);
        assert_eq!(problems::write(&mut out, &problem, "anthropic", 1), 400);
        let body: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(body["error"]["type"], "invalid_request_error");
        body["error"]["message"].as_str().unwrap().to_owned()
    }

    fn with(name: &str, value: Value) -> Value {
        let mut body = json!({"model": "m", "max_tokens": 5,
            "messages": [{"role": "user", "content": "hi"}]});
        body[name] = value;
        body
    }

    #[test]
    fn a_prompt_is_read_from_strings_and_blocks() {
        let closed = json!({"type": "object", "additionalProperties": false});
        let body = json!({"model": "m", "max_tokens": 5, "system": "12345", "messages": [
            {"role": "user", "content": "x"}, {"role": "assistant", "content": "yes?"},
            {"role": "user", "content": [{"type": "text", "text": "one "},
                {"type": "image", "source": {"type": "url", "url": "https://x"}}, {"type": "text", "text": "two"}]}],
            "output_config": {"effort": "low",
                "format": {"type": "json_schema", "schema": closed}}});
        let prompt = parse(body.to_string().as_bytes(), Version::New).unwrap();
        assert_eq!((&*prompt.model, &*prompt.text), ("m", "one two"));
        assert_eq!((prompt.tokens, prompt.cap), (5, Some(5)));
        assert_eq!(prompt.shape, Some(Shape::Schema(closed)));
    }

    #[test]
    fn json_is_answered_where_the_system_text_asks_for_it() {
        let body = with("system", json!("Answer with one JSON object."));
        let prompt = parse(body.to_string().as_bytes(), Version::New).unwrap();
        assert_eq!(prompt.shape, Some(Shape::Object));
    }

    #[test]
    fn a_schema_in_the_system_text_is_answered_to() {
        for (system, expected) in [
            (
                "Be brief.\n\nAnswer with JSON that fits this JSON Schema and nothing else:\n\
                 {\"type\": \"array\"}\n\nThanks.",
                Some(Shape::Schema(json!({"type": "array"}))),
            ),
            ("I like each JSON Schema.", None),
            ("It fits this JSON Schema: {\"type\"", None),
        ] {
            let body = with("system", json!(system));
            let prompt = parse(body.to_string().as_bytes(), Version::New).unwrap();
            assert_eq!(prompt.shape, expected);
        }
    }

    #[test]
    fn the_new_version_takes_no_sampling_fields() {
        for name in SAMPLING {
            let body = with(name, json!(1));
            assert!(parse(body.to_string().as_bytes(), Version::Old).is_ok());
            let wanted = format!("{name}: Extra inputs are not permitted");
            assert_eq!(fault(&body, Version::New), wanted);
        }
    }

    #[test]
    fn mistakes_are_named_with_their_places() {
        let format = |format: Value| with("output_config", json!({"format": format}));
        let said = |message: Value| with("messages", json!([message]));
        let cases = [
            (
                with("seed", json!(1)),
                "seed: Extra inputs are not permitted",
            ),
            (
                with("output_format", json!({})),
                "output_format: Extra inputs are not permitted",
            ),
            (
                with("max_tokens", json!(null)),
                "max_tokens: Field required",
            ),
            (
                with("max_tokens", json!(0)),
                "'max_tokens' must be at least 1.",
            ),
            (
                with("messages", json!([])),
                "messages: at least one message is required",
            ),
            (
                said(json!({"role": "system", "content": "x"})),
                "messages: Unexpected role \"system\".",
            ),
            (
                said(json!({"role": "user", "content": "x", "name": "y"})),
                "messages.0.name: Extra inputs are not permitted",
            ),
            (
                said(json!({"role": "user", "content": ""})),
                "messages.0.content: text content",
            ),
            (
                format(json!({"type": "json_object"})),
                "output_config.format.type: Input should",
            ),
            (
                format(json!({"type": "json_schema"})),
                "output_config.format.schema: Field required",
            ),
            (
                format(json!({"type": "json_schema", "schema": {"type": "object"}})),
                "output_config.format.schema: For 'object' type, 'additionalProperties' must",
            ),
            (
                format(json!({"type": "json_schema", "schema": {}, "name": "x"})),
                "output_config.format.name: Extra inputs are not permitted",
            ),
            (
                with("metadata", json!({"run": "r7"})),
                "metadata.run: Extra inputs are not permitted",
            ),
            (
                with("service_tier", json!("flex")),
                "service_tier: Input should be",
            ),
            (
                with("stop_sequences", json!(["END", "\n"])),
                "stop_sequences: each stop sequence must contain",
            ),
            (
                with("system", json!("")),
                "system: text content must be non-empty",
            ),
            (
                with("output_config", json!({"effort": "minimal"})),
                "output_config.effort: unexpected value 'minimal'",
            ),
            (
                with("tools", json!([{"type": "function", "function": {}}])),
                "tools: Input tag 'function' does not match",
            ),
            (
                with(
                    "thinking",
                    json!({"type": "enabled", "budget_tokens": 1024}),
                ),
                "`max_tokens` must be greater than",
            ),
            (
                with("temperature", json!(1.5)),
                "'temperature' must be from 0 to 1, found 1.5.",
            ),
        ];
        for (body, wanted) in cases {
            let message = fault(&body, Version::Old);
            assert!(message.starts_with(wanted), "{message}");
        }
    }
}
