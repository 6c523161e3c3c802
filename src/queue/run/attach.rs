//! What a process has on the queue, compared with what an input asks.

use std::collections::HashSet;

use crate::base::{Error, JobId, ProcessId};
use crate::bulk::input::{FileIndex, Fit, State, hash_prefix, is_automatic};
use crate::queue::host::JobQueue;
use crate::queue::job::JobStatus;

/// Jobs that are read at a time.
const CHUNK: usize = 1000;

/// What a process has for an input.
#[derive(Default)]
pub(super) struct Attached {
    /// Items that it has a job for.
    pub items: u64,
    /// Of these, those whose outcome is there.
    pub ended: u64,
    /// Jobs under way that the input does not ask for (any more). They are paid for; but should they come
    /// back to the queue, they are not to be bought again.
    pub unwanted: Vec<JobId>,
    /// Items that have an answer to another request and no other, and answers to items without an id of their own, which
    /// are others when their requests change.
    pub differing: u64,
}

/// Holds every item of the input that the process has a job for. With `cancel` jobs that wait although
/// the input does not ask for them (any more) are cancelled.
pub(super) fn compare(
    queue: &JobQueue,
    process: ProcessId,
    index: &mut FileIndex,
    cancel: bool,
) -> Result<Attached, Error> {
    index.release_all();
    let batches = queue.batches(Some(process))?;
    // Which batch a job is in is not told here.
    let all_unsent = batches.iter().all(|batch| batch.unsent);
    let (mut attached, mut last) = (Attached::default(), None);
    let mut replaced: HashSet<usize> = HashSet::new();
    loop {
        let items = queue.items(process, last, CHUNK)?;
        let Some(end) = items.last() else {
            // Items that another job of the process answers are not sent again.
            replaced.retain(|at| index.is_new(*at));
            attached.differing += replaced.len() as u64;
            return Ok(attached);
        };
        last = Some(end.job_id);
        let mut waiting = Vec::new();
        for item in items {
            let hash = item.request_hash.as_deref().and_then(hash_prefix);
            let known = item.item_id.as_deref().zip(hash);
            // It has an answer, or may get one that is paid for.
            let is_answered = matches!(item.status, JobStatus::InProgress | JobStatus::Completed);
            if is_answered
                && !(item.at_provider && all_unsent)
                && let Some((id, hash)) = known
            {
                match index.fit(id, hash) {
                    // Another request of the item at this place.
                    Fit::Other => replaced.extend(index.find(id)),
                    // An item whose id was made of its request.
                    Fit::Unknown => attached.differing += u64::from(is_automatic(id)),
                    Fit::Same { .. } => {}
                }
            }
            match known.filter(|(id, hash)| attaches(index.fit(id, *hash), item.status)) {
                Some((id, _)) => {
                    index.hold_id(id);
                    attached.items += 1;
                    attached.ended += u64::from(item.status.is_final());
                }
                None if item.status == JobStatus::Pending => waiting.push(item.job_id),
                None if !item.status.is_final() => attached.unwanted.push(item.job_id),
                None => {}
            }
        }
        if cancel && !waiting.is_empty() {
            queue.cancel_jobs(&waiting)?;
        }
    }
}

/// Whether the result of the job is one that the output waits for.
fn attaches(fit: Fit, status: JobStatus) -> bool {
    let Fit::Same {
        state,
        held: false,
        settled: false,
    } = fit
    else {
        return false;
    };
    match (state, status) {
        (State::Done, _) | (_, JobStatus::Cancelled) => false,
        // Its line is there: a run was killed before it could delete the job.
        (State::Failed | State::Unusable, JobStatus::Failed) => false,
        _ => true,
    }
}
