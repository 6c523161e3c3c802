//! The files that the records of an input name: of each media type the largest, and where it is, so
//! that what no provider takes can be refused before anything is sent.

use serde_json::Value;

use super::fault::{InputError, Place};
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

/// What not every provider takes of one record: its files, and who refuses it as a whole.
#[derive(Debug, Default, PartialEq)]
pub(super) struct OfRecord {
    files: Vec<(String, u64)>,
    refusing: Vec<(&'static str, String)>,
}

impl OfRecord {
    /// None for a record that everybody takes, as most are.
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

/// The files of an input, and its records that some providers refuse for other reasons: of those that
/// the same ones refuse the first.
#[derive(Debug, Default)]
pub(crate) struct AttachedFiles {
    files: Vec<Seen>,
    refused: Vec<RefusedRecord>,
}

#[derive(Debug)]
struct RefusedRecord {
    by: Vec<(&'static str, String)>,
    file: String,
    place: Place,
}

/// The largest of a type, and the most that stands beside files of that type.
#[derive(Debug)]
struct Seen {
    media: String,
    largest: Worst,
    together: Worst,
}

#[derive(Debug)]
struct Worst {
    bytes: u64,
    file: String,
    place: Place,
}

impl Worst {
    fn note(&mut self, bytes: u64, file: &str, place: Place) {
        if bytes > self.bytes {
            *self = Self {
                bytes,
                file: file.to_owned(),
                place,
            };
        }
    }
}

impl AttachedFiles {
    pub(super) fn add(&mut self, record: &OfRecord, file: &str, place: Place) {
        let by = &record.refusing;
        let same = |known: &RefusedRecord| {
            let names = known.by.iter().map(|(provider, _)| provider);
            names.eq(by.iter().map(|(provider, _)| provider))
        };
        if !by.is_empty() && !self.refused.iter().any(same) {
            self.refused.push(RefusedRecord {
                by: by.clone(),
                file: file.to_owned(),
                place,
            });
        }
        let sum = record.files.iter().map(|(_, bytes)| bytes).sum();
        for (media, bytes) in &record.files {
            let at = self.files.iter().position(|seen| seen.media == *media);
            let at = at.unwrap_or_else(|| {
                let none = || Worst {
                    bytes: 0,
                    file: String::new(),
                    place,
                };
                self.files.push(Seen {
                    media: media.clone(),
                    largest: none(),
                    together: none(),
                });
                self.files.len() - 1
            });
            self.files[at].largest.note(*bytes, file, place);
            self.files[at].together.note(sum, file, place);
        }
    }

    /// The first file that none of these may be sent to takes, by what `refusal` says of a provider, a
    /// media type, a file's size and the size of all files of a request.
    pub(crate) fn refused(
        &self,
        providers: &[String],
        refusal: &dyn Fn(&str, &str, u64, u64) -> Option<String>,
    ) -> Option<InputError> {
        let whole = self.refused.iter().find_map(|record| {
            let why = |provider: &String| {
                let mut by = record.by.iter();
                by.find(|(refusing, _)| refusing == provider)
                    .map(|(_, why)| why.as_str())
            };
            let whys: Vec<&str> = providers.iter().map(why).collect::<Option<_>>()?;
            let why = format!("found that {}; nothing was sent", whys.join("; "));
            (!whys.is_empty()).then(|| InputError::at(&record.file, record.place, why))
        });
        if whole.is_some() {
            return whole;
        }
        self.files.iter().find_map(|seen| {
            let worst = [(&seen.largest, true), (&seen.together, false)];
            worst.into_iter().find_map(|(worst, alone)| {
                let (one, all) = if alone {
                    (worst.bytes, worst.bytes)
                } else {
                    (0, worst.bytes)
                };
                let whys = providers
                    .iter()
                    .map(|provider| refusal(provider, &seen.media, one, all));
                let whys: Vec<String> = whys.collect::<Option<_>>()?;
                let why = format!(
                    "found a file of the type {}; {}; nothing was sent",
                    seen.media,
                    whys.join("; ")
                );
                (!whys.is_empty()).then(|| InputError::at(&worst.file, worst.place, why))
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
    fn only_what_nobody_takes_is_refused_and_its_place_is_named() {
        let both = ["pictures".to_owned(), "all".to_owned()];
        let refused = |files: &AttachedFiles, providers: &[String]| {
            let refused = files.refused(providers, &refusal);
            refused.map(|error| error.to_string())
        };
        let mut files = AttachedFiles::default();
        files.add(&record(&[("image/png", 9)]), "in.csv", Place::Line(2));
        assert_eq!(refused(&files, &both[..1]), None);
        for (more, line) in [
            (record(&[("image/png", 11), ("image/png", 1)]), 5),
            (record(&[("image/png", 9), ("image/png", 8)]), 7),
            (record(&[("audio/wav", 1)]), 9),
        ] {
            let mut files = AttachedFiles::default();
            files.add(&record(&[("image/png", 9)]), "in.csv", Place::Line(2));
            files.add(&more, "in.csv", Place::Line(line));
            let why = refused(&files, &both[..1]).unwrap();
            assert!(why.contains(&format!("in.csv:{line}")), "{why}");
            assert_eq!(refused(&files, &both), None);
            // Nothing is known of who will be asked.
            assert_eq!(refused(&files, &[]), None);
        }
    }
}
