//! The fields of a record that are copied to its result. They are not part of the request, and are read again from the
//! record whenever they are needed.

use serde_json::value::RawValue;

use super::PromptSettings;
use super::fault::Fault;
use super::records::MAX_RECORD_BYTES;
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

    /// Whether the user named the field.
    pub(super) fn names(&self, name: &str) -> bool {
        self.names.iter().any(|kept| kept == name)
    }

    /// Whether a field is kept that nothing else reads.
    pub(super) fn takes(&self, name: &str) -> bool {
        self.all || self.names(name)
    }
}

/// The kept fields of a row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Kept {
    pub(crate) fields: RawJson,
    /// Number of fields that are not kept because the row is too large.
    pub(crate) left_out: u32,
}

/// Fields of up to this size in bytes are kept of a row that is too large.
const SHORT: usize = 200;

/// An object with these names and values of JSON, on one line; if there is a limit, of the short ones, and of at most that
/// size. Characters that control a terminal are escaped. (JSON itself allows no other control characters in texts.)
pub(super) fn object<'f>(
    fields: impl Iterator<Item = (&'f str, &'f RawValue)>,
    most: Option<usize>,
) -> Option<Kept> {
    let (mut out, mut left_out) = ("{".to_owned(), 0);
    for (name, json) in fields {
        let (name, json) = (serde_json::to_string(name).ok()?, json.get());
        let is_too_large =
            |most| json.len() > SHORT || out.len() + name.len() + json.len() + 3 > most;
        if most.is_some_and(is_too_large) {
            left_out += 1;
            continue;
        }
        if out.len() > 1 {
            out.push(',');
        }
        out.extend([&*name, ":", json]);
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
    let fields = RawJson::from_line(RawValue::from_string(out).ok()?);
    Some(Kept { fields, left_out })
}

fn is_harmful(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{7f}'..='\u{9f}')
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::base::json_read::JsonObject;

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
        super::super::json::kept(line, &settings, None)
            .unwrap()
            .fields
            .to_string()
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
        let field = ("c\u{1b}", serde_json::from_str(&text).unwrap());
        let json = object([field].into_iter(), None)
            .unwrap()
            .fields
            .to_string();
        assert!(!json.chars().any(char::is_control), "{json}");
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(read["c\u{1b}"], format!("\u{1b}[2J{evil}\0\n"));
    }

    #[test]
    fn a_large_row_keeps_its_short_fields_and_says_how_many_it_lacks() {
        let (short, long) = ("s".repeat(SHORT - 2), "l".repeat(SHORT - 1));
        let mut row = json!({"a": short, "long": long, "n": 1});
        for i in 0..20 {
            row[format!("more {i}")] = short.as_str().into();
        }
        let text = row.to_string();
        let fields: Vec<(&str, &RawValue)> = serde_json::from_str::<JsonObject<'_>>(&text)
            .unwrap()
            .0
            .iter()
            .map(|(name, value)| (&*name.clone().into_owned().leak(), *value))
            .collect();
        let kept = object(fields.into_iter(), Some(1000)).unwrap();
        assert!(kept.fields.to_string().len() <= 1000);
        let read: serde_json::Value = serde_json::from_str(&kept.fields.to_string()).unwrap();
        let names: Vec<&String> = read.as_object().unwrap().keys().collect();
        assert_eq!(names, ["a", "n", "more 0", "more 1", "more 2"]);
        assert_eq!(kept.left_out, 18);
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
}
