//! Reads a chat request: the model, the text of the prompt, the limit of output, the format.

use serde_json::Value;

use super::{fields, format};
use crate::Vendor;
use crate::objects;
use crate::prompt::{Conversation, Fault, Prompt};
use crate::tool_rules;
use crate::tree::{Object, Spelling};

/// Reads a request's body as `vendor` does; without one everything is taken that any of them takes.
pub(crate) fn parse(body: &[u8], vendor: Option<Vendor>) -> Result<Prompt, Fault> {
    let value: Value = serde_json::from_slice(body).map_err(|_| Fault::NotJson)?;
    let root = objects::request(&value, Spelling::Exact, "openai", "chat")?;
    let bad_type = |at: &str, message: String| Err(Fault::invalid(at, "invalid_type", message));
    for name in ["seed", "random_seed"] {
        if root.get(name).is_some_and(|seed| !seed.is_i64()) {
            let message = format!("Invalid type for '{name}': expected an integer.");
            return bad_type(name, message);
        }
    }
    if pairs(&value) != colons(body) {
        return bad_type("", "Invalid request: a field comes twice.".to_owned());
    }
    fields::known(&root, vendor)?;
    let mut conversation = Conversation::default();
    for message in root.objects("messages")?.unwrap_or_default() {
        parts(&message, vendor)?;
        let said = message.get("content").map(text).unwrap_or_default();
        conversation.say(message.text("role")? == Some("user"), said);
    }
    fields::values(&root, vendor)?;
    let shape = format::read(&root, vendor)?;
    let newer = root.whole("max_completion_tokens", 0)?;
    Ok(Prompt {
        tools: tool_rules::openai(&root, vendor)?.map(Box::new),
        flex: root.text("service_tier")? == Some("flex"),
        model: root.text("model")?.unwrap_or_default().to_owned(),
        tokens: conversation.tokens(),
        text: conversation.prompt(),
        cap: newer
            .filter(|_| vendor != Some(Vendor::Local))
            .or(root.whole("max_tokens", 0)?),
        shape,
    })
}

/// Rejects parts of a message that the vendor does not support.
fn parts(message: &Object<'_>, vendor: Option<Vendor>) -> Result<(), Fault> {
    if message.get("content").is_none_or(Value::is_string) {
        return Ok(());
    }
    let rule = fields::part_rule(vendor);
    for part in message.objects("content")?.unwrap_or_default() {
        let rule = match part.get("type") {
            Some(_) => rule,
            None => "part_text",
        };
        objects::check(&part, "openai", rule)?;
        if part.text("type")? == Some("file") {
            file(&part)?;
        }
    }
    Ok(())
}

/// Rejects a file that has neither its data and name nor an id.
fn file(part: &Object<'_>) -> Result<(), Fault> {
    let file = part.object("file")?.ok_or_else(|| part.missing("file"))?;
    match (file.text("file_data")?, file.text("file_id")?) {
        (None, Some(_)) => Ok(()),
        (Some(_), None) if file.get("filename").is_none() => Err(file.missing("filename")),
        (Some(_), None) => Ok(()),
        _ => {
            let message = "Expected one of 'file_data' and 'file_id'.";
            Err(Fault::invalid(part.at("file"), "invalid_value", message))
        }
    }
}

/// A text, or those of all parts together.
fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts
            .iter()
            .filter_map(|part| part.get("text"))
            .map(text)
            .collect(),
        _ => String::new(),
    }
}

/// Number of fields of all objects in a body; a duplicate field counts once.
fn pairs(value: &Value) -> usize {
    match value {
        Value::Object(fields) => fields.len() + fields.values().map(pairs).sum::<usize>(),
        Value::Array(list) => list.iter().map(pairs).sum(),
        _ => 0,
    }
}

/// The colons outside of the strings of a body: one for each field as it was sent.
fn colons(body: &[u8]) -> usize {
    let (mut count, mut in_string, mut escaped) = (0, false, usize::MAX);
    for at in memchr::memchr3_iter(b'\\', b'"', b':', body) {
        match body[at] {
            _ if at == escaped => {}
            b'\\' => escaped = at + 1,
            b'"' => in_string = !in_string,
            _ => count += usize::from(!in_string),
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_user_message_makes_the_prompt_and_all_text_its_tokens() {
        let body = br#"{"model":"m","max_tokens":9,"max_completion_tokens":5,"temperature":0.2,
            "messages":[{"role":"system","content":"12345"},{"role":"user","content":"one"},
            {"role":"user","content":"say \"hi\""},
            {"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function",
                "function":{"name":"f","arguments":"{}"}}]},
            {"role":"tool","tool_call_id":"c","content":"x"}]}"#;
        let chat = parse(body, None).unwrap();
        assert_eq!((&*chat.model, &*chat.text), ("m", "say \"hi\""));
        assert_eq!((chat.tokens, chat.cap), (5, Some(5)));
    }

    #[test]
    fn the_text_of_parts_is_joined() {
        let body = br#"{"model":"m","messages":[{"role":"user","content":[
            {"type":"text","text":"one "},{"type":"image_url","image_url":{"url":"https://x"}},
            {"type":"text","text":"two"}]}]}"#;
        assert_eq!(parse(body, None).unwrap().text, "one two");
    }

    /// A body, or changes to a valid one, the place of the fault and its code.
    const MISTAKES: &str = r#"
{ =>  NotJson
[] =>  invalid_type
{} => model Missing
{"model":1} => model invalid_type
{"model":"m"} => messages Missing
{"model":"m","messages":"x"} => messages invalid_type
{"model":"m","messages":[]} => messages empty_array
{"model":"m","messages":[{"role":"god","content":"x"}]} => messages[0].role invalid_value
{"model":"m","messages":[{"role":"user","content":null}]} => messages[0].content invalid_type
"max_tokens":-1 => max_tokens invalid_type
"max_tokens":0 => max_tokens integer_below_min_value
"seed":0.5 => seed invalid_type
"stop":5 => stop invalid_type
"temperature":2.5 => temperature invalid_value
"top_p":-1 => top_p invalid_value
"seed":1,"x":1 => x Unknown
"seed":1,"seed":1 =>  invalid_type
"#;

    /// A request with these additional fields.
    fn with(fields: &str) -> String {
        format!(r#"{{"model":"m","messages":[{{"role":"user","content":"x"}}],{fields}}}"#)
    }

    #[test]
    fn bad_bodies_are_explained() {
        for row in MISTAKES.trim().lines() {
            let (body, wanted) = row.split_once(" => ").unwrap();
            let body = match body.strip_prefix('"') {
                Some(_) => with(body),
                None => body.to_owned(),
            };
            let fault = parse(body.as_bytes(), None).unwrap_err();
            let found = match &fault {
                Fault::NotJson => "NotJson",
                Fault::Unknown(_) => "Unknown",
                Fault::Missing(_) => "Missing",
                Fault::Invalid { code, .. } => code,
            };
            assert_eq!(format!("{} {found}", fault.at()), wanted, "{body}");
        }
    }

    /// A vendor, what it rejects in a request, and the place of the fault.
    const REFUSED: &str = r#"
mistral "temperature":1.6 temperature
mistral "seed":1 seed
groq "n":2 n
groq "random_seed":1 random_seed
openai "stop":["a","b","c","d","e"] stop
openai "top_k":1 top_k
xai "messagez":1 messagez
mistral "random_seed":-1 random_seed
mistral "reasoning_effort":"low" reasoning_effort
groq "service_tier":"default" service_tier
together "logprobs":true logprobs
cerebras "temperature":1.6 temperature
deepinfra "seed":-1 seed
"#;

    /// The same of a message.
    const REFUSED_IN_MESSAGES: &str = r#"
groq "name":"ann" messages[1].name
mistral "name":"ann" messages[1].name
xai "refusal":null messages[1].refusal
openai "reasoning_content":"x" messages[1].reasoning_content
openai "mood":1 messages[1].mood
"#;

    fn assert_refused(rows: &str, body: impl Fn(&str) -> String) {
        for row in rows.trim().lines() {
            let columns: Vec<&str> = row.split(' ').collect();
            let [vendor, fields, at] = columns[..] else {
                panic!("{row}");
            };
            let body = body(fields);
            let fault = parse(body.as_bytes(), Some(vendor.parse().unwrap())).unwrap_err();
            assert_eq!(fault.at(), at, "{row}");
            let local = parse(body.as_bytes(), Some(Vendor::Local));
            assert!(local.is_ok(), "{row}");
        }
    }

    #[test]
    fn vendors_differ_in_what_they_take() {
        assert_refused(REFUSED, with);
    }

    #[test]
    fn vendors_differ_in_what_a_message_may_have() {
        assert_refused(REFUSED_IN_MESSAGES, |field| {
            format!(
                r#"{{"model":"m","messages":[{{"role":"system","content":"x"}},
                {{"role":"user",{field},"content":"x"}}]}}"#
            )
        });
        let named = br#"{"model":"m","messages":[{"role":"user","name":"ann","content":"x"}]}"#;
        assert!(parse(named, Some(Vendor::OpenAi)).is_ok());
        let twice = br#"{"model":"m","messages":[{"role":"user","role":"user","content":"x"},
            {"role":"user","name":"a","name":"b","content":"x"}]}"#;
        assert!(parse(twice, None).is_err());
    }

    #[test]
    fn a_local_server_does_not_know_the_newer_cap() {
        let body = br#"{"model":"m","max_completion_tokens":5,
            "messages":[{"role":"user","content":"x"}]}"#;
        assert_eq!(parse(body, Some(Vendor::Local)).unwrap().cap, None);
        assert_eq!(parse(body, Some(Vendor::OpenAi)).unwrap().cap, Some(5));
    }

    #[test]
    fn every_prefix_of_a_good_body_is_refused_without_panic() {
        let body = br#"{"model":"m","messages":[{"role":"user","content":["#;
        for end in 0..body.len() {
            assert!(parse(&body[..end], None).is_err());
        }
    }
}
