//! Describes the parts of a reply, other than its text, that an answer cannot contain.

use serde_json::Value;

/// The maximum number of parts in a description.
const MOST_NAMES: usize = 20;

/// Parts that are not text of the answer.
#[derive(Debug, Default)]
pub(super) struct Holds {
    parts: Vec<String>,
    /// The images, sounds and files among them.
    media: Vec<String>,
}

impl Holds {
    pub(super) fn part(&mut self, what: &str) {
        add(&mut self.parts, shown(what));
    }

    /// A part with a media type, such as `image/png`, or the beginning of one.
    pub(super) fn media(&mut self, kind: &str) {
        let what = match kind.split('/').next() {
            Some("image") => "an image".to_owned(),
            Some("audio") => "audio".to_owned(),
            Some("video") => "a video".to_owned(),
            _ => shown(&format!("data of the type {kind}")),
        };
        add(&mut self.parts, what.clone());
        add(&mut self.media, what);
    }

    /// A list entry in OpenAI's or Anthropic's format, described by its type.
    pub(super) fn block(&mut self, block: &Value) {
        let name = || block.get("name").and_then(Value::as_str);
        match block
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default()
        {
            "" => {}
            "server_tool_use" | "mcp_tool_use" => {
                let tool = name().unwrap_or("a tool");
                self.part(&format!(
                    "a call of {tool} that the provider carries out itself"
                ));
            }
            "thinking" | "redacted_thinking" | "reasoning" => self.part("thoughts"),
            "image" | "image_url" => self.media("image"),
            "audio" => self.media("audio"),
            other => self.part(&format!("a part of the type {other}")),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The description of all parts; `None` without any.
    pub(super) fn description(&self) -> String {
        self.parts.join(" and ")
    }

    /// The description of the parts that text cannot replace, if there are any.
    pub(super) fn media_description(&self) -> Option<String> {
        (!self.media.is_empty()).then(|| self.media.join(" and "))
    }
}

fn add(names: &mut Vec<String>, what: String) {
    if names.len() < MOST_NAMES && !names.contains(&what) {
        names.push(what);
    }
}

/// A name for a message: at most one line, without control characters.
fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(90).collect()
}
