//! Items of a file with equal requests: one item of each group is sent, and the others get copies of its line; so do those
//! whose answer the output has already, for another item.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::input::{EarlierResult, FileIndex, InputFile};
use super::lines::{Named, shared_outcome};
use super::open_output::OpenOutput;
use super::options::{FileRunOptions, RunPlan};
use super::results::{PreviousLine, ResultsFile};
use crate::base::{Context, Error};
use crate::llm::outcome::Outcome;
use crate::observe::tally::{Measure, Tally};

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

/// The lines of the output that answer groups of items, by the first 8 bytes of the request hash: how their items ended,
/// and their positions. A billed but unusable reply would be billed again.
pub(super) type OutputAnswers = HashMap<u64, (EarlierResult, u64)>;

/// The last of the best lines of each group, among those that count.
pub(super) fn best_lines(
    file: &ResultsFile,
    redo_extracts: bool,
    (index, equals): (&FileIndex, &Equals),
    counts: &mut dyn FnMut(&PreviousLine, u64) -> bool,
) -> Result<OutputAnswers, Error> {
    let mut found = OutputAnswers::new();
    file.scan(&mut |line, at| {
        let (request, ended) = (line.prefix(redo_extracts), line.ended());
        let is_best = found.get(&request).is_none_or(|(best, _)| *best <= ended);
        if is_best && !equals.group(index, request).is_empty() && counts(&line, at) {
            found.insert(request, (ended, at));
        }
    })?;
    Ok(found)
}

/// Finds the items that share an answer, and those whose answer is in the output already; adds their makers to the
/// plan. All embeddings of an output have one provider and model: those of the plan, or the first ones found.
pub(super) fn find(
    index: &FileIndex,
    output: &OpenOutput,
    options: &FileRunOptions,
    embeds: bool,
    plan: &mut RunPlan,
) -> Result<(Equals, OutputAnswers), Error> {
    let mut equals = Equals::of(index, |item| options.wants(index, item));
    if !options.dedupe {
        equals.choose(index);
        plan.repeated = equals.spared_items();
        return Ok(Default::default());
    }
    let mut answers = OutputAnswers::new();
    if let OpenOutput::File(file) = output
        && !equals.is_empty()
    {
        let groups = (index, &equals);
        answers = best_lines(
            file,
            options.redo_extracts,
            groups,
            &mut |line, _| match line.ended() {
                EarlierResult::Failure => false,
                EarlierResult::Unusable => !options.ask_again,
                EarlierResult::Success if embeds && !is_of_one(&mut plan.vectors_before, line) => {
                    false
                }
                EarlierResult::Success => true,
            },
        )?;
        for (request, (_, at)) in answers.clone() {
            if outcome_at(file, at)?.is_none() {
                answers.remove(&request);
            }
        }
    }
    equals.choose(index);
    Ok((equals, answers))
}

/// Whether the embedding of this line can be combined with those of these makers.
fn is_of_one(makers: &mut Vec<(String, String)>, line: &PreviousLine) -> bool {
    let Some(maker) = line.provider.clone().zip(line.model.clone()) else {
        return false;
    };
    match &makers[..] {
        [] => {
            makers.push(maker);
            true
        }
        [only] => *only == maker,
        _ => false,
    }
}

/// The outcome on the line at this position; `None` if another program wrote the line and it has no outcome.
pub(super) fn outcome_at(file: &ResultsFile, at: u64) -> Result<Option<Outcome>, Error> {
    Ok(serde_json::from_str(&file.line_at(at)?).ok())
}

/// Where answers are searched, and for which items.
#[derive(Clone, Copy)]
pub(super) struct KnownAnswers<'k> {
    pub of_output: &'k OutputAnswers,
    pub options: &'k FileRunOptions,
}

impl KnownAnswers<'_> {
    /// Adds to the plan which items are sent, and which have an answer without a call. `send` receives the former, in the
    /// order of the input.
    pub(super) fn plan(
        &self,
        index: &FileIndex,
        equals: &Equals,
        plan: &mut RunPlan,
        send: &mut dyn FnMut(usize),
    ) {
        let mut left = self.options.max_items.unwrap_or(usize::MAX);
        let mut to_send = 0;
        (plan.equal, plan.answered, plan.unusable_equal) = (0, 0, 0);
        for item in (0..index.len()).filter(|item| self.options.wants(index, *item)) {
            if equals.is_spared(item) {
                continue;
            }
            let others = equals.asked_for(index, item).len() as u64;
            if let Some((ended, _)) = self.earlier(index, item) {
                *if *ended == EarlierResult::Unusable {
                    &mut plan.unusable_equal
                } else {
                    &mut plan.answered
                } += 1 + others;
            } else if left > 0 {
                left -= 1;
                to_send += 1;
                send(item);
                plan.equal += others;
            }
        }
        plan.to_send = to_send;
    }

    /// The position of the line that answers an item.
    pub(super) fn in_output(&self, index: &FileIndex, item: usize) -> Option<u64> {
        self.earlier(index, item).map(|(_, at)| *at)
    }

    fn earlier(&self, index: &FileIndex, item: usize) -> Option<&(EarlierResult, u64)> {
        self.of_output.get(&index.request_prefix(item))
    }
}

/// Groups of items whose request hashes have the same first 64 bits, and which may share an answer. Takes 4 bytes per
/// item of a group, and 1 bit for each other item.
#[derive(Default)]
pub(super) struct Equals {
    /// Items of groups, group by group, and within a group in the order of the input.
    order: Vec<u32>,
    /// One bit per item: whether it is not sent.
    spared: Vec<u64>,
}

impl Equals {
    /// The groups of the `wanted` items, including groups of one item, whose answer may exist elsewhere.
    pub(super) fn of(index: &FileIndex, wanted: impl Fn(usize) -> bool) -> Self {
        let items = (0..index.len()).filter(|item| wanted(*item));
        let mut order: Vec<u32> = items.filter_map(|item| u32::try_from(item).ok()).collect();
        index.sort_by_request(&mut order);
        Self {
            order,
            spared: Vec::new(),
        }
    }

    /// The positions of the items with this request hash prefix.
    pub(super) fn group(&self, index: &FileIndex, request: u64) -> Range<u32> {
        let prefix = |item: &u32| index.request_prefix(*item as usize);
        let start = self.order.partition_point(|item| prefix(item) < request);
        let rest = &self.order[start..];
        // A group may be the whole file, and this is called for each of its results, so the search must be fast.
        let len = if rest.first().is_some_and(|item| prefix(item) == request) {
            rest.partition_point(|item| prefix(item) == request)
        } else {
            0
        };
        start as u32..(start + len) as u32
    }

    /// The item at a position of a group.
    pub(super) fn item(&self, place: u32) -> usize {
        self.order[place as usize] as usize
    }

    /// Marks the item as not sent.
    pub(super) fn spare_item(&mut self, item: usize, index: &FileIndex) {
        self.spare(item, index.len());
    }

    fn spare(&mut self, item: usize, items: usize) {
        self.spared.resize(items.div_ceil(64), 0);
        self.spared[item / 64] |= 1 << (item % 64);
    }

    /// From now on the first item of each group is sent for all of it. Items without duplicates leave their groups.
    pub(super) fn choose(&mut self, index: &FileIndex) {
        let items = index.len();
        let prefix = |item: u32| index.request_prefix(item as usize);
        let (mut kept, mut start) = (0, 0);
        while start < self.order.len() {
            let request = prefix(self.order[start]);
            let others = self.order[start + 1..].iter();
            let end = start + 1 + others.take_while(|item| prefix(**item) == request).count();
            if end - start > 1 {
                self.order.copy_within(start..end, kept);
                let first = kept;
                kept += end - start;
                for other in first + 1..kept {
                    self.spare(self.order[other] as usize, items);
                }
            }
            start = end;
        }
        self.order.truncate(kept);
        self.order.shrink_to_fit();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Number of items that are not sent.
    pub(super) fn spared_items(&self) -> u64 {
        let ones = self.spared.iter().map(|word| u64::from(word.count_ones()));
        ones.sum()
    }

    /// Whether the item is not sent, because another item is or its answer is known.
    pub(super) fn is_spared(&self, item: usize) -> bool {
        let word = self.spared.get(item / 64);
        word.is_some_and(|word| word & 1 << (item % 64) != 0)
    }

    /// The positions of the items that share the answer of this one.
    pub(super) fn asked_for(&self, index: &FileIndex, item: usize) -> Range<u32> {
        if self.order.is_empty() || self.is_spared(item) {
            return 0..0;
        }
        let group = self.group(index, index.request_prefix(item));
        if group.is_empty() || self.item(group.start) != item {
            0..0
        } else {
            group.start + 1..group.end
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bulk::copies::equals_tests::checked;

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

#[cfg(test)]
pub(super) mod equals_tests {
    use super::*;
    use crate::base::cancel::Context;
    use crate::bulk::prompts::{CheckedFile, PromptSettings, Prompts};

    /// A file with these prompts.
    pub(in crate::bulk) fn checked(prompts: &[&str]) -> CheckedFile {
        checked_file("in.txt", &prompts.join("\n"), &PromptSettings::new())
    }

    /// A file with this name and this text.
    pub(in crate::bulk) fn checked_file(
        name: &str,
        text: &str,
        settings: &PromptSettings,
    ) -> CheckedFile {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let prompts = Prompts::open(&path, settings, &Context::new(), &|_, _| {}).unwrap();
        prompts.file
    }

    #[test]
    fn a_file_without_duplicates_needs_no_memory() {
        let index = checked(&["a", "b", "c"]).items.finish();
        let mut equals = Equals::of(&index, |_| true);
        equals.choose(&index);
        assert!(equals.is_empty() && equals.spared.is_empty());
        assert_eq!(equals.asked_for(&index, 1), 0..0);
    }
}
