//! What the threads of the batch strategy share.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::base::cancel::Context;
use crate::base::error::Error;
use crate::llm::batch::{BatchClient, BatchIntent, BatchStage};
use crate::queue::store::{JobStore, Settlement, WorkerId};

use super::overview::Outlook;
use super::settle_items::{Ends, outcomes};
use super::spool::{InputFile, Spool};

/// What the threads of the batch strategy share.
pub(crate) struct BatchContext {
    pub store: Arc<dyn JobStore>,
    pub worker: WorkerId,
    pub spool: Spool,
    pub ends: Ends,
    pub outlook: Arc<Outlook>,
}

impl BatchContext {
    /// Records ends of jobs.
    pub(crate) fn settle(&self, ends: &[Settlement]) -> Result<(), Error> {
        if ends.is_empty() {
            return Ok(());
        }
        self.store.settle(ends, self.ends.clock.wall())?;
        let (completed, failed) = outcomes(ends);
        self.outlook
            .completed
            .fetch_add(completed, Ordering::SeqCst);
        self.outlook.failed.fetch_add(failed, Ordering::SeqCst);
        Ok(())
    }

    /// The next step of handing a batch over.
    pub(crate) fn advance(
        &self,
        client: &dyn BatchClient,
        intent: &BatchIntent,
        stage: &BatchStage,
        ctx: &Context,
    ) -> Result<BatchStage, Error> {
        let mut input = InputFile(self.spool.input(&intent.label));
        client.advance(intent, stage, &mut input, ctx)
    }
}

/// Refuses to go on once all is to end; a deadline of single calls does not end it.
pub(super) fn check(ctx: &Context) -> Result<(), Error> {
    match ctx.is_cancelled() {
        true => Err(Error::cancelled()),
        false => Ok(()),
    }
}
