//! What `Debug` shows instead of prompts, answers and payloads, which must not reach a log: only their size. Names and
//! ids are shown, long ones cut.

use std::fmt;

/// Shows a text only as its number of bytes.
pub(crate) struct Bytes(pub usize);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0)
    }
}

/// Shows a list only as its number of entries.
pub(crate) struct Many(pub usize);

impl fmt::Debug for Many {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.0)
    }
}

/// Shows a name, cut to [`NAME_BYTES`].
pub(crate) struct Name<'a>(pub &'a str);

const NAME_BYTES: usize = 80;

impl fmt::Debug for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        cut(self.0, NAME_BYTES, f)
    }
}

/// Shows a message, cut to [`MESSAGE_BYTES`].
pub(crate) struct Message<'a>(pub &'a str);

const MESSAGE_BYTES: usize = 500;

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        cut(self.0, MESSAGE_BYTES, f)
    }
}

fn cut(text: &str, bytes: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let shown = beginning(text, bytes);
    fmt::Debug::fmt(shown, f)?;
    if shown.len() < text.len() {
        write!(f, "… ({} bytes)", text.len())
    } else {
        Ok(())
    }
}

/// Adds a field only if it has a value.
pub(crate) trait FieldIf {
    fn field_if<T: fmt::Debug>(&mut self, name: &str, value: Option<T>) -> &mut Self;
}

impl FieldIf for fmt::DebugStruct<'_, '_> {
    fn field_if<T: fmt::Debug>(&mut self, name: &str, value: Option<T>) -> &mut Self {
        match value {
            Some(value) => self.field(name, &value),
            None => self,
        }
    }
}

/// The beginning of a text: complete characters in at most this many bytes.
pub(crate) fn beginning(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A message without what differs from item to item: quoted text, and words with a digit in them.
pub(crate) fn family(message: &str) -> String {
    let start: String = message.chars().take(200).collect();
    let quoted = |c: char| c == '"' || c == '`';
    let plain: Vec<&str> = start.split(quoted).step_by(2).collect();
    let plain = plain.join("\"\"");
    let words = plain.split_whitespace().map(|word| {
        let varies = word.contains(|c: char| c.is_ascii_digit());
        if varies { "#" } else { word }
    });
    words.collect::<Vec<_>>().join(" ")
}
