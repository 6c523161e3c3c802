//! Items whose answer the output has already, for another item with the same request.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::base::cancel::Context;
use crate::base::error::Error;
use crate::config::choices::Dedupe;
use crate::llm::outcome::Outcome;
use crate::observe::tally::Tally;

use super::equals::Equals;
use super::input::{EarlierResult, FileIndex};
use super::lines::Lines;
use super::open_output::OpenOutput;
use super::options::{FileRunOptions, RunPlan};
use super::prompts::RequestKind;
use super::results::PreviousLine;
use super::shared::SharedFile;

/// Groups of items whose outcome the output has.
#[derive(Default)]
pub(super) struct Answered(Vec<(Range<u32>, Earlier)>);

/// The line of an earlier run that answers a group.
#[derive(Clone, Copy)]
struct Earlier {
    at: u64,
    /// It is no answer, but a reply that was paid for and would be bought again.
    unusable: bool,
}

/// Finds out which items share an answer, and which of them have it in the output already; who gave it is added to the
/// plan. Where the input asks for vectors they are all by one provider and model: by those of the plan, or the first that is met.
pub(super) fn find(
    index: &FileIndex,
    kinds: &[RequestKind],
    output: &OpenOutput,
    options: &FileRunOptions,
    embeds: bool,
    plan: &mut RunPlan,
) -> Result<(Equals, Answered), Error> {
    if options.dedupe == Dedupe::Never {
        return Ok(Default::default());
    }
    let repeatable = |item| kinds[usize::from(index.class(item))].repeatable;
    let mut equals = Equals::of(index, |item| {
        options.wants(index, item) && options.dedupe.shares(repeatable(item))
    });
    let mut found: BTreeMap<u32, (u32, Earlier)> = BTreeMap::new();
    if let OpenOutput::File(file) = output
        && !equals.is_empty()
    {
        file.scan(&mut |line, at| {
            let unusable = match line.ended() {
                EarlierResult::Success => false,
                EarlierResult::Unusable if !options.ask_again => true,
                _ => return,
            };
            let group = equals.group(index, line.prefix(options.redo_extracts));
            let known = found.get(&group.start);
            let worse = unusable && known.is_some_and(|(_, known)| !known.unusable);
            if group.is_empty() || worse {
                return;
            }
            if !unusable {
                if embeds && !is_of_one(&mut plan.vectors_before, &line) {
                    return;
                }
                remember(&mut plan.models_before, line.model);
            }
            found.insert(group.start, (group.end, Earlier { at, unusable }));
        })?;
    }
    let mut answered = Answered(Vec::with_capacity(found.len()));
    for (start, (end, earlier)) in found {
        // What another program wrote may be no outcome.
        if outcome_at(output, earlier.at)?.is_some() {
            equals.spare(start..end, index);
            answered.0.push((start..end, earlier));
        }
    }
    equals.choose(index, &mut answered.0);
    Ok((equals, answered))
}

/// Whether the vector of this line goes together with those of these makers.
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

/// A few models are enough to tell that the default has changed.
pub(super) fn remember<M: PartialEq>(models: &mut Vec<M>, model: Option<M>) {
    if let Some(model) = model.filter(|_| models.len() < 8)
        && !models.contains(&model)
    {
        models.push(model);
    }
}

fn outcome_at(output: &OpenOutput, at: u64) -> Result<Option<Outcome>, Error> {
    Ok(serde_json::from_str(&output.line_at(at)?).ok())
}

impl Answered {
    /// Says in the plan what is not sent, of the items that have no outcome of their own.
    pub(super) fn tell(
        &self,
        plan: &mut RunPlan,
        equals: &Equals,
        index: &FileIndex,
        options: &FileRunOptions,
    ) {
        let (to_send, equal) = equals.to_ask(index, options);
        (plan.to_send, plan.equal) = (Some(to_send), equal);
        for (places, earlier) in &self.0 {
            *if earlier.unusable {
                &mut plan.unusable_equal
            } else {
                &mut plan.answered
            } += places.len() as u64;
        }
    }

    /// Writes the lines of these items. True when one of them takes the place of another result.
    pub(super) fn write(
        self,
        output: &mut OpenOutput,
        shared: &SharedFile,
        tally: &mut Tally,
        ctx: &Context,
    ) -> Result<bool, Error> {
        let mut superseded = false;
        for (places, earlier) in self.0 {
            if ctx.is_cancelled() {
                break;
            }
            let Some(outcome) = outcome_at(output, earlier.at)? else {
                shared.ask(places.map(|place| shared.equals.item(place) as u32));
                continue;
            };
            let step = tally.step_of(outcome.provider.as_deref().unwrap_or_default());
            let told = &mut |lines: &Lines| {
                superseded |= lines.superseded > 0;
                lines.tell(step, tally);
            };
            shared.write(&outcome, places, Lines::default(), output, told, ctx)?;
        }
        Ok(superseded)
    }
}
