//! Local files in requests, each in the format that its vendor accepts.
//!
//! The wire formats read no files. A mark first stands in for the base64 text of each file; when the body is complete,
//! the contents of the files replace the marks. Therefore the length of a body is known without reading a file, and a
//! file is in memory only once, as a part of the body.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::ops::Range;
use std::sync::OnceLock;

use memchr::memmem;
use serde_json::{Value, json};

use crate::base::{Error, Sent};
use crate::llm::attachment::{Attached, Kind, is_local, sound_format};
use crate::llm::request::Request;

use super::content::invalid;
use super::vendor::{Dialect, Vendor};

/// The reason if a provider does not accept a file of this type and size, or this total size of all files in one request.
/// `None` also if the provider is not known here.
pub(crate) fn refusal(provider: &str, media: &str, bytes: u64, together: u64) -> Option<String> {
    let vendor = Vendor::named(provider)?;
    if vendor.dialect == Dialect::Extract {
        return Some("extract reads no files".to_owned());
    }
    let files = &vendor.fields.files;
    let (part, what) = match Kind::of(media) {
        Kind::Image => ("image_url", "images"),
        Kind::Pdf => ("file", "PDF"),
        Kind::Audio => ("input_audio", "audio"),
        _ => ("", ""),
    };
    if !files.as_mistral && vendor.fields.lacks_parts.contains_key(part) {
        return Some(format!("{} does not support {what}", vendor.name));
    }
    let one = files.refusal(vendor.name, media, bytes);
    one.or_else(|| files.too_much(vendor.name, together))
}

/// The files of a request that its vendor accepts. They have not been read yet.
pub(super) struct Taken<'r> {
    vendor: &'r Vendor,
    request: &'r Request,
    files: Vec<Attached<'r>>,
}

/// The files of a request; `None` if it has no files.
///
/// # Errors
/// If the vendor does not accept one of them, or their total size.
pub(super) fn taken<'r>(
    vendor: &'r Vendor,
    request: &'r Request,
) -> Result<Option<Taken<'r>>, Error> {
    let (mut files, mut together) = (Vec::new(), 0u64);
    for part in request.files() {
        let file = Attached::read(part)?;
        together = together.saturating_add(file.bytes);
        if let Some(why) = refusal(vendor.name, file.media, file.bytes, together) {
            return Err(unsent(format!("{}: {why}", file.shown_name())));
        }
        files.push(file);
    }
    Ok((!files.is_empty()).then_some(Taken {
        vendor,
        request,
        files,
    }))
}

fn unsent(why: String) -> Error {
    invalid(format!("{why}; nothing was sent")).with_sent(Sent::No)
}

impl<'r> Taken<'r> {
    /// The maximum number of bytes of memory that the call takes. A text is in memory three times: the file, the part
    /// of the message, and that part in the body.
    pub fn memory(&self) -> u64 {
        let files = self.files.iter().map(|file| {
            if self.is_marked(file) {
                file.encoded()
            } else {
                file.bytes.saturating_mul(3)
            }
        });
        files.fold(self.request.text_bytes() as u64, u64::saturating_add)
    }

    /// The request with marks instead of its files.
    ///
    /// # Errors
    /// If a file that is sent as text cannot be read.
    pub fn marked(self) -> Result<Marked<'r>, Error> {
        let mut request = self.request.clone();
        let contents = request.messages.iter_mut();
        let contents = contents.filter_map(|message| message.content.as_array_mut());
        let parts = contents.flatten().filter(|part| is_local(part));
        let mut marks = Vec::new();
        for (part, file) in parts.zip(&self.files) {
            *part = shaped(self.vendor, file, &mark(marks.len()))?;
            if self.is_marked(file) {
                marks.push(*file);
            }
        }
        Ok(Marked {
            request,
            files: marks,
        })
    }

    /// Whether the request has a mark instead of the text of the file.
    fn is_marked(&self, file: &Attached<'_>) -> bool {
        file.kind() != Kind::Text || self.vendor.dialect == Dialect::Gemini
    }
}

/// A request with marks instead of its files, in the format of the vendor.
pub(super) struct Marked<'r> {
    pub request: Request,
    files: Vec<Attached<'r>>,
}

/// The digits of a mark.
const DIGITS: usize = 8;

fn mark(number: usize) -> String {
    format!("{}{number:0DIGITS$}", secret())
}

/// A random text at the beginning of each mark. Prompts must not be able to contain it, because the content of a file
/// replaces each mark.
fn secret() -> &'static str {
    static SECRET: OnceLock<String> = OnceLock::new();
    SECRET.get_or_init(|| {
        let number = || RandomState::new().build_hasher().finish();
        format!("file{:016x}{:016x}", number(), number())
    })
}

fn shaped(vendor: &Vendor, file: &Attached<'_>, mark: &str) -> Result<Value, Error> {
    let data_url = || format!("data:{};base64,{mark}", file.media);
    let (kind, name) = (file.kind(), file.name());
    Ok(match (vendor.dialect, kind) {
        (Dialect::Gemini, _) => {
            json!({"inlineData": {"mimeType": googles(file.media), "data": mark}})
        }
        (Dialect::Anthropic, Kind::Text) => {
            let source = json!({"type": "text", "media_type": "text/plain", "data": file.text()?});
            json!({"type": "document", "source": source, "title": name})
        }
        (_, Kind::Text) => json!({"type": "text", "text": file.text()?}),
        (Dialect::Anthropic, kind) => {
            let source = json!({"type": "base64", "media_type": file.media, "data": mark});
            match kind {
                Kind::Image => json!({"type": "image", "source": source}),
                _ => json!({"type": "document", "source": source, "title": name}),
            }
        }
        (_, Kind::Image) => {
            let mut image = json!({"url": data_url()});
            if let Some(detail) = file.detail {
                image["detail"] = detail.into();
            }
            json!({"type": "image_url", "image_url": image})
        }
        (_, Kind::Audio) if vendor.fields.files.as_mistral => {
            json!({"type": "input_audio", "input_audio": mark})
        }
        (_, Kind::Audio) => {
            let format = sound_format(file.media);
            json!({"type": "input_audio", "input_audio": {"data": mark, "format": format}})
        }
        (_, _) if vendor.fields.files.as_mistral => {
            json!({"type": "document_url", "document_url": data_url(), "document_name": name})
        }
        (_, _) => {
            json!({"type": "file", "file": {"filename": name, "file_data": data_url()}})
        }
    })
}

/// The names of media types in Google's documentation.
fn googles(media: &str) -> &str {
    match media {
        "audio/mpeg" => "audio/mp3",
        "video/quicktime" => "video/mov",
        "video/x-msvideo" => "video/avi",
        "video/x-ms-wmv" => "video/wmv",
        other => other,
    }
}

impl Marked<'_> {
    /// The length of a body after the files have replaced the marks.
    pub fn length_of(&self, body: &[u8]) -> u64 {
        let marks = self.files.len() * mark(0).len();
        let rest = body.len().saturating_sub(marks) as u64;
        let files = self.files.iter().map(Attached::encoded);
        files.fold(rest, u64::saturating_add)
    }

    /// The body with the contents of the files instead of the marks.
    ///
    /// # Errors
    /// If there is not enough memory, or if a file cannot be read or has changed.
    pub fn filled(&self, body: Vec<u8>) -> Result<Vec<u8>, Error> {
        if self.files.is_empty() {
            return Ok(body);
        }
        let length = self.length_of(&body);
        let mut out = Vec::new();
        let room = usize::try_from(length).map(|length| out.try_reserve_exact(length));
        if !matches!(room, Ok(Ok(()))) {
            let why = format!("not enough memory for a request of {length} bytes");
            return Err(unsent(why));
        }
        let mut at = 0;
        for (place, file) in self.places(&body)? {
            out.extend_from_slice(&body[at..place.start]);
            file.append_base64(&mut out)?;
            at = place.end;
        }
        out.extend_from_slice(&body[at..]);
        Ok(out)
    }

    /// The positions of the marks, in order.
    fn places(&self, body: &[u8]) -> Result<Vec<(Range<usize>, &Attached<'_>)>, Error> {
        let marks = memmem::find_iter(body, secret()).filter_map(|start| {
            let digits = start + secret().len();
            let end = digits + DIGITS;
            let number = std::str::from_utf8(body.get(digits..end)?).ok()?;
            let file = self.files.get(number.parse::<usize>().ok()?)?;
            Some((start..end, file))
        });
        let places: Vec<_> = marks.collect();
        if places.len() == self.files.len() {
            Ok(places)
        } else {
            Err(unsent("a file has no place in the request".to_owned()))
        }
    }
}

#[cfg(test)]
#[path = "attached_tests.rs"]
mod tests;
