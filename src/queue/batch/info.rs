//! Batches, as the queue shows them.

use serde::Serialize;

use crate::base::clock::Timestamp;
use crate::base::id::ProcessId;
use crate::llm::batch::BatchAccount;
use crate::observe::progress::Progress;
use crate::queue::store::StoredBatch;

use super::machine::Record;

/// A batch at a provider, or on its way there.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct BatchInfo {
    /// The process whose jobs it holds; `None` when that was deleted.
    pub process_id: Option<ProcessId>,
    /// The provider.
    pub provider: String,
    /// Where it is reached.
    pub base_url: String,
    /// A fingerprint of the credential it was made with; empty without one.
    #[serde(skip)]
    pub credential: String,
    /// The model its requests go to.
    pub model: Option<String>,
    /// Its id there, once it is known.
    pub remote_id: Option<String>,
    /// Our own name for it, which is written on it where the provider lets us.
    pub label: String,
    /// `preparing`, `submitting` and `creating` before it is there; `looking_for` when a reply was
    /// lost, `held` when that needs a decision, `presumed` when one was found that may be somebody
    /// else's; then the provider's own word; `collecting` at the end,
    /// `uncollected` when its results are not given out.
    pub state: String,
    /// Requests it holds.
    pub total: u64,
    /// Of these, answered, if the provider tells.
    pub completed: Option<u64>,
    /// Of these, failed, if the provider tells.
    pub failed: Option<u64>,
    /// Seconds since it was created at the provider, or else begun.
    pub age_seconds: u64,
    /// Why nothing moves, if nothing does.
    pub problem: Option<String>,
    /// Nothing of it is at the provider: nothing was sent yet, or all that was sent was refused.
    #[serde(skip)]
    pub unsent: bool,
    /// The provider was asked to cancel it.
    #[serde(skip)]
    pub cancel_asked: bool,
    /// Whether a worker looks after it.
    pub attended: bool,
    /// What is known of results that it does not give out, though it has ended or is not known there any
    /// more.
    pub uncollected: Option<UncollectedResults>,
}

/// Results that were paid for and that a provider has not given out yet. They are asked for again for as
/// long as it takes; cancelling their process gives them up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct UncollectedResults {
    /// How many requests of the batch wait for theirs.
    pub requests: u64,
    /// When that was found first.
    pub since: Timestamp,
    /// How often they were asked for in vain.
    pub fetches: u32,
    /// When the worker that attends the batch asks next; any other one does as soon as it starts.
    pub next_at: Timestamp,
    /// Until when the provider says it keeps them; `None` where it names no end.
    pub kept_until: Option<Timestamp>,
}

impl BatchInfo {
    /// The account it was made with.
    pub fn account(&self) -> BatchAccount {
        BatchAccount {
            provider: self.provider.clone(),
            base_url: self.base_url.clone(),
            credential: self.credential.clone(),
        }
    }

    pub(crate) fn new(batch: &StoredBatch, now: Timestamp) -> Self {
        let Some(record) = Record::read(batch) else {
            return Self::unreadable(batch, now);
        };
        let counts = record.state.remote().and_then(|remote| remote.counts);
        let uncollected = record.uncollected().map(|what| UncollectedResults {
            requests: batch.jobs,
            since: what.since,
            fetches: record.fetches(),
            next_at: record.due,
            kept_until: record.kept_until(what),
        });
        Self {
            process_id: batch.process_id,
            remote_id: record.id().map(str::to_owned),
            state: record.word().to_owned(),
            // While it is being filled nobody has counted yet.
            total: record.intent.items.max(batch.jobs),
            completed: counts.map(|counts| counts.completed),
            failed: counts.map(|counts| counts.failed),
            age_seconds: now.since(record.created()).as_secs(),
            problem: record.trouble().map(str::to_owned),
            uncollected,
            attended: batch.worker.is_some(),
            unsent: record.is_unsent(),
            cancel_asked: record.is_cancel_asked(),
            provider: record.account.provider,
            base_url: record.account.base_url,
            credential: record.account.credential,
            model: record.intent.model,
            label: record.intent.label,
        }
    }

    /// One that another version has written down.
    fn unreadable(batch: &StoredBatch, now: Timestamp) -> Self {
        Self {
            process_id: batch.process_id,
            provider: String::new(),
            base_url: String::new(),
            credential: String::new(),
            model: None,
            remote_id: None,
            label: String::new(),
            state: "unreadable".to_owned(),
            total: batch.jobs,
            completed: None,
            failed: None,
            age_seconds: now.since(batch.created_at).as_secs(),
            problem: Some("another version of batchwright has written it down".to_owned()),
            attended: batch.worker.is_some(),
            unsent: false,
            cancel_asked: false,
            uncollected: None,
        }
    }
}

impl Progress {
    /// With what the providers tell of the batches of its process.
    pub fn with_batches<'b>(mut self, batches: impl IntoIterator<Item = &'b BatchInfo>) -> Self {
        let own = batches
            .into_iter()
            .filter(|batch| batch.process_id == self.process_id);
        let told = own.filter_map(|batch| Some(batch.completed? + batch.failed.unwrap_or(0)));
        let done = told.reduce(|sum, n| sum + n);
        // While results are being stored they are no longer there.
        self.at_provider_done = done.map(|done| done.min(self.at_provider));
        self
    }
}
