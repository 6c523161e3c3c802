//! Claimed jobs become tickets of the dispatcher, which share calls where they may.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::base::Context;
use crate::engine::route::Tries;
use crate::engine::work::{Cost, Ticket};
use crate::llm::pack::PackLimits;
use crate::llm::params::RequestTask;
use crate::queue::claim_plan::at_step;
use crate::queue::history::History;
use crate::queue::kind::{JobTask, JobTicket};
use crate::queue::kinds::Open;
use crate::queue::prompts;
use crate::queue::store::{ClaimedJob, JobLane, SUSPECT_CRASHES};

use super::StoreBacklog;

impl StoreBacklog {
    pub(super) fn tickets(
        &mut self,
        jobs: Vec<ClaimedJob>,
        lanes: &HashMap<Arc<JobLane>, Open>,
    ) -> Vec<Ticket<JobTask>> {
        self.running += jobs.len();
        self.alone |= jobs.iter().any(|job| job.crashes >= SUSPECT_CRASHES);
        let jobs = jobs.into_iter();
        let tickets = jobs.map(|job| {
            let open = lanes[&job.lane].clone();
            self.ticket(job, open)
        });
        tickets.collect()
    }

    fn ticket(&mut self, claimed: ClaimedJob, open: Open) -> Ticket<JobTask> {
        let history = claimed.history.as_deref().map(History::parse);
        let history = history.unwrap_or_default();
        // The route may have become shorter since.
        let step = at_step(claimed.lane.route_step(), open.class.steps());
        let mut tries = history.tries(step);
        let default = self.controls.kinds.setup.now().settings.max_retries;
        tries.max_retries = Some(claimed.max_retries.unwrap_or(default));
        let prompts = open.kind.prompts();
        tries.in_doubt |= claimed.lost && prompts.is_some();
        self.order += 1;
        let cost = prompts.map_or_else(Cost::default, |(_, task)| Cost {
            input: u32::try_from(claimed.payload.get().len() / 4).unwrap_or(u32::MAX),
            output_cap: (task == RequestTask::Embed).then_some(0),
        });
        let task = JobTask {
            claimed,
            kind: open.kind,
            history,
            request: OnceLock::new(),
            part: Mutex::default(),
            waiting_since: None,
            kinds_version: open.kinds_version,
        };
        Ticket {
            cost,
            order: self.order,
            class: open.class,
            tries,
            task,
        }
    }
}

/// The jobs in their order, those that share a call as one pack.
pub(super) fn share_calls(jobs: Vec<Ticket<JobTask>>) -> Vec<JobTicket> {
    let mut packs: Vec<JobTicket> = Vec::with_capacity(jobs.len());
    for job in jobs {
        let limits = if job.tries.alone {
            PackLimits::ONE
        } else {
            job.task.kind.pack_limits()
        };
        let takes = |pack: &&mut JobTicket| {
            limits.fits(pack.task.len(), pack.cost.input, job.cost.input) && may_share(pack, &job)
        };
        let pack = packs.iter_mut().filter(|_| limits.inputs > 1).rfind(takes);
        match pack {
            Some(pack) => {
                pack.cost = [pack.cost, job.cost].into_iter().sum();
                pack.task.push(job.task);
            }
            None => packs.push(Ticket {
                task: vec![job.task],
                cost: job.cost,
                order: job.order,
                class: job.class,
                tries: job.tries,
            }),
        }
    }
    packs
}

/// Only jobs with equal histories share a call, so that the call has one history. The start time may differ.
fn may_share(pack: &JobTicket, job: &Ticket<JobTask>) -> bool {
    let tries = Tries {
        first: job.tries.first,
        ..pack.tries.clone()
    };
    pack.class == job.class && tries == job.tries && alike(&pack.task[0], &job.task)
}

fn alike(a: &JobTask, b: &JobTask) -> bool {
    let (Some((route, kind)), Some((other, _))) = (a.kind.prompts(), b.kind.prompts()) else {
        return false;
    };
    let request = |task: &JobTask| prompts::known_request(task, kind, &Context::new()).ok();
    let requests = request(a).zip(request(b));
    Arc::ptr_eq(route, other) && requests.is_some_and(|(a, b)| a.shares_calls_with(&b))
}
