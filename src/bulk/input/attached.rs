//! The files that the records of an input name, and the lines that only one provider gets, so that lines without a
//! provider are rejected before anything is sent.

use serde_json::Value;

use super::fault::InputError;
use super::file::{InputFile, Unread};
use super::index::FileIndex;
use crate::llm::attachment::{self, Refused, Root};
use crate::llm::native::NativeFormat;
use crate::llm::providers::native;
use crate::llm::request::{Request, Role};

/// Resolves the files that the messages of a request name.
pub(super) fn resolve(request: &mut Request, root: &Root) -> Result<(), Refused> {
    for message in &mut request.messages {
        let Value::Array(parts) = &mut message.content else {
            continue;
        };
        for part in parts.iter_mut().filter(|part| attachment::is_local(part)) {
            if message.role != Role::User {
                return Err(Refused::new(
                    format!("a file in a message of the role {}", message.role.as_str()),
                    "files only in messages of the user",
                ));
            }
            attachment::resolve(part, root)?;
        }
    }
    Ok(())
}

/// The formats of the lines of an input that are in the format of one provider, which no other provider gets.
#[derive(Debug, Default)]
pub(crate) struct NativeLines(Vec<NativeFormat>);

impl NativeLines {
    pub(super) fn add(&mut self, format: NativeFormat) {
        if !self.0.contains(&format) {
            self.0.push(format);
        }
    }

    /// Why none of these providers gets one of the lines; `None` if each line has a provider, or no provider is known.
    pub(crate) fn refused(&self, providers: &[String]) -> Option<String> {
        let mut formats = self.0.iter().filter(|_| !providers.is_empty());
        formats.find_map(|format| {
            let whys = providers
                .iter()
                .map(|provider| native::refused(*format, provider));
            let whys: Vec<String> = whys.collect::<Option<_>>()?;
            Some(format!("found that {}; nothing was sent", whys.join("; ")))
        })
    }
}

impl InputFile {
    /// The first of these items that none of the providers gets, with its place.
    pub(crate) fn first_refused(
        &self,
        items: impl Iterator<Item = usize>,
        index: &FileIndex,
        providers: &[String],
    ) -> Result<Option<InputError>, Unread> {
        for i in items {
            let mut lines = NativeLines::default();
            let native = self.read(i, index)?.request.native;
            native.iter().for_each(|native| lines.add(native.format()));
            if let Some(why) = lines.refused(providers) {
                let (part, place) = self.place_of(index.offset(i))?;
                return Ok(Some(InputError::at(&part.name, place, why)));
            }
        }
        Ok(None)
    }
}
