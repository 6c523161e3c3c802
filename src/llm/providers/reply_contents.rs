//! What a reply holds beside a text, in words for people.

use serde_json::Value;

/// So many are named.
const MOST_NAMES: usize = 20;

/// Parts that are no text of the answer.
#[derive(Debug, Default)]
pub(super) struct Holds {
    /// Names of the tools that are to be called.
    calls: Vec<String>,
    parts: Vec<String>,
}

impl Holds {
    pub(super) fn call(&mut self, name: Option<&Value>) {
        let name = name
            .and_then(Value::as_str)
            .unwrap_or("a tool without a name");
        if self.calls.len() < MOST_NAMES {
            self.calls.push(shown(name));
        }
    }

    pub(super) fn part(&mut self, what: &str) {
        let what = shown(what);
        if self.parts.len() < MOST_NAMES && !self.parts.contains(&what) {
            self.parts.push(what);
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

    /// A list of parts in OpenAI's or Anthropic's style.
    pub(super) fn blocks(&mut self, blocks: Option<&Value>) {
        for block in blocks.and_then(Value::as_array).into_iter().flatten() {
            match block
                .get("type")
                .and_then(Value::as_str)
                .unwrap_or_default()
            {
                "" | "text" => {}
                "tool_use" | "server_tool_use" | "mcp_tool_use" => self.call(block.get("name")),
                "thinking" | "redacted_thinking" | "reasoning" => self.part("thoughts"),
                "image" | "image_url" | "output_image" => self.part("an image"),
                "audio" | "output_audio" => self.part("audio"),
                other => self.part(&format!("a part of the type {other}")),
            }
        }
    }

    pub(super) fn has_calls(&self) -> bool {
        !self.calls.is_empty()
    }

    /// "a tool call to get_weather".
    pub(super) fn called(&self) -> String {
        match &self.calls[..] {
            [one] => format!("a tool call to {one}"),
            many => format!("tool calls to {}", many.join(", ")),
        }
    }

    /// All of it; nothing for none.
    pub(super) fn description(&self) -> String {
        let calls = self.has_calls().then(|| self.called());
        let all: Vec<String> = calls
            .into_iter()
            .chain(self.parts.iter().cloned())
            .collect();
        all.join(" and ")
    }
}

/// A name in a message: no more than a line of it, and nothing that a terminal would obey.
fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(60).collect()
}
