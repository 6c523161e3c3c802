//! Batch APIs: the blocking trait and its types.
//!
//! A batch is submitted in steps of one exchange each. The worker records each step before it performs the step, and the
//! result afterwards. So the next worker can find a batch again after a crash or a lost reply. See
//! [`BatchClient::find`].

use std::collections::HashSet;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::{Context, Error, ErrorKind, Timestamp};

use super::reply_details::RawJson;
use super::request::Request;
use super::response::Response;

/// Returns the client of an account, if its credential is available.
pub type BatchClients = dyn Fn(&BatchAccount) -> Option<Arc<dyn BatchClient>> + Send + Sync;

/// Submits prompts to a provider's Batch API and fetches the results. Like [`LlmClient`](crate::LlmClient) it never
/// retries: each method makes one attempt.
#[auto_impl::auto_impl(&, Box, Arc)]
pub trait BatchClient: Send + Sync {
    /// The provider, address and credential of this client. A batch is used only with the account that created it,
    /// because a "not found" for another account proves nothing.
    fn account(&self) -> BatchAccount;

    /// The limits of one batch.
    fn limits(&self) -> BatchLimits;

    /// The model of a request, if known.
    fn model_for(&self, request: &Request) -> Option<String>;

    /// One input line, with its line end, for a request with the `custom_id` in `key`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a request that the provider would reject, because it
    /// would fail the whole batch.
    fn line(&self, key: &str, request: &Request) -> Result<Vec<u8>, Error>;

    /// Whether the input is uploaded as a file before the batch is created. If not, the step from
    /// [`BatchStage::Ready`] creates the batch.
    fn uploads(&self) -> bool;

    /// Takes the next step: from [`Ready`](BatchStage::Ready) to [`Uploaded`](BatchStage::Uploaded), from there to
    /// [`Created`](BatchStage::Created). Only a step that sends the input opens it.
    ///
    /// # Errors
    /// What follows from the failure. If the step that creates the batch fails, the batch may exist anyway: if the
    /// request may have arrived ([`Error::sent`]) and the provider did not reject it (no reply, 408, 409 or a 5xx).
    fn advance(
        &self,
        intent: &BatchIntent,
        stage: &BatchStage,
        input: &mut dyn BatchInput,
        ctx: &Context,
    ) -> Result<BatchStage, BatchRefusal>;

    /// Searches the provider's list for the batch of this intent after an attempt to create it. `known` has the ids
    /// of other batches of the queue, which it cannot be.
    ///
    /// # Errors
    /// Any [`Error`]; then the result is unknown.
    fn find(
        &self,
        intent: &BatchIntent,
        stage: &BatchStage,
        known: &HashSet<String>,
        ctx: &Context,
    ) -> Result<ListedBatches, Error>;

    /// Deletes an input file, so that a delayed creation can no longer succeed. A missing file is not an error.
    ///
    /// # Errors
    /// Any [`Error`]; then the file may still exist.
    fn discard(&self, file: &str, ctx: &Context) -> Result<(), Error>;

    /// The status of a batch.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::status`] 404 if the provider does not know the batch.
    fn status(&self, id: &str, ctx: &Context) -> Result<BatchStatus, Error>;

    /// Writes one of the [result files](BatchStatus::results) of a batch to `sink`, one line per request, in the
    /// format that [`read`](Self::read) parses.
    ///
    /// # Errors
    /// Any [`Error`]; a part may have been written. [`Error::status`] 404 or 410 if the results no longer exist.
    fn download(
        &self,
        id: &str,
        file: &str,
        sink: &mut dyn Write,
        ctx: &Context,
    ) -> Result<(), Error>;

    /// Parses a result line.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`](crate::ErrorKind::Malformed) if the line has no `custom_id`.
    fn read(&self, line: &[u8]) -> Result<BatchLine, Error>;

    /// The answer in a result line that [`read`](Self::read) returns as a failure, for an
    /// [unchecked](Request::unchecked) request. Default: `None`.
    fn unchecked_answer(&self, _line: &[u8]) -> Option<Response> {
        None
    }

    /// The reply in a result line, for a request that [keeps it](Request::keep_reply). Default: the line.
    fn reply(&self, line: &[u8]) -> RawJson {
        RawJson::new(&String::from_utf8_lossy(line))
    }

    /// Cancels a batch; finished results stay.
    ///
    /// # Errors
    /// Any [`Error`]. A batch that has already ended is not an error.
    fn cancel(&self, id: &str, ctx: &Context) -> Result<(), Error>;
}

/// True if a step that failed this way may have taken effect; it must not be repeated before a search.
pub(crate) fn is_unknown(error: &Error) -> bool {
    use crate::base::error::Sent;
    match error.status() {
        // 501: the server has no batches.
        Some(status) => matches!(status, 408 | 409 | 200..300 | 500 | 502..600),
        None => error.sent() != Sent::No,
    }
}

/// The account that creates batches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BatchAccount {
    /// The provider's name.
    pub provider: String,
    /// The address of its API, without credentials.
    pub base_url: String,
    /// A hash of the credential; empty without a credential.
    pub credential: String,
}

impl BatchAccount {
    /// Whether another account has the same provider and address; the credential may differ.
    pub fn is_at_the_same_address(&self, other: &Self) -> bool {
        (&self.provider, &self.base_url) == (&other.provider, &other.base_url)
    }
}

/// What one batch may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct BatchLimits {
    /// The maximum number of requests.
    pub requests: usize,
    /// The maximum number of input bytes, with line ends.
    pub bytes: u64,
}

/// A batch to be created, as recorded before anything was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchIntent {
    /// Its unique name: at most 40 lower-case letters, digits and dashes. The `custom_id` of every request begins
    /// with it.
    pub label: String,
    /// The model of all its requests.
    pub model: Option<String>,
    /// The number of its requests.
    pub items: u64,
    /// The length of its input in bytes.
    pub bytes: u64,
    /// When it was recorded, by this machine's clock.
    pub begun: Timestamp,
}

/// The stage of the submission of a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "at")]
pub enum BatchStage {
    /// Nothing was sent.
    #[default]
    Ready,
    /// The input file is uploaded.
    Uploaded {
        /// The input file's id.
        file: String,
        /// The time of the upload by the provider's clock, if it was reported.
        time: Option<Timestamp>,
    },
    /// The batch exists.
    Created {
        /// The id of the batch at the provider.
        id: String,
        /// The id of the input file, if there is one.
        file: Option<String>,
    },
}

/// The input of a batch: the lines that [`BatchClient::line`] returned.
pub trait BatchInput {
    /// All lines from the first one, with the same [`BatchIntent::bytes`] bytes at each call.
    ///
    /// # Errors
    /// When the lines cannot be read.
    fn open(&mut self) -> Result<Box<dyn Read + Send + '_>, Error>;
}

/// The result of a search in the provider's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListedBatches {
    /// The batch is not in the list, at least not yet.
    None,
    /// The id of the batch.
    One(String),
    /// Several batches were created, oldest first; the worker cancels all but one.
    Many(Vec<String>),
    /// Several candidates that cannot be distinguished now, with the reason.
    Undecidable(String),
}

impl ListedBatches {
    /// The batches with these ids, oldest first.
    pub(crate) fn of(mut ids: Vec<String>) -> Self {
        match ids.len() {
            0 => Self::None,
            1 => Self::One(ids.remove(0)),
            _ => Self::Many(ids),
        }
    }
}

/// Where a batch stands.
#[derive(Debug, Clone)]
pub struct BatchStatus {
    /// Its state.
    pub state: BatchState,
    /// Its counts, if the provider reports them.
    pub counts: Option<BatchCounts>,
    /// The files to [download](BatchClient::download) after its end; can be empty.
    pub results: Vec<String>,
    /// The minimum number of processed requests in the results, if the provider reports it. If there are fewer, the
    /// download is incomplete, and the missing results were billed. Lines of unprocessed requests do not count.
    pub expected: Option<u64>,
    /// The wait before the next poll, if the provider requests one.
    pub poll_after: Option<Duration>,
}

/// Counts of the requests of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchCounts {
    /// All requests.
    pub total: u64,
    /// Answered requests.
    pub completed: u64,
    /// Failed requests.
    pub failed: u64,
}

/// The state of a batch.
#[derive(Debug, Clone)]
pub enum BatchState {
    /// The provider has not accepted the input yet.
    Validating,
    /// The batch is accepted and is being processed, or will be.
    Running,
    /// The batch is being cancelled.
    Cancelling,
    /// The batch has ended; single requests may have failed.
    Completed,
    /// The batch expired; its results may contain finished requests.
    Expired,
    /// The batch was cancelled; its results may contain finished requests.
    Cancelled,
    /// The provider rejected the batch after its creation and processed nothing.
    Refused(BatchRefusal),
    /// The whole batch failed for a reason outside of its requests.
    Failed(Error),
    /// An unknown state; it is polled again later.
    Unknown(String),
}

impl BatchState {
    /// True if the state is final.
    pub fn is_final(&self) -> bool {
        !matches!(
            self,
            Self::Validating | Self::Running | Self::Cancelling | Self::Unknown(_)
        )
    }

    /// The name used in JSON and for people.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Validating => "validating",
            Self::Running => "in_progress",
            Self::Cancelling => "cancelling",
            Self::Completed => "completed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Refused(_) => "refused",
            Self::Failed(_) => "failed",
            Self::Unknown(word) => word,
        }
    }
}

/// Why the provider rejected an input or a batch, or why a step of its submission failed otherwise. Nothing was billed,
/// unless the outcome of a creation is unknown. A failure that no reply explains, or one of a host's own client, is
/// judged by its status and kind.
#[derive(Debug, Clone)]
pub struct BatchRefusal {
    /// What follows from it.
    pub outcome: RefusalOutcome,
    /// The failure, with the provider's own words.
    pub error: Error,
    /// The code and the parameter of the reply. Refusals are alike if these are, and their statuses.
    pub code: String,
}

/// What follows from a refusal.
#[derive(Clone, derive_more::Debug)]
pub enum RefusalOutcome {
    /// These requests are invalid, each for its reason.
    #[debug("Named({}, the first {:?})", _0.len(), _0.first())]
    Named(Vec<(RequestName, Error)>),
    /// The batch is larger than one may be.
    TooLarge,
    /// It may be accepted later; with `room`, a smaller one earlier.
    Wait {
        /// The provider's queue is full.
        room: bool,
    },
    /// The input file does not exist at the provider (any more).
    NoFile,
    /// An invalid request that is not named.
    Unnamed,
    /// A reason that has nothing to do with the requests, such as their model or the credit of the account.
    Stops {
        /// Whether it concerns all batches of the account.
        of_account: bool,
    },
}

/// How a provider names a request of a batch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RequestName {
    /// By its line of the input, counted from 1.
    Line(u64),
    /// By its `custom_id`.
    Key(String),
}

impl RefusalOutcome {
    /// What a failure with this status means whose reply has no code.
    pub(crate) fn of(status: Option<u16>, error: &Error) -> Self {
        match (status, error.kind()) {
            (Some(401 | 402), _) | (_, ErrorKind::Quota) => Self::Stops { of_account: true },
            (Some(413), _) => Self::TooLarge,
            (Some(408 | 409 | 425 | 429 | 500 | 502..=599), _)
            | (Some(300..), ErrorKind::RateLimited | ErrorKind::Transient) => {
                Self::Wait { room: false }
            }
            (Some(300..), ErrorKind::UnknownModel) => Self::Stops { of_account: false },
            (Some(404), _) if !error.is_unreachable() => Self::NoFile,
            (Some(400 | 422), kind) if kind != ErrorKind::Auth => Self::Unnamed,
            (Some(300..), _) => Self::Stops { of_account: false },
            (_, ErrorKind::Invalid | ErrorKind::Auth | ErrorKind::UnknownModel) => Self::Stops {
                of_account: error.kind() == ErrorKind::Auth,
            },
            (_, ErrorKind::Malformed) if error.is_unreachable() => {
                Self::Stops { of_account: false }
            }
            _ => Self::Wait { room: false },
        }
    }
}

impl From<Error> for BatchRefusal {
    fn from(error: Error) -> Self {
        Self {
            outcome: RefusalOutcome::of(error.status(), &error),
            error,
            code: String::new(),
        }
    }
}

impl BatchRefusal {
    /// Changes its errors.
    pub(crate) fn map_errors(mut self, change: impl Fn(Error) -> Error) -> Self {
        if let RefusalOutcome::Named(names) = &mut self.outcome {
            for (_, error) in names {
                *error = change(error.clone());
            }
        }
        self.error = change(self.error);
        self
    }
}

/// A result line.
#[derive(Debug, Clone)]
pub struct BatchLine {
    /// The `custom_id` of the request.
    pub key: String,
    /// Its result.
    pub result: BatchLineResult,
}

/// The result of a request in a batch.
#[derive(Debug, Clone)]
pub enum BatchLineResult {
    /// The answer, or the error.
    Answered(Box<Result<Response, Error>>),
    /// The request was not processed, because the batch expired or was cancelled before. It was not billed.
    NotProcessed(Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Sent;

    #[test]
    fn only_a_step_without_effect_may_be_repeated() {
        let error = |status: Option<u16>, sent| {
            let error = Error::new(ErrorKind::Transient, "x").with_sent(sent);
            match status {
                Some(status) => error.with_status(status),
                None => error,
            }
        };
        for (status, sent, unknown) in [
            (None, Sent::No, false),
            (None, Sent::Maybe, true),
            (Some(400), Sent::Answered, false),
            (Some(401), Sent::Answered, false),
            (Some(404), Sent::Answered, false),
            (Some(413), Sent::Answered, false),
            (Some(429), Sent::Answered, false),
            (Some(408), Sent::Maybe, true),
            (Some(409), Sent::Answered, true),
            (Some(500), Sent::Answered, true),
            (Some(503), Sent::Answered, true),
            (Some(200), Sent::Answered, true),
        ] {
            assert_eq!(is_unknown(&error(status, sent)), unknown, "{status:?}");
        }
    }
}
