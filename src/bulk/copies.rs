//! Items of a file with equal requests: one item of each group is sent, and the others get copies of its line; so do those
//! whose answer the output has already, for another item.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::input::{Entry, FileIndex, InputFile, Named, State};
use super::open_output::{OpenOutput, shared_outcome};
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
    pub index: FileIndex,
    /// The lines of earlier runs that are copied.
    pub answers: OutputAnswers,
    pub options: FileRunOptions,
    /// Ends the copying; the next run goes on with it.
    pub ctx: Context,
    /// The end of the lines of earlier runs.
    pub begins: u64,
}

impl Copies {
    /// Counts the items that earlier runs have settled and this run does not send.
    pub(super) fn count_before(&self, plan: &RunPlan, tally: &mut Tally) {
        let left = |state, items| if self.options.want(state) { 0 } else { items };
        let unusable = left(State::Unusable, plan.unusable_before);
        // An item that makes no prompt always fails.
        let failed = if self.options.want(State::Failed) {
            plan.bad_rows - self.index.count_by(Entry::is_untold)
        } else {
            plan.failed_before
        } + unusable;
        tally.count_before(plan.done, failed);
        tally.count_unusable_before(unusable);
    }

    /// Copies the lines of the items that were sent for their groups. A failure is copied only if it is of this run.
    pub(super) fn of_this_run(
        &self,
        file: &mut ResultsFile,
        tally: &mut Tally,
    ) -> Result<(), Error> {
        let requests = self.followers().map(|item| self.index[item].request);
        let mut missing: HashSet<u64> = requests.collect();
        missing.retain(|request| !self.answers.contains_key(request));
        if missing.is_empty() {
            return Ok(());
        }
        let redo_extracts = self.options.redo_extracts;
        let is_missing = |request: u64| missing.contains(&request);
        let found = best_lines(file, redo_extracts, &is_missing, &mut |line, at| {
            line.ended() == State::Done || at >= self.begins
        })?;
        self.copy(&found, file, tally)
    }

    fn followers(&self) -> impl Iterator<Item = usize> {
        (0..self.index.len()).filter(|item| self.index[*item].follows())
    }

    /// Writes these lines once more for each item that follows others with their request, piece by piece.
    pub(super) fn copy(
        &self,
        answers: &OutputAnswers,
        file: &mut ResultsFile,
        tally: &mut Tally,
    ) -> Result<(), Error> {
        let (mut lines, mut copied) = (Vec::new(), Vec::new());
        let mut last: Option<(u64, Outcome)> = None;
        // Those of one line together, which is read once.
        let items = self.followers();
        let mut items: Vec<u32> = items.filter_map(|item| u32::try_from(item).ok()).collect();
        self.index.sort_by_request(&mut items);
        for item in items.into_iter().map(|item| item as usize) {
            if self.ctx.is_cancelled() {
                break;
            }
            let Some((_, at)) = answers.get(&self.index[item].request) else {
                continue;
            };
            if last.as_ref().is_none_or(|(place, _)| place != at) {
                last = outcome_at(file, *at)?.map(|outcome| (*at, outcome));
            }
            // Only the first bytes of the request hashes were compared.
            let Some((_, outcome)) = &last else { continue };
            let Some(named) = equal(&self.input, item, &self.index, outcome) else {
                continue;
            };
            let shared = shared_outcome(outcome);
            if named.item(shared.clone()).write_line(&mut lines).is_ok() {
                copied.push(shared);
            }
            if lines.len() >= PIECE_BYTES {
                write(file, &mut lines, &mut copied, tally)?;
            }
        }
        write(file, &mut lines, &mut copied, tally)
    }

    /// Finds the lines of the output that answer items without a call, and marks the items that follow others. Counts in the
    /// plan which items are sent, and which get copies. All embeddings of an output have one provider and model: those of
    /// the plan, or the first ones found.
    pub(super) fn find(
        &mut self,
        output: &OpenOutput,
        embeds: bool,
        plan: &mut RunPlan,
    ) -> Result<(), Error> {
        let (input, index, options) = (&self.input, &mut self.index, &self.options);
        let wanted = (0..index.len()).filter(|item| options.wants(&index[*item]));
        let mut order: Vec<u32> = wanted.filter_map(|item| u32::try_from(item).ok()).collect();
        index.sort_by_request(&mut order);
        let request = |item: &u32| index[*item as usize].request;
        let mut answers = OutputAnswers::new();
        if options.dedupe
            && let OpenOutput::File(file) = output
        {
            let is_wanted = |prefix: u64| order.binary_search_by_key(&prefix, request).is_ok();
            let mut counts = |line: &PreviousLine, _: u64| match line.ended() {
                State::Done => !embeds || is_of_one(&mut plan.vectors_before, line),
                State::Unusable => !options.ask_again,
                _ => false,
            };
            let redo_extracts = options.redo_extracts;
            answers = best_lines(file, redo_extracts, &is_wanted, &mut counts)?;
        }
        let (mut followers, mut leaders) = (Vec::new(), Vec::new());
        (plan.answered, plan.unusable_equal) = (0, 0);
        for group in order.chunk_by(|a, b| request(a) == request(b)) {
            let (leader, others) = (group[0], &group[1..]);
            let mut answer = answers.get(&request(&leader)).copied();
            if let (Some((_, at)), OpenOutput::File(file)) = (answer, output) {
                let outcome = outcome_at(file, at)?;
                let is_equal = |outcome| equal(input, leader as usize, index, outcome).is_some();
                if !outcome.as_ref().is_some_and(is_equal) {
                    answers.remove(&request(&leader));
                    answer = None;
                }
            }
            match answer {
                Some((State::Unusable, _)) => plan.unusable_equal += group.len() as u64,
                Some(_) => plan.answered += group.len() as u64,
                None if others.is_empty() => {}
                None => leaders.push((leader as usize, others.len() as u64)),
            }
            followers.extend_from_slice(if answer.is_some() { group } else { others });
        }
        if !options.dedupe {
            plan.repeated = followers.len() as u64;
            (followers, leaders) = Default::default();
        }
        index.set_followers(&followers);
        let (mut to_send, mut last) = (0, None);
        for item in options.to_send(index) {
            (to_send, last) = (to_send + 1, Some(item));
        }
        let sent = leaders.iter().filter(|(leader, _)| Some(*leader) <= last);
        plan.equal = sent.map(|(_, others)| others).sum();
        plan.to_send = to_send;
        self.answers = answers;
        Ok(())
    }
}

/// Writes the lines of these outcomes, and counts them.
fn write(
    file: &mut ResultsFile,
    lines: &mut Vec<u8>,
    copied: &mut Vec<Outcome>,
    tally: &mut Tally,
) -> Result<(), Error> {
    if lines.is_empty() {
        return Ok(());
    }
    file.append(lines)?;
    lines.clear();
    for shared in copied.drain(..) {
        let step = tally.step_of(shared.provider.as_deref().unwrap_or_default());
        match &shared.result {
            Ok(answer) => tally.answered(step, &Measure::of_equals(answer)),
            Err(error) => tally.failed_as_equals(error, 1),
        }
    }
    Ok(())
}

/// The item with its id, if its request equals that of the outcome.
fn equal(input: &InputFile, item: usize, index: &FileIndex, outcome: &Outcome) -> Option<Named> {
    let mut item = input.read(item, index).ok()?;
    let same = outcome.request_hash.as_deref() == Some(&*item.request_hash);
    same.then(|| Named::of(&mut item))
}

/// The lines of the output that answer groups of items, by the first 8 bytes of the request hash: how their items ended,
/// and their positions. A billed but unusable reply would be billed again.
pub(super) type OutputAnswers = HashMap<u64, (State, u64)>;

/// The last of the best lines of each wanted request, among those that count.
fn best_lines(
    file: &ResultsFile,
    redo_extracts: bool,
    is_wanted: &dyn Fn(u64) -> bool,
    counts: &mut dyn FnMut(&PreviousLine, u64) -> bool,
) -> Result<OutputAnswers, Error> {
    let mut found = OutputAnswers::new();
    file.scan(&mut |line, at| {
        let (request, ended) = (line.prefix(redo_extracts), line.ended());
        let is_best = found.get(&request).is_none_or(|(best, _)| *best <= ended);
        if is_best && is_wanted(request) && counts(&line, at) {
            found.insert(request, (ended, at));
        }
    })?;
    Ok(found)
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
fn outcome_at(file: &ResultsFile, at: u64) -> Result<Option<Outcome>, Error> {
    Ok(serde_json::from_str(&file.line_at(at)?).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bulk::copies::equals_tests::checked;

    /// Simulates equal first bytes of these request hashes.
    #[test]
    fn an_item_with_a_different_request_gets_no_copy() {
        let checked = checked(&["a", "b", "a"]);
        let mut index = checked.items.finish();
        index.set_followers(&[0, 1, 2]);
        let hash = |item| checked.input.read(item, &index).unwrap().request_hash;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let line = format!(
            "{{\"id\":\"x\",\"success\":true,\"text\":\"t\",\"attempts\":1,\"latency_ms\":1,\"request_hash\":\"{}\"}}\n",
            hash(0)
        );
        std::fs::write(&path, line).unwrap();
        let mut file = ResultsFile::open(&path, false, &mut |_, _| {}).unwrap();
        file.mend().unwrap();
        let requests = (0..3).map(|item| index[item].request);
        let answers = requests.map(|request| (request, (State::Done, 0)));
        let copies = Copies {
            answers: answers.collect(),
            input: checked.input.clone(),
            index,
            options: FileRunOptions::new().dedupe(true),
            ctx: Context::new(),
            begins: 0,
        };
        let mut tally = Tally::new(Some(3), crate::base::Time::ZERO);
        copies.copy(&copies.answers, &mut file, &mut tally).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 3);
        assert_eq!(text.matches("\"answered_by\":\"x\"").count(), 2);
    }
}

#[cfg(test)]
pub(super) mod equals_tests {
    use crate::base::cancel::Context;
    use crate::bulk::prompts::{PromptSettings, Prompts};

    /// A file with these prompts.
    pub(in crate::bulk) fn checked(prompts: &[&str]) -> Prompts {
        checked_file("in.txt", &prompts.join("\n"), &PromptSettings::new())
    }

    /// A file with this name and this text.
    pub(in crate::bulk) fn checked_file(
        name: &str,
        text: &str,
        settings: &PromptSettings,
    ) -> Prompts {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Prompts::open(&path, settings, &Context::new(), &|_, _| {}).unwrap()
    }
}
