//! Local files on their way out, each in the shape that its vendor takes.
//!
//! The wire formats do no reading. Each file is first given a mark, which goes through them as its
//! base64 would; when the body stands, the marks are replaced by what the files hold. So a body is
//! measured without reading a file, and a file is held in memory once, as the part of the body that it
//! becomes.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::ops::Range;
use std::sync::OnceLock;

use memchr::memmem;
use serde_json::{Value, json};

use crate::base::error::{Error, Sent};
use crate::llm::attachment::{Attached, Kind, is_local};
use crate::llm::request::Request;

use super::content::invalid;
use super::vendor::{Dialect, Vendor};

/// Why a provider does not take a file of that type and size, or so many bytes of files in one request.
/// Of one that is not known here nothing is said.
pub(crate) fn refusal(provider: &str, media: &str, bytes: u64, together: u64) -> Option<String> {
    let vendor = Vendor::named(provider)?;
    if vendor.dialect == Dialect::Extract {
        return Some("extract reads no files".to_owned());
    }
    let files = &vendor.fields.files;
    let (part, what) = match Kind::of(media) {
        Kind::Image => ("image_url", "pictures"),
        Kind::Pdf => ("file", "PDF"),
        Kind::Audio => ("input_audio", "audio"),
        _ => ("", ""),
    };
    let mut lacks = vendor.fields.lacks_parts.iter();
    if !files.as_mistral && lacks.any(|(lacking, _)| *lacking == part) {
        return Some(format!("{} takes no {what}", vendor.name));
    }
    let one = files.refusal(vendor.name, media, bytes);
    one.or_else(|| files.too_much(vendor.name, together))
}

/// A request whose files stand in it as marks, in the vendor's own shape.
pub(super) struct Marked<'r> {
    pub request: Request,
    files: Vec<(String, Attached<'r>)>,
}

/// Gives marks to the files of a request; none where it has no files.
///
/// # Errors
/// When the vendor does not take one of them, or one that goes in as text cannot be read.
pub(super) fn marked<'r>(
    vendor: &Vendor,
    request: &'r Request,
) -> Result<Option<Marked<'r>>, Error> {
    if request.files().next().is_none() {
        return Ok(None);
    }
    let mut files = Vec::new();
    let mut together = 0u64;
    let mut marked = request.clone();
    for (message, own) in marked.messages.iter_mut().zip(&request.messages) {
        let (Value::Array(parts), Value::Array(own)) = (&mut message.content, &own.content) else {
            continue;
        };
        for (part, own) in parts.iter_mut().zip(own).filter(|(_, own)| is_local(own)) {
            let file = Attached::read(own)?;
            together = together.saturating_add(file.bytes);
            if let Some(why) = refusal(vendor.name, file.media, file.bytes, together) {
                let why = format!("{}: {why}; nothing was sent", file.name());
                return Err(invalid(why).with_sent(Sent::No));
            }
            let mark = format!("{}{:08}", secret(), files.len());
            *part = shaped(vendor, &file, &mark)?;
            files.push((mark, file));
        }
    }
    // What went in as text has been read already.
    files.retain(|(_, file)| is_marked(vendor, file));
    Ok(Some(Marked {
        request: marked,
        files,
    }))
}

/// What no prompt can contain but by us: a prompt that could would have a file's content put in where
/// it says.
fn secret() -> &'static str {
    static SECRET: OnceLock<String> = OnceLock::new();
    SECRET.get_or_init(|| {
        let number = || RandomState::new().build_hasher().finish();
        format!("file{:016x}{:016x}", number(), number())
    })
}

/// Whether a mark stands for it, and not its text itself.
fn is_marked(vendor: &Vendor, file: &Attached<'_>) -> bool {
    file.kind() != Kind::Text || vendor.dialect == Dialect::Gemini
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
            let format = match file.media {
                "audio/mpeg" => "mp3",
                other => other.trim_start_matches("audio/"),
            };
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

/// Media types as Google's documentation writes them.
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
    /// How long a body with marks becomes.
    pub fn length_of(&self, body: &[u8]) -> u64 {
        let marks: usize = self.files.iter().map(|(mark, _)| mark.len()).sum();
        let rest = body.len().saturating_sub(marks) as u64;
        let files = self.files.iter().map(|(_, file)| file.encoded());
        files.fold(rest, u64::saturating_add)
    }

    /// The body with what the files hold in the place of their marks.
    ///
    /// # Errors
    /// When a file cannot be read, or has changed.
    pub fn filled(&self, body: &[u8]) -> Result<Vec<u8>, Error> {
        let mut out = Vec::with_capacity(usize::try_from(self.length_of(body)).unwrap_or(0));
        let mut at = 0;
        for (place, file) in self.places(body)? {
            out.extend_from_slice(&body[at..place.start]);
            file.append_base64(&mut out)?;
            at = place.end;
        }
        out.extend_from_slice(&body[at..]);
        Ok(out)
    }

    /// Where the marks stand, in order.
    fn places(&self, body: &[u8]) -> Result<Vec<(Range<usize>, &Attached<'_>)>, Error> {
        let mut places = Vec::with_capacity(self.files.len());
        for (mark, file) in &self.files {
            let start = memmem::find(body, mark.as_bytes()).ok_or_else(|| {
                let why = format!(
                    "{} has no place in the request; nothing was sent",
                    file.name()
                );
                invalid(why).with_sent(Sent::No)
            })?;
            places.push((start..start + mark.len(), file));
        }
        places.sort_by_key(|(place, _)| place.start);
        Ok(places)
    }
}

#[cfg(test)]
#[path = "attached_tests.rs"]
mod tests;
