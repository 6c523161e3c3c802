//! State that the threads of the batch strategy share.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::base::{Context, Error, Sent};
use crate::llm::batch::{BatchClient, BatchIntent, BatchStage};
use crate::money::budget::{Budget, SpentOnBatch};
use crate::observe::jobs::JobObserver;
use crate::queue::owners::Owners;
use crate::queue::store::{JobStore, Settlement, WorkerId};

use super::overview::BatchOverview;
use super::settle_items::{AskedProvider, ItemSettler, outcomes};
use super::spool::{InputFile, Spool};

/// State that the threads of the batch strategy share.
pub(crate) struct BatchContext {
    pub store: Arc<dyn JobStore>,
    pub worker: WorkerId,
    pub spool: Spool,
    pub settler: ItemSettler,
    pub overview: Arc<BatchOverview>,
    pub observer: Option<Arc<dyn JobObserver>>,
    pub owners: Option<Arc<Owners>>,
}

impl BatchContext {
    /// Records ends of jobs.
    pub(crate) fn settle(&self, ends: &[Settlement], asked: &AskedProvider) -> Result<(), Error> {
        if ends.is_empty() {
            return Ok(());
        }
        let wall = self.settler.clock.wall();
        let (owner, cost) = asked.take_costs();
        self.settle_counted(ends, asked.label(), owner.as_deref(), cost)?;
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

    /// Records ends of jobs of a batch, and counts their cost in picodollars in the budgets of their owner and route.
    pub(super) fn settle_counted(
        &self,
        ends: &[Settlement],
        label: &str,
        owner: Option<&str>,
        cost: u64,
    ) -> Result<(), Error> {
        let wall = self.settler.clock.wall();
        // Counted first: if the program is killed in between, the results are read and counted again, which is too much
        // rather than too little.
        let counted = self.count(label, owner, cost);
        let settled = self.store.settle(ends, wall).inspect_err(|error| {
            if error.sent() != Sent::Maybe {
                counted.into_iter().for_each(SpentOnBatch::undo);
            }
        });
        settled.map(drop)
    }

    /// Counts what the ends of a batch have cost in the budgets that the store does not know.
    fn count(&self, label: &str, owner: Option<&str>, cost: u64) -> Vec<SpentOnBatch> {
        if cost == 0 {
            return Vec::new();
        }
        match self.shared_budgets(owner) {
            Ok(budgets) => {
                let counted = budgets.iter();
                counted
                    .filter_map(|budget| budget.spend_batch(label, cost))
                    .collect()
            }
            // The account of an owner is made to count the ledger.
            Err(error) => {
                log::warn!("what a batch has cost is not counted yet: {error}");
                Vec::new()
            }
        }
    }

    /// The budgets that limit a batch of this owner and that its store does not know.
    ///
    /// # Errors
    /// If the limits of the owner cannot be read.
    pub(super) fn shared_budgets(&self, owner: Option<&str>) -> Result<Vec<Budget>, Error> {
        let of_owner = match (&self.owners, owner) {
            (Some(owners), Some(owner)) => owners.of(owner)?,
            _ => Vec::new(),
        };
        let route = self.settler.kinds.prompt_route();
        let of_route = route
            .iter()
            .flat_map(|route| route.shared_budgets().cloned());
        Ok(of_route.chain(of_owner).collect())
    }

    /// Whether jobs did not fit into a budget of the route that other OS processes share.
    pub(super) fn is_used_up(&self) -> bool {
        let route = self.settler.kinds.prompt_route();
        route.is_some_and(|route| route.was_used_up().is_some())
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
