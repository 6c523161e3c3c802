//! What a process has on the queue, compared with what an input asks.

use std::collections::HashSet;

use crate::base::{Error, JobId, ProcessId};
use crate::bulk::input::{FileIndex, Fit, State, hash_prefix, is_automatic};
use crate::queue::host::JobQueue;
use crate::queue::job::JobStatus;
use crate::queue::store::JobSummary;

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
            if brings_answer(item.status) && !(item.at_provider && all_unsent) {
                match outdated(index, &item) {
                    Some(Outdated::Request(at)) => {
                        replaced.insert(at);
                    }
                    Some(Outdated::Item) => attached.differing += 1,
                    None => {}
                }
            }
            match item.item_id.as_deref().filter(|_| attaches(index, &item)) {
                Some(id) => {
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

/// Whether the job has an answer, or may get one that is paid for.
fn brings_answer(status: JobStatus) -> bool {
    matches!(status, JobStatus::InProgress | JobStatus::Completed)
}

/// What a job asks that the input does not ask any more.
enum Outdated {
    /// Another request of the item at this place.
    Request(usize),
    /// An item whose id was made of its request.
    Item,
}

fn outdated(index: &FileIndex, item: &JobSummary) -> Option<Outdated> {
    let id = item.item_id.as_deref()?;
    let hash = item.request_hash.as_deref().and_then(hash_prefix)?;
    match index.fit(id, hash) {
        Fit::Other => index.find(id).map(Outdated::Request),
        Fit::Unknown => is_automatic(id).then_some(Outdated::Item),
        Fit::Same { .. } => None,
    }
}

/// Whether the result of the job is one that the output waits for.
fn attaches(index: &FileIndex, item: &JobSummary) -> bool {
    let hash = item.request_hash.as_deref().and_then(hash_prefix);
    let Some((id, hash)) = item.item_id.as_deref().zip(hash) else {
        return false;
    };
    let Fit::Same {
        state,
        held: false,
        settled: false,
    } = index.fit(id, hash)
    else {
        return false;
    };
    match (state, item.status) {
        (State::Done, _) | (_, JobStatus::Cancelled) => false,
        // Its line is there: a run was killed before it could delete the job.
        (State::Failed | State::Unusable, JobStatus::Failed) => false,
        _ => true,
    }
}
