//! Batch APIs: the blocking trait, and what its steps are about.
//!
//! A batch is submitted in steps of one exchange each. Whoever drives them writes down, before each
//! step, that it is about to be tried, and after it what came of it; so a crash, or a reply that is
//! lost, leaves nothing that cannot be found again. See [`BatchClient::find`].

use std::collections::HashSet;
use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::brief::FieldIf;
use crate::base::cancel::Context;
use crate::base::clock::Timestamp;
use crate::base::error::Error;

use super::reply_details::RawJson;
use super::request::Request;
use super::response::Response;

/// Finds the client of an account, if its credential is here.
#[cfg(feature = "queue")]
pub type BatchClients = dyn Fn(&BatchAccount) -> Option<Arc<dyn BatchClient>> + Send + Sync;

/// Hands prompts over to a provider's Batch API, and fetches what came of them. Like
/// [`LlmClient`](crate::LlmClient) it never retries: each method is one try.
pub trait BatchClient: Send + Sync {
    /// Whose API it is, where, and with which credential. A batch is only ever touched with the account
    /// that it was made with: another one's "not found" says nothing about it.
    fn account(&self) -> BatchAccount;

    /// What one batch may hold.
    fn limits(&self) -> BatchLimits;

    /// The model a request will be sent to, as far as known.
    fn model_for(&self, request: &Request) -> Option<String>;

    /// Where a request goes, if not where requests of this API go as a rule. Requests that differ in this
    /// cannot be in one batch. Default: where all go.
    fn endpoint(&self, _: &Request) -> Option<&'static str> {
        None
    }

    /// One line of input, its line end included, for a request under a key of ours.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a request that the provider would refuse:
    /// it would fail the whole batch.
    fn line(&self, key: &str, request: &Request) -> Result<Vec<u8>, Error>;

    /// Whether the input travels as a file of its own before the batch is created; without one, the
    /// step from [`BatchStage::Ready`] creates it at once.
    fn uploads(&self) -> bool;

    /// Takes the next step: from [`Ready`](BatchStage::Ready) to [`Uploaded`](BatchStage::Uploaded),
    /// from there to [`Created`](BatchStage::Created). The input is asked for only by a step that sends
    /// it.
    ///
    /// # Errors
    /// Any [`Error`]. After one of the step that creates the batch may exist all the same if the request
    /// may have arrived ([`Error::sent`]) and no refusal came back: no reply, 408, 409 or a 5xx.
    fn advance(
        &self,
        intent: &BatchIntent,
        stage: &BatchStage,
        input: &mut dyn BatchInput,
        ctx: &Context,
    ) -> Result<BatchStage, Error>;

    /// Looks through the provider's list for the batch of this intent, whose creation was tried.
    /// `known` are the ids of other batches of ours, which it cannot be.
    ///
    /// # Errors
    /// Any [`Error`]; then nothing is known.
    fn find(
        &self,
        intent: &BatchIntent,
        stage: &BatchStage,
        known: &HashSet<String>,
        ctx: &Context,
    ) -> Result<ListedBatches, Error>;

    /// Deletes an input file, so that a creation under way can no longer take effect. A file that is
    /// not there is no error.
    ///
    /// # Errors
    /// Any [`Error`]; then the file may still be there.
    fn discard(&self, file: &str, ctx: &Context) -> Result<(), Error>;

    /// Where a batch stands.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::status`] 404 when the provider does not know it.
    fn status(&self, id: &str, ctx: &Context) -> Result<BatchStatus, Error>;

    /// Writes one of the [result files](BatchStatus::results) of a batch to `sink`, a line for each
    /// request; in what shape is known to [`read`](Self::read).
    ///
    /// # Errors
    /// Any [`Error`], after which part of it may have been written; [`Error::status`] 404 or 410 when
    /// the results are gone.
    fn download(
        &self,
        id: &str,
        file: &str,
        sink: &mut dyn Write,
        ctx: &Context,
    ) -> Result<(), Error>;

    /// Reads a line of results.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`](crate::ErrorKind::Malformed) when it names no request.
    fn read(&self, line: &[u8]) -> Result<BatchLine, Error>;

    /// The reply in a line of results, for a request that [keeps it](Request::keep_reply). Default: the
    /// line.
    fn reply(&self, line: &[u8]) -> RawJson {
        RawJson::new(&String::from_utf8_lossy(line))
    }

    /// Asks for the end of a batch; what it has finished stays.
    ///
    /// # Errors
    /// Any [`Error`]. That it has ended already is none.
    fn cancel(&self, id: &str, ctx: &Context) -> Result<(), Error>;
}

/// True when a step that failed this way may have been carried out: it must not be repeated before
/// somebody has looked.
pub(crate) fn is_unknown(error: &Error) -> bool {
    use crate::base::error::Sent;
    match error.status() {
        Some(status) => matches!(status, 408 | 409 | 200..300 | 500..600),
        None => error.sent() != Sent::No,
    }
}

/// Whose batches they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BatchAccount {
    /// The provider's name.
    pub provider: String,
    /// Where it is reached, without credentials.
    pub base_url: String,
    /// A fingerprint of the credential; empty without one.
    pub credential: String,
}

impl BatchAccount {
    /// Whether another account is of the same provider at the same address, whatever its credential.
    pub fn is_at_the_same_address(&self, other: &Self) -> bool {
        (&self.provider, &self.base_url) == (&other.provider, &other.base_url)
    }
}

/// What one batch may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// The most requests.
    pub requests: usize,
    /// The most bytes of input, line ends included.
    pub bytes: u64,
}

/// A batch that is to be created, as it was written down before anything was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchIntent {
    /// Our name for it, unlike any other: lower-case letters, digits and dashes, at most 40. The key of
    /// every request begins with it.
    pub label: String,
    /// The model that all of its requests go to.
    pub model: Option<String>,
    /// How many requests it holds.
    pub items: u64,
    /// How long its input is.
    pub bytes: u64,
    /// When it was written down, by this machine's clock.
    pub begun: Timestamp,
    /// Where all of its requests go, if not where requests of this API go as a rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

/// How far the submission of a batch has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "at")]
pub enum BatchStage {
    /// The provider knows nothing of it.
    Ready,
    /// Its input is there.
    Uploaded {
        /// The input file's id.
        file: String,
        /// When, by the provider's clock, if it told.
        time: Option<Timestamp>,
    },
    /// It exists.
    Created {
        /// Its id at the provider.
        id: String,
        /// The id of its input file, if it has one.
        file: Option<String>,
    },
}

/// The input of a batch: lines as [`BatchClient::line`] wrote them.
pub trait BatchInput {
    /// The lines from the first one, the same bytes each time; [`BatchIntent::bytes`] of them.
    ///
    /// # Errors
    /// When they cannot be read.
    fn open(&mut self) -> Result<Box<dyn Read + Send + '_>, Error>;
}

/// What a look through the provider's list has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListedBatches {
    /// It is not listed, at least not yet.
    None,
    /// It is this one.
    One(String),
    /// There are several, oldest first: all but one are to be cancelled.
    Many(Vec<String>),
    /// There are candidates that cannot be told apart now.
    Undecidable(String),
}

/// Where a batch stands.
#[derive(Debug, Clone)]
pub struct BatchStatus {
    /// Its state.
    pub state: BatchState,
    /// How many of its requests are where, if the provider tells.
    pub counts: Option<BatchCounts>,
    /// What to [download](BatchClient::download) once it has ended; possibly nothing.
    pub results: Vec<String>,
    /// How many requests that were worked on the results hold at least, if the provider tells: fewer are
    /// a download cut short, whose rest was paid for. Lines of requests that had no turn do not count.
    pub expected: Option<u64>,
    /// When the provider wants to be asked again.
    pub poll_after: Option<Duration>,
}

/// How many requests of a batch are where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchCounts {
    /// Requests in it.
    pub total: u64,
    /// Of these, answered.
    pub completed: u64,
    /// Of these, failed.
    pub failed: u64,
}

/// The state of a batch.
#[derive(Debug, Clone)]
pub enum BatchState {
    /// Its input has not been accepted yet.
    Validating,
    /// It is accepted and being worked on, or about to be.
    Running,
    /// It is being cancelled.
    Cancelling,
    /// It has ended; single requests may have failed.
    Completed,
    /// It ran out of time; what it had finished by then may be in its results.
    Expired,
    /// It was cancelled; what it had finished by then may be in its results.
    Cancelled,
    /// It was refused after it had been created, and nothing of it was worked on.
    Refused(BatchRefusal),
    /// It failed as a whole for no fault of its requests.
    Failed(Error),
    /// A word that is not known here: it is asked again later.
    Unknown(String),
}

impl BatchState {
    /// True when nothing more happens to it.
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

/// Why a batch was refused after it had been created.
#[derive(Clone)]
pub enum BatchRefusal {
    /// For these lines of its input, counted from 1.
    Lines(Vec<(u64, Error)>),
    /// For some line, without saying which.
    SomeLine(Error),
    /// Too much is queued at the provider already: a smaller one, later, may be accepted.
    TooMuchQueued(Error),
    /// For something that holds for all of its requests, such as the model.
    Whole(Error),
}

/// Of thousands of lines the first is shown.
impl fmt::Debug for BatchRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, error) = match self {
            Self::Lines(lines) => {
                return f
                    .debug_struct("Lines")
                    .field("number", &lines.len())
                    .field_if("first", lines.first())
                    .finish();
            }
            Self::SomeLine(error) => ("SomeLine", error),
            Self::TooMuchQueued(error) => ("TooMuchQueued", error),
            Self::Whole(error) => ("Whole", error),
        };
        f.debug_tuple(name).field(error).finish()
    }
}

/// A line of results.
#[derive(Debug, Clone)]
pub struct BatchLine {
    /// The key that the request was given.
    pub key: String,
    /// What came of it.
    pub result: BatchLineResult,
}

/// What came of a request in a batch.
#[derive(Debug, Clone)]
pub enum BatchLineResult {
    /// An answer, or why there is none.
    Answered(Box<Result<Response, Error>>),
    /// It was not worked on: the batch expired or was cancelled before. Nothing was charged.
    NotProcessed(Error),
}

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        impl<C: BatchClient + ?Sized> BatchClient for $pointer {
            fn account(&self) -> BatchAccount {
                (**self).account()
            }
            fn limits(&self) -> BatchLimits {
                (**self).limits()
            }
            fn model_for(&self, request: &Request) -> Option<String> {
                (**self).model_for(request)
            }
            fn endpoint(&self, request: &Request) -> Option<&'static str> {
                (**self).endpoint(request)
            }
            fn line(&self, key: &str, request: &Request) -> Result<Vec<u8>, Error> {
                (**self).line(key, request)
            }
            fn uploads(&self) -> bool {
                (**self).uploads()
            }
            fn advance(
                &self,
                intent: &BatchIntent,
                stage: &BatchStage,
                input: &mut dyn BatchInput,
                ctx: &Context,
            ) -> Result<BatchStage, Error> {
                (**self).advance(intent, stage, input, ctx)
            }
            fn find(
                &self,
                intent: &BatchIntent,
                stage: &BatchStage,
                known: &HashSet<String>,
                ctx: &Context,
            ) -> Result<ListedBatches, Error> {
                (**self).find(intent, stage, known, ctx)
            }
            fn discard(&self, file: &str, ctx: &Context) -> Result<(), Error> {
                (**self).discard(file, ctx)
            }
            fn status(&self, id: &str, ctx: &Context) -> Result<BatchStatus, Error> {
                (**self).status(id, ctx)
            }
            fn download(
                &self,
                id: &str,
                file: &str,
                sink: &mut dyn Write,
                ctx: &Context,
            ) -> Result<(), Error> {
                (**self).download(id, file, sink, ctx)
            }
            fn read(&self, line: &[u8]) -> Result<BatchLine, Error> {
                (**self).read(line)
            }
            fn reply(&self, line: &[u8]) -> RawJson {
                (**self).reply(line)
            }
            fn cancel(&self, id: &str, ctx: &Context) -> Result<(), Error> {
                (**self).cancel(id, ctx)
            }
        }
    )*};
}
forward!(&C, Box<C>, Arc<C>);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::{ErrorKind, Sent};

    #[test]
    fn only_what_certainly_did_nothing_may_be_repeated() {
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
