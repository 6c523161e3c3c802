//! The layout of a line of JSON, detected by its fields: which fields are read, and which one has its id.

use serde_json::{Map, Value};

use super::fault::Fault;
use super::{PromptSettings, fields, id};
use crate::base::json_read::field_of;
use crate::llm::native::NativeFormat;
use crate::llm::params::RequestTask;

/// The fields of a batch line.
const BATCH: [&str; 5] = ["custom_id", "id", "method", "url", "body"];
/// Those of a line of Anthropic's batches.
const ANTHROPIC: [&str; 3] = ["custom_id", "id", "params"];
/// Those of a line of Gemini's batches.
const GEMINI: [&str; 4] = ["key", "custom_id", "id", "request"];
/// Those of a short form, in addition to the parameters.
const SHORT: [&str; 6] = ["id", "custom_id", "prompt", "messages", "system", "extra"];

/// Fields that are sent unchanged to the provider, next to those inside `extra`.
pub(super) const TOOLS: [&str; 3] = ["tools", "tool_choice", "parallel_tool_calls"];

/// Whether the `url` of a batch line names this end point. Azure's documentation omits the version, and Azure's portal
/// shows the whole address with a query.
pub(super) fn names(url: &Value, endpoint: &str) -> bool {
    let url = url.as_str().unwrap_or_default();
    let path = url.split('?').next().unwrap_or_default();
    path.ends_with(endpoint.trim_start_matches("/v1"))
}

/// The layout of a line of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// A line of OpenAI's batches: the request is in `body`.
    Batch,
    /// A line of Anthropic's batches: it is in `params`.
    Anthropic,
    /// A line of Gemini's batches: it is in `request`, and the id in `key`.
    Gemini,
    /// A prompt or messages with parameters next to them; with a template any object.
    Short,
}

impl Layout {
    /// The layout of a line with these fields.
    pub(super) fn of_line(fields: &Map<String, Value>, settings: &PromptSettings) -> Self {
        Self::of(settings, |name| {
            field_of(fields, name).map(Value::is_object)
        })
    }

    /// The layout of a line. `is_object` returns whether a field is an object, or `None` if the line does not have it.
    pub(super) fn of(settings: &PromptSettings, is_object: impl Fn(&str) -> Option<bool>) -> Self {
        let has = |name| is_object(name).is_some();
        if settings.is_data() {
            Self::Short
        } else if has("body")
            && (is_object("body") == Some(true) || has("custom_id") || has("method"))
        {
            Self::Batch
        } else if has("prompt") || has("messages") {
            Self::Short
        } else if is_object("params") == Some(true) {
            Self::Anthropic
        } else if is_object("request") == Some(true) {
            Self::Gemini
        } else {
            Self::Short
        }
    }

    /// The provider's format of the line, the field with the request, and the fields that are read.
    pub(super) fn row(self) -> (Option<NativeFormat>, &'static str, &'static [&'static str]) {
        match self {
            Self::Batch => (None, "body", &BATCH),
            Self::Anthropic => (Some(NativeFormat::AnthropicMessages), "params", &ANTHROPIC),
            Self::Gemini => (Some(NativeFormat::GeminiContent), "request", &GEMINI),
            Self::Short => (None, "body", &SHORT),
        }
    }

    fn lists(self, task: RequestTask) -> [&'static [&'static str]; 3] {
        let own = self.row().2;
        match (self, task) {
            (Self::Short, RequestTask::Complete) => [own, fields::names(task), &TOOLS],
            (Self::Short, _) => [own, fields::names(task), &[]],
            _ => [own, &[], &[]],
        }
    }

    /// The fields that are read.
    pub(super) fn names(self, task: RequestTask) -> Vec<&'static str> {
        self.lists(task).concat()
    }

    /// Whether a field is one of these.
    pub(super) fn reads(self, name: &str, task: RequestTask) -> bool {
        let mut lists = self.lists(task).into_iter();
        lists.any(|names| names.contains(&name))
    }

    /// The id in a line; a row of data may have an empty one.
    pub(super) fn id(
        self,
        line: &Map<String, Value>,
        is_data: bool,
    ) -> Result<Option<String>, Fault> {
        match self {
            Self::Gemini => id::of_fields(line, &["key", "id", "custom_id"], is_data),
            _ => id::of_fields(line, &["id", "custom_id"], is_data),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_user_field_does_not_change_the_detected_provider() {
        let settings = PromptSettings::default();
        let of = |line: Value| Layout::of(&settings, |name| line.get(name).map(Value::is_object));
        for (line, layout) in [
            (json!({"key": "k", "request": {}}), Layout::Gemini),
            (json!({"custom_id": "c", "params": {}}), Layout::Anthropic),
            (json!({"key": "k", "request": "please"}), Layout::Short),
            (json!({"prompt": "p", "request": {}}), Layout::Short),
            (json!({"messages": [], "params": {}}), Layout::Short),
            (
                json!({"body": {}, "params": {}, "prompt": "p"}),
                Layout::Batch,
            ),
        ] {
            assert_eq!(of(line.clone()), layout, "{line}");
        }
        let settings = PromptSettings {
            template: Some(super::super::Template::parse("{{request}}").unwrap()),
            ..PromptSettings::default()
        };
        let all = Layout::of(&settings, |_| Some(true));
        assert_eq!(all, Layout::Short);
    }
}
