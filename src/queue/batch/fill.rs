//! Filling a batch: how many of the jobs that wait are moved into it.

use crate::base::cancel::Context;
use crate::base::error::Error;
use crate::llm::batch::BatchLimits;
use crate::queue::store::{BatchNo, ClaimedJob};

use super::context::{BatchContext, check};
use super::settle_items::request;

/// Jobs that are counted in one go.
const CHUNK: usize = 500;
const CHUNK_BYTES: usize = 8 << 20;
/// Lines are somewhat longer than what the queue keeps of their requests.
const ROOM_FOR_PAYLOADS: u64 = 8;

/// Moves jobs into a batch, as many as it may hold.
pub(super) fn fill(
    context: &BatchContext,
    no: BatchNo,
    limits: BatchLimits,
    ctx: &Context,
) -> Result<(), Error> {
    // What an earlier try has moved already.
    let own = context.store.batches(None)?;
    let own = own.iter().find(|batch| batch.no == no);
    let mut jobs = own.map_or(0, |batch| usize::try_from(batch.jobs).unwrap_or(usize::MAX));
    let mut bytes = limits.bytes / 10 * ROOM_FOR_PAYLOADS;
    let mut after = None;
    let mut attached = AttachedBytes::default();
    while jobs < limits.requests && bytes > 0 && attached.total < limits.bytes {
        check(ctx)?;
        let most = (limits.requests - jobs).min(attached.chunk());
        let wall = context.settler.clock.wall();
        let filled = context
            .store
            .fill_batch(context.worker, no, after, most, bytes, wall)?;
        jobs += usize::try_from(filled.jobs).unwrap_or(usize::MAX);
        bytes = bytes.saturating_sub(filled.bytes);
        attached.count(context, no)?;
        after = filled.next;
        if after.is_none() || filled.jobs == 0 {
            break;
        }
    }
    Ok(())
}

/// How much the files are that the jobs of a batch name, of which their payloads hold but the paths. They
/// are counted as the batch is filled, so that it is not given many times what it can hold; nothing is
/// read for that.
#[derive(Default)]
struct AttachedBytes {
    /// As base64.
    total: u64,
    /// The last job that was counted.
    counted: Option<i64>,
    /// Whether the first jobs name any files. Where they do not, nobody looks at the others.
    any: Option<bool>,
}

impl AttachedBytes {
    /// How many jobs are moved before they are counted.
    fn chunk(&self) -> usize {
        match self.any {
            Some(false) => 2 * CHUNK,
            _ => CHUNK / 5,
        }
    }

    fn count(&mut self, context: &BatchContext, no: BatchNo) -> Result<(), Error> {
        while self.any != Some(false) {
            let jobs = context
                .store
                .batch_jobs(no, self.counted, CHUNK, CHUNK_BYTES)?;
            let Some(last) = jobs.last() else {
                break;
            };
            self.counted = Some(last.receipt.job);
            let files: u64 = jobs.iter().map(attached_to).sum();
            self.total = self.total.saturating_add(files);
            self.any.get_or_insert(files > 0);
        }
        Ok(())
    }
}

/// How much base64 the files of a job become.
fn attached_to(job: &ClaimedJob) -> u64 {
    // Most name none, which shows without reading all of it.
    if job.payload.get().contains("\"sha256\"") {
        request(job).map_or(0, |request| request.encoded_files())
    } else {
        0
    }
}
