//! Copies of result lines for items with equal requests: of answers that the output has when a run begins, and of the
//! items that the run sent for their groups when it ends.

use std::sync::Arc;

use crate::base::{Context, Error};
use crate::llm::outcome::Outcome;
use crate::observe::tally::{Measure, Tally};

use super::equals::Equals;
use super::input::{EarlierResult, FileIndex, InputFile};
use super::known::{KnownAnswers, best_lines, outcome_at};
use super::lines::{Named, shared_outcome};
use super::options::FileRunOptions;
use super::results::ResultsFile;

/// Number of bytes that are written at once.
const PIECE_BYTES: usize = 256 << 10;

/// The items of a file, and those of them that get copies of the lines of others.
pub(super) struct Copies {
    pub input: Arc<InputFile>,
    pub index: Arc<FileIndex>,
    pub equals: Equals,
    pub options: FileRunOptions,
    /// Ends the copying; the next run goes on with it.
    pub ctx: Context,
    /// The end of the lines of earlier runs.
    pub begins: u64,
}

impl Copies {
    /// Copies answers of earlier runs.
    pub(super) fn of_earlier_runs(
        &mut self,
        known: &KnownAnswers<'_>,
        file: &mut ResultsFile,
        tally: &mut Tally,
    ) -> Result<(), Error> {
        for item in 0..self.index.len() {
            if !self.options.wants(&self.index, item) || self.equals.is_spared(item) {
                continue;
            }
            let Some(at) = known.in_output(&self.index, item) else {
                continue;
            };
            let Some(outcome) = outcome_at(file, at)? else {
                continue;
            };
            // Only the first bytes of the request hashes were compared.
            if self.equal(item, &outcome).is_some() {
                let items = [item].into_iter().chain(self.followers(item));
                self.copy(&outcome, items, file, tally)?;
                self.equals.spare_item(item, &self.index);
            }
        }
        Ok(())
    }

    /// Copies the lines of the items that were sent for their groups. A failure is copied only if it is of this run.
    pub(super) fn of_this_run(
        &self,
        file: &mut ResultsFile,
        tally: &mut Tally,
    ) -> Result<(), Error> {
        if self.equals.is_empty() {
            return Ok(());
        }
        let redo_extracts = self.options.redo_extracts;
        let groups = (&*self.index, &self.equals);
        let found = best_lines(file, redo_extracts, groups, &mut |line, at| {
            line.ended() == EarlierResult::Success || at >= self.begins
        })?;
        for item in 0..self.index.len() {
            let mut items = self.followers(item).peekable();
            if items.peek().is_none() {
                continue;
            }
            if let Some((_, at)) = found.get(&self.index.request_prefix(item))
                && let Some(outcome) = outcome_at(file, *at)?
            {
                self.copy(&outcome, items, file, tally)?;
            }
        }
        Ok(())
    }

    /// The items that get a copy of the line of this one.
    fn followers(&self, item: usize) -> impl Iterator<Item = usize> + use<'_> {
        let places = self.equals.asked_for(&self.index, item);
        places.map(|place| self.equals.item(place))
    }

    /// Writes an outcome once more for each of these items, piece by piece.
    fn copy(
        &self,
        outcome: &Outcome,
        items: impl Iterator<Item = usize>,
        file: &mut ResultsFile,
        tally: &mut Tally,
    ) -> Result<(), Error> {
        let step = tally.step_of(outcome.provider.as_deref().unwrap_or_default());
        let shared = shared_outcome(outcome);
        let mut write = |lines: &mut Vec<u8>, copied: &mut u64| {
            file.append(lines)?;
            lines.clear();
            match (&shared.result, std::mem::take(copied)) {
                (Ok(answer), items) => tally.answered(step, &Measure::of_equals(answer, items)),
                (Err(error), items) => tally.failed_as_equals(error, items),
            }
            Ok::<_, Error>(())
        };
        let (mut lines, mut copied) = (Vec::new(), 0);
        for item in items {
            if self.ctx.is_cancelled() {
                break;
            }
            if let Some(named) = self.equal(item, outcome)
                && named.item(shared.clone()).write_line(&mut lines).is_ok()
            {
                copied += 1;
            }
            if lines.len() >= PIECE_BYTES {
                write(&mut lines, &mut copied)?;
            }
        }
        if copied > 0 {
            write(&mut lines, &mut copied)?;
        }
        Ok(())
    }

    /// The item with its id, if its request equals that of the outcome.
    fn equal(&self, item: usize, outcome: &Outcome) -> Option<Named> {
        let read = self.input.read(item, &self.index).ok();
        let same = |hash: &str| outcome.request_hash.as_deref() == Some(hash);
        read.filter(|item| same(&item.request_hash)).map(Named::of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bulk::equals::tests::checked;

    /// Simulates equal first bytes of these request hashes.
    #[test]
    fn an_item_with_a_different_request_gets_no_copy() {
        let checked = checked(&["a", "b", "a"]);
        let index = Arc::new(checked.items.finish());
        let equals = Equals::of(&index, |_| true);
        let hash = |item| checked.input.read(item, &index).unwrap().request_hash;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let line = format!(
            "{{\"id\":\"x\",\"success\":true,\"text\":\"t\",\"attempts\":1,\"latency_ms\":1,\"request_hash\":\"{}\"}}\n",
            hash(0)
        );
        let outcome: Outcome = serde_json::from_str(&line).unwrap();
        let mut file = ResultsFile::open(&path, false, &mut |_, _| {}).unwrap();
        file.mend().unwrap();
        let copies = Copies {
            input: checked.input.clone(),
            index: index.clone(),
            equals,
            options: FileRunOptions::new().dedupe(true),
            ctx: Context::new(),
            begins: 0,
        };
        let mut tally = Tally::new(Some(3), crate::base::Time::ZERO);
        let copied = copies.copy(&outcome, 0..3, &mut file, &mut tally);
        copied.unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert_eq!(text.matches("\"answered_by\":\"x\"").count(), 2);
    }
}
