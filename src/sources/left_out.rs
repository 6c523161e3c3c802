//! A report of skipped files: the number per reason, and the first files.

use std::collections::BTreeMap;
use std::fmt;

use super::info::FileInfo;

/// Number of files that are listed individually.
const SHOWN: usize = 5;

/// The skipped files of folders: counts, and the first files in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Number of files per reason, by [`SkipReason::kind`](super::SkipReason::kind).
    pub reasons: BTreeMap<&'static str, u64>,
    /// The first skipped files, with their reasons.
    pub first: Vec<FileInfo>,
}

impl LeftOut {
    /// Counts a file if it cannot be used, and logs it at level `debug`.
    pub fn add(&mut self, file: &FileInfo) {
        let Some(reason) = &file.skip_reason else {
            return;
        };
        log::debug!("{} is left out: {reason}", file.name());
        *self.reasons.entry(reason.kind()).or_default() += 1;
        if self.first.len() < SHOWN {
            self.first.push(file.clone());
        }
    }

    /// Adds the counts of another folder.
    pub(crate) fn extend(&mut self, other: Self) {
        for (kind, n) in other.reasons {
            *self.reasons.entry(kind).or_default() += n;
        }
        let room = SHOWN - self.first.len();
        self.first.extend(other.first.into_iter().take(room));
    }

    /// Total number of files.
    pub fn count(&self) -> u64 {
        self.reasons.values().sum()
    }
}

/// `2 binary, 1 syntax error`.
impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (kind, n)) in self.reasons.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{n} {}", kind.replace('_', " "))?;
        }
        Ok(())
    }
}
