//! The settings of a run that are part of its requests, as short hashes. Result lines contain them, so that a later run
//! can name the setting that makes a request differ from the answered one.

use std::io::IoSlice;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::llm::hash::hex;
use crate::llm::params::{RequestTask, ResponseFormat};

use super::input::PromptSettings;

/// Number of stored bytes of a hash: enough to distinguish two settings of one output.
const HASH_BYTES: usize = 3;

/// The reason for a line with the same settings: its row, or line of the input, differs.
const ROW: &str = "row";
/// The reason for a line without settings.
const REQUEST: &str = "request";

/// Whether a reason of [`RunSettings::changed_since`] names settings.
pub(crate) fn names_settings(reason: &str) -> bool {
    reason != ROW && reason != REQUEST
}

/// The settings that are part of every request, each with its name and hash: `template=1f0a22 model=77c1aa`. Unset
/// settings are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct RunSettings(String);

impl RunSettings {
    pub(crate) fn of(settings: &PromptSettings) -> Self {
        let text = |text: &Option<String>| text.as_ref().map(|text| json!(text));
        let mut parameters = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            parameters.extend(value.map(|value| (name.to_owned(), value)));
        };
        put("dimensions", settings.dimensions.map(Value::from));
        put("max_tokens", settings.max_tokens.map(Value::from));
        put("temperature", settings.temperature.map(Value::from));
        let task = settings.task != RequestTask::Complete;
        put("task", task.then(|| format!("{:?}", settings.task).into()));
        let extra = Some(&settings.extra).filter(|extra| !extra.is_empty());
        put("extra", extra.cloned().map(Value::Object));
        let schema = settings.format.as_ref().map(|format| match format {
            ResponseFormat::JsonObject => json!("json"),
            ResponseFormat::JsonSchema {
                name,
                schema,
                strict,
            } => json!([name, schema, strict]),
        });
        let parts = [
            ("template", text(&settings.template_text)),
            ("system", text(&settings.system)),
            ("schema", schema),
            ("model", text(&settings.model)),
            (
                "parameters",
                (!parameters.is_empty()).then_some(Value::Object(parameters)),
            ),
        ];
        let made = parts.into_iter().filter_map(|(name, value)| {
            let digest = Sha256::digest(value?.to_string());
            Some(format!("{name}={}", hex(&digest[..HASH_BYTES])))
        });
        Self(made.collect::<Vec<_>>().join(" "))
    }

    /// What changed since the line with these settings was written: the names of settings, `row` if they are all the
    /// same, or `request` if the line has none.
    pub(crate) fn changed_since(&self, line: Option<&str>) -> String {
        let Some(line) = line else {
            return REQUEST.to_owned();
        };
        let differing = |one: &str, other: &str| -> Vec<String> {
            let other: Vec<&str> = other.split(' ').collect();
            let parts = one.split(' ').filter(|part| !other.contains(part));
            parts
                .filter_map(|part| Some(part.split_once('=')?.0.to_owned()))
                .collect()
        };
        let mut names = differing(&self.0, line);
        for name in differing(line, &self.0) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        if names.is_empty() {
            ROW.to_owned()
        } else {
            names.join(", ")
        }
    }

    /// These settings as in a result line.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The end of a result line with these settings.
    pub(crate) fn line_end(&self) -> String {
        format!(",\"settings\":{}}}\n", json!(self.0))
    }
}

/// Result lines in pieces, with another end for each, without copying the lines, which may be large.
pub(crate) fn with_end<'l>(lines: &'l [u8], end: &'l str) -> Vec<IoSlice<'l>> {
    let mut pieces = Vec::new();
    let mut begin = 0;
    for newline in memchr::memchr_iter(b'\n', lines) {
        let line = &lines[begin..=newline];
        begin = newline + 1;
        match line.strip_suffix(b"}\n") {
            Some(open) => pieces.extend([IoSlice::new(open), IoSlice::new(end.as_bytes())]),
            None => pieces.push(IoSlice::new(line)),
        }
    }
    pieces.push(IoSlice::new(&lines[begin..]));
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(template: &str) -> PromptSettings {
        PromptSettings {
            template_text: Some(template.to_owned()),
            model: Some("m".to_owned()),
            ..PromptSettings::default()
        }
    }

    #[test]
    fn the_setting_that_changed_is_named() {
        let before = RunSettings::of(&settings("{{a}}"));
        let since = |now: &PromptSettings| RunSettings::of(now).changed_since(Some(&before.0));
        assert_eq!(since(&settings("{{a}}")), "row");
        assert_eq!(since(&settings("{{a}} ")), "template");
        assert_eq!(since(&PromptSettings::default()), "template, model");
        let schema = PromptSettings {
            format: Some(ResponseFormat::JsonObject),
            temperature: Some(0.5),
            ..settings("{{a}}")
        };
        assert_eq!(since(&schema), "schema, parameters");
        assert_eq!(before.changed_since(None), "request");
        let nothing = RunSettings::of(&PromptSettings::default());
        assert_eq!(nothing.changed_since(Some("")), "row");
    }

    #[test]
    fn every_line_gets_the_settings_as_its_last_field() {
        let settings = RunSettings("model=77c1aa".to_owned());
        let end = settings.line_end();
        let pieces = with_end(b"{\"id\":\"a\"}\n{\"id\":\"b\"}\n", &end);
        assert_eq!(
            String::from_utf8(pieces.iter().flat_map(|piece| piece.to_vec()).collect()).unwrap(),
            "{\"id\":\"a\",\"settings\":\"model=77c1aa\"}\n{\"id\":\"b\",\"settings\":\"model=77c1aa\"}\n"
        );
    }
}
