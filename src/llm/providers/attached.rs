//! Local files in requests, each in the format of its vendor, which judges their types and sizes.

use serde_json::{Value, json};

use crate::base::{Error, Sent};
use crate::llm::attachment::{Attached, Kind, is_local, sound_format};
use crate::llm::request::Request;

use super::content::invalid;
use super::vendor::{Dialect, Vendor};

/// The limit of all files of a request, which no vendor's is above. A row can name the same file a thousand times, and
/// each time takes memory.
const MOST_TOGETHER: u64 = 100 << 20;

/// The memory that a call with the files of a request takes: their base64 in the request and in its body. `None` without
/// files.
///
/// # Errors
/// If they are too large together.
pub(super) fn memory(request: &Request) -> Result<Option<u64>, Error> {
    let mut together = 0;
    for part in request.files() {
        together += Attached::read(part)?.bytes;
        if together > MOST_TOGETHER {
            let why = format!(
                "the files of a prompt may have {MOST_TOGETHER} bytes together; nothing was sent"
            );
            return Err(invalid(why).with_sent(Sent::No));
        }
    }
    Ok((together > 0).then_some(together * 3 + request.text_bytes() as u64))
}

/// The request with the contents of its files.
///
/// # Errors
/// If a file cannot be read or has changed.
pub(super) fn filled(vendor: &Vendor, request: &Request) -> Result<Request, Error> {
    let mut request = request.clone();
    let contents = request.messages.iter_mut();
    let parts = contents.filter_map(|message| message.content.as_array_mut());
    for part in parts.flatten().filter(|part| is_local(part)) {
        *part = shaped(vendor, &Attached::read(part)?)?;
    }
    Ok(request)
}

/// A part in OpenAI's format, which each dialect reads.
fn shaped(vendor: &Vendor, file: &Attached<'_>) -> Result<Value, Error> {
    let (kind, name) = (file.kind(), file.name());
    if kind == Kind::Text && vendor.dialect == Dialect::OpenAi {
        return Ok(json!({"type": "text", "text": file.text()?}));
    }
    let base64 = file.base64()?;
    let data_url = || format!("data:{};base64,{base64}", file.media);
    Ok(match kind {
        Kind::Image => {
            let mut image = json!({"url": data_url()});
            if let Some(detail) = file.detail {
                image["detail"] = detail.into();
            }
            json!({"type": "image_url", "image_url": image})
        }
        Kind::Audio if vendor.own_parts => {
            json!({"type": "input_audio", "input_audio": base64})
        }
        Kind::Audio => {
            let format = sound_format(file.media);
            json!({"type": "input_audio", "input_audio": {"data": base64, "format": format}})
        }
        _ if vendor.own_parts => {
            json!({"type": "document_url", "document_url": data_url(), "document_name": name})
        }
        _ => json!({"type": "file", "file": {"filename": name, "file_data": data_url()}}),
    })
}

#[cfg(test)]
#[path = "attached_tests.rs"]
mod tests;
