//! Values of fields in templates in the language of Jinja. minijinja shows null as `none`; here a use of null that is not
//! one of those that expect it is noticed.

use std::cmp::Ordering;
use std::fmt;
use std::sync::{Arc, OnceLock};

use indexmap::IndexMap;
use minijinja::value::{DynObject, Enumerator, Object, ObjectRepr, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind};
use serde_json::value::RawValue;

use super::cells::Field;
use crate::base::json_read::JsonObject;

/// What happened to the nulls of one row.
#[derive(Debug, Default)]
pub(super) struct Nulls {
    /// Whether the template orders values. It is then unknown whether a null was compared as equal or ordered.
    orders: bool,
    /// The first null that was used as a text, a list or an object.
    used: OnceLock<String>,
    /// The first null whose type was asked for, as comparisons do.
    seen: OnceLock<String>,
}

impl Nulls {
    pub(super) fn of_row(orders: bool) -> Arc<Self> {
        Arc::new(Self {
            orders,
            ..Self::default()
        })
    }

    /// The name of a null that was used where no null is expected, if rendering has failed or not.
    pub(super) fn misused(&self, has_failed: bool) -> Option<&String> {
        let seen = self.seen.get().filter(|_| has_failed || self.orders);
        self.used.get().or(seen)
    }
}

/// Makes values of the fields of one row.
pub(super) struct Values(pub(super) Arc<Nulls>);

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
        let nulls = Arc::clone(&self.0);
        Value::from_object(Null { name, nulls })
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
        let mut fields = IndexMap::new();
        for name in below.map(|rest| rest.split('.').next().unwrap_or_default()) {
            if fields.contains_key(name) {
                continue;
            }
            let own = own.as_ref().filter(|own| !is_null(own));
            let inner = own.and_then(|own| own.get_attr(name).ok());
            let inner = inner.filter(|inner| !inner.is_undefined());
            let value = self.at(&format!("{at}.{name}"), inner, paths, field);
            fields.extend(value.map(|value| (name.to_owned(), value)));
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
    fields: IndexMap<String, Value>,
}

impl Object for Fields {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let name = key.as_str()?;
        let found = self.fields.get(name);
        let own = || {
            self.own
                .get_attr(name)
                .ok()
                .filter(|value| !value.is_undefined())
        };
        found.cloned().or_else(own)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let fields = self.own.downcast_object_ref().unwrap_or(&**self);
        let names = fields.fields.keys();
        Enumerator::Values(names.map(|name| Value::from(name.as_str())).collect())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.own, f)
    }
}

/// Null. `default`, `if`, `is none`, `==` and `tojson` expect it: they do not call the functions that note a use.
#[derive(Debug)]
struct Null {
    name: String,
    nulls: Arc<Nulls>,
}

impl Null {
    fn note(&self) {
        self.nulls.used.get_or_init(|| self.name.clone());
    }
}

impl Object for Null {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        self.nulls.seen.get_or_init(|| self.name.clone());
        // Then `in` asks for its elements, which is a use.
        ObjectRepr::Iterable
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

/// The variable that has a null of a row's kind, which minijinja's own does not equal.
pub(super) const NULL: &str = "__none";

/// Words that order values.
const ORDERING: &str = " sort dictsort groupby unique min max lt le gt ge lessthan greaterthan ";

/// More signs in one expression could overflow the stack, because each may be a step deeper.
const MOST_SIGNS: usize = 2000;

/// The template with [`NULL`] in place of `none`, and with `is none` in place of `== none`. And whether it orders values.
pub(super) fn with_null(template: &str) -> Result<(String, bool), String> {
    let first = |text: &str, marks: [&[u8]; 2]| {
        let mut pairs = text.as_bytes().windows(2);
        pairs.position(|pair| marks.contains(&pair))
    };
    let (mut out, mut rest, mut orders) = (String::new(), template, false);
    while let Some(at) = first(rest, [b"{{", b"{%"]) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let mut end = first(rest, [b"}}", b"%}"]).unwrap_or(rest.len());
        if rest[2..end].trim_matches(['-', '+', ' ']) == "raw" {
            end = rest.find("endraw").unwrap_or(rest.len());
            out.push_str(&rest[..end]);
        } else {
            orders |= add_code(&rest[..end], &mut out)?;
        }
        rest = &rest[end..];
    }
    out.push_str(rest);
    Ok((out, orders))
}

/// Adds code in this way, but for texts in quotes. Whether it orders values.
fn add_code(code: &str, out: &mut String) -> Result<bool, String> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut rest, mut orders, mut signs) = (code, false, 0);
    while let Some(c) = rest.chars().next() {
        let len = match c {
            '"' | '\'' => rest[1..].find(c).map_or(rest.len(), |end| end + 2),
            _ if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            _ => c.len_utf8(),
        };
        let (word, after) = rest.split_at(len);
        let name = word.trim_matches(['"', '\'']);
        orders |= matches!(c, '<' | '>') || ORDERING.contains(&format!(" {name} "));
        signs += usize::from(!c.is_whitespace() && !is_word(c));
        match word {
            "none" | "None" => add_none(out, after),
            _ => out.push_str(word),
        }
        rest = after;
    }
    if signs <= MOST_SIGNS {
        return Ok(orders);
    }
    Err(format!(
        "found {signs} signs and filters in one expression of the template; expected at most {MOST_SIGNS}"
    ))
}

/// Adds `none` where it is a value.
fn add_none(out: &mut String, after: &str) {
    let before = out.trim_end();
    let compared = [("==", " is none"), ("!=", " is not none")];
    let compared = compared
        .into_iter()
        .find(|(sign, _)| before.ends_with(sign));
    let is_argument = before.ends_with(['(', ',']) && after.trim_start().starts_with([')', ',']);
    let is_test = [" is", " not", "."].iter().any(|end| before.ends_with(end));
    if let Some((sign, test)) = compared {
        out.truncate(before.len() - sign.len());
        out.push_str(test);
    } else {
        out.push_str(if is_argument || is_test { "none" } else { NULL });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_has_one_value_in_code() {
        for (template, code, orders) in [
            (
                "== none {{ a == none }} == none",
                "== none {{ a  is none }} == none",
                false,
            ),
            (
                "{{ 'a == none' ~ a==None }}",
                "{{ 'a == none' ~ a is none }}",
                false,
            ),
            (
                "{% if a != None and b == nonesuch %}",
                "{% if a  is not none and b == nonesuch %}",
                false,
            ),
            (
                "{% raw %}{{ a == none < }}{% endraw %}{{ none }}",
                "{% raw %}{{ a == none < }}{% endraw %}{{ __none }}",
                false,
            ),
            (
                "{# == none #}{{ a ==  none",
                "{# == none #}{{ a  is none",
                false,
            ),
            ("{{ none == a > 3 }}", "{{ __none == a > 3 }}", true),
            ("{{ a in [none] }}", "{{ a in [__none] }}", false),
            (
                "{{ a|split(none, 1) }}{{ a is not none }}",
                "{{ a|split(none, 1) }}{{ a is not none }}",
                false,
            ),
            (
                "{{ a|select('gt', 3) }} <b>",
                "{{ a|select('gt', 3) }} <b>",
                true,
            ),
            (
                "<b>{{ sorted }}{{ '<b>' }}",
                "<b>{{ sorted }}{{ '<b>' }}",
                false,
            ),
        ] {
            let expected = Ok((code.to_owned(), orders));
            assert_eq!(with_null(template), expected, "{template}");
        }
        for deep in ["|upper", ".a", "~a", "[0]"] {
            let code = format!("{{{{a{}}}}}", deep.repeat(20_000));
            let why = with_null(&code).unwrap_err();
            assert!(why.contains("expected at most 2000"), "{why}");
        }
    }
}
