//! Tables: the header row, and the requests of rows.

use std::borrow::Cow;
use std::collections::HashSet;

use super::cells::{Field, quoted_fields, values};
use super::fault::{Fault, check_nul, hint, listed, utf8};
use super::json::{filled, from_template, prompt};
use super::keep::{Keep, Object};
use super::messages::{self, MESSAGES};
use super::{Form, PromptSettings, id};
use crate::llm::reply_details::RawJson;
use crate::llm::request::Request;

/// The cells of a row of text.
fn text_cells(form: Form, row: &str, delimiter: u8) -> Result<Vec<Cow<'_, str>>, Fault> {
    if form.quotes() {
        return quoted_fields(row, delimiter);
    }
    let cells = row.split(char::from(delimiter));
    Ok(cells.map(Cow::Borrowed).collect())
}

/// The typed cells of a row.
fn typed_cells(form: Form, row: &str) -> Result<Vec<Field<'_>>, Fault> {
    Ok(match form.delimiter() {
        Some(delimiter) => text_cells(form, row, delimiter)?
            .into_iter()
            .map(Field::Text)
            .collect(),
        None => values(row)?.into_iter().map(Field::of).collect(),
    })
}

/// The cells of a row, as texts.
fn cells(form: Form, row: &str) -> Result<Vec<Cow<'_, str>>, Fault> {
    let cells = typed_cells(form, row)?.into_iter();
    Ok(cells.map(Field::into_text).collect())
}

/// The columns of a table and their uses.
#[derive(Debug, Clone)]
pub(crate) struct CsvHeader {
    form: Form,
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

impl CsvHeader {
    /// Parses the header row and checks that prompts can be made from it; `prompt` is the name of the column with the
    /// prompt if there is no template. The row below it is only used to suggest a column.
    pub(crate) fn parse(
        form: Form,
        bytes: &[u8],
        row: &[u8],
        prompt: &str,
        settings: &PromptSettings,
    ) -> Result<Self, Fault> {
        let template = settings.template.as_ref();
        let header = utf8(bytes)?;
        check_nul(header)?;
        let names: Vec<String> = cells(form, header)?
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
            form,
            id,
            id_wanted: settings.id_column.is_some(),
            prompt: column(prompt).or_else(|| column(MESSAGES)),
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
                let row = cells(form, &row).unwrap_or_default();
                let cell = |i: usize| row.get(i).map_or(0, |cell| cell.chars().count());
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
            None => {
                let prompt = header.prompt.map(|column| names[column].as_str());
                prompt.map_or(Ok(()), |name| header.once(name))?;
            }
        }
        for name in &settings.keep.names {
            header.once(name)?;
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

    /// Rejects a row of several lines if each of them could be a row: most programs write tabs between fields without
    /// any quoting, and then a text that begins with a quotation mark would swallow the rows below it.
    fn one_row(&self, row: &str) -> Result<(), Fault> {
        let whole = |line: &str| line.matches('\t').count() + 1 == self.names.len();
        if self.form != Form::Delimited(b'\t')
            || self.names.len() < 2
            || !row.contains('\n')
            || !row.lines().all(whole)
        {
            return Ok(());
        }
        Err(Fault::new(
            "a quoted field of several lines, each of which could be a row",
            "--quotes off if quotation marks are text in this file, or --quotes on if they enclose fields",
        ))
    }

    /// The request of a row.
    pub(super) fn request(&self, row: &str, settings: &PromptSettings) -> Result<Request, Fault> {
        let text = row;
        let mut row = typed_cells(self.form, text)?;
        if settings.quotes.is_none() {
            self.one_row(text)?;
        }
        if row.len() != self.names.len() {
            return Err(Fault::new(
                format!("a row of {} fields", row.len()),
                format!("{}, as the header has", self.names.len()),
            ));
        }
        let same = |(cell, name): (&Field<'_>, &String)| cell.as_text().trim() == name;
        let text = self.form.delimiter().is_some();
        if text && row.len() > 1 && row.iter().zip(&self.names).all(same) {
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
        return Err(Keep::missing(name, "column", columns));
    }
    let kept = named(names).into_iter();
    Ok(kept.filter(|i| keep.takes(&names[*i])).collect())
}

impl CsvHeader {
    /// The kept fields of a row, or all; `None` if the number of cells differs from the number of columns.
    pub(super) fn kept(&self, row: &str, all: bool) -> Option<RawJson> {
        let cells = typed_cells(self.form, row).ok()?;
        let mut object = Object::new();
        for column in if all { &self.named } else { &self.kept } {
            let name = &self.names[*column];
            match cells.get(*column)? {
                Field::Null => object.json(name, "null"),
                Field::Text(text) => object.text(name, text),
                Field::Json(json) => object.json(name, json),
            }
        }
        (cells.len() == self.names.len()).then(|| object.end())?
    }

    /// The id of a row that makes no prompt.
    pub(super) fn id(&self, row: &str) -> Option<String> {
        let row = cells(self.form, row).ok()?;
        let (name, id) = (&self.names[self.id?], row.get(self.id?)?);
        id::checked(name, id).ok()
    }
}
