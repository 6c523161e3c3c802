//! What is told of files that are left out: how many of each reason, and the first.

use std::collections::BTreeMap;
use std::fmt;

use super::info::FileInfo;

/// How many files are told one by one.
const SHOWN: usize = 5;

/// The files of folders that are left out: counts, and the first of them, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// How many there are of each reason, by [`SkipReason::kind`](super::SkipReason::kind).
    pub reasons: BTreeMap<&'static str, u64>,
    /// The first of them, with their reasons.
    pub first: Vec<FileInfo>,
}

impl LeftOut {
    /// Counts one, unless it can be used. Each is a line of the log at `debug`.
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

    /// Adds those of another folder.
    pub(crate) fn extend(&mut self, other: Self) {
        for (kind, n) in other.reasons {
            *self.reasons.entry(kind).or_default() += n;
        }
        let room = SHOWN - self.first.len();
        self.first.extend(other.first.into_iter().take(room));
    }

    /// How many there are in all.
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
