//! Filling a batch with waiting jobs.

use crate::base::{Context, Error};
use crate::llm::batch::BatchLimits;
use crate::queue::store::{BatchNo, ClaimedJob};

use super::context::{BatchContext, check};
use super::settle_items::request;

/// Jobs that are counted at once.
const CHUNK: usize = 500;
const CHUNK_BYTES: usize = 8 << 20;
/// Lines are somewhat longer than the payloads of their jobs.
const ROOM_FOR_PAYLOADS: u64 = 8;

/// Moves jobs into a batch, up to its limits.
pub(super) fn fill(
    context: &BatchContext,
    no: BatchNo,
    limits: BatchLimits,
    ctx: &Context,
) -> Result<(), Error> {
    // Jobs that an earlier attempt has moved.
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

/// Size of the files that the jobs of a batch name; payloads have only their paths. They are counted while the batch
/// is filled, so that it does not get many times its limit. No file is read.
#[derive(Default)]
struct AttachedBytes {
    /// Size as base64.
    total: u64,
    /// The last counted job.
    counted: Option<i64>,
    /// Whether the first jobs name files. If not, the others are not checked.
    any: Option<bool>,
}

impl AttachedBytes {
    /// Number of jobs that are moved before they are counted.
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

/// Size of the files of a job as base64.
fn attached_to(job: &ClaimedJob) -> u64 {
    // Most jobs name no file, which a substring search shows.
    if job.payload.get().contains("\"sha256\"") {
        request(job).map_or(0, |request| request.encoded_files())
    } else {
        0
    }
}
