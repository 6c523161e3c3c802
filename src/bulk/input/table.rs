//! Tables: the columns, and the requests of rows, which are JSON lists.

use std::borrow::Cow;
use std::collections::HashSet;

use serde_json::json;

use super::cells::{Field, any_values, values};
use super::fault::{Fault, hint, listed};
use super::json::{filled, from_template, prompt};
use super::keep::{self, Keep};
use super::messages::{self, MESSAGES};
use super::{PromptSettings, id};
use crate::llm::reply_details::RawJson;
use crate::llm::request::Request;

/// The columns of a table and their uses.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    names: Vec<String>,
    id: Option<usize>,
    /// Whether a row without an id is rejected.
    id_wanted: bool,
    prompt: Option<usize>,
    /// The columns that have a name, of those with equal names the first one.
    named: Vec<usize>,
    /// The columns that are kept.
    kept: Vec<usize>,
}

impl Header {
    /// Checks that prompts can be made from these columns; `prompt` is the name of the column with the prompt if there is
    /// no template. The first row is only used to suggest a column.
    pub(crate) fn new(
        names: &[String],
        row: &[u8],
        prompt: &str,
        settings: &PromptSettings,
    ) -> Result<Self, Fault> {
        let template = settings.template.as_ref();
        let names: Vec<String> = names.iter().map(|name| name.trim().to_owned()).collect();
        let column = |name: &str| names.iter().position(|other| other == name);
        let caseless = |name: &str| {
            let own = column(name);
            own.or_else(|| {
                names
                    .iter()
                    .position(|other| other.eq_ignore_ascii_case(name))
            })
        };
        let id = match &settings.id_column {
            _ if settings.without_ids => None,
            None => caseless("id").or_else(|| caseless("custom_id")),
            Some(name) => Some(caseless(name).ok_or_else(|| {
                let columns = names.iter().map(String::as_str);
                Fault::new(
                    format!("the columns {}", listed(columns.clone())),
                    format!("one named \"{name}\" for the ids{}", hint(name, columns)),
                )
            })?),
        };
        let kept = kept(&names, &settings.keep)?;
        let header = Self {
            named: named(&names),
            kept,
            id,
            id_wanted: settings.id_column.is_some(),
            prompt: column(prompt).or_else(|| column(MESSAGES)),
            names: names.clone(),
        };
        let columns = names.iter().map(String::as_str);
        let mut used: Vec<&str> = Vec::new();
        match template {
            Some(template) => {
                template.check("one of the columns", columns)?;
                used.extend(template.variables());
            }
            None if header.prompt.is_none() => {
                let row = String::from_utf8_lossy(row);
                let row = values(&row).unwrap_or_default();
                let cell = |i: usize| row.get(i).map_or(0, |cell| cell.as_text().chars().count());
                let example = (0..names.len())
                    .rev()
                    .filter(|i| !names[*i].is_empty() && (names.len() == 1 || id != Some(*i)))
                    .max_by_key(|i| cell(*i));
                let example = example.map_or("text", |i| names[i].as_str());
                return Err(Fault::new(
                    format!("the columns {}", listed(columns)),
                    format!(
                        "one named \"prompt\" or \"messages\", or a template such as \
                         --template 'Summarize: {{{{{example}}}}}'"
                    ),
                ));
            }
            None => used.extend(header.prompt.map(|column| names[column].as_str())),
        }
        used.extend(settings.keep.names.iter().map(String::as_str));
        used.extend(header.id.map(|id| names[id].as_str()));
        for name in used {
            let n = names.iter().filter(|other| *other == name).count();
            if n > 1 {
                let found = format!("{n} columns named \"{name}\"");
                return Err(Fault::new(found, "one column of that name"));
            }
        }
        Ok(header)
    }

    /// The request of a row.
    pub(super) fn request(&self, row: &str, settings: &PromptSettings) -> Result<Request, Fault> {
        let mut row = values(row)?;
        if row.len() != self.names.len() {
            return Err(Fault::new(
                format!("a row of {} fields", row.len()),
                format!("{}, as the header has", self.names.len()),
            ));
        }
        let same = |(cell, name): (&Field<'_>, &String)| cell.as_text().trim() == name;
        if row.len() > 1 && row.iter().zip(&self.names).all(same) {
            return Err(Fault::new(
                "the header once more",
                "rows below it: files are not joined to be read, but named one behind the other",
            ));
        }
        let id = match self.id {
            Some(column) if self.id_wanted || !row[column].as_text().trim().is_empty() => {
                Some(id::checked(&self.names[column], row[column].as_text())?)
            }
            _ => None,
        };
        let mut request = match (&settings.template, self.prompt) {
            (Some(template), _) => from_template(template, |name| {
                let column = self.names.iter().position(|other| other == name)?;
                Some(row[column].clone())
            })?,
            (None, Some(column)) => {
                let (cell, name) = (row.swap_remove(column), &self.names[column]);
                match filled(cell, name)? {
                    Field::Json(list) if list.starts_with("[{") => messages::of_cell(name, &list)?,
                    cell if name == MESSAGES => messages::of_cell(name, cell.as_text())?,
                    cell => prompt(cell.into_text().into_owned())?,
                }
            }
            (None, None) => return Err(Fault::new("no column \"prompt\"", "a template")),
        };
        request.id = id;
        Ok(request)
    }

    /// The kept fields of a row, or all; `None` if the number of cells differs from the number of columns.
    pub(super) fn kept(&self, row: &str, all: bool) -> Option<RawJson> {
        let cells = values(row).ok()?;
        if cells.len() != self.names.len() {
            return None;
        }
        let columns = if all { &self.named } else { &self.kept };
        let field = |column: &usize| {
            let json = match &cells[*column] {
                Field::Null => Cow::Borrowed("null"),
                Field::Text(text) => Cow::Owned(json!(text).to_string()),
                Field::Json(json) => Cow::Borrowed(&**json),
            };
            (&*self.names[*column], json)
        };
        keep::object(columns.iter().map(field))
    }

    /// The id of a row that makes no prompt.
    pub(super) fn id(&self, row: &str) -> Option<String> {
        let row = any_values(row).ok()?;
        let (name, id) = (&self.names[self.id?], row.get(self.id?)?);
        let id = id::checked(name, id.as_text()).ok()?;
        (!id.contains(char::REPLACEMENT_CHARACTER)).then_some(id)
    }
}

/// The columns that have a name, of those with equal names the first one.
fn named(names: &[String]) -> Vec<usize> {
    let mut taken = HashSet::from([""]);
    let columns = names.iter().enumerate();
    let named = columns.filter(|(_, name)| taken.insert(name));
    named.map(|(i, _)| i).collect()
}

/// The columns that are kept, in their order.
fn kept(names: &[String], keep: &Keep) -> Result<Vec<usize>, Fault> {
    let columns = names.iter().map(String::as_str);
    if let Some(name) = keep.names.iter().find(|name| !names.contains(name)) {
        let expected = format!(
            "one named \"{name}\" for --keep{}",
            hint(name, columns.clone())
        );
        return Err(Fault::new(
            format!("the columns {}", listed(columns)),
            expected,
        ));
    }
    let kept = named(names).into_iter();
    Ok(kept.filter(|i| keep.takes(&names[*i])).collect())
}
