//! The fields of a record that are copied to its result. They are not part of the request, and are read again from the
//! record whenever they are needed.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::PromptSettings;
use super::fault::{Fault, utf8};
use super::layout::Layout;
use super::records::MAX_RECORD_BYTES;
use crate::base::json_read::{JsonObject, without_bom};
use crate::llm::reply_details::RawJson;

/// The fields that are kept.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keep {
    pub(crate) names: Vec<String>,
    pub(crate) all: bool,
    /// All columns of records up to this size in bytes, if the records have columns.
    pub(crate) of_rows_up_to: usize,
}

impl Keep {
    /// Whether fields are kept that the user named.
    pub(crate) fn is_on(&self) -> bool {
        self.all || !self.names.is_empty()
    }

    /// Whether all columns of a record of this size are kept because it is small.
    pub(super) fn takes_row(&self, bytes: usize) -> bool {
        !self.is_on() && bytes <= self.of_rows_up_to
    }

    /// Whether a field is kept that nothing else reads.
    pub(super) fn takes(&self, name: &str) -> bool {
        self.all || self.names.iter().any(|kept| kept == name)
    }
}

/// An object with these names and values of JSON, on one line. Characters that control a terminal are escaped. (JSON itself
/// allows no other control characters in texts.)
pub(super) fn object<'f>(fields: impl Iterator<Item = (&'f str, Cow<'f, str>)>) -> Option<RawJson> {
    let mut out = "{".to_owned();
    for (name, json) in fields {
        if out.len() > 1 {
            out.push(',');
        }
        let name = serde_json::to_string(name).ok()?;
        out.extend([&*name, ":", &*json]);
    }
    out.push('}');
    if out.contains(is_harmful) {
        let escape = |c| match c {
            '\n' | '\r' => " ".to_owned(),
            c if is_harmful(c) => format!("\\u{:04x}", u32::from(c)),
            c => c.to_string(),
        };
        out = out.chars().map(escape).collect();
    }
    RawValue::from_string(out).ok().map(RawJson::from_line)
}

fn is_harmful(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{7f}'..='\u{9f}')
}

/// The kept fields of a line of JSON; `None` if it is not an object.
pub(super) fn of_line(text: &str, settings: &PromptSettings) -> Option<RawJson> {
    let keep = &settings.keep;
    let all = keep.all || keep.takes_row(text.len());
    let fields = JsonObject::parse(text)?;
    let layout = Layout::of(settings, |name| {
        let value = fields.get(name, 0)?;
        Some(value.get().starts_with('{'))
    });
    // With a template every field is data of the user.
    let reads = |name: &str| {
        settings.template.is_none()
            && (settings.id_column.as_deref() == Some(name) || layout.reads(name, settings.task))
    };
    let named = |name: &str| keep.names.iter().any(|kept| kept == name);
    let kept = fields.fields();
    let kept = kept.filter(|(name, _)| named(name) || all && !reads(name));
    object(kept.map(|(name, value)| (name, Cow::Borrowed(value.get()))))
}

/// Maximum size of a record whose fields are kept. As JSON they take up to six times as many bytes, and of a longer result
/// line only the beginning would be read.
pub(super) const MOST_BYTES: usize = MAX_RECORD_BYTES / 3;

/// Rejects a record whose kept fields may be too large.
pub(super) fn check_size(bytes: usize, settings: &PromptSettings) -> Result<(), Fault> {
    if !settings.keep.is_on() || bytes <= MOST_BYTES {
        return Ok(());
    }
    let found = format!("a record of {bytes} bytes, whose fields are to be kept");
    Err(Fault::new(found, format!("at most {MOST_BYTES}")))
}

/// Removes the fields that a line of JSON has from those that no line had so far.
pub(super) fn look_for(missing: &mut Vec<String>, bytes: &[u8]) {
    let text = utf8(without_bom(bytes))
        .ok()
        .filter(|_| !missing.is_empty());
    if let Some(fields) = text.and_then(JsonObject::parse) {
        missing.retain(|name| fields.get(name, 0).is_none());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kept(line: &str, names: &[&str]) -> String {
        let keep = Keep {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            all: names.is_empty(),
            ..Keep::default()
        };
        let settings = PromptSettings {
            keep,
            template: Some(super::super::Template::parse("{{a}}").unwrap()),
            ..PromptSettings::default()
        };
        of_line(line, &settings).unwrap().to_string()
    }

    #[test]
    fn fields_stay_as_they_stand_on_one_line() {
        let line = "{ \"b\" : 1.0,\r\n \"a\":\"x y\\u001b\\\"\\\\\", \"big\" :12345678901234567890.10, \
                    \"n\": null, \"l\": [1 , { \"c\" : \"d \\\" e\" }]}";
        assert_eq!(
            kept(line, &[]),
            r#"{"b":1.0,"a":"x y\u001b\"\\","big":12345678901234567890.10,"n":null,"l":[1 , { "c" : "d \" e" }]}"#
        );
        assert_eq!(kept(line, &["n", "b", "none"]), r#"{"b":1.0,"n":null}"#);
        assert_eq!(kept(r#"{"a":1,"b":2,"a":3}"#, &[]), r#"{"a":3,"b":2}"#);
    }

    #[test]
    fn kept_fields_cannot_control_the_terminal() {
        let evil = "\u{9b}31m\u{7f}é \u{85}";
        assert_eq!(
            kept(&format!("{{\"{evil}\":\"{evil}\"}}"), &[]),
            r#"{"\u009b31m\u007fé \u0085":"\u009b31m\u007fé \u0085"}"#
        );
        let text = json!(format!("\u{1b}[2J{evil}\0\n")).to_string();
        let field = ("c\u{1b}", text.as_str().into());
        let json = object([field].into_iter()).unwrap().to_string();
        assert!(!json.chars().any(char::is_control), "{json}");
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(read["c\u{1b}"], format!("\u{1b}[2J{evil}\0\n"));
    }

    #[test]
    fn what_could_not_be_read_again_is_refused() {
        let settings = PromptSettings::new().keep_fields(["all"]);
        assert!(check_size(MOST_BYTES, &settings).is_ok());
        let longest = serde_json::to_string(&"\u{1}".repeat(10)).unwrap();
        assert_eq!(longest.len(), 62);
        assert!(6 * MOST_BYTES as u64 <= crate::bulk::results::LONGEST_LINE / 2);
        let fault = check_size(MOST_BYTES + 1, &settings).unwrap_err();
        let said = "found a record of 22369622 bytes, whose fields are to be kept; expected at most 22369621";
        assert_eq!(fault.to_string(), said);
    }

    #[test]
    fn fields_that_no_line_has_are_found() {
        let mut missing = vec!["colour".to_owned(), "size".to_owned()];
        look_for(&mut missing, br#"{"prompt":"a","color":1}"#);
        look_for(&mut missing, br#"{"prompt":"b","size":1}"#);
        assert_eq!(missing, ["colour"]);
    }
}
