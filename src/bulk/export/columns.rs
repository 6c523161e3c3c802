//! Chooses the columns of the table: the columns of the input rows, the answer, and the properties of each item.
//! Also resolves conflicts between column names.

use std::borrow::Cow;
use std::collections::HashSet;

use indexmap::IndexMap;
use serde_json::Value;
use serde_json::value::RawValue;

use super::cell::{CellSource, ColumnType, Part, Row, kind, present, text};
use crate::base::names::closest;
use crate::base::{Error, ErrorKind};

/// A column of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    pub name: String,
    pub kind: ColumnType,
    pub source: CellSource,
}

impl Column {
    /// Whether it has ids or answers.
    fn is_answer(&self) -> bool {
        use CellSource::{Embedding, Field, Id, Text};
        matches!(self.source, Id | Text | Field(Part::Answer, _) | Embedding)
    }
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
    "input_left_out",
    "request_hash",
    "settings",
];

/// Columns next to the answer that exist only if any line has the field, which depends on the request.
const BESIDE_ANSWER: [&str; 4] = ["tool_calls", "reasoning", "citations", "logprobs"];

/// Fields of the error.
const ERROR: [(&str, ColumnType); 3] = [
    ("kind", ColumnType::Text),
    ("status", ColumnType::Int),
    ("message", ColumnType::Text),
];

const TOKENS: [&str; 4] = [
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "reasoning_tokens",
];

/// Fields that every table has, because its columns must not depend on the outcomes of its items. Other fields come
/// between these columns and `reply`.
const FACTS: [(&str, ColumnType, Rank); 11] = [
    ("cost_usd", ColumnType::Float, Rank::Always),
    ("model", ColumnType::Text, Rank::Always),
    ("provider", ColumnType::Text, Rank::Always),
    ("finish_reason", ColumnType::Text, Rank::Always),
    ("attempts", ColumnType::Int, Rank::Always),
    ("latency_ms", ColumnType::Int, Rank::Always),
    ("service_tier", ColumnType::Text, Rank::Seldom),
    ("warning", ColumnType::Text, Rank::Seldom),
    ("degraded", ColumnType::Text, Rank::Seldom),
    ("earlier", ColumnType::Json, Rank::Seldom),
    ("answered_by", ColumnType::Text, Rank::Seldom),
];
const REPLY: &str = "reply";

/// If several columns have the same name, the first of these kinds keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// A column of the rows.
    Row,
    /// A column that has values in every table.
    Always,
    /// A property of the answers.
    Answer,
    /// A column that has values in few tables.
    Seldom,
}

/// Names of fields in the order of their first occurrence, with the types of their values.
type Names = IndexMap<String, ColumnType>;

/// Adds the type of a field, which is probably at the place `likely`.
fn note(names: &mut Names, likely: usize, name: &str, kind: ColumnType) {
    let place = match names.get_index(likely) {
        Some((known, _)) if known == name => Some(likely),
        _ => names.get_index_of(name),
    };
    match place {
        Some(place) => names[place] = names[place].with(kind),
        None => drop(names.insert(name.to_owned(), kind)),
    }
}

/// The properties of the lines in the table.
#[derive(Debug, Default)]
pub(super) struct ColumnsSeen {
    /// By [`Part`].
    parts: [Names; 5],
    has_text: bool,
    has_vector: bool,
    /// Whether any row has a column "id" with another value than the id of its item.
    other_ids: bool,
}

impl ColumnsSeen {
    /// Starts with the properties of a JSON Schema.
    pub(super) fn with_properties(properties: &[String]) -> Self {
        let mut seen = Self::default();
        for (i, name) in properties.iter().enumerate() {
            let names = &mut seen.parts[Part::Answer as usize];
            note(names, i, name, ColumnType::Empty);
        }
        seen
    }

    pub(super) fn add(&mut self, row: &Row<'_>) -> Result<(), Error> {
        for part in [Part::Input, Part::Answer, Part::Usage] {
            for (i, (name, value)) in row.part(part).fields().enumerate() {
                note(&mut self.parts[part as usize], i, name, kind(value));
            }
        }
        let line = row.part(Part::Line);
        for (i, (name, value)) in line.fields().enumerate() {
            let is_apart = APART.contains(&name) || (name == "result" && row.has_result);
            if value.get() != "null" && !is_apart {
                note(&mut self.parts[Part::Line as usize], i, name, kind(value));
            }
        }
        self.has_text |= row.text.is_some();
        self.has_vector |= present(line.get("embedding", 3)).is_some();
        let mut ids = row
            .part(Part::Input)
            .fields()
            .filter(|(name, _)| is_id(name));
        if let Some((_, own)) = ids.next() {
            self.other_ids |= written(own) != row.id() || ids.next().is_some();
        }
        let columns = self.parts.iter().map(IndexMap::len);
        if columns.sum::<usize>() <= MOST_COLUMNS {
            return Ok(());
        }
        let why = format!(
            "more than {MOST_COLUMNS} columns: the rows, or answers that are JSON objects, have data where names ought to be"
        );
        Err(Error::new(ErrorKind::Invalid, why))
    }

    /// The columns, in order, and how many were omitted because there are too many.
    ///
    /// # Errors
    /// If no column has a selected name.
    pub(super) fn columns(&self, selection: &Selection) -> Result<(Vec<Column>, u64), Error> {
        let mut all = Layout::default();
        self.rows_and_answers(&mut all);
        self.fields_of_lines(&mut all);
        if *selection == Selection::Answers {
            all.0.retain(|(_, column)| column.is_answer());
        }
        let mut columns = all.named();
        match selection {
            Selection::All | Selection::Answers => Ok((columns, 0)),
            Selection::Named(names) => Ok((selected(&columns, names)?, 0)),
            Selection::Usual => {
                let left_out = keep_usual(&mut columns);
                Ok((columns, left_out))
            }
        }
    }

    fn names(&self, part: Part) -> &Names {
        &self.parts[part as usize]
    }

    fn rows_and_answers(&self, all: &mut Layout) {
        let mut has_id = false;
        for (name, kind) in self.names(Part::Input) {
            if is_id(name) && !self.other_ids {
                has_id = true;
                all.push(Rank::Row, name, ColumnType::Text, CellSource::Id);
            } else {
                all.field(Rank::Row, Part::Input, name, *kind);
            }
        }
        if !has_id {
            all.push(Rank::Always, "id", ColumnType::Text, CellSource::Id);
        }
        for (name, kind) in self.names(Part::Answer) {
            all.field(Rank::Answer, Part::Answer, name, *kind);
        }
        if self.has_text || !self.has_vector {
            let has_others = self.has_vector || !self.names(Part::Answer).is_empty();
            let rank = if has_others {
                Rank::Seldom
            } else {
                Rank::Always
            };
            all.push(rank, "text", ColumnType::Text, CellSource::Text);
        }
        if self.has_vector {
            let (kind, source) = (ColumnType::Vector, CellSource::Embedding);
            all.push(Rank::Always, "embedding", kind, source);
        }
    }

    fn fields_of_lines(&self, all: &mut Layout) {
        let kind_of = |part, name: &str| self.names(part).get(name).copied().unwrap_or_default();
        let field = |all: &mut Layout, name: &str, least: ColumnType, rank| {
            let kind = least.with(kind_of(Part::Line, name));
            all.field(rank, Part::Line, name, kind);
        };
        let seen = |all: &mut Layout, wanted: &dyn Fn(&str) -> bool| {
            let names = self.names(Part::Line).keys();
            for name in names.filter(|name| wanted(name)) {
                field(all, name, ColumnType::Empty, Rank::Seldom);
            }
        };
        seen(all, &|name| BESIDE_ANSWER.contains(&name));
        field(all, "success", ColumnType::Bool, Rank::Always);
        for (name, kind) in ERROR {
            let source = CellSource::Field(Part::Error, name.to_owned());
            all.push(Rank::Always, &format!("error_{name}"), kind, source);
        }
        field(all, "refusal", ColumnType::Text, Rank::Seldom);
        for name in TOKENS {
            let kind = ColumnType::Int.with(kind_of(Part::Usage, name));
            all.field(Rank::Always, Part::Usage, name, kind);
        }
        let more = self.names(Part::Usage).iter();
        for (name, kind) in more.filter(|(name, _)| !TOKENS.contains(&name.as_str())) {
            all.field(Rank::Seldom, Part::Usage, name, *kind);
        }
        for (name, least, rank) in FACTS {
            field(all, name, least, rank);
        }
        seen(all, &|name| {
            let is_fact = FACTS.iter().any(|(fact, ..)| *fact == name);
            !is_fact
                && !BESIDE_ANSWER.contains(&name)
                && !["success", "refusal", REPLY].contains(&name)
        });
        seen(all, &|name| name == REPLY);
    }
}

/// Leaves the columns of the rows, the ids, the answers and the messages of errors, and returns how many were omitted
/// because there are too many.
fn keep_usual(columns: &mut Vec<Column>) -> u64 {
    let is_row = |column: &Column| matches!(column.source, CellSource::Field(Part::Input, _));
    let message = CellSource::Field(Part::Error, "message".to_owned());
    let is_error = |column: &Column| column.source == message;
    columns.retain(|column| is_row(column) || column.is_answer() || is_error(column));
    let mut left_out = 0;
    // Columns of the rows give way to answers, and the last ones to the first ones.
    while columns.len() > MOST_BY_DEFAULT {
        let last = columns.iter().rposition(is_row);
        columns.remove(last.unwrap_or(columns.len() - 2));
        left_out += 1;
    }
    left_out
}

/// The columns, each with its rank.
#[derive(Default)]
struct Layout(Vec<(Rank, Column)>);

impl Layout {
    fn push(&mut self, rank: Rank, name: &str, kind: ColumnType, source: CellSource) {
        let name = name.to_owned();
        self.0.push((rank, Column { name, kind, source }));
    }

    /// Adds a column with a field of that name.
    fn field(&mut self, rank: Rank, part: Part, name: &str, kind: ColumnType) {
        self.push(rank, name, kind, CellSource::Field(part, name.to_owned()));
    }

    /// The columns with unique names, ignoring case, because some programs ignore it.
    fn named(mut self) -> Vec<Column> {
        let mut order: Vec<usize> = (0..self.0.len()).collect();
        order.sort_by_key(|i| self.0[*i].0);
        let mut taken = HashSet::new();
        for i in order {
            let (rank, column) = &mut self.0[i];
            let prefix = match rank {
                // Columns of the rows keep their names.
                Rank::Row => {
                    taken.insert(column.name.to_lowercase());
                    continue;
                }
                Rank::Answer => "answer_",
                Rank::Always | Rank::Seldom => "result_",
            };
            let apart = format!("{prefix}{}", column.name);
            let numbered = (2..).map(|n| format!("{apart}_{n}"));
            let names = [column.name.clone(), apart.clone()];
            let mut names = names.into_iter().chain(numbered);
            let free = names.find(|name| taken.insert(name.to_lowercase()));
            column.name = free.unwrap_or(apart);
        }
        self.0.into_iter().map(|(_, column)| column).collect()
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

fn is_id(name: &str) -> bool {
    name.eq_ignore_ascii_case("id")
}

/// A value in the format in which it becomes part of an id.
fn written(value: &RawValue) -> Cow<'_, str> {
    text(value).unwrap_or(Cow::Borrowed(value.get()))
}

/// The properties of the objects that a JSON Schema describes.
pub(super) fn properties(schema: &Value) -> Result<Vec<String>, Error> {
    let root = schema.get("$ref").and_then(Value::as_str);
    let root = root.and_then(|to| schema.pointer(to.strip_prefix('#')?));
    let properties = root.unwrap_or(schema).get("properties");
    let properties = properties.and_then(Value::as_object);
    let Some(properties) = properties.filter(|all| !all.is_empty()) else {
        let why = "the JSON Schema names no properties that columns could be made of";
        return Err(Error::new(ErrorKind::Invalid, why));
    };
    Ok(properties.keys().cloned().collect())
}

#[cfg(test)]
#[path = "columns_tests.rs"]
mod tests;
