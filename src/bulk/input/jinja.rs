//! Values of fields in templates in the language of Jinja. minijinja shows null as `none`; here a use of null that is not
//! one of those that expect it is noticed.

use std::cmp::Ordering;
use std::fmt;
use std::sync::{Arc, OnceLock};

use minijinja::value::{DynObject, Enumerator, Object, ObjectRepr, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind};
use serde_json::value::RawValue;

use super::cells::Field;
use crate::base::json_read::JsonObject;

/// The name of the first null that was used as a text or as a value with parts.
pub(super) type UsedNull = Arc<OnceLock<String>>;

/// Makes values of the fields of one row.
#[derive(Default)]
pub(super) struct Values {
    pub(super) used: UsedNull,
    /// Whether the template compares with null in a way that minijinja would answer wrongly.
    pub(super) refuse_null: bool,
}

impl Values {
    /// The value of a field: a number or boolean if it is one, a list or object, null, or its text.
    pub(super) fn of(&self, name: String, field: &Field<'_>) -> Value {
        let text = match field {
            Field::Null => return self.null(name),
            Field::Text(text) => return Value::from(text.as_ref()),
            Field::Json(json) => json.as_ref(),
        };
        match text.as_bytes().first() {
            Some(b'[') => {
                let list: Vec<&RawValue> = serde_json::from_str(text).unwrap_or_default();
                let all = list.into_iter().enumerate();
                let all = all.map(|(i, value)| self.of(format!("{name}[{i}]"), &Field::of(value)));
                Value::from_object(List(text.to_owned(), all.collect()))
            }
            Some(b'{') => {
                let object = JsonObject::parse(text).unwrap_or_default();
                let fields = object.fields().map(|(key, value)| {
                    let name = format!("{name}.{key}");
                    (key.to_owned(), self.of(name, &Field::of(value)))
                });
                let own = Value::from(text);
                Value::from_object(Fields {
                    own,
                    fields: fields.collect(),
                })
            }
            _ => scalar(text),
        }
    }

    pub(super) fn null(&self, name: String) -> Value {
        if self.refuse_null {
            self.used.get_or_init(|| name.clone());
        }
        let used = Arc::clone(&self.used);
        Value::from_object(Null { name, used })
    }

    /// The value at this path if there is a column of this name, or one for a path that goes on from it; `own` is the value
    /// there within another column.
    pub(super) fn at<'a>(
        &self,
        at: &str,
        own: Option<Value>,
        paths: &[String],
        field: &impl Fn(&str) -> Option<Field<'a>>,
    ) -> Option<Value> {
        let column = field(at).map(|field| self.of(at.to_owned(), &field));
        let own = column.clone().or(own);
        let below = paths
            .iter()
            .filter_map(|path| path.strip_prefix(at)?.strip_prefix('.'));
        let mut fields: Vec<(String, Value)> = Vec::new();
        for name in below.map(|rest| rest.split('.').next().unwrap_or_default()) {
            let own = own.as_ref().filter(|own| !is_null(own));
            let inner = own.and_then(|own| own.get_attr(name).ok());
            let inner = inner.filter(|inner| !inner.is_undefined());
            let known = fields.iter().any(|(other, _)| other == name);
            let value = self.at(&format!("{at}.{name}"), inner, paths, field);
            fields.extend(
                value
                    .filter(|_| !known)
                    .map(|value| (name.to_owned(), value)),
            );
        }
        if fields.is_empty() {
            return column;
        }
        let own = own.unwrap_or_default();
        Some(Value::from_object(Fields { own, fields }))
    }
}

fn scalar(text: &str) -> Value {
    match text {
        "true" => return Value::from(true),
        "false" => return Value::from(false),
        _ => {}
    }
    let whole = text.parse::<i64>().map(Value::from);
    let whole = whole.or_else(|_| text.parse::<i128>().map(Value::from));
    let number = whole.or_else(|_| text.parse::<f64>().map(Value::from));
    number.unwrap_or_else(|_| Value::from(text))
}

/// A JSON list with its text.
#[derive(Debug)]
struct List(String, Vec<Value>);

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.1.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.1.len())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A JSON object, whose own value is its text; or several fields whose names begin alike.
#[derive(Debug)]
struct Fields {
    own: Value,
    fields: Vec<(String, Value)>,
}

impl Object for Fields {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let name = key.as_str()?;
        let found = self.fields.iter().find(|(other, _)| other == name);
        let own = || {
            self.own
                .get_attr(name)
                .ok()
                .filter(|value| !value.is_undefined())
        };
        found.map(|(_, value)| value.clone()).or_else(own)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let fields = self.own.downcast_object_ref().unwrap_or(&**self);
        let names = fields.fields.iter();
        Enumerator::Values(names.map(|(name, _)| Value::from(name.as_str())).collect())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.own, f)
    }
}

/// Null. `default`, `if`, `is none` and `tojson` expect it: they do not call the functions that note a use.
#[derive(Debug)]
struct Null {
    name: String,
    used: UsedNull,
}

impl Null {
    fn note(&self) {
        self.used.get_or_init(|| self.name.clone());
    }
}

impl Object for Null {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        self.note();
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, _: &Value) -> Option<Value> {
        self.note();
        None
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        self.note();
        Enumerator::NonEnumerable
    }

    fn is_true(self: &Arc<Self>) -> bool {
        false
    }

    fn custom_cmp(self: &Arc<Self>, _: &DynObject) -> Option<Ordering> {
        Some(Ordering::Equal)
    }

    fn render(self: &Arc<Self>, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.note();
        Ok(())
    }
}

fn is_null(value: &Value) -> bool {
    value.is_none() || value.downcast_object_ref::<Null>().is_some()
}

/// Adds the filters and tests that expect null.
pub(super) fn expect_null(environment: &mut Environment<'_>) {
    for name in ["default", "d"] {
        environment.add_filter(name, default);
    }
    environment.add_filter("tojson", json);
    environment.add_test("none", is_null);
}

fn default(value: &Value, other: Option<Value>, also_empty: Option<Value>) -> Value {
    let also_empty = also_empty.is_some_and(|yes| yes.is_true());
    if value.is_undefined() || is_null(value) || also_empty && !value.is_true() {
        other.unwrap_or_else(|| Value::from(""))
    } else {
        value.clone()
    }
}

/// A value as JSON; that of a field as it is written.
fn json(value: &Value) -> Result<String, Error> {
    if is_null(value) {
        return Ok("null".to_owned());
    }
    if value.is_undefined() {
        return Err(ErrorKind::UndefinedError.into());
    }
    if let Some(List(text, _)) = value.downcast_object_ref() {
        return Ok(text.clone());
    }
    if let Some(Fields { own, .. }) = value.downcast_object_ref() {
        if own.downcast_object_ref::<Fields>().is_some() {
            return json(own);
        }
        if let Some(text) = own.as_str().filter(|text| text.starts_with('{')) {
            return Ok(text.to_owned());
        }
    }
    let text = |value: &Value| {
        let why = |error| Error::new(ErrorKind::BadSerialization, "tojson").with_source(error);
        serde_json::to_string(value).map_err(why)
    };
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            let all: Result<Vec<_>, _> = value.try_iter()?.map(|value| json(&value)).collect();
            Ok(format!("[{}]", all?.join(",")))
        }
        ValueKind::Map => {
            let mut all = Vec::new();
            for key in value.try_iter()? {
                let name = text(&Value::from(key.to_string()))?;
                all.push(format!("{name}:{}", json(&value.get_item(&key)?)?));
            }
            Ok(format!("{{{}}}", all.join(",")))
        }
        _ => text(value),
    }
}

/// The template with `is none` in place of `== none`: minijinja's own null does not equal that of a row. And whether it
/// has the word `none` where nothing can be put in its place.
pub(super) fn with_tests(template: &str) -> (String, bool) {
    let first =
        |text: &str, marks: [&str; 2]| marks.iter().filter_map(|mark| text.find(mark)).min();
    let (mut out, mut rest, mut is_odd) = (String::new(), template, false);
    while let Some(at) = first(rest, ["{{", "{%"]) {
        let end = first(&rest[at..], ["}}", "%}"]).map_or(rest.len(), |len| at + len);
        out.push_str(&rest[..at]);
        is_odd |= add_renamed(&rest[at..end], &mut out);
        rest = &rest[end..];
    }
    out.push_str(rest);
    // What is raw is text.
    if template.contains("endraw") {
        return (template.to_owned(), is_odd || out != template);
    }
    (out, is_odd)
}

/// Adds code, but for texts in quotes with `is none` in place of `== none`. Whether another `none` is in it.
fn add_renamed(code: &str, out: &mut String) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let none = |text: &str| {
        let rest = text.strip_prefix("none").or(text.strip_prefix("None"))?;
        (!rest.starts_with(is_word)).then_some(rest.len())
    };
    let (mut rest, mut is_odd) = (code, false);
    while let Some(c) = rest.chars().next() {
        let next = rest.get(2..).unwrap_or_default().trim_start();
        let mut len = c.len_utf8();
        match (c, none(next)) {
            ('=' | '!', Some(left)) if rest[1..].starts_with('=') => {
                out.push_str(if c == '=' { " is none" } else { " is not none" });
                rest = &rest[rest.len() - left..];
                continue;
            }
            ('"' | '\'', _) => len += rest[1..].find(c).map_or(rest.len() - 1, |end| end + 1),
            _ if is_word(c) => {
                let before = code[..code.len() - rest.len()].trim_end();
                let is_tested = before.ends_with(" is") || before.ends_with(" not");
                is_odd |= none(rest).is_some() && !is_tested;
                len = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            }
            _ => {}
        }
        out.push_str(&rest[..len]);
        rest = &rest[len..];
    }
    is_odd
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_comparisons_in_code_become_tests() {
        for (template, renamed) in [
            (
                "== none {{ a == none }} == none",
                "== none {{ a  is none }} == none",
            ),
            (
                "{{ 'a == none' ~ a==None }}",
                "{{ 'a == none' ~ a is none }}",
            ),
            (
                "{% if a != None and b == nonesuch %}",
                "{% if a  is not none and b == nonesuch %}",
            ),
            (
                "{% raw %}{{ a == none }}{% endraw %}",
                "{% raw %}{{ a == none }}{% endraw %}",
            ),
            ("{# == none #}{{ a ==  none", "{# == none #}{{ a  is none"),
        ] {
            assert_eq!(with_tests(template).0, renamed);
        }
        for odd in ["{{ none == a }}", "{{ a in [none] }}"] {
            assert!(with_tests(odd).1, "{odd}");
        }
        for usual in [
            "{{ a is none }}",
            "{% if a is not none and a == none %}",
            "{{ nonesuch }}",
        ] {
            assert!(!with_tests(usual).1, "{usual}");
        }
    }
}
