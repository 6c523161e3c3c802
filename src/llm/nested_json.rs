//! JSON values that others made, which may be nested as deep as they like.

use serde_json::Value;

/// What is nested deeper is kept as a string of its JSON: a result line that holds it must be readable,
/// and readers of JSON give up at some depth.
const DEEPEST: usize = 64;

/// The value, or its JSON as a string where it is nested too deep.
pub(crate) fn shallow(value: Value) -> Value {
    if is_deeper(&value, DEEPEST) {
        Value::String(value.to_string())
    } else {
        value
    }
}

fn is_deeper(value: &Value, than: usize) -> bool {
    let Some(left) = than.checked_sub(1) else {
        return true;
    };
    match value {
        Value::Array(items) => items.iter().any(|item| is_deeper(item, left)),
        Value::Object(fields) => fields.values().any(|item| is_deeper(item, left)),
        _ => false,
    }
}

/// Changes every text in a value, names of fields left alone.
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
    fn what_is_nested_too_deep_becomes_a_string() {
        let nested = |depth: usize| (1..depth).fold(json!([]), |inner, _| json!([inner]));
        assert_eq!(shallow(nested(DEEPEST)), nested(DEEPEST));
        let deep = nested(DEEPEST + 1);
        assert_eq!(shallow(deep.clone()), json!(deep.to_string()));
    }
}
