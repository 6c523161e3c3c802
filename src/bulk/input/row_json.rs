//! A record as a JSON object of its fields, for callers that need the row and not the prompt.

use super::Form;
use super::fault::{Fault, InputError, utf8};
use super::file::{InputFile, Part};
use super::json_object::JsonObject;
use super::keep::Object;
use crate::base::bom::without_bom;

impl InputFile {
    /// The record at this position: a table's row with the names of its columns, a line of JSON with its fields, on one
    /// line, a line of text as `prompt`.
    pub(crate) fn row_at(&self, offset: u64) -> Result<String, InputError> {
        let part = self.part_of(offset);
        if let Some(change) = part.change() {
            let text = format!("changed while its rows were joined ({change}); do it again");
            return Err(InputError::of_file(&part.name, text));
        }
        let record = part.source.record(part.form, offset - part.base);
        let record = record.map_err(|error| part.unreadable(&error))?;
        let (bytes, ..) = record.unwrap_or_default();
        let row = part.row(&bytes);
        row.map_err(|fault| InputError::of_file(&part.name, fault.to_string()))
    }
}

impl Part {
    fn row(&self, bytes: &[u8]) -> Result<String, Fault> {
        let text = utf8(without_bom(bytes))?;
        Ok(match (self.form, &self.header) {
            (Form::Text, _) => {
                let line = text.trim_end_matches(['\r', '\n']);
                serde_json::json!({ "prompt": line }).to_string()
            }
            (_, Some(header)) => header.object(text)?,
            (_, None) => match JsonObject::parse(text) {
                Some(fields) => {
                    let mut object = Object::new();
                    for (name, value) in fields.fields() {
                        object.value(name, value);
                    }
                    object.end().map_or_else(String::new, |row| row.to_string())
                }
                // It makes no prompt, and has no fields either.
                None => String::new(),
            },
        })
    }
}
