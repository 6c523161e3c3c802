//! A prompt with placeholders for the fields of a record: `Translate {{text}} into {{language}}.` A template with
//! blocks or filters is an expression.

use std::borrow::Cow;
use std::collections::HashSet;

use serde_json::{Value, json};

use super::cells::Field;
#[cfg(feature = "templates")]
use super::expression::Expression;
use super::fault::{Fault, hint, listed};
use super::path;

/// A parsed template.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    parts: Vec<Part>,
    /// Replaces the parts if the template has blocks or filters.
    #[cfg(feature = "templates")]
    expression: Option<Expression>,
}

#[derive(Debug, Clone)]
enum Part {
    Text(String),
    Variable(String),
    /// The field has the path of a file, which is inserted here.
    File(String),
}

/// Prefix of the name of a field with the path of a file.
const FILE: &str = "file:";

impl Template {
    /// Parses a template; the error names the column, counted in characters from 1.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        #[cfg(feature = "templates")]
        if Expression::is_one(text) {
            return Ok(Self {
                parts: Vec::new(),
                expression: Some(Expression::parse(text)?),
            });
        }
        let fault = |at: usize, open: &str, why: &str| {
            let column = text[..at].chars().count() + 1;
            Err(format!(
                "the template's \"{open}\" at column {column} {why}"
            ))
        };
        let mut parts = Vec::new();
        let mut at = 0;
        while let Some(open) = text[at..].find("{{").map(|i| at + i) {
            if open > at {
                parts.push(Part::Text(text[at..open].to_owned()));
            }
            let inside = &text[open + 2..];
            let end = inside.find(['{', '}']).unwrap_or(inside.len());
            if !inside[end..].starts_with("}}") {
                return fault(open, "{{", "is not closed by \"}}\"");
            }
            let name = inside[..end].trim();
            if name.is_empty() {
                return fault(open, "{{", "names no field");
            }
            parts.push(match name.strip_prefix(FILE).map(str::trim) {
                None => Part::Variable(name.to_owned()),
                Some("") => return fault(open, "{{file:", "names no field"),
                Some(name) => Part::File(name.to_owned()),
            });
            at = open + 2 + end + 2;
        }
        if at < text.len() {
            parts.push(Part::Text(text[at..].to_owned()));
        }
        if parts.iter().all(|part| matches!(part, Part::Text(_))) {
            return Err("the template names no field: write one as {{field}}".to_owned());
        }
        Ok(Self {
            parts,
            #[cfg(feature = "templates")]
            expression: None,
        })
    }

    /// The variables, including repetitions.
    pub(crate) fn variables(&self) -> impl Iterator<Item = &str> {
        let plain = self.parts.iter().filter_map(|part| match part {
            Part::Variable(name) | Part::File(name) => Some(name.as_str()),
            Part::Text(_) => None,
        });
        #[cfg(feature = "templates")]
        let plain = plain.chain(self.expression.iter().flat_map(Expression::variables));
        plain
    }

    /// Those that are not named in brackets.
    pub(super) fn bare(&self) -> impl Iterator<Item = &str> {
        let all = self.variables();
        #[cfg(feature = "templates")]
        let all = all.filter(|name| {
            let expression = self.expression.as_ref();
            !expression.is_some_and(|expression| expression.brackets(name))
        });
        all
    }

    /// The content of a message with every variable replaced: a text, or if it inserts files, a list of them and the texts
    /// between them. Inserted text is not parsed again. A field that the record lacks counts as null.
    ///
    /// # Errors
    /// If a null is used as a value, if there is no value at a path, or if all fields are empty.
    pub(super) fn content<'a>(
        &self,
        field: impl Fn(&str) -> Option<Field<'a>>,
        null: impl Fn(&str) -> Fault,
    ) -> Result<Value, Fault> {
        #[cfg(feature = "templates")]
        if let Some(expression) = &self.expression {
            // What becomes of null is said by the template.
            let text = |path| match path::beginnings(path).find_map(&field) {
                Some(Field::Null) | None => Cow::Borrowed("null"),
                Some(field) => field.into_text(),
            };
            self.check_filled(self.variables().map(text))?;
            return expression.render(field, null).map(Value::String);
        }
        let value = |path: &str| match path::value(path, &field)? {
            Some(Field::Null) | None => Err(null(path)),
            Some(found) => Ok(found.into_text()),
        };
        let values: Vec<Cow<'_, str>> = self.variables().map(value).collect::<Result<_, _>>()?;
        self.check_filled(values.iter())?;
        let (mut all, mut text) = (Vec::new(), String::new());
        let end = |text: &mut String, all: &mut Vec<Value>| {
            if !text.trim().is_empty() {
                all.push(json!({"type": "text", "text": text}));
            }
            text.clear();
        };
        let mut values = values.iter();
        for part in &self.parts {
            let mut value = || values.next().map_or("", |value| &**value);
            match part {
                Part::Text(own) => text.push_str(own),
                Part::Variable(_) => text.push_str(value()),
                Part::File(_) => {
                    end(&mut text, &mut all);
                    all.push(json!({"type": "file", "path": value().trim()}));
                }
            }
        }
        if all.is_empty() {
            return Ok(Value::String(text));
        }
        end(&mut text, &mut all);
        Ok(all.into())
    }

    /// Rejects a record whose fields in the template are all empty.
    fn check_filled(&self, mut values: impl Iterator<Item = impl AsRef<str>>) -> Result<(), Fault> {
        if values.any(|value| !value.as_ref().trim().is_empty()) {
            return Ok(());
        }
        let mut seen = HashSet::new();
        let names = self.variables().filter(|name| seen.insert(*name));
        Err(Fault::new(
            format!("the fields of the template all empty: {}", listed(names)),
            "some text in one of them",
        ))
    }

    /// Rejects variables that are not `known`; `what` describes `names`.
    pub(super) fn check(
        &self,
        what: &str,
        names: &[&str],
        is_known: &dyn Fn(&str) -> bool,
    ) -> Result<(), Fault> {
        self.check_some(self.variables().collect(), what, names, is_known)
    }

    /// The same for some of the variables.
    pub(super) fn check_some(
        &self,
        variables: Vec<&str>,
        what: &str,
        names: &[&str],
        is_known: &dyn Fn(&str) -> bool,
    ) -> Result<(), Fault> {
        let mut unknown: Vec<String> = Vec::new();
        for variable in variables {
            if path::beginnings(variable).any(is_known) {
                continue;
            }
            let rest = |name: &&&str| {
                name.strip_prefix(variable)
                    .is_some_and(|rest| rest.starts_with('['))
            };
            let help = match names.iter().find(rest) {
                Some(name) => format!(" (the column \"{name}\" is {})", in_brackets(name)),
                None => hint(variable, names.iter().copied()),
            };
            let text = format!("{{{{{variable}}}}}{help}");
            if !unknown.contains(&text) {
                unknown.push(text);
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        let expected = format!("{what}: {}", listed(names.iter().copied()));
        let found = format!("{} in the template", unknown.join(", "));
        Err(Fault::new(found, expected))
    }

    /// The variables that a record without this field is to blame for. With blocks or filters, others may be optional.
    pub(super) fn lacked<'n>(&'n self, name: &'n str) -> Vec<&'n str> {
        if self.parts.is_empty() {
            vec![name]
        } else {
            self.variables().collect()
        }
    }
}

/// A column in a template, if its name is no variable.
pub(super) fn in_brackets(name: &str) -> String {
    format!("row[{name:?}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_templates_name_the_column() {
        for (text, message) in [
            (
                "é {{name",
                "the template's \"{{\" at column 3 is not closed by \"}}\"",
            ),
            (
                "{{a}} {{b} c}}",
                "the template's \"{{\" at column 7 is not closed by \"}}\"",
            ),
            (
                "{{a {{b}}",
                "the template's \"{{\" at column 1 is not closed by \"}}\"",
            ),
            ("{{ }}", "the template's \"{{\" at column 1 names no field"),
        ] {
            assert_eq!(Template::parse(text).unwrap_err(), message);
        }
    }
}
