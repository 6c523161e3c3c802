//! Filters of templates whose result may be much larger than a record, because of a number or a text in a row. They
//! fail before the result is made.

use std::sync::Arc;

use minijinja::value::{Rest, Value};
use minijinja::{Environment, Error, ErrorKind, State};

use super::rows::MAX_RECORD_BYTES;

/// Maximum number of parts of `batch` and `slice`.
const MOST_PARTS: usize = 100_000;
/// Maximum number of digits of a width in `format`.
const MOST_DIGITS: usize = 4;

/// The size of the result, and its limit.
type Sizes = fn(&[Value]) -> (usize, usize);

/// Replaces the usual filters by limited ones, which call them.
pub(super) fn add(environment: &mut Environment<'static>) {
    let usual = Arc::new(Environment::new());
    let filters: [(&'static str, Sizes); 5] = [
        ("batch", |args| (number(args, "count"), MOST_PARTS)),
        ("slice", |args| (number(args, "count"), MOST_PARTS)),
        ("format", |args| (digits(text(args, 0)), MOST_DIGITS)),
        ("indent", |args| (indented(args), MAX_RECORD_BYTES)),
        ("replace", |args| (replaced(args), MAX_RECORD_BYTES)),
    ];
    for (name, sizes) in filters {
        let usual = usual.clone();
        let bounded = move |_: &State<'_, '_>, args: Rest<Value>| {
            let (size, most) = sizes(&args);
            if size > most {
                let why = format!("{name} with a result that is too large; expected a smaller one");
                return Err(Error::new(ErrorKind::InvalidOperation, why));
            }
            usual.empty_state().apply_filter(name, &args)
        };
        environment.add_filter(name, bounded);
    }
}

fn text(args: &[Value], at: usize) -> &str {
    args.get(at).and_then(Value::as_str).unwrap_or_default()
}

/// The numeric argument after the value, with or without its name; 0 if it is missing.
fn number(args: &[Value], name: &str) -> usize {
    let named = args.iter().find_map(|value| {
        if value.is_kwargs() {
            value.get_attr(name).ok()
        } else {
            None
        }
    });
    let at = args.get(1).filter(|value| !value.is_kwargs());
    let given = at.cloned().or(named).filter(|value| value.is_number());
    given.map_or(0, |value| usize::try_from(value).unwrap_or(usize::MAX))
}

fn indented(args: &[Value]) -> usize {
    let text = text(args, 0);
    let lines = 1 + memchr::memchr_iter(b'\n', text.as_bytes()).count();
    let spaces = lines.saturating_mul(number(args, "width"));
    spaces.saturating_add(text.len())
}

fn replaced(args: &[Value]) -> usize {
    let (text, from, to) = (text(args, 0), text(args, 1), text(args, 2));
    let added = to.len().saturating_sub(from.len());
    let places = if added == 0 {
        0
    } else {
        text.matches(from).count()
    };
    places.saturating_mul(added).saturating_add(text.len())
}

/// The number of digits of the longest width after a percent sign.
fn digits(format: &str) -> usize {
    let widths = format.split('%').skip(1).map(|spec| {
        let end = spec.find(|c: char| c.is_ascii_alphabetic());
        let parts = spec[..end.unwrap_or(spec.len())].split(|c: char| !c.is_ascii_digit());
        parts.map(str::len).max().unwrap_or(0)
    });
    widths.max().unwrap_or(0)
}
