//! Items whose answer the output has already, for another item with the same request.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::base::cancel::Context;
use crate::base::error::Error;
use crate::config::choices::Dedupe;
use crate::llm::outcome::Outcome;
use crate::observe::tally::Tally;

use super::equals::Equals;
use super::input::FileIndex;
use super::lines::Lines;
use super::open_output::OpenOutput;
use super::options::{FileRunOptions, RunPlan};
use super::prompts::RequestKind;
use super::shared::SharedFile;

/// Groups of items, and where the line is that answers them.
#[derive(Default)]
pub(super) struct Answered(Vec<(Range<u32>, u64)>);

/// Finds out which items share an answer, and which of them have it in the output already.
pub(super) fn find(
    index: &FileIndex,
    kinds: &[RequestKind],
    output: &OpenOutput,
    options: &FileRunOptions,
) -> Result<(Equals, Answered), Error> {
    if options.dedupe == Dedupe::Never {
        return Ok(Default::default());
    }
    let repeatable = |item| kinds[usize::from(index.class(item))].repeatable;
    let mut equals = Equals::of(index, |item| {
        options.wants(index, item) && options.dedupe.shares(repeatable(item))
    });
    let mut found = BTreeMap::new();
    if let OpenOutput::File(file) = output
        && !equals.is_empty()
    {
        file.scan(&mut |line, at| {
            let group = match line.success {
                true => equals.group(index, line.prefix(options.redo_extracts)),
                false => 0..0,
            };
            if !group.is_empty() {
                found.insert(group.start, (group.end, at));
            }
        })?;
    }
    let groups = found.into_iter().map(|(start, (end, at))| (start..end, at));
    let mut answered = Answered(groups.collect());
    for (places, _) in &answered.0 {
        equals.spare(places.clone(), index);
    }
    equals.choose(index, &mut answered.0);
    Ok((equals, answered))
}

impl Answered {
    fn items(&self) -> u64 {
        self.0.iter().map(|(places, _)| places.len() as u64).sum()
    }

    /// Says in the plan what is not sent, of so many items that have no answer of their own.
    pub(super) fn tell(
        &self,
        plan: &mut RunPlan,
        equals: &Equals,
        index: &FileIndex,
        options: &FileRunOptions,
    ) {
        let wanted = (0..index.len()).filter(|item| options.wants(index, *item));
        let asked = wanted.filter(|item| !equals.is_spared(*item));
        let asked = asked.take(options.max_items.unwrap_or(usize::MAX));
        let (mut to_send, mut equal) = (0, 0);
        for item in asked {
            to_send += 1;
            equal += equals.asked_for(index, item).len() as u64;
        }
        plan.to_send = Some(to_send);
        plan.equal = equal;
        plan.answered = self.items();
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
        for (places, at) in self.0 {
            let line = output.line_at(at)?;
            let Ok(outcome) = serde_json::from_str::<Outcome>(&line) else {
                shared.ask(places.map(|place| shared.equals.item(place) as u32));
                continue;
            };
            let step = tally.step_of(outcome.provider.as_deref().unwrap_or_default());
            if ctx.is_cancelled() {
                break;
            }
            let told = &mut |lines: &Lines| {
                superseded |= lines.superseded > 0;
                tally.answered(step, &lines.measure);
            };
            shared.write(&outcome, places, Lines::default(), output, told, ctx)?;
        }
        Ok(superseded)
    }
}
