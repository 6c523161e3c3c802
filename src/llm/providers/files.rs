//! Which local files each vendor takes inside of a request, and how large they may be.

use crate::llm::attachment::Kind;

/// The files that a vendor takes inside of a request. Sizes are those of the files, in bytes.
#[derive(Debug)]
pub(super) struct Files {
    images: Sort,
    pdf: Sort,
    audio: Sort,
    video: Sort,
    /// All of one request together.
    together: u64,
    /// Whether it wants documents and sound as Mistral does.
    pub as_mistral: bool,
}

/// Files of one sort: the media types, and how large one may be.
#[derive(Debug)]
struct Sort(&'static [&'static str], u64);

const NONE: Sort = Sort(&[], 0);
const ANY_SIZE: u64 = u64::MAX;
const PDF: &[&str] = &["application/pdf"];
const WEB_IMAGES: &[&str] = &["image/png", "image/jpeg", "image/gif", "image/webp"];
const MB: u64 = 1_000_000;
/// More text than any model reads.
const TEXT: u64 = 32 << 20;

/// The bytes of which base64 has so many.
const fn encoded_in(base64: u64) -> u64 {
    base64 / 4 * 3
}

/// More base64 than any vendor takes in one request. A row costs nothing to name one file a thousand times,
/// and each time is held in memory.
const MOST: u64 = encoded_in(512 << 20);

/// Whatever OpenAI's style can say, for servers that are not known better.
pub(super) const ALL: Files = Files {
    images: Sort(
        &[
            "image/png",
            "image/jpeg",
            "image/gif",
            "image/webp",
            "image/bmp",
        ],
        ANY_SIZE,
    ),
    pdf: Sort(PDF, ANY_SIZE),
    audio: Sort(&["audio/wav", "audio/mpeg"], ANY_SIZE),
    video: NONE,
    together: MOST,
    as_mistral: false,
};

/// developers.openai.com, "File inputs" and "Images and vision": 50 MB a request.
pub(super) const OPENAI: Files = Files {
    images: Sort(WEB_IMAGES, 50 * MB),
    pdf: Sort(PDF, 50 * MB),
    audio: Sort(&["audio/wav", "audio/mpeg"], 50 * MB),
    together: 50 * MB,
    ..ALL
};

/// The same without documents, which its chat completions refuse.
pub(super) const AZURE: Files = Files {
    pdf: NONE,
    ..OPENAI
};

/// Those who host open models: images, where a model takes them. They tell no sizes.
pub(super) const HOSTS: Files = Files {
    images: Sort(WEB_IMAGES, ANY_SIZE),
    pdf: NONE,
    audio: NONE,
    ..ALL
};

/// The same, with sound: Together's OpenAPI description.
pub(super) const TOGETHER: Files = Files {
    audio: Sort(&["audio/wav"], ANY_SIZE),
    ..HOSTS
};

/// docs.x.ai, "Image understanding".
pub(super) const XAI: Files = Files {
    images: Sort(&["image/png", "image/jpeg"], 20 << 20),
    pdf: NONE,
    audio: NONE,
    ..ALL
};

/// console.groq.com, "Images and vision": 4 MB of base64 a request.
pub(super) const GROQ: Files = Files {
    images: Sort(WEB_IMAGES, encoded_in(4 * MB)),
    pdf: NONE,
    audio: NONE,
    together: encoded_in(4 * MB),
    ..ALL
};

/// docs.mistral.ai, "Vision", "Document understanding" and "Audio".
pub(super) const MISTRAL: Files = Files {
    images: Sort(WEB_IMAGES, 10 * MB),
    pdf: Sort(PDF, 50 * MB),
    audio: Sort(
        &["audio/wav", "audio/mpeg", "audio/flac", "audio/ogg"],
        ANY_SIZE,
    ),
    as_mistral: true,
    ..ALL
};

/// Anthropic's "Vision" and "PDF support". A picture has at most 10 MiB of base64, which is what its
/// refusals count, a request 32 MB.
pub(super) const ANTHROPIC: Files = Files {
    images: Sort(WEB_IMAGES, encoded_in(10 << 20)),
    pdf: Sort(PDF, encoded_in(32 * MB)),
    audio: NONE,
    together: encoded_in(32 * MB),
    ..ALL
};

/// ai.google.dev, "File input methods": 100 MB inside of a request, 50 MB a PDF.
pub(super) const GEMINI: Files = Files {
    images: Sort(
        &[
            "image/png",
            "image/jpeg",
            "image/webp",
            "image/heic",
            "image/heif",
        ],
        ANY_SIZE,
    ),
    pdf: Sort(PDF, 50 * MB),
    audio: Sort(
        &[
            "audio/wav",
            "audio/mpeg",
            "audio/aiff",
            "audio/aac",
            "audio/ogg",
            "audio/flac",
        ],
        ANY_SIZE,
    ),
    video: Sort(
        &[
            "video/mp4",
            "video/mpeg",
            "video/quicktime",
            "video/x-msvideo",
            "video/x-flv",
            "video/webm",
            "video/x-ms-wmv",
            "video/3gpp",
        ],
        ANY_SIZE,
    ),
    together: encoded_in(100 * MB),
    ..ALL
};

impl Files {
    /// Why a file is not taken.
    pub fn refusal(&self, vendor: &str, media: &str, bytes: u64) -> Option<String> {
        let (what, Sort(types, most)) = match Kind::of(media) {
            // It is put in as text where there is no better place.
            Kind::Text if bytes > TEXT => {
                return Some(format!(
                    "a text file is sent completely, up to {TEXT} bytes; this file has {bytes}"
                ));
            }
            Kind::Text => return self.too_much(vendor, bytes),
            Kind::Image => ("images", &self.images),
            Kind::Pdf => ("PDF", &self.pdf),
            Kind::Audio => ("audio", &self.audio),
            Kind::Video => ("video", &self.video),
            Kind::Other => {
                return Some(format!(
                    "{vendor} does not support files of the type {media}"
                ));
            }
        };
        if types.is_empty() {
            return Some(format!("{vendor} does not support {what}"));
        }
        if !types.contains(&media) {
            let types = types.join(", ");
            return Some(format!(
                "{vendor} supports {what} as {types}, not as {media}"
            ));
        }
        if bytes > *most {
            return Some(format!(
                "{vendor} accepts {what} of at most {most} bytes; this file has {bytes}"
            ));
        }
        self.too_much(vendor, bytes)
    }

    /// Why so much in one request is not taken.
    pub fn too_much(&self, vendor: &str, bytes: u64) -> Option<String> {
        let most = self.together;
        (bytes > most).then(|| {
            format!("{vendor} accepts files of at most {most} bytes in one request, not {bytes}")
        })
    }
}
