//! The size of a request: bytes of text, and estimated input tokens.

use serde_json::{Map, Value};

use crate::money::prices::searches;
use crate::money::workload::InputSize;

use super::attachment;
use super::params::{RequestTask, ResponseFormat};
use super::request::{Request, Text, text_bytes};
use super::spending::BILLED_APART;
use super::tokenizer::{self, Count};

/// The most tokens that a provider adds to a message.
const MOST_PER_MESSAGE: u64 = 10;
/// The most tokens of the instructions that a provider adds if there are tools.
const TOOLS_PROMPT: u64 = 600;
/// More than the tokens that open models and their servers put before a conversation: gpt-oss about 70.
const HIDDEN_PROMPT: u64 = 200;
/// Estimates for files may be wrong by this factor.
const FILES: u64 = 4;
/// The tokens that OpenAI documents for each message, with its role, and for the beginning of the answer.
const PER_MESSAGE: u64 = 4;
const OF_ANSWER: u64 = 3;
/// Schemas, tools and fields of messages are not sent to the model as JSON, and OpenAI does not document their tokens: at most
/// this factor of their tokens as JSON, and this many around a schema or tools.
const STRUCTURES: u64 = 2;
const AROUND_INSTRUCTIONS: u64 = 50;

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
            is_counted: false,
        };
        size.likely = self.estimated_tokens().into();
        size
    }

    /// The input tokens of the request for a model, for an [`Estimate`](crate::Estimate). With the feature `tokenizer`, the
    /// texts for OpenAI's models are counted with their tokenizer, and what OpenAI adds to messages is included. Otherwise
    /// it is [`input_size`](Self::input_size): for models of other vendors, and for requests with files or searches, whose
    /// tokens depend on more than texts.
    ///
    /// ```
    /// let request = batchwright::Request::new("Name a prime number.");
    /// assert_eq!(request.input_size_for("claude-opus-5"), request.input_size());
    /// # #[cfg(feature = "tokenizer")]
    /// assert_eq!(request.input_size_for("gpt-4o").most, 5 + 7);
    /// ```
    pub fn input_size_for(&self, model: &str) -> InputSize {
        let size = self.input_size();
        let count = tokenizer::of_model(model).filter(|_| !self.reads_more(model));
        let counted = count.and_then(|count| self.counted(count));
        counted.map_or(size, |(least, mut most)| {
            if model.contains("gpt-oss") {
                most += HIDDEN_PROMPT;
            }
            InputSize {
                least,
                most,
                is_counted: true,
                ..size
            }
        })
    }

    /// Whether the provider may read more than the request has: results of searches, or texts that it keeps.
    fn reads_more(&self, model: &str) -> bool {
        let of_user = |tool: &Value| tool["type"] == "function";
        let is_of_user =
            |tools: &Value| tools.as_array().is_some_and(|all| all.iter().all(of_user));
        let native = self.native.as_ref();
        searches(model)
            || model.ends_with(":online")
            || BILLED_APART
                .iter()
                .any(|field| self.extra.contains_key(*field))
            || !self.extra.get("tools").is_none_or(is_of_user)
            || native.is_some()
    }

    /// The fewest and the most tokens; `None` if it has other parts than texts.
    fn counted(&self, count: Count) -> Option<(u64, u64)> {
        let of_texts = self.rendered().map(|(_, content, _)| match content {
            Text::Plain(text) => count(text),
            Text::Value(content) => counted_content(count, content),
        });
        let texts = of_texts.sum::<Option<u64>>()?;
        match self.task {
            RequestTask::Complete => {}
            RequestTask::Embed => return Some((texts, texts)),
            RequestTask::Speech => return None,
        }
        let tools = ["tools", "functions"].map(|name| self.extra.get(name));
        let schema = match &self.params.response_format {
            Some(ResponseFormat::JsonSchema { schema, .. }) => Some(schema),
            _ => None,
        };
        let instructions = tools.into_iter().chain([schema]).flatten();
        let around = AROUND_INSTRUCTIONS * instructions.clone().count() as u64;
        let fields = self
            .messages
            .iter()
            .flat_map(|message| message.extra.values());
        let structures = fields
            .chain(instructions)
            .map(|value| count(&value.to_string()));
        let structures = structures.sum::<Option<u64>>()? * STRUCTURES + around;
        let added = self.rendered().count() as u64 * PER_MESSAGE + OF_ANSWER;
        Some((texts + added / 2, texts + added + structures))
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

/// The tokens of a content; `None` if it has other parts than texts and tokens.
fn counted_content(count: Count, content: &Value) -> Option<u64> {
    match content {
        Value::String(text) => count(text),
        Value::Array(parts) => {
            let of_part = |part: &Value| match part["text"].as_str() {
                Some(text) => count(text),
                None => part.is_number().then_some(1),
            };
            parts.iter().map(of_part).sum()
        }
        // An assistant's message that only calls tools.
        Value::Null => Some(0),
        _ => None,
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

    /// The example of OpenAI's cookbook, "How to count tokens with tiktoken": its API reports 129 tokens for gpt-4 and 124
    /// for gpt-4o.
    #[cfg(feature = "tokenizer")]
    #[test]
    fn the_tokens_that_openai_reports_are_in_the_counted_range() {
        let example = |name: &str, text: &str| {
            let mut message = Message::new(Role::System, text);
            message.extra.insert("name".to_owned(), json!(name));
            message
        };
        let system = "You are a helpful, pattern-following assistant that translates corporate jargon into plain English.";
        let request = Request::chat(vec![
            Message::new(Role::System, system),
            example(
                "example_user",
                "New synergies will help drive top-line growth.",
            ),
            example(
                "example_assistant",
                "Things working well together will increase revenue.",
            ),
            example(
                "example_user",
                "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage.",
            ),
            example(
                "example_assistant",
                "Let's talk later when we're less busy about how to do better.",
            ),
            Message::new(
                Role::User,
                "This late pivot means we don't have time to boil the ocean for the client deliverable.",
            ),
        ]);
        let by_bytes = request.input_size();
        for (model, reported) in [("gpt-4", 129), ("gpt-4o", 124)] {
            let size = request.input_size_for(model);
            assert!(size.is_counted && size.likely == by_bytes.likely);
            assert!((size.least..=size.most).contains(&reported), "{size:?}");
            assert!(
                size.most - size.least < (by_bytes.most - by_bytes.least) / 4,
                "{size:?}"
            );
        }
        assert_eq!(request.input_size_for("claude-opus-5"), by_bytes);
        // "Hello!" has 2 tokens, the message and the beginning of the answer 7.
        let hello = Request::new("Hello!");
        assert_eq!(hello.input_size_for("gpt-4o").most, 9);
        // gpt-4o-mini reports 17 for this question.
        let question = Request::new("Who won the World Cup in 2022?");
        assert_eq!(question.input_size_for("gpt-4o-mini").most, 17);
        let hidden = hello.input_size_for("gpt-oss:20b");
        assert!(hidden.is_counted && hidden.most > 70);
        let embedded = Request::embedding("Hello!").input_size_for("text-embedding-3-small");
        assert_eq!((embedded.least, embedded.most), (2, 2));
    }

    #[cfg(feature = "tokenizer")]
    #[test]
    fn schemas_and_tools_count_and_requests_that_are_not_only_texts_are_estimated() {
        let plain = Request::new("Name a prime.");
        let size = |request: &Request| request.input_size_for("gpt-4o");
        let mut with_schema = plain.clone();
        with_schema.params.response_format = Some(ResponseFormat::JsonSchema {
            name: "prime".to_owned(),
            schema: json!({"type": "object", "properties": {"prime": {"type": "integer"}}}),
            strict: true,
        });
        let with_tools = |tools: Value| {
            let mut request = plain.clone();
            request.extra.insert("tools".to_owned(), tools);
            request
        };
        let function = with_tools(json!([{"type": "function", "function": {"name": "primes"}}]));
        for larger in [&with_schema, &function] {
            assert!(size(larger).is_counted && size(larger).most > size(&plain).most + 20);
            assert_eq!(size(larger).least, size(&plain).least);
        }
        let search = with_tools(json!([{"type": "web_search"}]));
        let mut image = plain.clone();
        image.messages[0].content = json!([
            {"type": "text", "text": "What is it?"},
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        ]);
        let unreadable = Request::new(" ".repeat(2_000_000) + "x");
        let mut plugin = plain.clone();
        plugin
            .extra
            .insert("plugins".to_owned(), json!([{"id": "web"}]));
        for request in [&search, &image, &unreadable, &plugin] {
            assert_eq!(size(request), request.input_size());
        }
        for model in ["gpt-5-search-api", "openai/gpt-5:online"] {
            assert_eq!(plain.input_size_for(model), plain.input_size());
        }
        let mut older = plain.clone();
        older
            .extra
            .insert("functions".to_owned(), json!([{"name": "primes"}]));
        assert!(size(&older).most > size(&plain).most + 20);
    }
}
