//! The size of a request: bytes of text, and estimated input tokens.

use serde_json::{Map, Value};

use super::attachment;
use super::params::ResponseFormat;
use super::request::Request;

/// The most tokens that a provider adds to a message.
const MOST_PER_MESSAGE: u64 = 10;
/// More than the tokens that open models and their servers put before a conversation: gpt-oss about 70.
const HIDDEN_PROMPT: u64 = 200;
impl Request {
    /// Bytes of text in it, for estimates.
    pub(crate) fn text_bytes(&self) -> usize {
        self.rendered().map(|(_, text, _)| text.bytes()).sum()
    }

    /// Bytes it holds in memory, roughly.
    pub(crate) fn weight(&self) -> usize {
        let messages = self.messages.iter();
        let messages =
            messages.flat_map(|message| message.extra.values().chain([&message.content]));
        let native = self.native.iter().flat_map(|native| native.body().values());
        let values = messages.chain(self.extra.values()).chain(native);
        let values = values.chain(self.schema());
        let values: usize = values.map(|value| bytes(value, 32, 48)).sum();
        let system = self.system.as_ref().map_or(0, String::len);
        let input = self.input.as_ref().map_or(0, |input| input.as_str().len());
        size_of::<Self>() + 128 * (1 + self.messages.len()) + values + system + input
    }

    /// Its input tokens, roughly: one for every 4 bytes of text, of the schema and of the tools, a few for each message, and
    /// what files are likely to need.
    pub fn estimated_tokens(&self) -> u32 {
        let apart = self.schema().into_iter().chain(self.extra.get("tools"));
        // Quotation marks, colons and commas count.
        let apart: usize = apart.map(|value| bytes(value, 3, 4)).sum();
        let text = (self.text_bytes() + apart) / 4 + 4 * self.messages.len();
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
        let schema = self.schema().map_or(0, whole);
        let bytes = (messages + system + schema + fields(&self.extra)) as u64;
        bytes + HIDDEN_PROMPT + self.messages.len() as u64 * MOST_PER_MESSAGE
    }

    /// The schema that its answer must have.
    pub(super) fn schema(&self) -> Option<&Value> {
        match &self.params.response_format {
            Some(ResponseFormat::JsonSchema { schema, .. }) => Some(schema),
            _ => None,
        }
    }
}

/// Bytes of a value, roughly. Each value and each field has some in addition to its text.
fn bytes(value: &Value, of_value: usize, of_field: usize) -> usize {
    let inner = |value| bytes(value, of_value, of_field);
    of_value
        + match value {
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(inner).sum(),
            Value::Object(fields) => fields
                .iter()
                .map(|(name, value)| of_field + name.len() + inner(value))
                .sum(),
            _ => 0,
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
