//! The size of a request: bytes of text, and estimated input tokens.

use serde_json::{Map, Value};

use super::attachment;
use super::params::ResponseFormat;
use super::request::{Request, Text, text_bytes};

/// The most tokens that a provider adds to a message.
const MOST_PER_MESSAGE: u64 = 10;
/// More than the tokens that open models and their servers put before a conversation: gpt-oss about 70.
const HIDDEN_PROMPT: u64 = 200;
impl Request {
    /// Bytes of text in it, for estimates.
    pub(crate) fn text_bytes(&self) -> usize {
        self.rendered()
            .map(|(_, content, _)| match content {
                Text::Plain(text) => text.len(),
                Text::Value(content) => text_bytes(content),
            })
            .sum()
    }

    /// Its input tokens, roughly: one for every 4 bytes of text, of the schema and of the tools, a few for each message, and
    /// what files are likely to need.
    pub fn estimated_tokens(&self) -> u32 {
        let (schema, tools) = self.schema_and_tools();
        let text = (self.text_bytes() + schema + tools) / 4 + 4 * self.messages.len();
        let all = attachment::estimated_tokens(self.files()).saturating_add(text as u64);
        u32::try_from(all).unwrap_or(u32::MAX)
    }

    /// An upper bound of the input tokens of its texts, because a token is at least one byte: the bytes of everything that
    /// is sent, and more for each message than any provider adds.
    pub(crate) fn most_text_tokens(&self) -> u64 {
        let whole = |value: &Value| match value {
            Value::String(text) => text.len(),
            other => other.to_string().len(),
        };
        let fields = |fields: &Map<String, Value>| -> usize {
            let fields = fields.iter();
            fields
                .map(|(name, value)| name.len() + 4 + whole(value))
                .sum()
        };
        let messages = self.messages.iter();
        let messages: usize = messages
            .map(|message| whole(&message.content) + fields(&message.extra))
            .sum();
        let system = self.system.as_ref().map_or(0, String::len);
        let schema = match &self.params.response_format {
            Some(ResponseFormat::JsonSchema { schema, .. }) => whole(schema),
            _ => 0,
        };
        let bytes = (messages + system + schema + fields(&self.extra)) as u64;
        bytes + HIDDEN_PROMPT + self.messages.len() as u64 * MOST_PER_MESSAGE
    }

    /// Bytes of its schema and of its tools as JSON.
    fn schema_and_tools(&self) -> (usize, usize) {
        let schema = match &self.params.response_format {
            Some(ResponseFormat::JsonSchema { schema, .. }) => json_bytes(schema),
            _ => 0,
        };
        (schema, self.extra.get("tools").map_or(0, json_bytes))
    }
}

/// Bytes of a value as JSON, roughly.
fn json_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|item| json_bytes(item) + 1).sum::<usize>(),
        Value::Object(fields) => {
            let fields = fields.iter();
            2 + fields
                .map(|(name, value)| name.len() + 4 + json_bytes(value))
                .sum::<usize>()
        }
        _ => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_grows_with_messages_schema_and_tools() {
        let tokens = |more: &str| {
            let text = "Name a prime, und größer als 10: 素数";
            let message = format!(r#"{{"role": "user", "content": "{text}"}}"#);
            let more = more.replace("MESSAGE", &message);
            let request = format!(r#"{{"messages": [{message}{more}}}"#);
            let request: Request = serde_json::from_str(&request).unwrap();
            request.estimated_tokens()
        };
        let plain = tokens("]");
        for more in [
            r#"], "system": "Be brief. Be brief.""#,
            ", MESSAGE]",
            r#"], "response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": {"type": "object"}}}"#,
            r#"], "extra": {"tools": [{"type": "function", "function": {"name": "primes"}}]}"#,
        ] {
            assert!(tokens(more) > plain, "{more}");
        }
    }
}
