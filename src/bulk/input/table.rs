//! Tables: the uses of columns, and the records of rows, which are JSON lists.

use super::cells::{Field, any_values, values};
use super::columns::Columns;
use super::fault::{Fault, hint, listed};
use super::keep::Kept;
use super::messages::MESSAGES;
use super::row::Record;
use super::shape::proposed;
use super::{PromptSettings, id};
use crate::llm::request::Request;

/// The columns of a table and their uses.
#[derive(Debug)]
pub(crate) struct Header {
    columns: Columns,
    id: Option<usize>,
    /// Whether a row without an id is rejected.
    id_wanted: bool,
    prompt: Option<usize>,
}

impl Header {
    /// Checks that prompts can be made from these columns. The first row is only used to suggest a column.
    pub(crate) fn new(
        columns: &Columns,
        row: &[u8],
        settings: &PromptSettings,
    ) -> Result<Self, Fault> {
        let (names, roles) = (&columns.names, &settings.roles);
        let caseless = |name: &str| {
            let any = || {
                names
                    .iter()
                    .position(|other| other.eq_ignore_ascii_case(name))
            };
            columns.find(name).or_else(any)
        };
        let named = |name: &str, what: &str, place: Option<usize>| {
            place.ok_or_else(|| {
                let found = format!(
                    "the columns {}",
                    listed(columns.names.iter().map(String::as_str))
                );
                let hint = hint(name, columns.names.iter().map(String::as_str));
                Fault::new(found, format!("one named \"{name}\" {what}{hint}"))
            })
        };
        for name in &settings.keep.names {
            named(name, "for --keep", columns.find(name))?;
        }
        for name in roles.optional() {
            named(name, "for --column", columns.find(name))?;
        }
        let id = match &roles.id {
            _ if settings.without_ids => None,
            None => caseless("id").or_else(|| caseless("custom_id")),
            Some(name) => Some(named(name, "for the ids", caseless(name))?),
        };
        let prompt = match &roles.messages {
            Some(name) => Some(named(name, "for the messages", columns.find(name))?),
            None => columns
                .find(columns.prompt)
                .or_else(|| columns.find(MESSAGES)),
        };
        let mut used: Vec<&str> = roles.optional().map(String::as_str).collect();
        match &settings.template {
            Some(template) => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let is_known = |name: &str| columns.find(name).is_some();
                template.check("one of the columns", &names, &is_known)?;
                used.extend(template.bare());
            }
            None if prompt.is_none() => {
                return Err(wants_template(columns, id, row, settings));
            }
            None => used.extend(prompt.map(|column| names[column].as_str())),
        }
        used.extend(id.map(|id| names[id].as_str()));
        for name in used {
            refuse_doubled(columns, name)?;
        }
        Ok(Self {
            id,
            id_wanted: roles.id.is_some(),
            prompt,
            columns: columns.clone(),
        })
    }

    /// The values of a row; `None` if their number differs from that of the columns.
    fn record<'r>(&'r self, row: &'r str) -> Result<Record<'r>, Fault> {
        let (cells, columns) = (values(row)?, &self.columns);
        if cells.len() != columns.names.len() {
            return Err(Fault::new(
                format!("a row of {} fields", cells.len()),
                format!("{}, as the header has", columns.names.len()),
            ));
        }
        let mut pairs = cells.iter().zip(&columns.given);
        if cells.len() > 1 && pairs.all(|(cell, name)| Field::of(cell).as_text().trim() == name) {
            return Err(Fault::new(
                "the header once more",
                "rows below it: files are not joined to be read, but named one behind the other",
            ));
        }
        Ok(Record::of_table(columns, cells))
    }

    /// The request of a row.
    pub(super) fn request(&self, row: &str, settings: &PromptSettings) -> Result<Request, Fault> {
        let record = self.record(row)?;
        let names = &self.columns.names;
        let id = self
            .id
            .and_then(|column| Some((&names[column], record.get(&names[column])?)));
        let id = id.filter(|(_, id)| self.id_wanted || !id.as_text().trim().is_empty());
        let id = id
            .map(|(name, id)| id::checked(name, id.as_text()))
            .transpose()?;
        let prompt = self.prompt.map(|column| names[column].as_str());
        let mut request = record.request(prompt, settings)?;
        request.id = id;
        Ok(request)
    }

    /// The kept fields of a row; `None` if it cannot be read.
    pub(super) fn kept(
        &self,
        row: &str,
        settings: &PromptSettings,
        most: Option<usize>,
    ) -> Option<Kept> {
        let keep = &settings.keep;
        let columns: Vec<usize> = keep
            .names
            .iter()
            .filter_map(|name| self.columns.find(name))
            .collect();
        let is_named = |name: &str| columns.iter().any(|at| self.columns.names[*at] == name);
        let all = keep.all || !keep.is_on();
        self.record(row)
            .ok()?
            .kept(|name| all || is_named(name), most)
    }

    /// The id of a row that makes no prompt.
    pub(super) fn id(&self, row: &str) -> Option<String> {
        let row = any_values(row).ok()?;
        let (name, id) = (&self.columns.names[self.id?], row.get(self.id?)?);
        let id = id::checked(name, Field::of(id).as_text()).ok()?;
        (!id.contains(char::REPLACEMENT_CHARACTER)).then_some(id)
    }
}

/// Rejects a name that several columns have in the header.
fn refuse_doubled(columns: &Columns, name: &str) -> Result<(), Fault> {
    let mut equal = (0..columns.names.len()).filter(|at| columns.given[*at] == name);
    let (Some(_), Some(second)) = (equal.next(), equal.next()) else {
        return Ok(());
    };
    let (n, second) = (2 + equal.count(), &columns.names[second]);
    Err(Fault::new(
        format!("{n} columns named \"{name}\""),
        format!(
            "one column of that name; the second one is called \"{second}\": row[\"{second}\"] in a template, \
             --column id={second} for ids"
        ),
    ))
}

/// The fault of a table without prompts, with a template according to the first row; of equal names none is proposed.
fn wants_template(
    columns: &Columns,
    id: Option<usize>,
    row: &[u8],
    settings: &PromptSettings,
) -> Fault {
    let row = String::from_utf8_lossy(row);
    let row = values(&row).unwrap_or_default();
    let fields = columns.names.iter().enumerate().filter(|(i, _)| {
        let given = &columns.given[*i];
        let n = columns.given.iter().filter(|other| *other == given).count();
        !given.is_empty() && n == 1 && (columns.names.len() == 1 || id != Some(*i))
    });
    let fields = fields.map(|(i, name)| {
        let cell = row.get(i).map(|cell| Field::of(cell));
        (name.as_str(), cell.unwrap_or(Field::Text("".into())))
    });
    let example = proposed(fields, settings.task);
    let example = example.unwrap_or_else(|| "--template '{{text}}'".to_owned());
    Fault::new(
        format!(
            "the columns {}",
            listed(columns.names.iter().map(String::as_str))
        ),
        format!("one named \"prompt\" or \"messages\", or a template such as {example}"),
    )
}
