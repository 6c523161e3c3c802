//! The local files that each vendor accepts in a request, and their maximum sizes.

use serde::Deserialize;

use crate::llm::attachment::Kind;

/// The local files that a vendor accepts in a request. Sizes are those of the files, in bytes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Files {
    #[serde(default)]
    images: Accepted,
    #[serde(default)]
    pdf: Accepted,
    #[serde(default)]
    audio: Accepted,
    #[serde(default)]
    video: Accepted,
    /// The limit of all files of a request.
    #[serde(default = "max_together")]
    max_bytes_together: u64,
    /// Whether it expects documents and sound in Mistral's format.
    #[serde(default)]
    pub as_mistral: bool,
}

/// The accepted media types, and the limit of one file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Accepted {
    types: Vec<String>,
    #[serde(default = "any_size")]
    max_bytes: u64,
}

fn any_size() -> u64 {
    u64::MAX
}

/// 512 MiB of base64, which is more than any vendor accepts in one request. A row can name the same file a thousand
/// times, and each time takes memory.
fn max_together() -> u64 {
    (512 << 20) / 4 * 3
}

/// The maximum length of a text file, which is more than any model reads.
const TEXT: u64 = 32 << 20;

impl Files {
    /// All that OpenAI's format supports, for unknown servers.
    pub fn any() -> Self {
        let accepted = |types: &[&str]| Accepted {
            types: types.iter().map(|media| (*media).to_owned()).collect(),
            max_bytes: u64::MAX,
        };
        Self {
            images: accepted(&[
                "image/png",
                "image/jpeg",
                "image/gif",
                "image/webp",
                "image/bmp",
            ]),
            pdf: accepted(&["application/pdf"]),
            audio: accepted(&["audio/wav", "audio/mpeg"]),
            video: Accepted::default(),
            max_bytes_together: max_together(),
            as_mistral: false,
        }
    }

    /// The reason why a file is not accepted, if it is not.
    pub fn refusal(&self, vendor: &str, media: &str, bytes: u64) -> Option<String> {
        let (what, accepted) = match Kind::of(media) {
            // Text is a part of the message if the vendor has no better place for it.
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
        let Accepted { types, max_bytes } = accepted;
        if types.is_empty() {
            return Some(format!("{vendor} does not support {what}"));
        }
        if types.iter().all(|accepted| accepted != media) {
            let types = types.join(", ");
            return Some(format!(
                "{vendor} supports {what} as {types}, not as {media}"
            ));
        }
        if bytes > *max_bytes {
            return Some(format!(
                "{vendor} accepts {what} of at most {max_bytes} bytes; this file has {bytes}"
            ));
        }
        self.too_much(vendor, bytes)
    }

    /// The reason why the total size of a request's files is not accepted, if it is not.
    pub fn too_much(&self, vendor: &str, bytes: u64) -> Option<String> {
        let most = self.max_bytes_together;
        (bytes > most).then(|| {
            format!("{vendor} accepts files of at most {most} bytes in one request, not {bytes}")
        })
    }
}
