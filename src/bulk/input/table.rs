//! Tables: the header row, and rows split into fields as RFC 4180 has it. Written here rather than
//! taken from a reader, because rows are parsed one by one on any thread; tests hold it against
//! the csv crate.

use std::borrow::Cow;

use memchr::memchr;

use super::fault::Fault;
use super::id;
use super::json::prompt;
use super::names::{hint, listed};
use super::parse::utf8;
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

/// The fields of one row. Like other readers it takes a quote inside an unquoted field, and text
/// after a closing quote, as they stand.
pub(super) fn fields(row: &str, delimiter: u8) -> Vec<Cow<'_, str>> {
    let bytes = row.as_bytes();
    let plain_end =
        |from: usize| memchr(delimiter, &bytes[from..]).map_or(bytes.len(), |i| from + i);
    let mut out = Vec::new();
    let mut at = 0;
    loop {
        let end = if bytes.get(at) == Some(&b'"') {
            let (mut field, closed) = quoted(row, at + 1);
            let end = plain_end(closed);
            if end > closed {
                field.to_mut().push_str(&row[closed..end]);
            }
            out.push(field);
            end
        } else {
            let end = plain_end(at);
            out.push(Cow::Borrowed(&row[at..end]));
            end
        };
        if end == bytes.len() {
            return out;
        }
        at = end + 1;
    }
}

/// The quoted text that begins at `from`, and where its closing quote has ended.
fn quoted(row: &str, from: usize) -> (Cow<'_, str>, usize) {
    let bytes = row.as_bytes();
    let mut field = Cow::Borrowed("");
    let mut at = from;
    loop {
        let end = memchr(b'"', &bytes[at..]).map_or(bytes.len(), |i| at + i);
        field += &row[at..end];
        if bytes.get(end + 1) != Some(&b'"') {
            return (field, (end + 1).min(bytes.len()));
        }
        field += "\"";
        at = end + 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_guard_delimiters_quotes_and_line_ends() {
        for (row, expected) in [
            ("a,b", vec!["a", "b"]),
            ("", vec![""]),
            ("a,", vec!["a", ""]),
            (",", vec!["", ""]),
            ("\"a,b\",c", vec!["a,b", "c"]),
            (
                "\"say \"\"hi\"\"\",\"two\r\nlines\"",
                vec!["say \"hi\"", "two\r\nlines"],
            ),
            ("\"\",\"\"\"\"", vec!["", "\""]),
            ("a\"b,\"c\"d,\"e", vec!["a\"b", "cd", "e"]),
            (" \"a\", b", vec![" \"a\"", " b"]),
        ] {
            assert_eq!(fields(row, b','), expected, "{row:?}");
        }
        assert_eq!(fields("a,b\t\"c\td\"", b'\t'), ["a,b", "c\td"]);
    }
}
