//! What result lines say of their rows: put in, changed or taken out as the input and its settings have it now.

use std::io::{self, BufRead, Seek, SeekFrom};

use super::{LONGEST_LINE, ResultsFile};
use crate::base::error::Error;
use crate::bulk::input::Fields;
use crate::llm::reply_details::RawJson;

/// The name of the field.
const INPUT: &str = "input";
/// What stands behind it, if it is there.
const BEHIND: [&str; 3] = ["reply", "settings", "superseded"];

/// A result line with that as its kept fields, and as its id, if it is to have another one, and all else as it stands;
/// none where it says so already, or is no object.
pub(crate) fn with_row(line: &str, id: Option<&str>, kept: Option<&RawJson>) -> Option<String> {
    let mut fields = Fields::of(line)?.0;
    let before = fields.iter().position(|(name, _)| name == INPUT);
    let said = before.map(|at| fields.remove(at).1.get());
    let wanted = kept.map(RawJson::as_str);
    if said == wanted && id.is_none() {
        return None;
    }
    let at = fields
        .iter()
        .position(|(name, _)| BEHIND.contains(&name.as_str()));
    let at = at.unwrap_or(fields.len());
    let field = |name: &str, json: &str| format!("{}:{json}", serde_json::json!(name));
    let mut parts: Vec<String> = fields
        .iter()
        .map(|(name, value)| match (name.as_str(), id) {
            ("id", Some(id)) => field(name, &serde_json::json!(id).to_string()),
            _ => field(name, value.get()),
        })
        .collect();
    if let Some(wanted) = wanted {
        parts.insert(at, field(INPUT, wanted));
    }
    Some(format!("{{{}}}", parts.join(",")))
}

impl ResultsFile {
    /// Puts into each line what `change` makes of it, where it makes anything of it. A file of which it changes
    /// nothing is left untouched.
    pub(crate) fn change_lines(
        &mut self,
        change: &mut dyn FnMut(&str) -> Result<Option<String>, Error>,
    ) -> Result<(), Error> {
        if !self.changes(change)? {
            return Ok(());
        }
        let what = "all results are saved, but their kept columns cannot be added";
        self.replace(what, |source, out| {
            source.seek(SeekFrom::Start(0))?;
            let mut line = Vec::new();
            loop {
                line.clear();
                let read =
                    io::Read::take(&mut *source, LONGEST_LINE).read_until(b'\n', &mut line)?;
                if read == 0 {
                    return Ok(());
                }
                let text = std::str::from_utf8(line.trim_ascii()).unwrap_or_default();
                match change(text).map_err(io::Error::other)? {
                    Some(changed) => {
                        out.write_all(changed.as_bytes())?;
                        out.write_all(b"\n")?;
                    }
                    None => out.write_all(&line)?,
                }
            }
        })
    }

    /// Whether any line would change.
    fn changes(
        &self,
        change: &mut dyn FnMut(&str) -> Result<Option<String>, Error>,
    ) -> Result<bool, Error> {
        let mut found = false;
        let mut trouble = None;
        self.lines_while(&mut |line| {
            match change(std::str::from_utf8(line).unwrap_or_default()) {
                Ok(changed) => found = changed.is_some(),
                Err(error) => trouble = Some(error),
            }
            !found && trouble.is_none()
        })?;
        trouble.map_or(Ok(found), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_fields_come_change_and_go_and_all_else_stays() {
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
