//! Which models and providers a process uses, according to its batches, the models that its jobs name, and the first
//! of its results.

use std::collections::HashMap;

use batchwright::batch::BatchInfo;
use batchwright::queue::ProcessState;
use batchwright::{JobQueue, ProcessId};
use serde::Deserialize;

/// Number of results that are read for it.
const SAMPLED_OUTCOMES: usize = 20;
/// Maximum number of processes whose results are read, because reading takes time and such a long table is not
/// useful.
const MAX_PROCESSES: usize = 500;

/// Earlier results. A process is read again only while nothing is known about it.
#[derive(Default)]
pub struct KnownModels(HashMap<ProcessId, Names>);

/// Models and providers.
type Names = (Vec<String>, Vec<String>);

/// The fields of a result line that show which model answered.
#[derive(Deserialize)]
struct Answered {
    provider: Option<String>,
    model: Option<String>,
}

impl KnownModels {
    pub fn of(&mut self, queue: &JobQueue, process: &ProcessState, batches: &[BatchInfo]) -> Names {
        let id = process.process_id;
        let known = self.0.get(&id).cloned();
        let (mut models, mut providers) = known.unwrap_or_default();
        if (models.is_empty() || providers.is_empty()) && self.0.len() < MAX_PROCESSES {
            // Reading the process itself reports a queue that cannot be read.
            for lane in queue.lanes(id).unwrap_or_default() {
                models.extend(lane.name.clone());
            }
            let outcomes = queue.peek(id, SAMPLED_OUTCOMES).unwrap_or_default();
            let unnamed = models.is_empty();
            for outcome in outcomes {
                let line = outcome.result.line();
                if let Ok(answered) = serde_json::from_str::<Answered>(&line) {
                    providers.extend(answered.provider.clone());
                    // Only if no job names a model, because a server's name for the model may differ.
                    if unnamed {
                        models.extend(answered.model);
                    }
                }
            }
        }
        for batch in batches {
            models.extend(batch.model.clone());
            providers.extend(Some(batch.provider.clone()).filter(|name| !name.is_empty()));
        }
        for names in [&mut models, &mut providers] {
            names.sort();
            names.dedup();
        }
        self.0.insert(id, (models.clone(), providers.clone()));
        (models, providers)
    }
}
