//! Prompts as jobs: the payload in the queue, the call, and the result line.

use std::sync::Arc;

use serde_json::value::RawValue;

use crate::base::{Charge, Context, Error, MemoryManager, Paid, Time};
use crate::engine::route::Tries;
use crate::engine::run::Reply;
use crate::llm::outcome::Outcome;
use crate::llm::params::RequestTask;
use crate::llm::request::Request;
use crate::llm::request_json::input_of;
use crate::llm::response::Response;
use crate::llm::route::Route;

use super::budgets::Budgets;
use super::handler::RunningJob;
use super::history::History;
use super::job::Spent;
use super::kind::{Done, JobEnd, JobTask};
use super::prompt_job::{naming, read};
use super::store::ClaimedJob;

/// The request in a job's payload.
fn request(task: &JobTask, kind: RequestTask, ctx: &Context) -> Result<Request, Error> {
    let mut request = match task.kind.model_call() {
        None => read(task.claimed.payload.get(), kind)?,
        Some(call) => (call.ask)(&running(task), ctx)?,
    };
    // Observers of calls see the job.
    request.id = Some(task.claimed.job_id.to_string());
    // That of the payload is for batches.
    request.cache_prefix = None;
    Ok(request)
}

/// The same, read once.
pub(crate) fn known_request(
    task: &JobTask,
    kind: RequestTask,
    ctx: &Context,
) -> Result<Arc<Request>, Error> {
    let read = || request(task, kind, ctx).map(Arc::new);
    task.request.get_or_init(read).clone()
}

/// Makes the call of a pack and renders its lines.
pub(crate) fn call(
    route: &Route<'_>,
    budgets: &Budgets,
    kind: RequestTask,
    pack: &[JobTask],
    tries: &Tries,
    ctx: &Context,
) -> Reply<Done> {
    let bytes = pack
        .iter()
        .map(|task| task.claimed.payload.get().len() as u64);
    let mut room = match MemoryManager::of_process().wait_for_prompts(bytes.sum(), ctx) {
        Ok(room) => room,
        Err(error) => return error.into(),
    };
    let requests = pack.iter().map(|task| known_request(task, kind, ctx));
    let requests: Vec<Arc<Request>> = match requests.collect() {
        Ok(requests) => requests,
        Err(error) => return error.into(),
    };
    if let Some(room) = &mut room {
        room.holds_requests();
    }
    let carried = pack[0].history.carried();
    let asked: Vec<&Request> = requests.iter().map(|request| &**request).collect();
    let reply = budgets.call(route, pack, &asked, tries, ctx, || {
        route.answers(&asked, tries, &carried, ctx)
    });
    let mut after = tries.clone();
    after.calls = after.calls.saturating_add(1);
    let now = route.clock_ref().now();
    let lines = reply.result.and_then(|responses| {
        let lines = responses.into_iter().zip(pack).zip(&requests);
        lines
            .map(|((response, task), request)| {
                let mut response = match response {
                    Ok(response) => response,
                    Err(error) => return Ok(JobEnd::Failed(error)),
                };
                let charge = response.charge.take();
                let spent = spent(response.paid(), charge.as_deref(), &task.history);
                let result = match task.kind.model_call() {
                    None => line(route, task, request, &after, now, Ok(response))?,
                    Some(call) => match (call.make)(&running(task), &response) {
                        Ok(result) => result,
                        Err(error) => {
                            let error = error.with_paid(response.paid());
                            return Err(error.with_charge(charge));
                        }
                    },
                };
                Ok(JobEnd::Result(result, Some(spent), charge))
            })
            .collect()
    });
    Reply {
        result: lines,
        paid: reply.paid,
        hints: reply.hints,
        fatal: false,
    }
}

fn running(task: &JobTask) -> RunningJob {
    RunningJob::new(&task.claimed, task.history.calls())
}

/// The provider and model of a job at a step; `None` for the host's own code.
pub(crate) fn asked(task: &JobTask, step: u8) -> Option<(String, Option<String>)> {
    let (route, kind) = task.kind.prompts()?;
    Some(route.asked(step, &naming(kind, &task.claimed.lane.name)))
}

/// The result line of a failed prompt.
pub(crate) fn failure(
    task: &JobTask,
    tries: &Tries,
    now: Time,
    error: &Error,
) -> Option<Box<RawValue>> {
    let (route, kind) = task.kind.prompts()?;
    if task.kind.model_call().is_some() {
        return None;
    }
    let request = naming(kind, &task.claimed.lane.name);
    line(route, task, &request, tries, now, Err(error.clone())).ok()
}

fn line(
    route: &Route<'_>,
    task: &JobTask,
    request: &Request,
    tries: &Tries,
    now: Time,
    result: Result<Response, Error>,
) -> Result<Box<RawValue>, Error> {
    let latency = task.history.latency(tries, now, route.clock_ref().wall());
    let mut outcome = route.outcome(request, tries, latency, result);
    outcome.earlier = task.history.earlier(outcome.earlier);
    of_job(&task.claimed, outcome).line()
}

/// Adds the job's fields to the result line.
pub(crate) fn of_job(claimed: &ClaimedJob, outcome: Outcome) -> Outcome {
    let (input, input_left_out) = input_of(claimed.payload.get()).unzip();
    Outcome {
        id: Some(claimed.name()),
        request_hash: claimed.request_hash.clone(),
        input,
        input_left_out: input_left_out.unwrap_or_default(),
        ..outcome
    }
}

/// The part of a job's usage that the accounts of its process do not have yet: that of the last call.
pub(crate) fn spent(paid: Paid, charge: Option<&Charge>, history: &History) -> Spent {
    let booked = history.paid;
    let (usage, before) = (
        paid.usage.unwrap_or_default(),
        booked.usage.unwrap_or_default(),
    );
    let more = |now: u64, before: u64| now.saturating_sub(before);
    // A job of unknown cost counts once, with the first call that made it so.
    let unpriced = u64::from(paid.cost_usd.is_none() && !booked.is_unpriced());
    if let Some(charge) = charge {
        return Spent {
            input_tokens: charge.input_tokens,
            output_tokens: charge.output_tokens,
            cost_usd: charge.cost_usd,
            unpriced,
        };
    }
    Spent {
        input_tokens: more(usage.input_tokens, before.input_tokens),
        output_tokens: more(usage.output_tokens, before.output_tokens),
        cost_usd: paid
            .cost_usd
            .map(|cost| cost.saturating_sub(booked.cost_usd.unwrap_or_default())),
        unpriced,
    }
}

/// The same for a failed call, if it was billed.
pub(crate) fn spent_in_vain(error: &Error, history: &History) -> Option<Spent> {
    let paid = error.paid();
    // The job counts once as one of unknown cost, not with each answer in a wrong format.
    let is_counted = error.charge().is_some() && !error.is_schema_mismatch();
    let is_billed = paid.is_known() || is_counted;
    is_billed.then(|| spent(paid, error.charge(), history))
}
