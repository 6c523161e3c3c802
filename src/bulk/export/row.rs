//! Converts a result line and its input row to the cells of a table row.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::cell::{Cell, cell, present, text};
use crate::base::json_object::JsonObject;
use crate::llm::json_answer::unfenced;

/// The content of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CellSource {
    /// A field of the input row.
    Input(String),
    Id,
    /// The answer as text.
    Text,
    /// A property of an answer that is a JSON object.
    Answer(String),
    Embedding,
    /// A field of the error.
    Error(&'static str),
    /// A field of the usage.
    Usage(String),
    /// Any other field of the result line.
    Field(String),
}

/// A parsed result line.
pub(super) struct Row<'a> {
    pub line: JsonObject<'a>,
    pub input: JsonObject<'a>,
    pub usage: JsonObject<'a>,
    error: JsonObject<'a>,
    /// The answer as text, unless it was parsed into properties.
    pub text: Option<&'a str>,
    /// The properties of an answer, or of the `result` of a job or a command.
    pub answer: Option<JsonObject<'a>>,
    /// Whether the properties are those of `result`.
    pub has_result: bool,
}

/// Parses a result line. With `by_property`, answers that are JSON objects are parsed into properties.
pub(super) fn with_row<R>(line: &str, by_property: bool, then: impl FnOnce(&Row<'_>) -> R) -> R {
    let line = JsonObject::parse(line).unwrap_or_default();
    let object = |name| {
        let value = line.get(name, 0).map(RawValue::get);
        value.and_then(JsonObject::parse).unwrap_or_default()
    };
    let own_text = present(line.get("text", 2)).and_then(text);
    let own_text = own_text.as_deref();
    let answer = own_text.filter(|_| by_property);
    let answer = answer.and_then(|answer| JsonObject::parse(unfenced(answer.trim())));
    let result = present(line.get("result", 3)).map(RawValue::get);
    let result = result.and_then(JsonObject::parse);
    let row = Row {
        has_result: result.is_some(),
        input: object("input"),
        usage: object("usage"),
        error: object("error"),
        text: own_text.filter(|_| answer.is_none()),
        answer: result.or(answer),
        line,
    };
    then(&row)
}

impl Row<'_> {
    /// The item's id.
    pub(super) fn id(&self) -> Cow<'_, str> {
        self.line.get("id", 0).and_then(text).unwrap_or_default()
    }

    pub(super) fn is_success(&self) -> bool {
        let success = self.line.get("success", 1);
        success.is_some_and(|value| value.get() == "true")
    }

    /// The cell of a column; `likely` is the expected index of its field.
    pub(super) fn cell(&self, source: &CellSource, likely: usize) -> Cell<'_> {
        let value = match source {
            CellSource::Text => {
                return self
                    .text
                    .map_or(Cell::Null, |text| Cell::Text(Cow::Borrowed(text)));
            }
            CellSource::Id => return Cell::Text(self.id()),
            CellSource::Embedding => {
                let vector = present(self.line.get("embedding", 3));
                let vector = vector.and_then(|list| serde_json::from_str(list.get()).ok());
                return vector.map_or(Cell::Null, Cell::Vector);
            }
            CellSource::Input(name) => self.input.get(name, likely),
            CellSource::Answer(name) => self.answer.as_ref().and_then(|all| all.get(name, likely)),
            CellSource::Error(name) => self.error.get(name, likely),
            CellSource::Usage(name) => self.usage.get(name, likely),
            CellSource::Field(name) => self.line.get(name, likely),
        };
        value.map_or(Cell::Null, cell)
    }
}
