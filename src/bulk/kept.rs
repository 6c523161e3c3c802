//! Fields of rows in result lines: updates them, and the ids, to those of the current input. The ids of first samples
//! differ from those of items without samples.

use crate::base::Error;
use crate::llm::reply_details::RawJson;

use super::input::{JsonObject, KeptReader, Matching};
use super::results::PreviousLine;

/// A result line with the kept fields of its row; `None` if it does not change.
pub(super) fn updated(
    rows: &mut KeptReader<'_>,
    index: &Matching,
    line: &PreviousLine,
    text: &str,
) -> Result<Option<String>, Error> {
    let Some((offset, id)) = index.offset_of(&line.id, line.prefix(false)) else {
        return Ok(None);
    };
    Ok(with_row(text, id.as_deref(), rows.at(offset)?.as_ref()))
}

/// The name of the field.
const INPUT: &str = "input";
/// The members that come after it, if they exist.
const BEHIND: [&str; 3] = ["reply", "settings", "superseded"];

/// A result line with these kept fields, and with this id if it changes, and everything else unchanged; `None` if it
/// has them already, or is not an object.
fn with_row(line: &str, id: Option<&str>, kept: Option<&RawJson>) -> Option<String> {
    let mut fields = JsonObject::parse(line)?.0;
    let before = fields.iter().position(|(name, _)| name == INPUT);
    let said = before.map(|at| fields.remove(at).1.get());
    let wanted = kept.map(RawJson::as_str);
    if said == wanted && id.is_none() {
        return None;
    }
    let at = fields
        .iter()
        .position(|(name, _)| BEHIND.contains(&name.as_ref()));
    let at = at.unwrap_or(fields.len());
    let field = |name: &str, json: &str| format!("{}:{json}", serde_json::json!(name));
    let mut parts: Vec<String> = fields
        .iter()
        .map(|(name, value)| match (name.as_ref(), id) {
            ("id", Some(id)) => field(name, &serde_json::json!(id).to_string()),
            _ => field(name, value.get()),
        })
        .collect();
    if let Some(wanted) = wanted {
        parts.insert(at, field(INPUT, wanted));
    }
    Some(format!("{{{}}}", parts.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kept_fields_of_a_line_are_updated() {
        let kept = RawJson::new(r#"{"a":1.0}"#);
        for end in ["}", r#","reply":{"x": 1}}"#, r#","superseded":true}"#] {
            let plain =
                format!(r#"{{"id":"a","text":"ä \u00e4","cost_usd":1.50,"error":null{end}"#);
            assert_eq!(with_row(&plain, None, None), None);
            let full = with_row(&plain, None, Some(&kept)).unwrap();
            assert!(
                full.contains(&format!(r#""error":null,"input":{{"a":1.0}}{end}"#)),
                "{full}"
            );
            assert_eq!(with_row(&full, None, Some(&kept)), None);
            let other = with_row(&full, None, Some(&RawJson::new("{}"))).unwrap();
            assert_eq!(other, full.replace(r#"{"a":1.0}"#, "{}"));
            assert_eq!(with_row(&full, None, None).unwrap(), plain);
            let renamed = with_row(&full, Some("a#1"), Some(&kept)).unwrap();
            assert_eq!(renamed, full.replace("\"id\":\"a\"", "\"id\":\"a#1\""));
        }
        assert_eq!(with_row("[1]", None, Some(&kept)), None);
    }
}
