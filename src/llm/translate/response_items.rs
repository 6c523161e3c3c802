//! Answers as output items of OpenAI's Responses API, which are input items of the next request.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::llm::reply_details::{ReplyDetails, ToolCall};
use crate::llm::response::{FinishReason, Response};

/// What a provider requires in the next request in addition to texts and calls. It is in the field `encrypted_content`
/// of an item with reasoning.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Signed {
    /// The details of the [reasoning](crate::client::Reasoning::details).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<Value>,
    /// The signatures of tool calls, by their ids.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub signatures: Map<String, Value>,
}

/// The beginning of such a field, by which it differs from OpenAI's.
const MARK: &str = "batchwright:";

impl Signed {
    fn of(details: &ReplyDetails) -> Self {
        let signed = |call: &ToolCall| {
            let signature = call.signature.clone()?;
            Some((call.id.clone(), Value::from(signature)))
        };
        let reasoning = details.reasoning.as_ref();
        Self {
            details: reasoning.map_or_else(Vec::new, |reasoning| reasoning.details.clone()),
            signatures: details.tool_calls.iter().filter_map(signed).collect(),
        }
    }

    fn packed(&self) -> Option<String> {
        if self.details.is_empty() && self.signatures.is_empty() {
            return None;
        }
        let json = serde_json::to_vec(self).ok()?;
        Some(format!("{MARK}{}", STANDARD.encode(json)))
    }

    /// Reads the field; `None` if the field is not ours.
    pub fn unpacked(text: &str) -> Option<Self> {
        let json = STANDARD.decode(text.strip_prefix(MARK)?).ok()?;
        serde_json::from_slice(&json).ok()
    }

    /// Whether an item has such a field.
    pub fn is_in(item: &Value) -> bool {
        let field = item.get("encrypted_content").and_then(Value::as_str);
        field.is_some_and(|text| text.starts_with(MARK))
    }
}

impl Response {
    /// The answer as output items of OpenAI's Responses API: reasoning, a message and calls of functions. As items of
    /// the `input` of a [further request](crate::Request::from_native) they continue the conversation, also at a
    /// provider with another API. `id` is part of their ids. If the answer
    /// [keeps its reply](crate::Request::with_keep_reply) and OpenAI's Responses API sent it, the items are those of
    /// the reply.
    ///
    /// ```
    /// use batchwright::Response;
    /// let items = Response::new("anthropic", "2").items("1");
    /// assert_eq!(items[0]["id"], "msg_1");
    /// assert_eq!(items[0]["content"][0]["text"], "2");
    /// ```
    pub fn items(&self, id: &str) -> Vec<Value> {
        let details = self.details();
        if let Some(items) = replied(details) {
            return items;
        }
        let mut items = Vec::new();
        let text = details.reasoning.as_ref().map(|thought| &*thought.text);
        let text = text.filter(|text| !text.is_empty());
        let signed = Signed::of(details).packed();
        if text.is_some() || signed.is_some() {
            let summary = text.map(|text| json!({"type": "summary_text", "text": text}));
            let summary: Vec<Value> = summary.into_iter().collect();
            let mut item =
                json!({"type": "reasoning", "id": format!("rs_{id}"), "summary": summary});
            if let Some(signed) = signed {
                item["encrypted_content"] = signed.into();
            }
            items.push(item);
        }
        if !self.text.is_empty() || details.tool_calls.is_empty() {
            let logprobs = details.logprobs.as_ref();
            let logprobs = logprobs.and_then(|json| json.parse::<Value>().ok());
            let logprobs = logprobs.and_then(|mut json| match json {
                Value::Array(_) => Some(json),
                _ => Some(json.get_mut("content")?.take()).filter(Value::is_array),
            });
            let part = json!({
                "type": "output_text",
                "text": self.text,
                "annotations": annotations(&details.citations),
                "logprobs": logprobs.unwrap_or_else(|| json!([])),
            });
            let status = match &self.finish_reason {
                FinishReason::Length => "incomplete",
                FinishReason::Other(word) if word == "content_filter" => "incomplete",
                _ => "completed",
            };
            items.push(json!({
                "type": "message", "id": format!("msg_{id}"), "status": status, "role": "assistant",
                "content": [part],
            }));
        }
        for (n, call) in details.tool_calls.iter().enumerate() {
            let arguments = match &call.arguments {
                Value::String(written) => written.clone(),
                arguments => arguments.to_string(),
            };
            items.push(json!({
                "type": "function_call", "id": format!("fc_{id}_{n}"), "status": "completed",
                "call_id": call.id, "name": call.name, "arguments": arguments,
            }));
        }
        items
    }
}

/// The items of a reply of the Responses API.
fn replied(details: &ReplyDetails) -> Option<Vec<Value>> {
    let reply = details.reply.as_ref()?;
    let mut reply: Map<String, Value> = reply.parse().ok()?;
    match (reply.remove("object"), reply.remove("output")) {
        (Some(Value::String(kind)), Some(Value::Array(items))) if kind == "response" => Some(items),
        _ => None,
    }
}

/// The citations of web pages, in the format of chat or of the Responses API.
fn annotations(citations: &[Value]) -> Vec<Value> {
    let of_pages = citations.iter().filter(|one| one["type"] == "url_citation");
    let flat = of_pages.map(|citation| match citation.get("url_citation") {
        Some(Value::Object(fields)) => {
            let mut flat = json!({"type": "url_citation"});
            for (name, value) in fields {
                flat[name] = value.clone();
            }
            flat
        }
        _ => citation.clone(),
    });
    flat.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Error;
    use crate::llm::native::NativeFormat;
    use crate::llm::reply_details::{RawJson, Reasoning};
    use crate::llm::request::Request;

    fn further(items: Vec<Value>) -> Result<Request, Error> {
        let body = json!({"input": items, "include": [
            "reasoning.encrypted_content", "message.output_text.logprobs"]});
        Request::from_native(NativeFormat::OpenAiResponses, body)
    }

    #[test]
    fn an_answer_as_items_is_the_message_that_continues_the_conversation() {
        let mut details = ReplyDetails::default();
        let mut reasoning = Reasoning::new("hm");
        reasoning.details = vec![json!({"type": "thinking", "signature": "s"})];
        details.reasoning = Some(reasoning);
        details.tool_calls = vec![ToolCall::new("c", "add", json!("{}"))];
        details.tool_calls[0].signature = Some("sign".to_owned());
        for text in ["", "One moment."] {
            let answer = Response::new("p", text).with_details(details.clone());
            let items = answer.items("7");
            let request = further(items.clone()).unwrap();
            assert_eq!(request.native.as_ref().unwrap().untranslated(), None);
            assert_eq!(request.messages, [answer.message()]);
            assert!(Signed::is_in(&items[0]), "{items:?}");
        }
    }

    #[test]
    fn reasoning_after_its_message_belongs_to_it() {
        let mut details = ReplyDetails::default();
        let mut reasoning = Reasoning::new("");
        reasoning.details = vec![json!({"thoughtSignature": "s"})];
        details.reasoning = Some(reasoning);
        let answer = Response::new("p", "2").with_details(details);
        let mut items = answer.items("7");
        // As a stream has them that got the signature at its end.
        items.reverse();
        items.push(json!({"role": "user", "content": "And then?"}));
        let request = further(items).unwrap();
        assert_eq!(request.messages[0], answer.message());
        assert_eq!(request.messages.len(), 2);
    }

    #[test]
    fn the_items_of_a_reply_are_returned_unchanged() {
        let items = json!([{"type": "web_search_call", "id": "ws_1"}, {"type": "message"}]);
        let answer = |kind: &str| {
            let reply = json!({"object": kind, "output": items});
            let details = ReplyDetails {
                reply: Some(RawJson::new(&reply.to_string())),
                ..ReplyDetails::default()
            };
            Response::new("p", "hi").with_details(details).items("1")
        };
        assert_eq!(json!(answer("response")), items);
        assert_eq!(answer("other")[0]["id"], "msg_1");
    }

    #[test]
    fn citations_and_probabilities_have_the_form_of_items() {
        let mut details = ReplyDetails::default();
        let page =
            json!({"url": "https://example.org", "title": "", "start_index": 0, "end_index": 2});
        details.citations = vec![
            json!({"type": "url_citation", "url_citation": page}),
            json!("x"),
        ];
        details.logprobs = Some(RawJson::new(r#"{"content": [{"token": "hi"}]}"#));
        let mut answer = Response::new("p", "hi").with_details(details);
        answer.finish_reason = FinishReason::Length;
        let message = &answer.items("1")[0];
        let part = &message["content"][0];
        assert_eq!(message["status"], "incomplete");
        assert_eq!(part["annotations"][0]["url"], "https://example.org");
        assert_eq!(part["annotations"].as_array().unwrap().len(), 1);
        assert_eq!(part["logprobs"], json!([{"token": "hi"}]));
    }
}
