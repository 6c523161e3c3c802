//! Which processes hold the children of whose jobs.

use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::id::ProcessId;

use super::store::JobStore;

/// Children of children of children: deeper ones are swept by the next one.
const SWEEPS: usize = 4;

/// The processes of children of these processes' jobs, and theirs.
pub(super) fn descendants(
    store: &dyn JobStore,
    process: ProcessId,
) -> Result<Vec<ProcessId>, Error> {
    let all = store.processes()?;
    let mut found = vec![process];
    let mut at = 0;
    while at < found.len() {
        let of = found[at];
        let children = all.iter().filter(|child| {
            let parent = child.info.parent;
            parent.is_some_and(|parent| parent.process_id == of)
        });
        found.extend(children.map(|child| child.process_id));
        at += 1;
    }
    found.remove(0);
    Ok(found)
}

/// Deletes the children of parents that have their outcome, or are gone. Returns what was deleted.
pub(super) fn sweep(store: &dyn JobStore, now: Timestamp) -> Result<Vec<ProcessId>, Error> {
    let mut gone = Vec::new();
    for _ in 0..SWEEPS {
        let before = gone.len();
        for process in store.processes()? {
            let Some(parent) = process.info.parent else {
                continue;
            };
            let job = store.job(parent.job_id)?;
            if job.is_none_or(|job| job.status.is_final()) {
                store.delete(process.process_id, now)?;
                gone.push(process.process_id);
            }
        }
        if gone.len() == before {
            break;
        }
    }
    Ok(gone)
}
