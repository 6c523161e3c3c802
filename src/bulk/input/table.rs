//! Tables: the header row, and what a row asks for.

use std::borrow::Cow;

use super::cells::fields;
use super::fault::{Fault, utf8};
use super::id;
use super::json::prompt;
use super::names::{hint, listed};
use super::template::Template;
use super::{Form, Settings};
use crate::llm::request::Request;

/// The columns of a table and what they are used for.
#[derive(Debug, Clone)]
pub(crate) struct CsvHeader {
    delimiter: u8,
    names: Vec<String>,
    id: Option<usize>,
    /// A row without an id is refused.
    id_wanted: bool,
    prompt: Option<usize>,
}

impl CsvHeader {
    /// Reads the header row and checks that prompts can be made from it.
    /// The row below it only serves to name a column that may be meant.
    pub(crate) fn parse(
        form: Form,
        bytes: &[u8],
        row: &[u8],
        settings: &Settings,
    ) -> Result<Self, Fault> {
        let template = settings.template.as_ref();
        let delimiter = form.delimiter().unwrap_or(b',');
        let names: Vec<String> = fields(utf8(bytes)?, delimiter)
            .iter()
            .map(|name| name.trim().to_owned())
            .collect();
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
            None => caseless("id").or_else(|| caseless("custom_id")),
            Some(name) => Some(caseless(name).ok_or_else(|| {
                let columns = names.iter().map(String::as_str);
                Fault::new(
                    format!("the columns {}", listed(columns.clone())),
                    format!("one named \"{name}\" for the ids{}", hint(name, columns)),
                )
            })?),
        };
        let header = Self {
            delimiter,
            id,
            id_wanted: settings.id_column.is_some(),
            prompt: column("prompt"),
            names: names.clone(),
        };
        let columns = names.iter().map(String::as_str);
        match template {
            Some(template) => {
                template.check("one of the columns", columns)?;
                for name in template.variables() {
                    header.once(name)?;
                }
            }
            None if header.prompt.is_none() => {
                let row = String::from_utf8_lossy(row);
                let row = fields(&row, delimiter);
                let cell = |i: usize| row.get(i).map_or(0, |cell| cell.chars().count());
                let example = (0..names.len())
                    .rev()
                    .filter(|i| !names[*i].is_empty() && (names.len() == 1 || id != Some(*i)))
                    .max_by_key(|i| cell(*i));
                let example = example.map_or("text", |i| names[i].as_str());
                return Err(Fault::new(
                    format!("the columns {}", listed(columns)),
                    format!(
                        "one named \"prompt\", or a template such as \
                         --template 'Summarize: {{{{{example}}}}}'"
                    ),
                ));
            }
            None => header.once("prompt")?,
        }
        if let Some(id) = header.id {
            header.once(&names[id])?;
        }
        Ok(header)
    }

    fn once(&self, name: &str) -> Result<(), Fault> {
        match self.names.iter().filter(|other| *other == name).count() {
            0 | 1 => Ok(()),
            n => Err(Fault::new(
                format!("{n} columns named \"{name}\""),
                "one column of that name",
            )),
        }
    }

    /// The request of a row.
    pub(super) fn request(&self, row: &str, template: Option<&Template>) -> Result<Request, Fault> {
        let mut row = fields(row, self.delimiter);
        if row.len() != self.names.len() {
            return Err(Fault::new(
                format!("a row of {} fields", row.len()),
                format!("{}, as the header has", self.names.len()),
            ));
        }
        let same = |(cell, name): (&Cow<'_, str>, &String)| cell.trim() == name;
        if row.len() > 1 && row.iter().zip(&self.names).all(same) {
            return Err(Fault::new(
                "the header once more",
                "rows below it: files are not joined to be read, but named one behind the other",
            ));
        }
        let id = match self.id {
            Some(column) if self.id_wanted || !row[column].trim().is_empty() => {
                Some(id::checked(&self.names[column], &row[column])?)
            }
            _ => None,
        };
        let text = match (template, self.prompt) {
            (Some(template), _) => {
                let value = |name: &str| {
                    let column = self.names.iter().position(|other| other == name)?;
                    Some(Cow::Borrowed(row[column].as_ref()))
                };
                template.check_filled(value)?;
                template
                    .render(value)
                    .map_err(|unknown| Fault::new(unknown.to_string(), "a column of that name"))?
            }
            (None, Some(column)) => std::mem::take(&mut row[column]).into_owned(),
            (None, None) => return Err(Fault::new("no column \"prompt\"", "a template")),
        };
        let mut request = prompt(text)?;
        request.id = id;
        Ok(request)
    }
}

impl CsvHeader {
    /// The id alone, of a row that makes no prompt.
    pub(super) fn id(&self, row: &str) -> Option<String> {
        let row = fields(row, self.delimiter);
        let (name, id) = (&self.names[self.id?], row.get(self.id?)?);
        id::checked(name, id).ok()
    }
}
