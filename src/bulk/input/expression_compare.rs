//! Comparisons in templates. Minijinja orders values of different kinds by their kind, so that the text "2" is more
//! than 3. Such comparisons are errors here.

use std::cmp::Ordering;
use std::sync::Arc;

use minijinja::value::{Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind};

use super::expression_rewrite::COMPARE;
use super::fault::excerpt;

/// Names of the tests that compare, for `select` and `is`, with their operators.
const TESTS: [(&str, &str); 20] = [
    ("eq", "=="),
    ("equalto", "=="),
    ("==", "=="),
    ("ne", "!="),
    ("!=", "!="),
    ("lt", "<"),
    ("lessthan", "<"),
    ("<", "<"),
    ("le", "<="),
    ("<=", "<="),
    ("gt", ">"),
    ("greaterthan", ">"),
    (">", ">"),
    ("ge", ">="),
    (">=", ">="),
    ("in", "in"),
    ("is_in", "in"),
    ("is_eq", "=="),
    ("is_gt", ">"),
    ("is_lt", "<"),
];

/// Adds the function that rewritten comparisons call, and replaces the tests that compare.
pub(super) fn add(environment: &mut Environment<'static>, operands: Vec<Vec<String>>) {
    let operands = Arc::new(operands);
    environment.add_function(COMPARE, move |number: usize, rest: Rest<Value>| {
        let names: &[String] = operands.get(number).map_or(&[], Vec::as_slice);
        for (i, step) in rest.windows(3).step_by(2).enumerate() {
            let names = [names.get(i), names.get(i + 1)].map(|name| name.map(String::as_str));
            let [left, op, right] = step else { break };
            if !compare(left, op.as_str().unwrap_or_default(), right, names)? {
                return Ok(false);
            }
        }
        Ok(true)
    });
    for (test, op) in TESTS {
        let compares = move |left: Value, right: Value| compare(&left, op, &right, [None, None]);
        environment.add_test(test, compares);
    }
}

fn compare(left: &Value, op: &str, right: &Value, names: [Option<&str>; 2]) -> Result<bool, Error> {
    let order = || -> Result<Ordering, Error> {
        check_kinds(left, op, right, names)?;
        if left.kind() != right.kind() {
            return Err(differ(left, op, right, names));
        }
        check_numbers_as_text(left, op, right, names)?;
        Ok(left.cmp(right))
    };
    Ok(match op {
        "==" | "!=" => {
            check_kinds(left, op, right, names)?;
            (left == right) == (op == "==")
        }
        "<" => order()?.is_lt(),
        "<=" => order()?.is_le(),
        ">" => order()?.is_gt(),
        ">=" => order()?.is_ge(),
        _ => contains(left, op, right, names)? == (op == "in"),
    })
}

fn contains(
    left: &Value,
    op: &str,
    right: &Value,
    names: [Option<&str>; 2],
) -> Result<bool, Error> {
    match right.kind() {
        ValueKind::String => {
            check_kinds(left, op, right, names)?;
            let part = left.as_str().unwrap_or_default();
            Ok(right.as_str().is_some_and(|text| text.contains(part)))
        }
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => {
            let mut mismatch = None;
            for element in right.try_iter()? {
                match check_kinds(left, op, &element, names) {
                    Ok(()) if *left == element => return Ok(true),
                    // In a list of several kinds, another element may match.
                    Ok(()) if left.kind() == element.kind() => mismatch = Some(Ok(false)),
                    Ok(()) => {}
                    Err(error) => mismatch = mismatch.or(Some(Err(error))),
                }
            }
            mismatch.unwrap_or(Ok(false))
        }
        _ => Err(differ(left, op, right, names)),
    }
}

/// Rejects comparing a text with a number or a boolean.
fn check_kinds(
    left: &Value,
    op: &str,
    right: &Value,
    names: [Option<&str>; 2],
) -> Result<(), Error> {
    let is_value = |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool);
    let is_text = |value: &Value| value.kind() == ValueKind::String;
    if is_text(left) && is_value(right) || is_value(left) && is_text(right) {
        Err(differ(left, op, right, names))
    } else {
        Ok(())
    }
}

/// Rejects comparing numbers as texts if that gives another order: "10" comes before "9".
fn check_numbers_as_text(
    left: &Value,
    op: &str,
    right: &Value,
    names: [Option<&str>; 2],
) -> Result<(), Error> {
    let number = |value: &Value| {
        value
            .as_str()
            .and_then(|text| text.trim().parse::<f64>().ok())
    };
    match number(left).zip(number(right)) {
        Some((a, b)) if a.partial_cmp(&b) != Some(left.cmp(right)) => {
            Err(differ(left, op, right, names))
        }
        _ => Ok(()),
    }
}

fn described(value: &Value) -> String {
    match value.kind() {
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            format!("the text {:?}", excerpt(text))
        }
        ValueKind::Number => format!("the number {value}"),
        ValueKind::Bool => format!("the boolean {value}"),
        ValueKind::None => "none".to_owned(),
        kind => format!("a {kind}"),
    }
}

/// The error for values that cannot be compared, with a correction.
fn differ(left: &Value, op: &str, right: &Value, names: [Option<&str>; 2]) -> Error {
    let number = |value: &Value| value.kind() == ValueKind::Number;
    let named = |i: usize, value: &Value| {
        let name = names[i].map_or_else(|| value.to_string(), str::to_owned);
        match value.as_str() {
            Some(text) if i == 1 && op.ends_with("in") => format!("[{text}, …]"),
            // A literal needs no filter.
            Some(text) if name.starts_with(['"', '\'']) => text.to_owned(),
            Some(text) => {
                let filter = if text.trim().is_empty() {
                    "default(0, true)"
                } else if text.contains('.') && text.trim().parse::<f64>().is_ok() {
                    "float"
                } else {
                    "int"
                };
                format!("{name}|{filter}")
            }
            None => name,
        }
    };
    let texts = left.as_str().is_some() && right.as_str().is_some();
    let expected = match (left.as_str(), right.as_str()) {
        _ if texts || number(left) || number(right) => {
            format!(
                "numbers on both sides: {} {op} {}",
                named(0, left),
                named(1, right)
            )
        }
        _ if left.kind() == ValueKind::Bool || right.kind() == ValueKind::Bool => {
            "two strings, for example flag == \"true\", or only a boolean: {% if flag %}".to_owned()
        }
        _ => "values of one kind on both sides".to_owned(),
    };
    let place = match names {
        [Some(left), Some(right)] => format!(" in {left} {op} {right}"),
        [Some(left), None] => format!(" in {left} {op} …"),
        _ => String::new(),
    };
    let detail = format!(
        "{} compared with {}{place}; expected {expected}",
        described(left),
        described(right)
    );
    Error::new(ErrorKind::InvalidOperation, detail)
}
