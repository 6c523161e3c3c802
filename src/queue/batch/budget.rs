//! What a batch may cost is reserved before it is sent.

use crate::base::Error;
use crate::llm::spending;
use crate::queue::store::{BatchNo, ClaimedJob};

use super::context::BatchContext;
use super::machine::Record;
use super::settle_items::request;

/// Reserves what each of these jobs of a batch can cost at most. Returns how many of the first jobs are affordable; if no
/// job is, the process is paused. Jobs without a budget are all affordable.
pub(super) fn reserve(
    context: &BatchContext,
    no: BatchNo,
    record: &Record,
    jobs: &[ClaimedJob],
) -> Result<usize, Error> {
    let Some(budget) = jobs.first().and_then(|job| job.budget) else {
        return Ok(jobs.len());
    };
    let Some(route) = context.settler.kinds.prompt_route() else {
        return Ok(0);
    };
    let model = record.intent.model.as_deref().unwrap_or_default();
    let payee = [record.account.provider.as_str(), model];
    let pricing = route.pricing();
    let mut needed = Vec::with_capacity(jobs.len());
    for job in jobs {
        // An invalid request is not sent.
        let most = match request(job) {
            Ok(request) => spending::most_batched(&pricing, payee, &request),
            Err(_) => Ok(0),
        };
        match most {
            Ok(most) => needed.push((job.receipt, most)),
            Err(error) if needed.is_empty() => {
                let why = format!("{} (job {})", error.message(), job.job_id);
                context.store.stop_budget(budget, &why)?;
                return Ok(0);
            }
            // It is the first one of the next batch.
            Err(_) => break,
        }
    }
    let wall = context.settler.clock.wall();
    let store = &context.store;
    store.reserve_jobs(context.worker, no, budget, &needed, wall)
}
