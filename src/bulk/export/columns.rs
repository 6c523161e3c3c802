//! Chooses the columns of the table: the columns of the input rows, the answer, and the properties of each item.
//! Also resolves conflicts between column names.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use serde_json::Value;
use serde_json::value::RawValue;

use super::cell::{ColumnType, kind, present, text};
use super::row::{CellSource, Row};
use crate::base::json_object::JsonObject;
use crate::base::names::closest;
use crate::base::{Error, ErrorKind};

/// A column of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    pub name: String,
    pub kind: ColumnType,
    pub source: CellSource,
    /// The expected index of its field, to find it faster.
    pub likely: usize,
}

/// A table with more columns has probably used data as names.
const MOST_COLUMNS: usize = 10_000;

/// Number of columns of a table for which no columns were named.
const MOST_BY_DEFAULT: usize = 12;

/// Which columns the table has, and their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Selection {
    /// The columns of the rows, the ids, the answers and the errors, at most [`MOST_BY_DEFAULT`].
    #[default]
    Usual,
    All,
    /// The ids and the answers.
    Answers,
    /// The columns with these names.
    Named(Vec<String>),
}

/// Fields of a result line that have special columns, or none.
const APART: [&str; 9] = [
    "id",
    "text",
    "embedding",
    "usage",
    "error",
    "input",
    "request_hash",
    "settings",
    "cache_saved_usd",
];

/// Columns next to the answer that exist only if any line has the field, which depends on the request.
const BESIDE_ANSWER: [&str; 4] = ["tool_calls", "reasoning", "citations", "logprobs"];
/// Columns that always exist.
const TOKENS: [&str; 4] = [
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "reasoning_tokens",
];
/// Columns that always exist.
const FACTS: [(&str, ColumnType); 6] = [
    ("cost_usd", ColumnType::Float),
    ("model", ColumnType::Text),
    ("provider", ColumnType::Text),
    ("finish_reason", ColumnType::Text),
    ("attempts", ColumnType::Int),
    ("latency_ms", ColumnType::Int),
];
/// Columns that always exist, because the columns of a table must not depend on the outcomes of its items. Other
/// fields come between these columns and `reply`.
const MORE_FACTS: [(&str, ColumnType); 5] = [
    ("service_tier", ColumnType::Text),
    ("warning", ColumnType::Text),
    ("degraded", ColumnType::Text),
    ("earlier", ColumnType::Json),
    ("answered_by", ColumnType::Text),
];
const REPLY: &str = "reply";

/// Names of fields in the order of their first occurrence, with the types of their values.
#[derive(Debug, Default)]
struct Names {
    list: Vec<(String, ColumnType)>,
    places: HashMap<String, usize>,
}

impl Names {
    fn note(&mut self, likely: usize, name: &str, kind: ColumnType) {
        let guess = self.list.get(likely).filter(|(known, _)| known == name);
        let place = match guess {
            Some(_) => likely,
            None => match self.places.get(name) {
                Some(place) => *place,
                None => {
                    self.places.insert(name.to_owned(), self.list.len());
                    self.list.push((name.to_owned(), ColumnType::Empty));
                    self.list.len() - 1
                }
            },
        };
        let known = &mut self.list[place].1;
        *known = known.with(kind);
    }

    /// The type and the index of the field with this name.
    fn of(&self, name: &str) -> (ColumnType, usize) {
        let place = self.places.get(name).copied();
        place.map_or((ColumnType::Empty, 0), |place| (self.list[place].1, place))
    }
}

/// The properties of the lines in the table.
#[derive(Debug, Default)]
pub(super) struct ColumnsSeen {
    input: Names,
    answer: Names,
    usage: Names,
    fields: Names,
    has_text: bool,
    has_vector: bool,
    /// Whether any answer is a JSON object that was not parsed, and whether any is something else.
    has_object: bool,
    has_other: bool,
    /// Whether any row has no column "id", and whether any has one with another value than the id of its item.
    lacks_ids: bool,
    other_ids: bool,
}

impl ColumnsSeen {
    /// Starts with the properties of a JSON Schema.
    pub(super) fn with_properties(properties: &[(String, ColumnType)]) -> Self {
        let mut seen = Self::default();
        for (i, (name, kind)) in properties.iter().enumerate() {
            seen.answer.note(i, name, *kind);
        }
        seen
    }

    pub(super) fn add(&mut self, row: &Row<'_>) -> Result<(), Error> {
        note(&mut self.input, row.input.fields());
        if let Some(answer) = &row.answer {
            note(&mut self.answer, answer.fields());
        }
        note(&mut self.usage, row.usage.fields());
        for (i, (name, value)) in row.line.fields().enumerate() {
            let is_apart = APART.contains(&name) || (name == "result" && row.has_result);
            if value.get() != "null" && !is_apart {
                self.fields.note(i, name, kind(value));
            }
        }
        self.has_text |= row.text.is_some();
        // The first answer that is not an object decides, and the first letter shows this for most texts.
        if let Some(text) = row.text.filter(|_| !self.has_other) {
            let object = text.trim_start().starts_with('{') && JsonObject::parse(text).is_some();
            self.has_object |= object;
            self.has_other |= !object;
        }
        self.has_vector |= present(row.line.get("embedding", 3)).is_some();
        let mut ids = row.input.fields().filter(|(name, _)| is_id(name));
        match (ids.next().map(|(_, value)| written(value)), ids.next()) {
            (Some(own), None) if own == row.id() => {}
            (Some(_), _) => self.other_ids = true,
            (None, _) => self.lacks_ids = true,
        }
        let columns = self.input.list.len() + self.answer.list.len();
        if columns + self.usage.list.len() + self.fields.list.len() <= MOST_COLUMNS {
            Ok(())
        } else {
            Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "more than {MOST_COLUMNS} columns: the rows, or answers that are JSON objects, \
                 have data where names ought to be"
                ),
            ))
        }
    }

    /// Whether all answers are JSON objects, and are not parsed.
    pub(super) fn are_objects(&self) -> bool {
        self.has_object && !self.has_other
    }

    /// The columns, in order, and how many were omitted because there are too many.
    ///
    /// # Errors
    /// If no column has a selected name.
    pub(super) fn columns(&self, selection: &Selection) -> Result<(Vec<Column>, u64), Error> {
        use Rank::{Always, Answer, Input, Sometimes};
        let mut layout = Layout {
            seen: self,
            columns: Vec::new(),
        };
        let mut has_id = false;
        for (i, (name, kind)) in self.input.list.iter().enumerate() {
            let repeats = is_id(name) && !self.other_ids;
            has_id |= repeats;
            if repeats && self.lacks_ids {
                layout.push(Input, name, ColumnType::Text, CellSource::Id, i)
            } else {
                layout.push(Input, name, *kind, CellSource::Input(name.clone()), i)
            }
        }
        if !has_id {
            layout.push(Always, "id", ColumnType::Text, CellSource::Id, 0);
        }
        for (i, (name, kind)) in self.answer.list.iter().enumerate() {
            layout.push(Answer, name, *kind, CellSource::Answer(name.clone()), i);
        }
        let has_others = self.has_vector || !self.answer.list.is_empty();
        if self.has_text || !self.has_vector {
            let rank = if has_others { Sometimes } else { Always };
            layout.push(rank, "text", ColumnType::Text, CellSource::Text, 0);
        }
        if self.has_vector {
            layout.push(
                Always,
                "embedding",
                ColumnType::Vector,
                CellSource::Embedding,
                0,
            );
        }
        layout.fields_seen(|name| BESIDE_ANSWER.contains(&name));
        layout.field(Always, "success", ColumnType::Bool);
        layout.error(Always, "kind", ColumnType::Text);
        layout.error(Always, "status", ColumnType::Int);
        layout.error(Always, "message", ColumnType::Text);
        layout.field(Sometimes, "refusal", ColumnType::Text);
        layout.usage();
        for (name, least) in FACTS {
            layout.field(Always, name, least);
        }
        for (name, least) in MORE_FACTS {
            layout.field(Sometimes, name, least);
        }
        layout.fields_seen(|name| {
            let mut facts = FACTS.iter().chain(&MORE_FACTS);
            !BESIDE_ANSWER.contains(&name)
                && !facts.any(|(fact, _)| *fact == name)
                && !["success", "refusal", REPLY].contains(&name)
        });
        layout.fields_seen(|name| name == REPLY);
        let is_answer = |column: &Column| is_answer(column, has_id);
        if *selection == Selection::Answers {
            layout.columns.retain(|(_, column)| is_answer(column));
        }
        let mut columns = layout.named();
        let left_out = match selection {
            Selection::Usual => keep_usual(&mut columns, is_answer),
            Selection::All | Selection::Answers | Selection::Named(_) => 0,
        };
        if let Selection::Named(names) = selection {
            columns = selected(&columns, names)?;
        }
        Ok((columns, left_out))
    }
}

/// Whether a column has ids or answers. With `has_id`, the rows have the id.
fn is_answer(column: &Column, has_id: bool) -> bool {
    match &column.source {
        CellSource::Input(name) => has_id && is_id(name),
        CellSource::Id | CellSource::Text | CellSource::Answer(_) | CellSource::Embedding => true,
        CellSource::Error(_) | CellSource::Usage(_) | CellSource::Field(_) => false,
    }
}

/// Leaves the columns of the rows, the ids, the answers and the messages of errors, and returns how many were omitted
/// because there are too many.
fn keep_usual(columns: &mut Vec<Column>, is_answer: impl Fn(&Column) -> bool) -> u64 {
    let is_error = |column: &Column| column.source == CellSource::Error("message");
    columns.retain(|column| {
        let is_input = matches!(column.source, CellSource::Input(_));
        is_input || is_answer(column) || is_error(column)
    });
    let mut left_out = 0;
    // Columns of the rows give way to answers, and the last ones to the first ones.
    while columns.len() > MOST_BY_DEFAULT {
        let is_row = |column: &Column| !is_answer(column) && !is_error(column);
        let last = columns.iter().rposition(is_row);
        columns.remove(last.unwrap_or(columns.len() - 2));
        left_out += 1;
    }
    left_out
}

/// If several columns have the same name, the first of these kinds keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// A column of the rows.
    Input,
    /// A column that every table has.
    Always,
    /// A property of the answers.
    Answer,
    /// A column that only some tables have.
    Sometimes,
}

impl Rank {
    /// The prefix that is added if another column has the name.
    fn prefix(self) -> &'static str {
        match self {
            Self::Input => "input_",
            Self::Answer => "answer_",
            Self::Always | Self::Sometimes => "result_",
        }
    }
}

struct Layout<'s> {
    seen: &'s ColumnsSeen,
    columns: Vec<(Rank, Column)>,
}

impl Layout<'_> {
    fn push(
        &mut self,
        rank: Rank,
        name: &str,
        kind: ColumnType,
        source: CellSource,
        likely: usize,
    ) {
        let name = name.to_owned();
        let column = Column {
            name,
            kind,
            source,
            likely,
        };
        self.columns.push((rank, column));
    }

    fn field(&mut self, rank: Rank, name: &str, least: ColumnType) {
        let (seen, likely) = self.seen.fields.of(name);
        let source = CellSource::Field(name.to_owned());
        self.push(rank, name, least.with(seen), source, likely);
    }

    fn fields_seen(&mut self, wanted: impl Fn(&str) -> bool) {
        for (name, _) in self
            .seen
            .fields
            .list
            .iter()
            .filter(|(name, _)| wanted(name))
        {
            self.field(Rank::Sometimes, name, ColumnType::Empty);
        }
    }

    fn error(&mut self, rank: Rank, field: &'static str, kind: ColumnType) {
        self.push(
            rank,
            &format!("error_{field}"),
            kind,
            CellSource::Error(field),
            0,
        );
    }

    fn usage(&mut self) {
        let seen = &self.seen.usage;
        for name in TOKENS {
            let (kind, likely) = seen.of(name);
            let source = CellSource::Usage(name.to_owned());
            self.push(
                Rank::Always,
                name,
                ColumnType::Int.with(kind),
                source,
                likely,
            );
        }
        let more = seen.list.iter().enumerate();
        for (i, (name, kind)) in more.filter(|(_, (name, _))| !TOKENS.contains(&name.as_str())) {
            let source = CellSource::Usage(name.clone());
            self.push(Rank::Sometimes, name, *kind, source, i);
        }
    }

    /// The columns with unique names, ignoring case, because some programs ignore it.
    fn named(mut self) -> Vec<Column> {
        let mut order: Vec<usize> = (0..self.columns.len()).collect();
        order.sort_by_key(|i| self.columns[*i].0);
        let mut taken = HashSet::new();
        for i in order {
            let (rank, column) = &mut self.columns[i];
            // Columns of the rows keep their names.
            if *rank == Rank::Input {
                taken.insert(column.name.to_lowercase());
                continue;
            }
            let apart = format!("{}{}", rank.prefix(), column.name);
            let numbered = (2..).map(|n| format!("{apart}_{n}"));
            let names = [column.name.clone(), apart.clone()];
            let mut names = names.into_iter().chain(numbered);
            let free = names.find(|name| taken.insert(name.to_lowercase()));
            column.name = free.unwrap_or(apart);
        }
        self.columns.into_iter().map(|(_, column)| column).collect()
    }
}

/// The columns with these names, in this order.
fn selected(columns: &[Column], names: &[String]) -> Result<Vec<Column>, Error> {
    let find = |name: &String| columns.iter().find(|column| column.name == *name).cloned();
    if let Some(unknown) = names.iter().find(|name| find(name).is_none()) {
        let there: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        let hint = closest(unknown, there.iter().copied());
        let hint = hint.map_or_else(String::new, |near| format!(" (did you mean \"{near}\"?)"));
        let why = format!(
            "the table has no column \"{unknown}\"{hint}; its columns are {}",
            there.join(", ")
        );
        return Err(Error::new(ErrorKind::Invalid, why));
    }
    Ok(names.iter().filter_map(find).collect())
}

fn note<'r>(names: &mut Names, fields: impl Iterator<Item = (&'r str, &'r RawValue)>) {
    for (i, (name, value)) in fields.enumerate() {
        names.note(i, name, kind(value));
    }
}

fn is_id(name: &str) -> bool {
    name.eq_ignore_ascii_case("id")
}

/// A value in the format in which it becomes part of an id.
fn written(value: &RawValue) -> Cow<'_, str> {
    text(value).unwrap_or(Cow::Borrowed(value.get()))
}

/// The properties of the objects that a JSON Schema describes, and the types of their cells.
pub(super) fn properties(schema: &Value) -> Result<Vec<(String, ColumnType)>, Error> {
    let root = schema.get("$ref").and_then(Value::as_str);
    let root = root.and_then(|to| schema.pointer(to.strip_prefix('#')?));
    let properties = root.unwrap_or(schema).get("properties");
    let properties = properties.and_then(Value::as_object);
    let Some(properties) = properties.filter(|all| !all.is_empty()) else {
        let why = "the JSON Schema names no properties that columns could be made of";
        return Err(Error::new(ErrorKind::Invalid, why));
    };
    let kinds = properties
        .iter()
        .map(|(name, about)| (name.clone(), declared(about)));
    Ok(kinds.collect())
}

/// The column type if the schema declares one type in addition to null; otherwise the values determine it.
fn declared(property: &Value) -> ColumnType {
    let types = match &property["type"] {
        Value::String(one) => vec![one.as_str()],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let mut types = types.into_iter().filter(|name| *name != "null");
    match (types.next(), types.next()) {
        (Some("string"), None) => ColumnType::Text,
        (Some("boolean"), None) => ColumnType::Bool,
        (Some("integer"), None) => ColumnType::Int,
        (Some("number"), None) => ColumnType::Float,
        (Some("object" | "array"), None) => ColumnType::Json,
        _ => ColumnType::Empty,
    }
}

#[cfg(test)]
#[path = "columns_tests.rs"]
mod tests;
