//! The pause of the queue: no worker starts anything.

use crate::base::Error;

use super::{Again, SqlStore};

/// Finds a row while the queue is paused.
pub(crate) const IS_PAUSED: &str = "SELECT 1 FROM #pauses";

/// Pauses or resumes the queue.
pub(super) fn set(store: &impl SqlStore, paused: bool) -> Result<(), Error> {
    store.write(Again::Harmless, |tx| {
        tx.run("DELETE FROM #pauses", Vec::new())?;
        if paused {
            tx.run("INSERT INTO #pauses (no) VALUES (0)", Vec::new())?;
        }
        Ok(())
    })?;
    if !paused {
        store.wake_workers();
    }
    Ok(())
}
