//! Batches, as the queue shows them.

use serde::Serialize;

use crate::base::{ProcessId, Timestamp};
use crate::llm::batch::BatchAccount;
use crate::observe::progress::Progress;
use crate::queue::store::StoredBatch;

use super::machine::Record;

/// A batch at a provider, or a batch that is being submitted.
// More than 15 fields: each is public, and most are a field of the JSON that a caller reads.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct BatchInfo {
    /// The process of its jobs; `None` if the process was deleted.
    pub process_id: Option<ProcessId>,
    /// The provider.
    pub provider: String,
    /// The address of its API.
    pub base_url: String,
    /// A hash of the credential that created it; empty without a credential.
    #[serde(skip)]
    pub credential: String,
    /// The model of its requests.
    pub model: Option<String>,
    /// Its id at the provider, once it is known.
    pub remote_id: Option<String>,
    /// Its unique name, which is also in its metadata if the provider supports that.
    pub label: String,
    /// `preparing`, `submitting` and `creating` before it exists; `looking_for` after a lost reply, `held` if that
    /// needs a decision, `presumed` if a batch was found that may belong to another program; then the provider's own
    /// state; `uncollected` if results are missing.
    pub state: String,
    /// The number of its requests.
    pub total: u64,
    /// Answered requests, if the provider reports them.
    pub completed: Option<u64>,
    /// Failed requests, if the provider reports them.
    pub failed: Option<u64>,
    /// Seconds since its creation at the provider, or otherwise since it was formed.
    pub age_seconds: u64,
    /// Why it makes no progress, if so.
    pub problem: Option<String>,
    /// Nothing of it is at the provider: nothing was sent yet, or the provider rejected everything.
    #[serde(skip)]
    pub unsent: bool,
    /// The provider was asked to cancel it.
    #[serde(skip)]
    pub cancel_asked: bool,
    /// Whether a worker owns it.
    pub attended: bool,
    /// Its missing results, if the batch has ended or the provider does not know it any more.
    pub uncollected: Option<UncollectedResults>,
}

/// Billed results that are missing at the provider. They are requested again without a limit; cancelling their
/// process abandons them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct UncollectedResults {
    /// The number of requests without a result.
    pub requests: u64,
    /// When this was noticed first.
    pub since: Timestamp,
    /// The number of requests for them without success.
    pub fetches: u32,
    /// When the worker that owns the batch requests them next; any other worker does so when it starts.
    pub next_at: Timestamp,
    /// Until when the provider keeps them, according to its documentation; `None` without a limit.
    pub kept_until: Option<Timestamp>,
}

impl BatchInfo {
    /// The account that created it.
    pub fn account(&self) -> BatchAccount {
        BatchAccount {
            provider: self.provider.clone(),
            base_url: self.base_url.clone(),
            credential: self.credential.clone(),
        }
    }

    pub(crate) fn new(batch: &StoredBatch, now: Timestamp) -> Self {
        let read = Record::read(batch);
        let is_readable = read.is_some();
        let record = read.unwrap_or_else(|| {
            let nobody = BatchAccount::default();
            Record::new(nobody, String::new(), None, batch.created_at)
        });
        let (state, problem) = if is_readable {
            (record.word(), record.trouble())
        } else {
            let why = "another version of batchwright has written it down";
            ("unreadable", Some(why))
        };
        let remote = record.state.remote();
        let counts = remote.and_then(|remote| remote.counts);
        let cancel_asked = remote.is_some_and(|remote| remote.cancel_asked);
        let fetches = remote.map_or(0, |remote| remote.fetches);
        let uncollected = record.uncollected().map(|what| UncollectedResults {
            requests: batch.jobs,
            since: what.since,
            fetches,
            next_at: record.due,
            kept_until: record.kept_until(what),
        });
        Self {
            process_id: batch.process_id,
            remote_id: record.id().map(str::to_owned),
            state: state.to_owned(),
            // While it is being filled, its jobs are not counted yet.
            total: record.intent.items.max(batch.jobs),
            completed: counts.map(|counts| counts.completed),
            failed: counts.map(|counts| counts.failed),
            age_seconds: now.since(record.created()).as_secs(),
            problem: problem.map(str::to_owned),
            uncollected,
            attended: batch.worker.is_some(),
            unsent: is_readable && record.is_unsent(),
            cancel_asked,
            provider: record.account.provider,
            base_url: record.account.base_url,
            credential: record.account.credential,
            model: record.intent.model,
            label: record.intent.label,
        }
    }
}

impl Progress {
    /// Adds the providers' reports about the batches of the process.
    pub fn with_batches<'b>(mut self, batches: impl IntoIterator<Item = &'b BatchInfo>) -> Self {
        let own = batches
            .into_iter()
            .filter(|batch| batch.process_id == self.process_id);
        let answered = own.filter_map(|batch| Some(batch.completed? + batch.failed.unwrap_or(0)));
        let done = answered.reduce(|sum, n| sum + n);
        // Results that are being stored are no longer at the provider.
        self.at_provider_done = done.map(|done| done.min(self.at_provider));
        self
    }
}
