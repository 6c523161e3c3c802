//! What a run would send, and what the replies in its output report, for estimates; and samples of a run.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rayon::prelude::*;

use crate::base::Error;
use crate::bulk::equals::Equals;
use crate::bulk::input::{FileIndex, State};
use crate::bulk::known::{KnownAnswers, outcome_at};
use crate::bulk::measure::measured;
use crate::bulk::open_output::OpenOutput;
use crate::bulk::options::RunPlan;
use crate::llm::params::RequestTask;
use crate::llm::prompt_cache::PromptPrefix;
use crate::money::replies::ModelReplies;
use crate::money::workload::Workload;

use super::FileRun;

/// More replies of the output narrow an estimate no further.
const MOST_REPLIES: u64 = 20_000;

/// The items that get an answer with one of the chosen ones.
pub(super) fn equals_of(chosen: &[u32], equals: &Equals, index: &FileIndex) -> u64 {
    let others = chosen.iter();
    let others = others.map(|item| equals.asked_for(index, *item as usize).len() as u64);
    others.sum()
}

impl FileRun<'_> {
    /// Limits the run to this number of the items that it would send, spread evenly over the input, so that they
    /// represent the others. The next run sends the rest. A stream is not limited.
    pub fn sample(&mut self, items: usize) {
        if self.prompts.stream.is_some() {
            return;
        }
        let all = self.items_to_send();
        if items < all.len() {
            let spread = (0..items).map(|i| all[(2 * i + 1) * all.len() / (2 * items)]);
            self.chosen = Some(spread.collect());
        } else {
            self.chosen = Some(all);
        }
        let chosen = self.chosen.as_deref().unwrap_or_default();
        self.plan.to_send = Some(chosen.len() as u64);
        self.plan.equal = equals_of(chosen, &self.prompts.equals, &self.prompts.index);
    }

    fn items_to_send(&self) -> Arc<[u32]> {
        if let Some(chosen) = &self.chosen {
            return chosen.clone();
        }
        let prompts = &self.prompts;
        let known = KnownAnswers {
            of_output: &prompts.of_output,
            options: &self.options,
        };
        let mut items = Vec::new();
        known.plan(
            &prompts.index,
            &prompts.equals,
            &mut RunPlan::default(),
            &mut |item| items.extend(u32::try_from(item)),
        );
        items.into()
    }

    /// The requests that the run would send, by the model that they name; those without one are under `None`, and are for
    /// `default_model`. They are read again for this. Items that need no call, such as finished ones and duplicates, are not
    /// included. Empty for a stream.
    ///
    /// # Errors
    /// If the input, or a file that a prompt names, has changed since it was checked.
    pub fn workloads(
        &self,
        default_model: Option<&str>,
    ) -> Result<BTreeMap<Option<String>, Workload>, Error> {
        let prompts = &self.prompts;
        let (input, index) = (&prompts.input, &prompts.index);
        if prompts.stream.is_some() {
            return Ok(BTreeMap::new());
        }
        let completes = prompts.task == RequestTask::Complete;
        let add = |mut all: BTreeMap<Option<String>, Workload>, item: &u32| {
            let request = input.read(*item as usize, index)?.request;
            let most = request.params.max_tokens;
            let most = if completes { most } else { Some(0) };
            let model = request.model.as_deref().or(default_model);
            let size = request.input_size_for(model.unwrap_or_default());
            all.entry(request.model).or_default().add(size, most);
            Ok::<_, Error>(all)
        };
        let merge = |mut all: BTreeMap<Option<String>, Workload>, part| {
            for (model, work) in part {
                all.entry(model).or_default().add_all(&work);
            }
            Ok(all)
        };
        let items = self.items_to_send();
        let parts = items.par_iter().try_fold(BTreeMap::new, add);
        let mut all = parts.try_reduce(BTreeMap::new, merge)?;
        let mut sharing: HashMap<PromptPrefix, (Option<&String>, u64)> = HashMap::new();
        for item in items.iter() {
            let kind = &prompts.kinds[usize::from(index.class(*item as usize))];
            if let Some(prefix) = kind.prefix {
                sharing.entry(prefix).or_insert((kind.model.as_ref(), 0)).1 += 1;
            }
        }
        for (prefix, (model, requests)) in sharing {
            // The first one writes the cache.
            if let Some(work) = all.get_mut(&model.cloned()).filter(|_| requests > 1) {
                work.add_shared((requests - 1) * u64::from(prefix.tokens));
            }
        }
        Ok(all)
    }

    /// The replies of this provider in the output that answer current requests of the input, in numbers, by the model
    /// that the request names. Of more than 20,000 only a part is read. Empty for a stream.
    ///
    /// # Errors
    /// If the output cannot be read, or the input has changed since it was checked.
    pub fn replies(&self, provider: &str) -> Result<BTreeMap<Option<String>, ModelReplies>, Error> {
        let prompts = &self.prompts;
        let (input, index) = (&prompts.input, &prompts.index);
        let mut all: BTreeMap<Option<String>, ModelReplies> = BTreeMap::new();
        let OpenOutput::File(file) = &self.output else {
            return Ok(all);
        };
        let tally = index.tally();
        let part = ((tally.done + tally.failed) / MOST_REPLIES).max(1);
        let is_answered = |item: &u32| {
            matches!(
                index.state(*item as usize),
                State::Done | State::Failed | State::Unusable
            )
        };
        let items = (0..u32::try_from(index.len()).unwrap_or(u32::MAX)).filter(is_answered);
        let requests = items.map(|item| (index.request_prefix(item as usize), item));
        // Hashes of requests: every n-th of them is a random part.
        let mut requests: Vec<(u64, u32)> = requests.filter(|(hash, _)| hash % part == 0).collect();
        requests.sort_unstable();
        let mut lines = Vec::new();
        file.scan(&mut |line, at| {
            let hash = line.prefix(self.options.redo_extracts);
            if let Ok(found) = requests.binary_search_by_key(&hash, |(hash, _)| *hash)
                && !line.superseded
                && line.provider.as_deref() == Some(provider)
            {
                lines.push((requests[found].1, at));
            }
        })?;
        for (item, at) in lines {
            let Some(outcome) = outcome_at(&self.output, at)? else {
                continue;
            };
            let request = input.read(item as usize, index)?.request;
            if let Some(reply) = measured(&request, &outcome) {
                all.entry(request.model).or_default().add(&reply);
            }
        }
        Ok(all)
    }
}
