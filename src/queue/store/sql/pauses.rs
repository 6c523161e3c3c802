//! The pause of the queue: no worker starts anything.

use crate::base::Error;

use super::Again;
use super::statements::Queries as _;
use crate::queue::store::Store;

/// Finds a row while the queue is paused.
pub(crate) const IS_PAUSED: &str = "SELECT 1 FROM #pauses";

impl Store {
    /// Pauses or resumes the queue: while it is paused, claims and
    /// [`waiting_jobs`](super::Store::waiting_jobs) return nothing.
    pub(crate) fn set_paused(&self, paused: bool) -> Result<(), Error> {
        self.write(Again::Harmless, |tx| {
            tx.run("DELETE FROM #pauses", Vec::new())?;
            if paused {
                tx.run("INSERT INTO #pauses (no) VALUES (0)", Vec::new())?;
            }
            Ok(())
        })?;
        if !paused {
            self.wake_workers();
        }
        Ok(())
    }

    /// Whether the queue is paused.
    pub(crate) fn is_paused(&self) -> Result<bool, Error> {
        self.read(|tx| tx.exists(IS_PAUSED, Vec::new()))
    }
}
