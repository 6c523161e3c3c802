//! JSON values of unknown origin, which may have any depth.

use serde_json::Value;

/// The maximum depth. Deeper values are kept as a string of their JSON, because result lines must be readable, and JSON
/// parsers limit the depth.
const DEEPEST: usize = 64;

/// The value, or a string of its JSON if it is too deep.
pub(crate) fn shallow(value: Value) -> Value {
    if is_deeper(&value, DEEPEST) {
        Value::String(value.to_string())
    } else {
        value
    }
}

/// Whether it has more levels than this; a value without parts is one.
pub(crate) fn is_deeper(value: &Value, than: usize) -> bool {
    let Some(left) = than.checked_sub(1) else {
        return true;
    };
    match value {
        Value::Array(items) => items.iter().any(|item| is_deeper(item, left)),
        Value::Object(fields) => fields.values().any(|item| is_deeper(item, left)),
        _ => false,
    }
}

/// Changes every text in a value, except the names of fields.
pub(crate) fn each_text(value: &mut Value, change: &impl Fn(&mut String)) {
    match value {
        Value::String(text) => change(text),
        Value::Array(items) => items.iter_mut().for_each(|item| each_text(item, change)),
        Value::Object(fields) => fields.values_mut().for_each(|item| each_text(item, change)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_that_is_too_deep_becomes_a_string() {
        let nested = |depth: usize| (1..depth).fold(json!([]), |inner, _| json!([inner]));
        assert_eq!(shallow(nested(DEEPEST)), nested(DEEPEST));
        let deep = nested(DEEPEST + 1);
        assert_eq!(shallow(deep.clone()), json!(deep.to_string()));
    }
}
