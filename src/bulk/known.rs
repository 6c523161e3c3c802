//! Answers that need no call, found by the request hash of an item: answers in the output for other items.

use std::collections::HashMap;

use crate::base::Error;
use crate::llm::outcome::Outcome;

use super::equals::Equals;
use super::input::{EarlierResult, FileIndex};
use super::open_output::OpenOutput;
use super::options::{FileRunOptions, RunPlan};
use super::results::{PreviousLine, ResultsFile};

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
                EarlierResult::Success => {
                    remember(&mut plan.models_before, line.model.clone());
                    true
                }
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

/// A few models suffice to show that the default has changed.
pub(super) fn remember<M: PartialEq>(models: &mut Vec<M>, model: Option<M>) {
    if let Some(model) = model.filter(|_| models.len() < 8)
        && !models.contains(&model)
    {
        models.push(model);
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
