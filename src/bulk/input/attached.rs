//! The files that the records of an input name, so that files that no provider supports are rejected before anything is
//! sent.

use serde_json::Value;

use crate::llm::attachment::{self, Attached, Refused, Root};
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

/// Parts of one record that not every provider supports: its files, and the providers that reject the whole record.
#[derive(Debug, Default, PartialEq)]
pub(super) struct OfRecord {
    files: Vec<(String, u64)>,
    refusing: Vec<(&'static str, String)>,
}

impl OfRecord {
    /// `None` for a record that every provider supports, as most are.
    pub(super) fn of(request: &Request) -> Option<Box<Self>> {
        let mut files = request.files().peekable();
        if files.peek().is_none() && request.native.is_none() {
            return None;
        }
        let files = files.filter_map(|part| Attached::read(part).ok());
        let files = files.map(|file| (file.media.to_owned(), file.bytes));
        Some(Box::new(Self {
            files: files.collect(),
            refusing: native::refusals(request),
        }))
    }
}

/// Parts of an input that not every provider supports: the largest sizes for each media type of files, and the
/// providers that reject whole records.
#[derive(Debug, Default)]
pub(crate) struct AttachedFiles {
    files: Vec<Largest>,
    /// The rejections of records; only the first one for the same providers.
    refused: Vec<Vec<(&'static str, String)>>,
}

#[derive(Debug)]
struct Largest {
    media: String,
    /// Bytes of the largest file of the type.
    file: u64,
    /// Maximum number of bytes of all files of a record with such a file.
    together: u64,
}

impl AttachedFiles {
    pub(super) fn add(&mut self, record: &OfRecord) {
        let providers = |by: &[(&'static str, String)]| -> Vec<&'static str> {
            by.iter().map(|(provider, _)| *provider).collect()
        };
        let by = &record.refusing;
        let same = |known: &Vec<_>| providers(known) == providers(by);
        if !by.is_empty() && !self.refused.iter().any(same) {
            self.refused.push(by.clone());
        }
        let sum = record.files.iter().map(|(_, bytes)| bytes).sum();
        for (media, bytes) in &record.files {
            match self.files.iter_mut().find(|seen| seen.media == *media) {
                Some(seen) => {
                    seen.file = seen.file.max(*bytes);
                    seen.together = seen.together.max(sum);
                }
                None => self.files.push(Largest {
                    media: media.clone(),
                    file: *bytes,
                    together: sum,
                }),
            }
        }
    }

    /// Why some record has no provider that supports it, according to `refusal`, which gets a provider, a media type, a
    /// file's size and the size of all files of a request. `None` if each record has a provider, or no provider is
    /// known.
    pub(crate) fn refused(
        &self,
        providers: &[String],
        refusal: &dyn Fn(&str, &str, u64, u64) -> Option<String>,
    ) -> Option<String> {
        if providers.is_empty() {
            return None;
        }
        let whole = self.refused.iter().find_map(|by| {
            let why = |provider: &String| {
                let found = by.iter().find(|(refusing, _)| refusing == provider);
                found.map(|(_, why)| why.as_str())
            };
            let whys: Vec<&str> = providers.iter().map(why).collect::<Option<_>>()?;
            Some(format!("found that {}; nothing was sent", whys.join("; ")))
        });
        whole.or_else(|| {
            self.files.iter().find_map(|seen| {
                let sizes = [(seen.file, seen.file), (0, seen.together)];
                sizes.into_iter().find_map(|(one, all)| {
                    let why = |provider: &String| refusal(provider, &seen.media, one, all);
                    let whys: Vec<String> = providers.iter().map(why).collect::<Option<_>>()?;
                    Some(format!(
                        "found a file of the type {}; {}; nothing was sent",
                        seen.media,
                        whys.join("; ")
                    ))
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(provider: &str, media: &str, one: u64, all: u64) -> Option<String> {
        let takes = match provider {
            "pictures" => media == "image/png" && one <= 10 && all <= 15,
            _ => true,
        };
        (!takes).then(|| format!("{provider} does not"))
    }

    fn record(files: &[(&str, u64)]) -> OfRecord {
        let files = files
            .iter()
            .map(|(media, bytes)| ((*media).to_owned(), *bytes));
        OfRecord {
            files: files.collect(),
            ..OfRecord::default()
        }
    }

    #[test]
    fn only_files_that_no_provider_supports_are_rejected() {
        let both = ["pictures".to_owned(), "all".to_owned()];
        let with = |more: Option<OfRecord>| {
            let mut files = AttachedFiles::default();
            files.add(&record(&[("image/png", 9)]));
            more.iter().for_each(|more| files.add(more));
            files
        };
        assert_eq!(with(None).refused(&both[..1], &refusal), None);
        for more in [
            record(&[("image/png", 11), ("image/png", 1)]),
            record(&[("image/png", 9), ("image/png", 8)]),
            record(&[("audio/wav", 1)]),
        ] {
            let files = with(Some(more));
            let why = files.refused(&both[..1], &refusal).unwrap();
            assert!(why.contains("pictures does not"), "{why}");
            assert_eq!(files.refused(&both, &refusal), None);
            // The providers are unknown.
            assert_eq!(files.refused(&[], &refusal), None);
        }
    }
}
