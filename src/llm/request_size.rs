//! The size of a request: bytes of text, and estimated input tokens.

use serde_json::{Map, Value};

use crate::money::workload::InputSize;

use super::attachment;
use super::params::ResponseFormat;
use super::request::{Request, Text, text_bytes};

/// The most tokens that a provider adds to a message.
const MOST_PER_MESSAGE: u64 = 10;
/// The most tokens of the instructions that a provider adds if there are tools.
const TOOLS_PROMPT: u64 = 600;
/// More than the tokens that open models and their servers put before a conversation: gpt-oss about 70.
const HIDDEN_PROMPT: u64 = 200;
/// Estimates for files may be wrong by this factor.
const FILES: u64 = 4;

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

    /// Input tokens, roughly: one for every 4 bytes of text, of the schema and of the tools, a few for each message, and
    /// what files are likely to need.
    pub(crate) fn estimated_tokens(&self) -> u32 {
        let (schema, tools) = self.schema_and_tools();
        let text = (self.text_bytes() + schema + tools) / 4 + 4 * self.messages.len();
        let all = attachment::estimated_tokens(self.files()).saturating_add(text as u64);
        u32::try_from(all).unwrap_or(u32::MAX)
    }

    /// The input tokens of the request, estimated from its bytes, for an [`Estimate`](crate::Estimate). Not all providers
    /// count the schema.
    ///
    /// ```
    /// use batchwright::plan::{ModelReplies, Workload};
    /// use batchwright::{Estimate, Request};
    /// let mut work = Workload::default();
    /// for request in ["Name a prime.", "Name a river."].map(Request::new) {
    ///     work.add(request.input_size(), Some(50));
    /// }
    /// let estimate = Estimate::new(&work, &ModelReplies::default(), &ModelReplies::default());
    /// assert_eq!((estimate.requests, estimate.output_tokens.high), (2, Some(100)));
    /// ```
    pub fn input_size(&self) -> InputSize {
        let mut size = InputSize::default();
        for (_, content, _) in self.rendered() {
            match content {
                Text::Plain(text) => size += InputSize::of_text(text),
                Text::Value(content) => size += size_of_content(content),
            }
        }
        let (schema, tools) = self.schema_and_tools();
        let files = attachment::estimated_tokens(self.files());
        let messages = 1 + self.messages.len() as u64;
        let instructions = if tools > 0 { TOOLS_PROMPT } else { 0 };
        let added = (schema + tools).div_ceil(2) as u64 + messages * MOST_PER_MESSAGE;
        size += InputSize {
            least: files / FILES,
            likely: 0,
            most: files
                .saturating_mul(FILES)
                .saturating_add(added + instructions),
        };
        size.likely = self.estimated_tokens().into();
        size
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

fn size_of_content(content: &Value) -> InputSize {
    let mut size = InputSize::default();
    match content {
        Value::String(text) => size += InputSize::of_text(text),
        Value::Array(parts) => {
            for part in parts {
                match part["text"].as_str() {
                    Some(text) => size += InputSize::of_text(text),
                    None if part.is_number() => size += InputSize::TOKEN,
                    None => {}
                }
            }
        }
        _ => {}
    }
    size
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
    use serde_json::json;

    use super::*;
    use crate::llm::request::{Message, Role};

    #[test]
    fn the_range_has_the_likely_tokens_in_it_and_grows_with_schema_and_tools() {
        let plain = Request::new("Name a prime, und größer als 10: 素数");
        let mut asked = plain.clone();
        asked.system = Some("Be brief.".repeat(20));
        asked.messages.push(Message::new(Role::User, "More."));
        let mut with_schema = plain.clone();
        with_schema.params.response_format = Some(ResponseFormat::JsonSchema {
            name: "prime".to_owned(),
            schema: json!({"type": "object", "properties": {"prime": {"type": "integer"}}}),
            strict: true,
        });
        let mut with_tools = plain.clone();
        let tools = json!([{"type": "function", "function": {"name": "primes"}}]);
        with_tools.extra.insert("tools".to_owned(), tools);
        let tokens = Request::new(json!([1, 2, 3, 4]).to_string());
        for request in [&plain, &asked, &with_schema, &with_tools, &tokens] {
            let size = request.input_size();
            assert!(0 < size.least, "{size:?}");
            assert!(
                size.least < size.likely && size.likely < size.most,
                "{size:?}"
            );
        }
        let size = plain.input_size();
        for larger in [&asked, &with_schema, &with_tools] {
            assert!(larger.input_size().most > size.most + 20);
            assert!(larger.input_size().likely > size.likely);
        }
    }
}
