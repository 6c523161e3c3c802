//! A file as a `multipart/form-data` body, without holding all of it in memory.

use std::borrow::Cow;
use std::io::Read;

/// JSON escapes line breaks, so no line of JSON contains a line break followed by this.
const BOUNDARY: &str = "batchwright-boundary-5f2c9d3e71a84b06";

/// A form with one file, which comes last.
pub(super) struct Form {
    before: String,
    after: String,
    file: u64,
}

impl Form {
    /// A form with text fields, and a file of this name and length.
    pub fn new(fields: &[(&str, &str)], filename: &str, length: u64) -> Self {
        let mut before = String::new();
        for (name, value) in fields {
            before.push_str(&format!(
                "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
            ));
        }
        before.push_str(&format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; \
             filename=\"{filename}\"\r\nContent-Type: application/jsonl\r\n\r\n"
        ));
        Self {
            before,
            after: format!("\r\n--{BOUNDARY}--\r\n"),
            file: length,
        }
    }

    /// The header of a request with this form.
    pub fn content_type(&self) -> (Cow<'static, str>, String) {
        let value = format!("multipart/form-data; boundary={BOUNDARY}");
        ("content-type".into(), value)
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.file + (self.before.len() + self.after.len()) as u64
    }

    /// The body, with the content of the file.
    pub fn around<'a>(&'a self, file: impl Read + 'a) -> impl Read + 'a {
        let before = self.before.as_bytes();
        before.chain(file).chain(self.after.as_bytes())
    }
}
