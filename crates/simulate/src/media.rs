//! Files inside of prompts: checks their base64, and that their content has the declared type.

use base64::alphabet;
use base64::engine::{Engine, GeneralPurpose, GeneralPurposeConfig};

/// Decodes base64 as providers do, and compares its beginning with the media type.
pub(super) fn check(media: &str, base64: &str) -> Result<(), String> {
    let head = read(base64).ok_or("invalid base64 data")?;
    let begins = |with: &[u8]| head.starts_with(with);
    let at = |offset: usize, with: &[u8]| head.get(offset..).is_some_and(|h| h.starts_with(with));
    let right = match media {
        "image/png" => begins(b"\x89PNG\r\n\x1a\n"),
        "image/jpeg" => begins(b"\xff\xd8\xff"),
        "image/gif" => begins(b"GIF8"),
        "image/webp" => begins(b"RIFF") && at(8, b"WEBP"),
        "application/pdf" => begins(b"%PDF-"),
        "wav" | "audio/wav" => begins(b"RIFF") && at(8, b"WAVE"),
        "mp3" | "audio/mp3" | "audio/mpeg" => begins(b"ID3") || begins(b"\xff"),
        _ => true,
    };
    if right {
        Ok(())
    } else {
        Err(format!("the file is not {media}, as it is said to be"))
    }
}

/// The same for an address with the data in it; other addresses are taken as they are.
pub(super) fn check_url<S: AsRef<str>>(url: &str, takes: &[S]) -> Result<(), String> {
    let Some(data) = url.strip_prefix("data:") else {
        return if url.starts_with("http://") || url.starts_with("https://") {
            Ok(())
        } else {
            Err("expected an address or a data URL".to_owned())
        };
    };
    let (media, base64) = data.split_once(";base64,").ok_or("not a data URL")?;
    if takes.iter().any(|takes| takes.as_ref() == media) {
        check(media, base64)
    } else {
        Err(format!(
            "unsupported MIME type '{media}'; supported are: {}",
            takes
                .iter()
                .map(AsRef::as_ref)
                .collect::<Vec<_>>()
                .join(", ")
        ))
    }
}

/// The decoded bytes; `None` if the base64 is invalid or empty. Unused bits of the last digit are ignored.
fn read(base64: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true);
    let engine = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
    let bytes = engine.decode(base64).ok()?;
    (!bytes.is_empty()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_to_its_end() {
        assert_eq!(read("TWFuTQ==").unwrap(), b"ManM");
        for bad in ["", "====", "TWF", "TWFu\n", "TW=u", "T===", "TWFuTWFuTWF!"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn what_is_called_a_picture_must_be_one() {
        let takes = ["image/png"];
        let url = |data: &str| check_url(data, &takes);
        assert_eq!(url("data:image/png;base64,iVBORw0KGgo="), Ok(()));
        assert_eq!(url("https://example.org/a.png"), Ok(()));
        for bad in [
            "data:image/png;base64,TWFu",
            "data:image/gif;base64,R0lGODlh",
            "data:image/png,iVBORw0KGgo=",
            "a.png",
        ] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }
}
