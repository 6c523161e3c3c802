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
    fields::known(&root, vendor)?;
    let mut conversation = Conversation::default();
    for message in root.objects("messages")?.unwrap_or_default() {
        parts(&message, vendor)?;
        let said = message.get("content").map(text).unwrap_or_default();
        conversation.say(message.text("role")? == Some("user"), said);
    }
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
    }
    Ok(())
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

    /// A body, or changes to a valid one, the place of the fault and its kind.
    const MISTAKES: &str = r#"
{ =>  NotJson
[] =>  Invalid
{"model":"m"} => messages Missing
{"model":"m","messages":"x"} => messages Invalid
{"model":"m","messages":[]} => messages Invalid
{"model":"m","messages":[{"role":"god","content":"x"}]} => messages[0].role Invalid
{"model":"m","messages":[{"role":"user","content":null}]} => messages[0].content Missing
"max_tokens":-1 => max_tokens Invalid
"stop":5 => stop Invalid
"seed":1,"x":1 => x Unknown
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
                Fault::Invalid { .. } => "Invalid",
            };
            assert_eq!(format!("{} {found}", fault.at()), wanted, "{body}");
        }
    }

    /// A vendor, what it rejects in a message, and the place of the fault.
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
    fn vendors_differ_in_what_a_message_may_have() {
        assert_refused(REFUSED_IN_MESSAGES, |field| {
            format!(
                r#"{{"model":"m","messages":[{{"role":"system","content":"x"}},
                {{"role":"user",{field},"content":"x"}}]}}"#
            )
        });
        let named = br#"{"model":"m","messages":[{"role":"user","name":"ann","content":"x"}]}"#;
        assert!(parse(named, Some(Vendor::OpenAi)).is_ok());
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
