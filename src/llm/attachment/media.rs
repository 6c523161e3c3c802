//! The media type of a file, detected from its first bytes, or else from its extension.

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// The kinds of files that providers treat differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Image,
    Pdf,
    Audio,
    Video,
    Text,
    Other,
}

impl Kind {
    /// The kind of a media type.
    pub fn of(media: &str) -> Self {
        match media.split_once('/') {
            Some(("image", _)) => Self::Image,
            Some(("audio", _)) => Self::Audio,
            Some(("video", _)) => Self::Video,
            Some(("text", _)) => Self::Text,
            Some(("application", "pdf")) => Self::Pdf,
            _ => Self::Other,
        }
    }
}

/// OpenAI's name of an audio format.
pub(crate) fn sound_format(media: &str) -> &str {
    match media.strip_prefix("audio/").unwrap_or(media) {
        "mpeg" => "mp3",
        other => other,
    }
}

/// The media type if neither the content nor the extension determines one.
pub(super) const UNKNOWN: &str = "application/octet-stream";

/// The extensions of files by media type. Text is sent as text whatever its extension is, so its types are not listed.
static EXTENSIONS: LazyLock<BTreeMap<&str, Vec<&str>>> = LazyLock::new(|| {
    let types = serde_json::from_str(include_str!("media_types.json"));
    types.expect("the tests read this file too")
});

fn by_extension(extension: &str) -> Option<&'static str> {
    let extension = extension.to_ascii_lowercase();
    let mut types = EXTENSIONS.iter();
    let found = types.find(|(_, names)| names.contains(&extension.as_str()));
    found.map(|(media, _)| *media)
}

/// The media type of a file with these first bytes.
///
/// # Errors
/// If a text has the extension of another format.
pub(super) fn told(head: &[u8], is_text: bool, extension: &str) -> Result<&'static str, String> {
    let (begun, named) = (by_content(head), by_extension(extension));
    if !is_text {
        return Ok(begun.or(named).unwrap_or(UNKNOWN));
    }
    // A text may begin with the letters of a signature, or mention PDF.
    match (begun, named) {
        (Some(media), _) if begun == named || head.starts_with(b"%PDF-") => Ok(media),
        (_, None) => Ok("text/plain"),
        (_, Some(_)) => Err(format!("a text that is named .{extension}")),
    }
}

/// Common extensions of text.
const TEXTS: [&str; 10] = [
    "txt", "md", "csv", "tsv", "json", "jsonl", "xml", "html", "log", "srt",
];

/// The likely encoding of a text that is not UTF-8, by its first bytes and its extension, with its name for `iconv`.
/// `None` if it does not look like text.
pub(super) fn other_encoding(head: &[u8], extension: &str) -> Option<&'static str> {
    let is_named_text = TEXTS.contains(&extension.to_ascii_lowercase().as_str());
    let is_binary = |byte: &u8| *byte < b' ' && !b"\t\n\r\x0c".contains(byte);
    match head {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("UTF-16"),
        [_, 0, ..] if is_named_text => Some("UTF-16LE"),
        [0, _, ..] if is_named_text => Some("UTF-16BE"),
        _ if !head.iter().any(is_binary) => Some("WINDOWS-1252"),
        _ => None,
    }
}

fn by_content(head: &[u8]) -> Option<&'static str> {
    let begins = |with: &[u8]| head.starts_with(with);
    let at = |offset: usize, with: &[u8]| head.get(offset..).is_some_and(|h| h.starts_with(with));
    // Some programs write a line before the signature.
    let early = &head[..head.len().min(1024)];
    if early.windows(5).any(|bytes| bytes == b"%PDF-") {
        return Some("application/pdf");
    }
    Some(match () {
        () if begins(b"\x89PNG\r\n\x1a\n") => "image/png",
        () if begins(b"\xff\xd8\xff") => "image/jpeg",
        () if begins(b"GIF87a") || begins(b"GIF89a") => "image/gif",
        () if begins(b"BM") && at(6, &[0; 4]) => "image/bmp",
        () if begins(b"II*\0") || begins(b"MM\0*") => "image/tiff",
        () if begins(b"RIFF") && at(8, b"WEBP") => "image/webp",
        () if begins(b"RIFF") && at(8, b"WAVE") => "audio/wav",
        () if begins(b"RIFF") && at(8, b"AVI ") => "video/x-msvideo",
        () if begins(b"FORM") && (at(8, b"AIFF") || at(8, b"AIFC")) => "audio/aiff",
        () if begins(b"ID3") => "audio/mpeg",
        () if begins(b"OggS") => "audio/ogg",
        () if begins(b"fLaC") => "audio/flac",
        () if begins(b"\x1a\x45\xdf\xa3") => "video/webm",
        () if begins(b"FLV\x01") => "video/x-flv",
        () if begins(b"\0\0\x01\xba") || begins(b"\0\0\x01\xb3") => "video/mpeg",
        () if begins(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11") => "video/x-ms-wmv",
        () if begins(b"PK\x03\x04") => "application/zip",
        () if begins(b"\x1f\x8b") => "application/gzip",
        () if at(4, b"ftyp") => by_brand(head.get(8..12)?),
        () => return by_frame(head),
    })
}

/// The type of an ISO base media file, by the brand in its first box.
fn by_brand(brand: &[u8]) -> &'static str {
    match brand {
        b"heic" | b"heix" | b"hevc" | b"heim" | b"heis" => "image/heic",
        b"mif1" | b"msf1" => "image/heif",
        b"avif" | b"avis" => "image/avif",
        b"M4A " | b"M4B " => "audio/mp4",
        b"qt  " => "video/quicktime",
        brand if brand.starts_with(b"3g") => "video/3gpp",
        _ => "video/mp4",
    }
}

/// Audio without a header, which begins with its first frame.
fn by_frame(head: &[u8]) -> Option<&'static str> {
    let [0xff, second, third, ..] = head else {
        return None;
    };
    match second {
        // An 11-bit sync word, a valid version, layer III, and a valid bit rate.
        0xfa | 0xfb | 0xf2 | 0xf3 | 0xe2 | 0xe3 if third >> 4 != 0xf => Some("audio/mpeg"),
        0xf0 | 0xf1 | 0xf8 | 0xf9 => Some("audio/aac"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_counts_before_the_extension() {
        for (head, extension, media) in [
            (&b"\x89PNG\r\n\x1a\nrest"[..], "txt", "image/png"),
            (b"\xff\xd8\xff\xe0", "png", "image/jpeg"),
            (b"GIF89a", "", "image/gif"),
            (b"RIFF\x10\0\0\0WEBPVP8 ", "", "image/webp"),
            (b"RIFF\x10\0\0\0WAVEfmt ", "", "audio/wav"),
            (b"%PDF-1.7", "", "application/pdf"),
            (b"\r\n%PDF-1.4", "", "application/pdf"),
            (b"ID3\x03", "", "audio/mpeg"),
            (b"\xff\xfb\x90\x64", "", "audio/mpeg"),
            (b"\xff\xf1\x50\x80", "", "audio/aac"),
            (b"\0\0\0\x18ftypheic", "", "image/heic"),
            (b"\0\0\0\x18ftypM4A ", "mp4", "audio/mp4"),
            (b"\0\0\0\x18ftypisom", "", "video/mp4"),
            (b"\0\0\0\x18ftypqt  ", "", "video/quicktime"),
            (b"PK\x03\x04", "docx", "application/zip"),
        ] {
            assert_eq!(told(head, false, extension), Ok(media), "{extension}");
        }
    }

    #[test]
    fn prose_is_text_whatever_it_begins_with() {
        for head in [
            "A PDF begins with %PDF-1.7.",
            "ID3 is a decision tree.",
            "GIF89a is a format.",
            "OggS",
            "fLaC",
            "PK\x03\x04",
            "RIFF\x10\x01\x01\x01WAVE",
            "in %PDF-",
            "the ftyp box",
        ] {
            for extension in ["md", "txt", ""] {
                let found = told(head.as_bytes(), true, extension);
                assert_eq!(found, Ok("text/plain"), "{head}");
            }
        }
        // As it is where the two agree, and of PDF in any case: some of it is letters throughout.
        for (head, extension, media) in [
            ("%PDF-1.4", "txt", "application/pdf"),
            ("%PDF-1.4", "", "application/pdf"),
            ("a line\n%PDF-1.4", "pdf", "application/pdf"),
            ("ID3\x03", "mp3", "audio/mpeg"),
            ("GIF89a", "gif", "image/gif"),
        ] {
            assert_eq!(told(head.as_bytes(), true, extension), Ok(media), "{head}");
        }
        assert!(told(b"GIF89a is a format.", true, "png").is_err());
    }

    #[test]
    fn content_without_a_signature_is_detected_by_the_extension() {
        assert_eq!(told(b"\x01\x02", false, "MP3"), Ok("audio/mpeg"));
        assert_eq!(told(b"\x01\x02", false, "xyz"), Ok(UNKNOWN));
        assert_eq!(told(b"# Hello", true, "md"), Ok("text/plain"));
        assert_eq!(told(b"<svg/>", true, "svg"), Ok("text/plain"));
        assert!(told(b"no picture", true, "png").is_err());
        // UTF-16 begins like sound does.
        assert_eq!(told(b"\xff\xfeh\0i\0", false, "txt"), Ok(UNKNOWN));
    }

    #[test]
    fn text_in_another_encoding_is_recognized() {
        for (head, extension, encoding) in [
            (&b"\xff\xfeh\0i\0"[..], "", Some("UTF-16")),
            (b"\xfe\xff\0h\0i", "txt", Some("UTF-16")),
            (b"h\0i\0", "TXT", Some("UTF-16LE")),
            (b"\0h\0i", "csv", Some("UTF-16BE")),
            (b"h\0i\0", "bin", None),
            (b"caf\xe9 au lait\r\n", "", Some("WINDOWS-1252")),
            (b"caf\xe9\x01", "", None),
            (b"\x01\x02", "xyz", None),
        ] {
            assert_eq!(other_encoding(head, extension), encoding, "{head:?}");
        }
    }

    #[test]
    fn every_type_has_a_kind() {
        assert_eq!(Kind::of("image/png"), Kind::Image);
        assert_eq!(Kind::of("application/pdf"), Kind::Pdf);
        assert_eq!(Kind::of("audio/mpeg"), Kind::Audio);
        assert_eq!(Kind::of("video/mp4"), Kind::Video);
        assert_eq!(Kind::of("text/plain"), Kind::Text);
        assert_eq!(Kind::of(UNKNOWN), Kind::Other);
    }
}
