//! Converts JSON values to cells.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::cell::Cell;
use crate::bulk::input::JsonString;

/// The value, unless it is missing or null.
pub(super) fn present(value: Option<&RawValue>) -> Option<&RawValue> {
    value.filter(|value| value.get() != "null")
}

/// The text of a string; `None` for other values.
pub(super) fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    let JsonString(text) = serde_json::from_str(value.get()).ok()?;
    Some(text)
}

/// The cell of a value: lists and objects stay JSON.
pub(super) fn cell(value: &RawValue) -> Cell<'_> {
    let written = value.get();
    match written.as_bytes().first() {
        Some(b'"') => text(value).map_or(Cell::Null, Cell::Text),
        Some(b'{' | b'[') => Cell::Json(Cow::Borrowed(written)),
        Some(b't') => Cell::Bool(true),
        Some(b'f') => Cell::Bool(false),
        Some(b'n') | None => Cell::Null,
        Some(_) => number(written),
    }
}

/// A 64-bit integer, a floating point number, or the digits of a number that neither represents.
fn number(written: &str) -> Cell<'_> {
    if !written.contains(['.', 'e', 'E']) {
        return written.parse().map_or(Cell::Digits(written), Cell::Int);
    }
    match written.parse::<f64>() {
        Ok(x) if x.is_finite() && is_exact(x, written) => Cell::Float(x, written),
        _ => Cell::Digits(written),
    }
}

/// Whether the shortest text for `x` is the same number.
fn is_exact(x: f64, written: &str) -> bool {
    let digits = written.bytes().filter(u8::is_ascii_digit).count();
    // Up to this number of digits, floating point numbers are always distinct, unless an exponent makes them very
    // small.
    let is_short = digits <= 15 && !written.contains(['e', 'E']);
    is_short || decimal(written).is_some_and(|number| Some(number) == decimal(&format!("{x:e}")))
}

/// The digits of a number without leading and trailing zeros, and the power of ten of the first digit.
fn decimal(written: &str) -> Option<(String, i64)> {
    let (mantissa, exponent) = written.split_once(['e', 'E']).unwrap_or((written, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let whole = whole.trim_start_matches('-').trim_start_matches('0');
    let zeros = fraction.len() - fraction.trim_start_matches('0').len();
    let first = match whole.len() {
        0 => -(zeros as i64),
        places => places as i64,
    };
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let digits = digits.trim_matches('0').to_owned();
    let exponent: i64 = exponent.parse().ok()?;
    let place = if digits.is_empty() {
        0
    } else {
        exponent.checked_add(first)?
    };
    Some((digits, place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bulk::input::JsonObject;

    #[test]
    fn values_keep_their_json_types() {
        let object = JsonObject::parse(
            r#"{"a":7,"b":-0.5,"c":"x\u00e9","d":true,"e":null,"f":[1],"g":9223372036854775808,"h":1e400,"i":3.0,"j":0.12345678901234567890,"k":1.50e3}"#,
        )
        .unwrap();
        let cells: Vec<Cell<'_>> = object.fields().map(|(_, value)| cell(value)).collect();
        let expected = [
            Cell::Int(7),
            Cell::Float(-0.5, "-0.5"),
            Cell::Text("xé".into()),
            Cell::Bool(true),
            Cell::Null,
            Cell::Json("[1]".into()),
            Cell::Digits("9223372036854775808"),
            Cell::Digits("1e400"),
            Cell::Float(3.0, "3.0"),
            Cell::Digits("0.12345678901234567890"),
            Cell::Float(1500.0, "1.50e3"),
        ];
        assert_eq!(cells, expected);
    }

    #[test]
    fn a_number_is_a_float_if_no_digit_is_lost() {
        for written in [
            "0.1",
            "-0.0",
            "0e7",
            "1e23",
            "5e-324",
            "1.7976931348623157e308",
            "0.30000000000000004",
            "100000000000000000000.0",
            "123456789012345.60",
            "1E+2",
            "0.000000000000000000000012",
        ] {
            assert!(matches!(number(written), Cell::Float(..)), "{written}");
        }
        for written in [
            "0.30000000000000001",
            "12345678901234567890.10",
            "1e-400",
            "9007199254740993.0",
            "1.79769313486231579e308",
            "1e99999999999999999999",
        ] {
            assert_eq!(number(written), Cell::Digits(written));
        }
    }
}
