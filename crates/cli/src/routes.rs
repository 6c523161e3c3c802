//! Where a worker's prompts go, and the settings that change it while it runs.

use std::cell::RefCell;
use std::sync::Arc;

use batchwright::batch::BatchApi;
use batchwright::queue::{COMPLETION_KIND, EMBEDDING_KIND};
use batchwright::unstable::BatchClient;
use batchwright::{Context, LlmManager, Route, RunningWorker, Settings, Strategy, Worker};

use super::args::work::WorkArgs;
use super::data_dir::data_dir;
use super::exit::Refusal;
use super::provider::{self, Asked, Beside};
use super::settings::refused;

/// The routes that the settings come to.
pub struct Routes {
    completions: Option<Route<'static>>,
    embeddings: Option<Route<'static>>,
    /// What they were made of: as long as it stays the same, so do they.
    made_of: String,
    /// For people.
    line: String,
    /// Who takes prompts by the thousand, under the batch strategy.
    batches: Option<BatchApi>,
    manager: LlmManager,
}

impl Routes {
    pub fn new(
        args: &WorkArgs,
        settings: &Settings,
        ctx: &Context,
        say: &dyn Fn(String),
    ) -> Result<Self, Refusal> {
        let asked = Asked {
            provider: &args.provider,
            embed: false,
            // Jobs that name no model and find no default fail one by one, with a clear word.
            unnamed: Some(0),
            beside: Beside {
                fallback_blocked: args.provider.fallback_blocked,
                data_dir: data_dir(args.data_dir.as_deref()),
                fixed_slots: args.concurrency.is_some(),
                max_retries: None,
            },
        };
        let notes = RefCell::new(Vec::new());
        let chosen = provider::choose(asked, settings, &|note| notes.borrow_mut().push(note))?;
        if chosen.fell_to_extract() {
            return Err(Refusal::could_not_run(
                "no provider is usable, see batchwright providers; to have jobs answered with the \
                 beginning of their own text, name --provider extract",
            ));
        }
        notes.into_inner().into_iter().for_each(say);
        let chosen = chosen.once_loaded(ctx, say)?;
        let line = chosen.line(chosen.check()?);
        let manager = chosen.manager()?;
        let plan = manager.worker_plan().map_err(refused)?;
        let broken = |error: batchwright::Error| Refusal::could_not_run(error.message());
        let completions = plan.completions.route().map_err(broken)?;
        let embeddings = plan.embeddings.map(|plan| plan.route()).transpose();
        let embeddings = embeddings.map_err(broken)?;
        let effective = manager.effective_strategy();
        let line = match (&effective.fallback_reason, effective.strategy) {
            (Some(reason), _) => format!("{line}\n  strategy: {reason}"),
            (None, Strategy::Sync) => line,
            (None, Strategy::Batch) => {
                let name = manager.provider().provider;
                format!("{line}\n  strategy batch: prompts go to {name} in batches")
            }
        };
        if let Some(reason) = &effective.fallback_reason {
            log::warn!("llm.bulk_strategy=batch: {reason}");
        }
        Ok(Self {
            batches: manager.batches().map_err(broken)?,
            manager,
            completions: Some(completions),
            embeddings,
            made_of: made_of(settings)?,
            line,
        })
    }

    /// Who is called, where, for which model.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// True when prompts are handed over in batches.
    pub fn in_batches(&self) -> bool {
        self.manager.effective_strategy().strategy == Strategy::Batch
    }

    pub fn give(&mut self, mut worker: Worker) -> Result<Worker, Refusal> {
        if let Some(route) = self.completions.take() {
            worker = worker.completions(route);
        }
        if let Some(route) = self.embeddings.take() {
            worker = worker.embeddings(route);
        }
        if let Some(client) = self.batches.take() {
            worker = worker.batches(client);
        }
        let clients = self.manager.clients_by_account().map_err(refused)?;
        Ok(worker.batch_clients(clients))
    }

    /// Puts others in their place in a worker that runs, if the settings now come to others. True if
    /// they do.
    pub fn follow(
        &mut self,
        args: &WorkArgs,
        settings: &Settings,
        worker: &RunningWorker,
        ctx: &Context,
    ) -> Result<bool, Refusal> {
        if made_of(settings)? == self.made_of {
            return Ok(false);
        }
        *self = Self::new(args, settings, ctx, &|_| {})?;
        match self.completions.take() {
            Some(route) => worker.set_completions(route),
            None => worker.forget(COMPLETION_KIND),
        }
        match self.embeddings.take() {
            Some(route) => worker.set_embeddings(route),
            None => worker.forget(EMBEDDING_KIND),
        }
        worker.set_batch_clients(self.manager.clients_by_account().map_err(refused)?);
        let batches = self.batches.take();
        worker.set_batches(batches.map(|client| Arc::new(client) as Arc<dyn BatchClient>));
        Ok(true)
    }
}

/// All that a route is made of, in words.
fn made_of(settings: &Settings) -> Result<String, Refusal> {
    let keys = [
        "llm.provider",
        "llm.model",
        "llm.bulk_strategy",
        "batch.transfer_idle_timeout",
        "llm.fallback",
        "llm.fallback_enabled",
        "llm.sync_concurrency",
        "llm.request_timeout",
        "llm.max_reply_mib",
        "llm.max_replies_mib",
        "llm.requests_per_minute",
        "llm.tokens_per_minute",
        "llm.burst_size",
        "llm.max_rate_limit_wait",
        "llm.max_retry_after",
        "queue.max_retries",
    ];
    let words = keys.map(|key| settings.explain(key).map(|setting| setting.value));
    let words: Result<Vec<_>, _> = words.into_iter().collect();
    Ok(format!("{:?}", words.map_err(refused)?))
}
