//! What holds for a worker while it runs, and what of it may change.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::base::cancel::Context;
use crate::base::clock::Clock;
use crate::engine::dispatch::ErrorPolicy;
use crate::engine::route::RetryPolicy;
use crate::engine::run::Waker;
use crate::llm::batch::BatchClient;
use crate::llm::request::RequestTask;
use crate::llm::route::Route;
use crate::observe::progress::ProgressNotifier;

use super::backlog::{Pace, Scope};
use super::batch::{BatchControl, BatchOverview};
use super::job::{COMPLETION_KIND, EMBEDDING_KIND};
use super::kinds::{Kind, Kinds};
use super::scale::WorkerScale;

/// A worker never runs more jobs at once.
pub(crate) const MOST_SLOTS: usize = 10_000;

/// What does not change while a worker runs.
pub(crate) struct Plan {
    pub notifier: Option<Arc<dyn ProgressNotifier>>,
    pub ctx: Context,
    pub retry: RetryPolicy,
    pub on_error: ErrorPolicy,
    /// The jobs come from many callers.
    pub of_many: bool,
    pub scope: Scope,
}

/// What may change while a worker runs.
pub(crate) struct Controls {
    pub permits: AtomicUsize,
    pub scale: Mutex<WorkerScale>,
    /// Every slot had a job when somebody last looked.
    pub all_busy: AtomicBool,
    pub pace: Arc<Pace>,
    pub kinds: Arc<Kinds>,
    pub clock: Arc<dyn Clock>,
    pub waker: Waker,
    /// There may be more to claim.
    pub may_have_jobs: Arc<AtomicBool>,
    /// The poller's letter box.
    pub batch_control: Arc<BatchControl>,
    pub batch_overview: Arc<BatchOverview>,
    /// Somebody has written to the store since the notifier was last told of every process.
    pub written: AtomicBool,
}

impl Controls {
    /// Has the worker look for jobs now.
    pub(crate) fn wake(&self) {
        self.written.store(true, Ordering::SeqCst);
        self.may_have_jobs.store(true, Ordering::SeqCst);
        self.waker.wake();
        self.batch_control.wake();
    }

    /// Has the worker look for jobs and where its batches stand.
    pub(crate) fn nudge(&self) {
        self.may_have_jobs.store(true, Ordering::SeqCst);
        self.waker.wake();
    }

    /// Hands new prompts over to a Batch API, or to nobody.
    pub(crate) fn set_batches(&self, client: Option<Arc<dyn BatchClient>>) {
        self.kinds.batched.store(client.is_some(), Ordering::SeqCst);
        *self.batch_control.client.write() = client;
        self.wake();
    }

    /// Replaces a route; limits and pauses that were learned stay.
    pub(crate) fn set_route(&self, name: &str, task: RequestTask, route: Route<'static>) {
        let others = [COMPLETION_KIND, EMBEDDING_KIND].map(|name| self.kinds.route(name));
        let newest = others
            .into_iter()
            .flatten()
            .max_by_key(|route| route.edition());
        let route = Arc::new(match newest {
            Some(before) => route.succeeding(&before),
            None => route.limited_by(self.kinds.limiter.clone(), self.kinds.trails.clone()),
        });
        self.kinds.set(name, Kind::Prompts { route, task });
        self.wake();
    }
}
