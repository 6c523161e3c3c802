//! What a reply holds beside its text that an answer has no place for, in words for people.

use serde_json::Value;

/// So many are named.
const MOST_NAMES: usize = 20;

/// Parts that are no text of the answer.
#[derive(Debug, Default)]
pub(super) struct Holds(Vec<String>);

impl Holds {
    pub(super) fn part(&mut self, what: &str) {
        let what = shown(what);
        if self.0.len() < MOST_NAMES && !self.0.contains(&what) {
            self.0.push(what);
        }
    }

    /// A part with a media type, such as `image/png`.
    pub(super) fn media(&mut self, kind: &str) {
        match kind.split('/').next() {
            Some("image") => self.part("an image"),
            Some("audio") => self.part("audio"),
            Some("video") => self.part("a video"),
            _ => self.part(&format!("data of the type {kind}")),
        }
    }

    /// A part of a list in OpenAI's or Anthropic's style, of the type that it names.
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
            "image" | "image_url" | "output_image" => self.part("an image"),
            "audio" | "output_audio" => self.part("audio"),
            other => self.part(&format!("a part of the type {other}")),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of it; nothing for none.
    pub(super) fn description(&self) -> String {
        self.0.join(" and ")
    }
}

/// A name in a message: no more than a line of it, and nothing that a terminal would obey.
fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(90).collect()
}
