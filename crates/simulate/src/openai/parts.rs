//! Content parts beside text: which a vendor takes, and in what shape.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::Vendor;
use crate::media;

/// A string that is borrowed where it can be.
#[derive(Deserialize)]
pub(super) struct Word<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// The text of a message, and its parts that are more.
pub(super) struct Content<'a>(pub Cow<'a, str>, pub Vec<Part<'a>>);

/// A part of a message, as far as it is looked at.
#[derive(Deserialize)]
pub(super) struct Part<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Word<'a>>,
    #[serde(borrow)]
    pub text: Option<Content<'a>>,
    #[serde(borrow)]
    image_url: Option<&'a RawValue>,
    #[serde(borrow)]
    input_audio: Option<&'a RawValue>,
    #[serde(borrow)]
    file: Option<&'a RawValue>,
    #[serde(borrow)]
    document_url: Option<Word<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Image<'a> {
    #[serde(borrow)]
    url: Word<'a>,
    #[serde(borrow)]
    detail: Option<Word<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Audio<'a> {
    #[serde(borrow)]
    data: Word<'a>,
    #[serde(borrow)]
    format: Word<'a>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File<'a> {
    #[serde(borrow)]
    file_data: Option<Word<'a>>,
    #[serde(borrow)]
    file_id: Option<Word<'a>>,
    #[serde(borrow)]
    filename: Option<Word<'a>>,
}

const IMAGES: [&str; 4] = ["image/png", "image/jpeg", "image/gif", "image/webp"];
const DETAILS: [&str; 4] = ["low", "high", "auto", "original"];

impl Part<'_> {
    pub(super) fn is_text(&self) -> bool {
        self.kind.as_ref().is_none_or(|kind| kind.0 == "text")
    }

    /// What is wrong with it for a vendor; without one everything is taken that any of them takes.
    pub(super) fn check(&self, vendor: Option<Vendor>) -> Result<(), String> {
        let mistral = matches!(vendor, Some(Vendor::Mistral) | None);
        let sound = !matches!(
            vendor,
            Some(
                Vendor::Xai | Vendor::Groq | Vendor::Mistral | Vendor::DeepSeek | Vendor::Cerebras
            )
        );
        let hosts = [Vendor::Together, Vendor::Fireworks, Vendor::DeepInfra];
        let files = sound && vendor.is_none_or(|vendor| !hosts.contains(&vendor));
        let kind = self.kind.as_ref().map_or("text", |kind| &*kind.0);
        match kind {
            "image_url" => {
                let takes = match vendor {
                    Some(Vendor::Xai) => &IMAGES[..2],
                    _ => &IMAGES,
                };
                let raw = self.image_url.ok_or("Missing 'image_url'.")?;
                if mistral && let Ok(Word(url)) = read(raw) {
                    return media::check_url(&url, takes);
                }
                let image: Image<'_> = read(raw)?;
                if let Some(Word(detail)) = image.detail.filter(|d| !DETAILS.contains(&&*d.0)) {
                    return Err(format!("Invalid value: '{detail}' for 'detail'."));
                }
                media::check_url(&image.url.0, takes)
            }
            "input_audio" if sound || mistral => {
                let raw = self.input_audio.ok_or("Missing 'input_audio'.")?;
                if mistral && let Ok(Word(data)) = read(raw) {
                    return media::check("audio", &data);
                }
                if !sound {
                    return Err("'input_audio' must be a string.".to_owned());
                }
                let audio: Audio<'_> = read(raw)?;
                match &*audio.format.0 {
                    format @ ("wav" | "mp3") => {
                        media::check(&format!("audio/{format}"), &audio.data.0)
                    }
                    format => Err(format!("Invalid value: '{format}' for 'format'.")),
                }
            }
            "file" if vendor == Some(Vendor::Azure) => Err(
                "Invalid Value: 'file'. This model does not support file content types.".to_owned(),
            ),
            "file" if files => {
                let file: File<'_> = read(self.file.ok_or("Missing 'file'.")?)?;
                match (file.file_data, file.file_id) {
                    (None, Some(_)) => Ok(()),
                    (Some(Word(data)), None) => {
                        if file.filename.is_none() {
                            return Err("Missing 'filename'.".to_owned());
                        }
                        media::check_url(&data, &["application/pdf"])
                    }
                    _ => Err("Expected one of 'file_data' and 'file_id'.".to_owned()),
                }
            }
            "document_url" if mistral => {
                let Word(url) = self
                    .document_url
                    .as_ref()
                    .ok_or("Missing 'document_url'.")?;
                media::check_url(url, &["application/pdf"])
            }
            "image" | "audio" | "document" | "file" | "input_audio" | "document_url"
            | "input_image" | "input_file" | "input_text" => {
                Err(format!("Invalid value: '{kind}'."))
            }
            // What conversations bring along of earlier answers, as refusals and thoughts.
            _ => Ok(()),
        }
    }
}

fn read<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Result<T, String> {
    serde_json::from_str(raw.get()).map_err(|error| format!("Invalid content part: {error}."))
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Content<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of parts")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Content(Cow::Borrowed(text), Vec::new()))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Content(Cow::Owned(text.to_owned()), Vec::new()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let (mut all, mut more) = (Cow::Borrowed(""), Vec::new());
                while let Some(mut part) = seq.next_element::<Part<'de>>()? {
                    if let Some(Content(text, _)) = part.text.take() {
                        all += text;
                    }
                    if !part.is_text() {
                        more.push(part);
                    }
                }
                Ok(Content(all, more))
            }
        }
        deserializer.deserialize_any(Text)
    }
}
