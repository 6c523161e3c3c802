//! The media type of a file, by its extension and its first bytes.

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

/// The media type if nothing determines one.
const UNKNOWN: &str = "application/octet-stream";

/// The media types of extensions. Text is sent as text whatever its extension is.
const EXTENSIONS: [(&str, &[&str]); 12] = [
    ("application/pdf", &["pdf"]),
    ("image/png", &["png"]),
    ("image/jpeg", &["jpg", "jpeg"]),
    ("image/gif", &["gif"]),
    ("image/webp", &["webp"]),
    ("image/heic", &["heic"]),
    ("audio/wav", &["wav"]),
    ("audio/mpeg", &["mp3"]),
    ("audio/mp4", &["m4a"]),
    ("video/mp4", &["mp4", "m4v"]),
    // The name in Google's documentation, whose models alone take it.
    ("video/mov", &["mov"]),
    ("video/webm", &["webm"]),
];

/// The first bytes of types that often have another extension.
const BEGINNINGS: [(&[u8], &str); 4] = [
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"%PDF-", "application/pdf"),
];

/// The media type that the first bytes of a file tell.
pub(crate) fn by_content(bytes: &[u8]) -> Option<&'static str> {
    if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        return Some("image/webp");
    }
    let known = BEGINNINGS
        .iter()
        .find(|(begin, _)| bytes.starts_with(begin));
    known.map(|(_, media)| *media)
}

/// The media type of a file with these bytes.
pub(super) fn told(bytes: &[u8], extension: &str) -> &'static str {
    let extension = extension.to_ascii_lowercase();
    let named = |(_, names): &&(_, &[&str])| names.contains(&extension.as_str());
    let named = EXTENSIONS.iter().find(named).map(|(media, _)| *media);
    let is_text = || !bytes.contains(&0) && std::str::from_utf8(bytes).is_ok();
    // A text may begin with the letters of another type.
    if named.is_none() && is_text() {
        return "text/plain";
    }
    by_content(bytes).or(named).unwrap_or(UNKNOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_correct_the_extension_and_prose_is_text() {
        for (bytes, extension, media) in [
            (&b"\x89PNG\r\n\x1a\nrest"[..], "jpg", "image/png"),
            (b"\xff\xd8\xff\xe0", "", "image/jpeg"),
            (b"GIF89a\0", "png", "image/gif"),
            (b"RIFF\x10\0\0\0WEBPVP8 ", "", "image/webp"),
            (b"RIFF\x10\0\0\0WAVEfmt ", "WAV", "audio/wav"),
            (b"%PDF-1.4", "pdf", "application/pdf"),
            (b"GIF89a is a format.", "md", "text/plain"),
            ("\u{feff}ä".as_bytes(), "", "text/plain"),
            (b"caf\xe9", "txt", "application/octet-stream"),
            (b"PK\x03\x04\0", "docx", "application/octet-stream"),
        ] {
            assert_eq!(told(bytes, extension), media, "{extension}");
        }
    }
}
