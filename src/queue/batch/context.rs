//! State that the threads of the batch strategy share.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::base::{Context, Error};
use crate::llm::batch::{BatchClient, BatchIntent, BatchStage};
use crate::observe::jobs::JobObserver;
use crate::queue::store::{Settlement, Store, WorkerId};

use super::overview::BatchOverview;
use super::settle_items::{AskedProvider, ItemSettler, outcomes};
use super::spool::{InputFile, Spool};

/// State that the threads of the batch strategy share.
pub(crate) struct BatchContext {
    pub store: Arc<Store>,
    pub worker: WorkerId,
    pub spool: Spool,
    pub settler: ItemSettler,
    pub overview: Arc<BatchOverview>,
    pub observer: Option<Arc<dyn JobObserver>>,
}

impl BatchContext {
    /// Records ends of jobs.
    pub(crate) fn settle(&self, ends: &[Settlement], asked: &AskedProvider) -> Result<(), Error> {
        if ends.is_empty() {
            return Ok(());
        }
        let wall = self.settler.clock.wall();
        self.store.settle(ends, wall)?;
        if let Some(observer) = &self.observer {
            let ended = ends.iter().filter_map(|end| end.outcome.error_of_end());
            ended.for_each(|error| observer.on_job_end(&asked.ended(error, wall)));
        }
        let (completed, failed) = outcomes(ends);
        self.overview
            .completed
            .fetch_add(completed, Ordering::SeqCst);
        self.overview.failed.fetch_add(failed, Ordering::SeqCst);
        Ok(())
    }

    /// Performs the next step of the submission of a batch.
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

/// Fails once the worker ends; a deadline of single calls does not count.
pub(super) fn check(ctx: &Context) -> Result<(), Error> {
    if ctx.is_cancelled() {
        Err(Error::cancelled())
    } else {
        Ok(())
    }
}
