//! Results of an output that were taken to other files, and come back from there.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{BufRead, BufReader};

use serde::Deserialize;

use crate::base::error::{Error, ErrorKind};
use crate::bulk::checkpoint::Line;
use crate::bulk::input::{Fit, Matching, State, hash_prefix};

use super::sidecar::TakenResults;

/// What of a result line tells whose it is.
#[derive(Deserialize)]
struct KnownResult {
    id: String,
    success: bool,
    request_hash: Option<String>,
}

impl TakenResults {
    fn missing(&self, why: &str) -> String {
        let to = self.to.as_ref().map(|path| path.display().to_string());
        let to = to.unwrap_or_else(|| "standard output".to_owned());
        let n = self.results.max(self.pending);
        format!("{n} results of this output were taken to {to}: {why}")
    }

    fn trouble(&self, why: &str) -> Error {
        Error::new(ErrorKind::Invalid, self.missing(why))
    }

    /// Hands over every result line of the file.
    fn each(&self, visit: &mut dyn FnMut(Line) -> Result<(), Error>) -> Result<(), Error> {
        let Some(path) = &self.to else {
            return Err(self.trouble("nobody can read them there again"));
        };
        let file = File::open(path).map_err(|error| self.trouble(&error.to_string()))?;
        for line in BufReader::with_capacity(1 << 16, file).lines() {
            let text = line.map_err(|error| self.trouble(&error.to_string()))?;
            let Ok(known) = serde_json::from_str::<KnownResult>(&text) else {
                continue;
            };
            visit(Line {
                id: known.id,
                request_hash: known.request_hash,
                success: known.success,
                text,
                settings: None,
            })?;
        }
        Ok(())
    }
}

/// What of the input lies elsewhere.
#[derive(Default)]
pub(super) struct TakenFile {
    /// Items that nobody held before.
    pub now: u64,
    /// Why more of them may be missing than are to be sent.
    pub short: Option<String>,
}

/// Holds every item whose result lies elsewhere.
pub(super) fn hold(taken: &[TakenResults], index: &mut Matching) -> Result<TakenFile, Error> {
    let mut held = TakenFile::default();
    for taken in taken {
        // Of a line that is there twice one was counted; lines of others none.
        let mut found = HashSet::new();
        taken.each(&mut |line| {
            let hash = line.request_hash.as_deref().and_then(hash_prefix);
            let fit = hash.map_or(Fit::Unknown, |hash| index.fit(&line.id, hash));
            // What the input asks otherwise by now was taken all the same.
            if fit != Fit::Unknown {
                let mut id = DefaultHasher::new();
                line.id.hash(&mut id);
                found.insert(id.finish());
            }
            if is_wanted(index, &line) {
                held.now += u64::from(matches!(fit, Fit::Same { held: false, .. }));
                index.hold(&line.id, hash.unwrap_or(0));
            }
            Ok(())
        })?;
        let (found, all) = (found.len() as u64, taken.results);
        if found < all {
            held.short = Some(taken.missing(&format!(
                "it holds {found} of {all} of them that this input asks for"
            )));
        }
    }
    Ok(held)
}

/// Hands over every line.
pub(super) fn each(
    taken: &[TakenResults],
    visit: &mut dyn FnMut(Line) -> Result<(), Error>,
) -> Result<(), Error> {
    taken.iter().try_for_each(|taken| taken.each(visit))
}

/// Whether the output waits for this line.
pub(super) fn is_wanted(index: &Matching, line: &Line) -> bool {
    let Some(hash) = line.request_hash.as_deref().and_then(hash_prefix) else {
        return false;
    };
    match index.fit(&line.id, hash) {
        Fit::Same { state, settled, .. } => match state {
            State::Done => false,
            State::Failed | State::Unusable => line.success && !settled,
            State::New | State::Changed => true,
        },
        Fit::Other | Fit::Unknown => false,
    }
}
