//! Which models and providers a process has asked, by what is stored of it: its batches, the models that
//! its jobs name, and who gave the first of its answers. What is not stored is not known.

use std::collections::HashMap;

use batchwright::batch::BatchInfo;
use batchwright::queue::ProcessState;
use batchwright::{JobQueue, ProcessId};
use serde::Deserialize;

/// Outcomes that are looked at.
const SAMPLED_OUTCOMES: usize = 20;
/// Of more processes than this nobody reads the model; looking at each would take its time.
const MAX_PROCESSES: usize = 500;

/// What was found out before: it is looked for again only while nothing is known.
#[derive(Default)]
pub struct KnownModels(HashMap<ProcessId, Names>);

/// Models and providers.
type Names = (Vec<String>, Vec<String>);

/// Who answered, as a result line has it.
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
            // A queue that cannot be read is told of by whoever reads the process.
            for lane in queue.lanes(id).unwrap_or_default() {
                models.extend(lane.name.clone());
            }
            let outcomes = queue.peek(id, SAMPLED_OUTCOMES).unwrap_or_default();
            let unnamed = models.is_empty();
            for outcome in outcomes {
                let line = outcome.result.line();
                if let Ok(answered) = serde_json::from_str::<Answered>(&line) {
                    providers.extend(answered.provider.clone());
                    // Only where no job names one: what a server calls its model may differ.
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
