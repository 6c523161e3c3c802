//! What a run would send, for estimates.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::base::Error;
use crate::llm::estimate::Estimate;
use crate::llm::params::RequestTask;

use super::FileRun;

impl FileRun<'_> {
    /// The requests that the run would send, by the model that they name; those without one are under `None`. They are read
    /// again for this. Items that need no call, such as finished ones and duplicates, are not included.
    ///
    /// # Errors
    /// If the input, or a file that a prompt names, has changed since it was checked.
    pub fn estimates(&self) -> Result<BTreeMap<Option<String>, Estimate>, Error> {
        let prompts = &self.prompts;
        let (input, index) = (&prompts.input, &prompts.index);
        let completes = prompts.task == RequestTask::Complete;
        let add = |mut all: BTreeMap<Option<String>, Estimate>, item: &usize| {
            let request = input.read(*item, index)?.request;
            let tokens = request.estimated_tokens();
            let most = request.params.max_tokens;
            let most = if completes { most } else { Some(0) };
            all.entry(request.model).or_default().add(tokens, most);
            Ok::<_, Error>(all)
        };
        let merge = |mut all: BTreeMap<Option<String>, Estimate>, part| {
            for (model, estimate) in part {
                all.entry(model).or_default().add_all(&estimate);
            }
            Ok(all)
        };
        let items: Vec<usize> = self.options.to_send(index).collect();
        let parts = items.par_iter().try_fold(BTreeMap::new, add);
        parts.try_reduce(BTreeMap::new, merge)
    }
}
