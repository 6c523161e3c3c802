//! Results of an output that were taken to other files, and come back from there.

use std::fs::File;
use std::io::{BufRead, BufReader};

use serde::Deserialize;

use crate::base::error::{Error, ErrorKind};
use crate::bulk::input::{Fit, Matching, State, hash_prefix};
use crate::bulk::ledger::Line;

use super::sidecar::Taken;

/// What of a result line tells whose it is.
#[derive(Deserialize)]
struct Known {
    id: String,
    success: bool,
    request_hash: Option<String>,
}

impl Taken {
    /// Looks whether the file has what was taken to it.
    ///
    /// # Errors
    /// When it has not, or there is none.
    pub fn check(&self) -> Result<(), Error> {
        let mut found = 0;
        self.each(&mut |_| {
            found += 1;
            Ok(())
        })?;
        if found < self.results {
            let taken = self.results;
            return Err(self.missing(&format!("it holds {found} of {taken} of them")));
        }
        Ok(())
    }

    fn missing(&self, why: &str) -> Error {
        let to = self.to.as_ref().map(|path| path.display().to_string());
        let to = to.unwrap_or_else(|| "standard output".to_owned());
        let n = self.results;
        let why = format!("{n} results of this output were taken to {to}: {why}");
        Error::new(ErrorKind::Invalid, why)
    }

    /// Hands over every result line of the file.
    fn each(&self, visit: &mut dyn FnMut(Line) -> Result<(), Error>) -> Result<(), Error> {
        let Some(path) = &self.to else {
            return Err(self.missing("nobody can read them there again"));
        };
        let file = File::open(path).map_err(|error| self.missing(&error.to_string()))?;
        for line in BufReader::with_capacity(1 << 16, file).lines() {
            let text = line.map_err(|error| self.missing(&error.to_string()))?;
            let Ok(known) = serde_json::from_str::<Known>(&text) else {
                continue;
            };
            visit(Line {
                id: known.id,
                request_hash: known.request_hash,
                success: known.success,
                text,
            })?;
        }
        Ok(())
    }
}

/// Holds every item whose result lies elsewhere. Returns how many nobody held before.
pub(super) fn hold(taken: &[Taken], index: &mut Matching) -> Result<u64, Error> {
    let mut held_now = 0;
    each(taken, &mut |line| {
        if is_wanted(index, &line) {
            let hash = line.request_hash.as_deref().and_then(hash_prefix);
            let fit = hash.map(|hash| index.fit(&line.id, hash));
            held_now += u64::from(matches!(fit, Some(Fit::Same { held: false, .. })));
            index.hold(&line.id);
        }
        Ok(())
    })?;
    Ok(held_now)
}

/// Hands over every line.
pub(super) fn each(
    taken: &[Taken],
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
