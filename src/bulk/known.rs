//! Answers that need no call, found by the request hash of an item: answers in the output for other items.

use std::collections::HashMap;

use crate::base::Error;
use crate::llm::outcome::Outcome;

use super::equals::Equals;
use super::input::{EarlierResult, FileIndex};
use super::open_output::OpenOutput;
use super::options::{FileRunOptions, RunPlan};
use super::results::{PreviousLine, ResultsFile};

/// The lines of the output that answer items of the input, sorted by the first 8 bytes of the request hash.
#[derive(Default)]
pub(super) struct OutputAnswers(Vec<(u64, Earlier)>);

/// The line of an earlier run.
#[derive(Clone, Copy)]
struct Earlier {
    at: u64,
    /// Whether it is a billed but unusable reply, which would be billed again.
    unusable: bool,
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
    let mut found: HashMap<u64, Earlier> = HashMap::new();
    if let OpenOutput::File(file) = output
        && !equals.is_empty()
    {
        file.scan(&mut |line, at| {
            let unusable = match line.ended() {
                EarlierResult::Success => false,
                EarlierResult::Unusable if !options.ask_again => true,
                _ => return,
            };
            let request = line.prefix(options.redo_extracts);
            let known = found.get(&request);
            let worse = unusable && known.is_some_and(|known| !known.unusable);
            if worse || equals.group(index, request).is_empty() {
                return;
            }
            if !unusable {
                if embeds && !is_of_one(&mut plan.vectors_before, &line) {
                    return;
                }
                remember(&mut plan.models_before, line.model);
            }
            found.insert(request, Earlier { at, unusable });
        })?;
    }
    let mut answers = Vec::with_capacity(found.len());
    for (request, earlier) in found {
        if let OpenOutput::File(file) = output
            && outcome_at(file, earlier.at)?.is_some()
        {
            answers.push((request, earlier));
        }
    }
    answers.sort_unstable_by_key(|(request, _)| *request);
    equals.choose(index);
    Ok((equals, OutputAnswers(answers)))
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
            if let Some(earlier) = self.earlier(index, item) {
                *if earlier.unusable {
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
        self.earlier(index, item).map(|earlier| earlier.at)
    }

    fn earlier(&self, index: &FileIndex, item: usize) -> Option<Earlier> {
        let (answers, request) = (&self.of_output.0, index.request_prefix(item));
        let at = answers.binary_search_by_key(&request, |(request, _)| *request);
        at.ok().map(|at| answers[at].1)
    }
}
