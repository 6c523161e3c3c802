//! Errors as JSON, in result lines and in the queue.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Error, ErrorKind};
use crate::base::Optional as _;
use crate::base::verdict::Again;

impl Serialize for Error {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("kind", self.kind().as_str())?;
        map.serialize_entry("class", self.class())?;
        map.serialize_entry("status", &self.status())?;
        map.serialize_entry("message", self.message())?;
        if let Some(category) = self.category() {
            map.serialize_entry("category", category)?;
        }
        if let Some(id) = self.request_id() {
            map.serialize_entry("request_id", id)?;
        }
        if let Some(raw) = self.raw() {
            map.serialize_entry("raw", raw)?;
        }
        if let Some(bytes) = self.raw_bytes() {
            map.serialize_entry("raw_base64", &STANDARD.encode(bytes))?;
        }
        if let Some(file) = self.reply_file() {
            map.serialize_entry("reply_file", file)?;
        }
        if self.is_unusable_reply() {
            map.serialize_entry("unusable_reply", &true)?;
        }
        map.end()
    }
}

/// Reads an error that [`Serialize`] wrote; hints that matter only during a run are missing.
impl<'de> Deserialize<'de> for Error {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Written {
            kind: String,
            message: String,
            status: Option<u16>,
            category: Option<String>,
            request_id: Option<String>,
            raw: Option<String>,
            raw_base64: Option<String>,
            reply_file: Option<String>,
            #[serde(default)]
            unusable_reply: bool,
        }
        let written = Written::deserialize(deserializer)?;
        let kind = ErrorKind::parse(&written.kind)
            .ok_or_else(|| serde::de::Error::custom("an unknown kind of error"))?;
        let mut error = Error::new(kind, written.message);
        error.0.status = written.status;
        error.0.category = written.category;
        error.0.request_id = written.request_id;
        error.0.raw = written.raw;
        let bytes = written.raw_base64.map(|coded| STANDARD.decode(coded));
        error.0.raw_bytes = bytes.transpose().map_err(serde::de::Error::custom)?;
        error.0.reply_file = written.reply_file;
        let is_unusable = written.unusable_reply;
        Ok(error.when(is_unusable, |error| error.trying(Again::Never).paid_for()))
    }
}
