//! A row of data: of a table, or an object of JSON whose fields are data. Readers of all formats end here, so that the same
//! rows make the same requests.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::cells::Field;
use super::columns::Columns;
use super::fault::{Fault, utf8};
use super::keep::{self, Kept};
use super::messages::{self, MESSAGES};
use super::path;
use super::template::{Template, in_brackets};
use super::{PromptSettings, Roles};
use crate::base::json_read::{JsonObject, without_bom};
use crate::llm::request::{Request, Role};

/// A row with the original text of its values.
pub(super) struct Record<'r> {
    fields: JsonObject<'r>,
    /// Those of its table, or of an object with a field without a name, which is called as a column without one.
    columns: Option<Cow<'r, Columns>>,
}

impl<'r> Record<'r> {
    /// A row of a table.
    pub(super) fn of_table(columns: &'r Columns, cells: Vec<&'r RawValue>) -> Self {
        let names = columns.names.iter().map(|name| name.as_str().into());
        Self {
            fields: JsonObject(names.zip(cells).collect()),
            columns: Some(Cow::Borrowed(columns)),
        }
    }

    /// An object of JSON; `None` for another value.
    pub(super) fn of_line(text: &'r str) -> Option<Self> {
        let mut fields = JsonObject::parse(text)?;
        let columns = fields.get("", 0).map(|_| {
            let names = fields.fields().map(|(name, _)| name.to_owned());
            let columns = Columns::new(names.collect(), 1);
            for (field, name) in fields.0.iter_mut().zip(&columns.names) {
                field.0 = name.clone().into();
            }
            Cow::Owned(columns)
        });
        Some(Self { fields, columns })
    }

    pub(super) fn raw(&self, name: &str) -> Option<&'r RawValue> {
        match &self.columns {
            Some(columns) => Some(self.fields.0.get(columns.find(name)?)?.1),
            None => self.fields.get(name, 0),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<Field<'r>> {
        self.raw(name).map(Field::of)
    }

    /// Its request, without the id. Without a template the column `prompt` has the text or the messages.
    pub(super) fn request(
        &self,
        prompt: Option<&str>,
        settings: &PromptSettings,
    ) -> Result<Request, Fault> {
        let roles = &settings.roles;
        let mut request = match (&settings.template, prompt) {
            (Some(template), _) => from_template(
                template,
                |name| self.get(name),
                |name| self.null(name, template),
            )?,
            (None, Some(name)) => self.conversation(name, roles)?,
            (None, None) => return Err(Fault::new("no column \"prompt\"", "a template")),
        };
        request.model = self.text(roles.model.as_deref())?;
        set_system(&mut request, self.text(roles.system.as_deref())?)?;
        Ok(request)
    }

    /// The fault of a null that a template uses: of a field, of a part of one, or of a field that the record lacks.
    fn null(&self, name: &str, template: &Template) -> Fault {
        let names: Vec<&str> = self.fields.fields().map(|(name, _)| name).collect();
        let is_known = |path: &str| self.raw(path).is_some();
        if !path::beginnings(name).any(is_known) {
            let what = "one of the line's fields";
            let unknown = template.check_some(template.lacked(name), what, &names, &is_known);
            return unknown.err().unwrap_or_else(|| Fault::null(name));
        }
        // In a path, brackets lead to a part.
        if is_known(name) && name.contains('[') {
            Fault::null(&in_brackets(name))
        } else {
            Fault::null(name)
        }
    }

    /// The text or the messages in that column.
    fn conversation(&self, name: &str, roles: &Roles) -> Result<Request, Fault> {
        let is_named = roles.messages.as_deref() == Some(name);
        let cell = self.get(name).ok_or_else(|| {
            let expected = "messages there, since --column messages names it";
            Fault::new(format!("no field \"{name}\""), expected)
        })?;
        match filled(cell, name)? {
            Field::Json(list) if is_named || name == MESSAGES || list.starts_with("[{") => {
                messages::of_cell(name, &list)
            }
            cell if is_named || name == MESSAGES => messages::of_cell(name, cell.as_text()),
            cell => self::prompt(cell.into_text().into_owned()),
        }
    }

    /// The text in a column that has a role. It may be empty, as an empty cell or null.
    fn text(&self, name: Option<&str>) -> Result<Option<String>, Fault> {
        let Some((name, field)) = name.and_then(|name| Some((name, self.get(name)?))) else {
            return Ok(None);
        };
        match field {
            Field::Null => Ok(None),
            Field::Text(text) if self.columns.is_some() && text.trim().is_empty() => Ok(None),
            Field::Text(text) => Ok(Some(text.into_owned())),
            Field::Json(json) => {
                let found = format!("{} in \"{name}\"", super::fault::excerpt(&json));
                Err(Fault::new(found, "a text, since --column names it"))
            }
        }
    }

    /// Its fields for the result, of those that are wanted. An empty cell of a column without a name is none.
    pub(super) fn kept(&self, wanted: impl Fn(&str) -> bool, most: Option<usize>) -> Option<Kept> {
        let is_empty = |value: &RawValue| matches!(value.get(), "\"\"" | "null");
        let is_unnamed = |at: usize| {
            let columns = self.columns.as_ref();
            columns.is_some_and(|columns| columns.given[at].is_empty())
        };
        let fields = self.fields.fields().enumerate();
        let fields = fields.filter(|(at, (_, value))| !(is_unnamed(*at) && is_empty(value)));
        let fields = fields.map(|(_, field)| field);
        keep::object(fields.filter(|(name, _)| wanted(name)), most)
    }
}

/// Sets the system text of a request that may begin with instructions.
pub(super) fn set_system(request: &mut Request, system: Option<String>) -> Result<(), Fault> {
    let first = request.messages.first().map(|m| &m.role);
    if system.is_some() && matches!(first, Some(Role::System | Role::Developer)) {
        let found = "\"system\" next to messages that begin with instructions";
        return Err(Fault::two(found));
    }
    request.system = system;
    Ok(())
}

/// The request of a template for a record with these fields; `null` is the fault of a null that it uses.
pub(super) fn from_template<'a>(
    template: &Template,
    field: impl Fn(&str) -> Option<Field<'a>>,
    null: impl Fn(&str) -> Fault,
) -> Result<Request, Fault> {
    match template.content(field, null)? {
        serde_json::Value::String(text) => prompt(text),
        parts => {
            let mut request = Request::new("");
            request.messages[0].content = parts;
            Ok(request)
        }
    }
}

/// The field, unless it is null.
fn filled<'f>(field: Field<'f>, name: &str) -> Result<Field<'f>, Fault> {
    match field {
        Field::Null => Err(Fault::new(format!("null in \"{name}\""), "a value")),
        field => Ok(field),
    }
}

/// A request with one message, which must not be empty.
pub(super) fn prompt(text: String) -> Result<Request, Fault> {
    if text.trim().is_empty() {
        Err(Fault::new("an empty prompt", "some text"))
    } else {
        Ok(Request::new(text))
    }
}

/// A flag, and a field that it names.
pub(super) type Wanted = (&'static str, String);

/// Removes the fields that a line of JSON has from those that no line had so far.
pub(super) fn look_for(missing: &mut Vec<Wanted>, bytes: &[u8]) {
    let text = utf8(without_bom(bytes))
        .ok()
        .filter(|_| !missing.is_empty());
    if let Some(record) = text.and_then(Record::of_line) {
        missing.retain(|(flag, name)| {
            // A template also names parts of fields.
            let parts = if *flag == TEMPLATE { usize::MAX } else { 1 };
            let mut names = path::beginnings(name).take(parts);
            !names.any(|name| record.raw(name).is_some())
        });
    }
}

pub(super) const TEMPLATE: &str = "--template";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_no_line_has_are_found() {
        let wanted = ["colour", "size", "column 2"].map(|name| ("--keep", name.to_owned()));
        let mut missing = wanted.to_vec();
        missing.extend(["a.b", "c.d"].map(|name| (TEMPLATE, name.to_owned())));
        look_for(&mut missing, br#"{"prompt":"a","":1}"#);
        look_for(&mut missing, br#"{"prompt":"b","size":1,"c":2}"#);
        let left: Vec<&str> = missing.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(left, ["colour", "a.b"]);
    }
}
