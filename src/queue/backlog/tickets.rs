//! Claimed jobs become tickets of the dispatcher.

use std::sync::OnceLock;

use parking_lot::Mutex;

use crate::engine::work::{Cost, Ticket};
use crate::llm::params::RequestTask;
use crate::queue::claim_plan::at_step;
use crate::queue::history::History;
use crate::queue::kind::{JobTask, Kind};
use crate::queue::store::{ClaimedJob, SUSPECT_CRASHES};

use super::StoreBacklog;

impl StoreBacklog {
    pub(super) fn tickets(&mut self, jobs: Vec<ClaimedJob>) -> Vec<Ticket<JobTask>> {
        self.unknown = self.lanes.lock().unknown.clone();
        self.running += jobs.len();
        self.alone |= jobs.iter().any(|job| job.crashes >= SUSPECT_CRASHES);
        let tickets = jobs.into_iter().filter_map(|job| self.ticket(job));
        tickets.collect()
    }

    fn ticket(&mut self, claimed: ClaimedJob) -> Option<Ticket<JobTask>> {
        let (open, kinds_version) = {
            let mut lanes = self.lanes.lock();
            let open = lanes.open(&claimed.lane, &self.kinds)?.clone();
            (open, lanes.version())
        };
        let history = claimed.history.as_deref().map(History::parse);
        let history = history.unwrap_or_default();
        // The route may have become shorter since.
        let step = at_step(claimed.lane.route_step(), open.class.steps());
        let mut tries = history.tries(step, &self.kinds.fallback_histories);
        let default = self.kinds.max_retries();
        tries.max_retries = Some(claimed.max_retries.unwrap_or(default));
        tries.in_doubt |= claimed.lost && matches!(*open.kind, Kind::Prompts { .. });
        self.order += 1;
        let cost = match &*open.kind {
            Kind::Host(_) => Cost::default(),
            Kind::Prompts { task, .. } => Cost {
                input: u32::try_from(claimed.payload.get().len() / 4).unwrap_or(u32::MAX),
                output_cap: (*task == RequestTask::Embed).then_some(0),
            },
        };
        let task = JobTask {
            claimed,
            kind: open.kind,
            history,
            request: OnceLock::new(),
            part: Mutex::default(),
            waiting_since: None,
            kinds_version,
        };
        Some(Ticket {
            cost,
            order: self.order,
            class: open.class,
            tries,
            task,
        })
    }
}
