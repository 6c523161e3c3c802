//! A result line with its input row, the values of its cells, and the type of a column whose values have several types.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::base::json_read::{JsonObject, JsonString};
use crate::llm::response::unfenced;

/// One cell.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// A number with a decimal point or an exponent, and its original text.
    Float(f64, &'a str),
    Text(Cow<'a, str>),
    /// A list, an object, or a number that neither type holds.
    Json(Cow<'a, str>),
    /// An embedding.
    Vector(Vec<f32>),
}

/// A type that fits all cells of a column.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum ColumnType {
    /// No cell has a value.
    #[default]
    Empty,
    Bool,
    /// Integers that a floating point number represents exactly.
    Int,
    /// Integers, some of which a floating point number does not represent exactly.
    Long,
    Float,
    Text,
    Json,
    Vector,
}

/// Up to this value, each integer is exact as a floating point number.
const EXACT: u64 = 1 << 53;

impl Cell<'_> {
    pub(super) fn kind(&self) -> ColumnType {
        match self {
            Self::Null => ColumnType::Empty,
            Self::Bool(_) => ColumnType::Bool,
            Self::Int(n) if n.unsigned_abs() <= EXACT => ColumnType::Int,
            Self::Int(_) => ColumnType::Long,
            Self::Float(..) => ColumnType::Float,
            Self::Text(_) => ColumnType::Text,
            Self::Json(_) => ColumnType::Json,
            Self::Vector(_) => ColumnType::Vector,
        }
    }

    /// The cell as text; `None` if it is empty.
    pub(super) fn to_text(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Null => return None,
            Self::Bool(yes) => Cow::Borrowed(if *yes { "true" } else { "false" }),
            Self::Int(n) => Cow::Owned(n.to_string()),
            Self::Float(_, written) => Cow::Borrowed(*written),
            Self::Text(text) | Self::Json(text) => Cow::Borrowed(text),
            Self::Vector(all) => Cow::Owned(serde_json::to_string(all).unwrap_or_default()),
        })
    }
}

impl ColumnType {
    /// The type that fits both.
    pub(super) fn with(self, other: Self) -> Self {
        use ColumnType::{Empty, Float, Int, Long, Text};
        match (self, other) {
            (same, other) if same == other => same,
            (Empty, kind) | (kind, Empty) => kind,
            (Int, Long) | (Long, Int) => Long,
            (Int, Float) | (Float, Int) => Float,
            _ => Text,
        }
    }
}

/// The value, unless it is missing or null.
pub(super) fn present(value: Option<&RawValue>) -> Option<&RawValue> {
    value.filter(|value| value.get() != "null")
}

/// The text of a string; `None` for other values.
pub(super) fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    let JsonString(text) = serde_json::from_str(value.get()).ok()?;
    Some(text)
}

/// The cell of a value: lists and objects stay JSON.
pub(super) fn cell(value: &RawValue) -> Cell<'_> {
    let written = value.get();
    let json = Cell::Json(Cow::Borrowed(written));
    match written.as_bytes().first() {
        Some(b'"') => text(value).map_or(Cell::Null, Cell::Text),
        Some(b'{' | b'[') => json,
        Some(b't') => Cell::Bool(true),
        Some(b'f') => Cell::Bool(false),
        Some(b'n') | None => Cell::Null,
        Some(_) if !written.contains(['.', 'e', 'E']) => written.parse().map_or(json, Cell::Int),
        Some(_) => match written.parse::<f64>() {
            Ok(x) if x.is_finite() => Cell::Float(x, written),
            _ => json,
        },
    }
}

/// The type of a value; for a string it is read from the first character only.
pub(super) fn kind(value: &RawValue) -> ColumnType {
    match value.get().as_bytes().first() {
        Some(b'"') => ColumnType::Text,
        _ => cell(value).kind(),
    }
}

/// An object whose fields are columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The input row.
    Input,
    /// An answer that is a JSON object, or the `result` of a job or a command.
    Answer,
    Usage,
    Error,
    /// The result line itself.
    Line,
}

/// The content of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CellSource {
    Id,
    /// The answer as text.
    Text,
    Embedding,
    Field(Part, String),
}

/// A parsed result line.
pub(super) struct Row<'a> {
    /// By [`Part`].
    parts: [JsonObject<'a>; 5],
    /// The answer as text, unless it was parsed into properties.
    pub text: Option<&'a str>,
    /// Whether the properties are those of the `result` of a job or a command.
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
        text: own_text.filter(|_| answer.is_none()),
        parts: [
            object("input"),
            result.or(answer).unwrap_or_default(),
            object("usage"),
            object("error"),
            line,
        ],
    };
    then(&row)
}

impl Row<'_> {
    pub(super) fn part(&self, part: Part) -> &JsonObject<'_> {
        &self.parts[part as usize]
    }

    /// The item's id.
    pub(super) fn id(&self) -> Cow<'_, str> {
        self.part(Part::Line)
            .get("id", 0)
            .and_then(text)
            .unwrap_or_default()
    }

    pub(super) fn is_success(&self) -> bool {
        let success = self.part(Part::Line).get("success", 1);
        success.is_some_and(|value| value.get() == "true")
    }

    /// Whether it lacks columns of its row.
    pub(super) fn is_cut(&self) -> bool {
        self.part(Part::Line).get("input_left_out", 0).is_some()
    }

    /// The cell of a column.
    pub(super) fn cell(&self, source: &CellSource) -> Cell<'_> {
        let value = match source {
            CellSource::Text => {
                return self
                    .text
                    .map_or(Cell::Null, |text| Cell::Text(Cow::Borrowed(text)));
            }
            CellSource::Id => return Cell::Text(self.id()),
            CellSource::Embedding => {
                let vector = present(self.part(Part::Line).get("embedding", 3));
                let vector = vector.and_then(|list| serde_json::from_str(list.get()).ok());
                return vector.map_or(Cell::Null, Cell::Vector);
            }
            CellSource::Field(part, name) => self.part(*part).get(name, 0),
        };
        value.map_or(Cell::Null, cell)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_json_types() {
        let object = JsonObject::parse(
            r#"{"a":7,"b":-0.5,"c":"x\u00e9","d":true,"e":null,"f":[1],"g":9223372036854775808,"h":1e400,"i":3.0,"k":1.50e3}"#,
        )
        .unwrap();
        let cells: Vec<Cell<'_>> = object.fields().map(|(_, value)| cell(value)).collect();
        let expected = [
            Cell::Int(7),
            Cell::Float(-0.5, "-0.5"),
            Cell::Text("xé".into()),
            Cell::Bool(true),
            Cell::Null,
            Cell::Json("[1]".into()),
            Cell::Json("9223372036854775808".into()),
            Cell::Json("1e400".into()),
            Cell::Float(3.0, "3.0"),
            Cell::Float(1500.0, "1.50e3"),
        ];
        assert_eq!(cells, expected);
    }

    #[test]
    fn the_type_of_a_column_fits_all_cells() {
        use ColumnType::{Bool, Empty, Float, Int, Json, Long, Text, Vector};
        for (all, kind) in [
            (vec![], Empty),
            (vec![Empty, Int, Empty], Int),
            (vec![Int, Float, Int], Float),
            (vec![Int, Long], Long),
            // A floating point number would change the digits of the large integer.
            (vec![Long, Float], Text),
            (vec![Bool, Int], Text),
            (vec![Json, Json], Json),
            (vec![Json, Text], Text),
            (vec![Vector, Empty], Vector),
        ] {
            let found = all.iter().fold(Empty, |kind, other| kind.with(*other));
            assert_eq!(found, kind, "{all:?}");
        }
        assert_eq!(Cell::Int(1 << 53).kind(), Int);
        assert_eq!(Cell::Int((1 << 53) + 1).kind(), Long);
        assert_eq!(Cell::Int(i64::MIN).kind(), Long);
    }
}
