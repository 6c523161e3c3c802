//! Batch APIs: one frame, and one file per wire format.

mod anthropic;
mod files;
mod gemini;
mod http;
mod lines;
mod openai;
#[cfg(test)]
mod recorded_tests;
mod refusal;
#[cfg(test)]
mod scripted;
mod xai;

use std::borrow::Cow;
use std::collections::HashSet;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::base::json_mend::leniently;
use crate::base::secret::redacted_url;
use crate::base::{Context, Error, ErrorKind, Timestamp};
use crate::llm::batch::{
    BatchAccount, BatchClient, BatchCounts, BatchInput, BatchIntent, BatchLimits, BatchLine,
    BatchLineResult, BatchRefusal, BatchStage, BatchState, BatchStatus, ListedBatches,
};
use crate::llm::params::RequestTask;
use crate::llm::reply_details::RawJson;
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::transport::{HttpTransport, Transport};

use super::access::{Access, ModelChoice, escaped};
use super::attached;
use super::content::{invalid, named};
use super::dialect;
use super::fields::reply_json;
use super::vendor::{BatchWire, Batches, Vendor};

use self::files::Search;
use self::http::{Http, json, poll_after, served_at, unusable};

/// The longest wait for a reply. A provider validates a large file before it replies.
const REPLY: Duration = Duration::from_secs(300);
/// Transfers and the poller share the connections.
const CONNECTIONS: usize = 3;

/// A batch that is to be created, or found if it may have been created.
struct Submission<'a> {
    http: Http<'a>,
    intent: &'a BatchIntent,
    /// The uploaded input, and the time of the upload if it is known; empty if the input is sent with the call that creates
    /// the batch.
    file: &'a str,
    uploaded: Option<Timestamp>,
}

/// What a wire format does in its own way; see [`BatchClient`] for the meaning of each step. The caller
/// removes credentials from failures.
trait Wire: Sync {
    fn uploads(&self) -> bool {
        true
    }

    /// The address that the line of a request contains, if the format has such lines.
    fn url(&self) -> &'static str {
        ""
    }

    /// Sends the input as a separate file, if the format [does so](Self::uploads).
    fn upload(
        &self,
        batch: &Submission<'_>,
        input: &mut dyn BatchInput,
    ) -> Result<BatchStage, BatchRefusal> {
        files::upload(batch, input)
    }

    /// Creates a batch, and returns its id.
    fn create(
        &self,
        batch: &Submission<'_>,
        input: &mut dyn BatchInput,
    ) -> Result<String, BatchRefusal>;

    /// Searches for batches that may be this one.
    fn find(&self, batch: &Submission<'_>, search: &Search<'_>) -> Result<ListedBatches, Error>;

    fn discard(&self, http: &Http<'_>, file: &str) -> Result<(), Error> {
        http.delete(&format!("/files/{}", escaped(file)))
    }

    /// The path of a batch.
    fn path(&self, id: &str) -> String {
        format!("/batches/{}", escaped(id))
    }

    /// The path of the call that cancels a batch.
    fn cancel(&self, id: &str) -> String {
        format!("{}/cancel", self.path(id))
    }

    fn status(&self, http: &Http<'_>, id: &str) -> Result<BatchStatus, Error> {
        let reply = http.get(&self.path(id))?;
        let status = self.read(http.api.vendor, &json(&reply)?, served_at(&reply));
        let mut status = status.ok_or_else(|| unusable("no status of a batch", &reply))?;
        status.poll_after = poll_after(&reply);
        Ok(status)
    }

    /// Reads the status in a reply of the server, which was sent at `now`.
    fn read(&self, vendor: &Vendor, batch: &Value, now: Option<Timestamp>) -> Option<BatchStatus>;

    /// Writes one of the [results](BatchStatus::results) of a batch, one line per item.
    fn download(
        &self,
        http: &Http<'_>,
        _id: &str,
        file: &str,
        sink: &mut dyn Write,
    ) -> Result<(), Error> {
        http.download(&format!("/files/{}/content", escaped(file)), sink)
    }
}

fn wire(of: BatchWire) -> &'static dyn Wire {
    match of {
        BatchWire::OpenAi => &openai::OPENAI,
        BatchWire::Groq => &openai::GROQ,
        BatchWire::Azure => &openai::AZURE,
        BatchWire::Xai => &xai::Xai,
        BatchWire::Anthropic => &anthropic::Anthropic,
        BatchWire::Gemini => &gemini::Gemini,
    }
}

/// A provider's Batch API; [`LlmConfig::batch_client`](crate::LlmConfig::batch_client) makes it.
#[derive(derive_more::Debug)]
#[debug("BatchApi({})", vendor.name)]
pub struct BatchApi {
    vendor: &'static Vendor,
    wire: &'static dyn Wire,
    limits: BatchLimits,
    access: Access,
    model: ModelChoice,
    transport: Arc<dyn Transport>,
    /// The longest that no byte may move.
    idle: Duration,
}

impl BatchApi {
    pub(super) fn new(
        vendor: &'static Vendor,
        batches: Batches,
        access: Access,
        model: ModelChoice,
        transport: Option<Arc<dyn Transport>>,
        idle: Duration,
    ) -> Result<Self, Error> {
        let transport = match transport {
            Some(transport) => transport,
            None => Arc::new(HttpTransport::new(&access.base_url, CONNECTIONS, REPLY)?),
        };
        Ok(Self {
            vendor,
            wire: wire(batches.wire),
            limits: batches.limits,
            access,
            model,
            transport,
            idle,
        })
    }

    fn http<'a>(&'a self, ctx: &'a Context) -> Http<'a> {
        Http { api: self, ctx }
    }

    fn submission<'a>(
        &'a self,
        intent: &'a BatchIntent,
        stage: &'a BatchStage,
        ctx: &'a Context,
    ) -> Submission<'a> {
        let (file, uploaded) = match stage {
            BatchStage::Uploaded { file, time } => (&**file, *time),
            _ => ("", None),
        };
        Submission {
            http: self.http(ctx),
            intent,
            file,
            uploaded,
        }
    }

    fn clean<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        result.map_err(|error| self.access.explained(error))
    }
}

impl BatchClient for BatchApi {
    fn account(&self) -> BatchAccount {
        BatchAccount {
            provider: self.vendor.name.to_owned(),
            base_url: redacted_url(&self.access.base_url),
            credential: self.access.account.clone(),
        }
    }

    fn limits(&self) -> BatchLimits {
        self.limits
    }

    fn model_for(&self, request: &Request) -> Option<String> {
        self.model.of_request(request).map(str::to_owned)
    }

    fn line(&self, key: &str, request: &Request) -> Result<Vec<u8>, Error> {
        check_key(key)?;
        if request.task != RequestTask::Complete {
            return Err(invalid("no embeddings are made in batches"));
        }
        check(request)?;
        let model = named(self.model.of_request(request))?;
        let mut own = Cow::Borrowed(request);
        if attached::memory(request)?.is_some() {
            own = Cow::Owned(attached::filled(self.vendor, request)?);
        }
        let line = lines::write(self.vendor, key, &own, model, self.wire.url())?;
        let (length, most) = (line.len() as u64, self.limits.bytes);
        if length > most {
            let why = format!("the request has {length} bytes, a whole batch at most {most}");
            return Err(invalid(why));
        }
        Ok(line)
    }

    fn uploads(&self) -> bool {
        self.wire.uploads()
    }

    fn advance(
        &self,
        intent: &BatchIntent,
        stage: &BatchStage,
        input: &mut dyn BatchInput,
        ctx: &Context,
    ) -> Result<BatchStage, BatchRefusal> {
        let batch = self.submission(intent, stage, ctx);
        let redacted =
            |refusal: BatchRefusal| refusal.map_errors(|error| self.access.explained(error));
        let file = match stage {
            BatchStage::Created { .. } => return Ok(stage.clone()),
            BatchStage::Ready if self.wire.uploads() => {
                return self.wire.upload(&batch, input).map_err(redacted);
            }
            BatchStage::Ready => None,
            BatchStage::Uploaded { file, .. } => Some(file.clone()),
        };
        let id = self.wire.create(&batch, input).map_err(redacted)?;
        Ok(BatchStage::Created { id, file })
    }

    fn find(
        &self,
        intent: &BatchIntent,
        stage: &BatchStage,
        known: &HashSet<String>,
        ctx: &Context,
    ) -> Result<ListedBatches, Error> {
        match stage {
            BatchStage::Created { id, .. } => return Ok(ListedBatches::One(id.clone())),
            BatchStage::Ready if self.wire.uploads() => return Ok(ListedBatches::None),
            BatchStage::Ready | BatchStage::Uploaded { .. } => {}
        }
        let since = files::since(intent, stage);
        let batch = self.submission(intent, stage, ctx);
        self.clean(self.wire.find(&batch, &Search { since, known }))
    }

    fn discard(&self, file: &str, ctx: &Context) -> Result<(), Error> {
        self.clean(self.wire.discard(&self.http(ctx), file))
    }

    fn status(&self, id: &str, ctx: &Context) -> Result<BatchStatus, Error> {
        let mut status = self.clean(self.wire.status(&self.http(ctx), id))?;
        status.state = match status.state {
            BatchState::Failed(error) => BatchState::Failed(self.access.explained(error)),
            BatchState::Refused(why) => {
                BatchState::Refused(why.map_errors(|error| self.access.explained(error)))
            }
            state => state,
        };
        Ok(status)
    }

    fn download(
        &self,
        id: &str,
        file: &str,
        sink: &mut dyn Write,
        ctx: &Context,
    ) -> Result<(), Error> {
        self.clean(self.wire.download(&self.http(ctx), id, file, sink))
    }

    fn read(&self, line: &[u8]) -> Result<BatchLine, Error> {
        let redacted = |error| self.access.explained(error);
        let BatchLine { key, result } = lines::read(self.vendor, line).map_err(redacted)?;
        let result = match result {
            BatchLineResult::Answered(answer) => {
                let mut answer = answer.map_err(redacted);
                if let Ok(response) = &mut answer {
                    self.access.remove_keys(response);
                }
                lines::answered(answer)
            }
            BatchLineResult::NotProcessed(error) => BatchLineResult::NotProcessed(redacted(error)),
        };
        Ok(BatchLine { key, result })
    }

    fn unchecked_answer(&self, line: &[u8]) -> Option<Response> {
        let (body, _) = leniently(line, |text| lines::body(self.vendor, text)).ok()?;
        let mut answer = dialect::read(self.vendor, body.as_bytes(), true).ok()?;
        self.access.remove_keys(&mut answer);
        Some(answer)
    }

    fn reply(&self, line: &[u8]) -> RawJson {
        let part = |text: &str| Ok(RawJson::new(&lines::body(self.vendor, text)?));
        let body = reply_json(line, part);
        self.access.cleaned(body)
    }

    fn cancel(&self, id: &str, ctx: &Context) -> Result<(), Error> {
        let http = self.http(ctx);
        let Err(refused) = http.ask(&self.wire.cancel(id)) else {
            return Ok(());
        };
        // It may be refused because the batch has ended.
        let ended = matches!(refused.status(), Some(400 | 409))
            && self.wire.status(&http, id).is_ok_and(|status| {
                status.state.is_final() || matches!(status.state, BatchState::Cancelling)
            });
        ended
            .then_some(())
            .ok_or_else(|| self.access.explained(refused))
    }
}

/// Rejects a request that would make the provider reject its whole batch.
fn check(request: &Request) -> Result<(), Error> {
    let params = &request.params;
    let is_beyond = |value: Option<f64>, most| value.is_some_and(|v| !(0.0..=most).contains(&v));
    let wrong = if request.messages.is_empty() {
        "it has no messages"
    } else if is_beyond(params.temperature, 2.0) {
        "temperature must be between 0 and 2"
    } else if is_beyond(params.top_p, 1.0) {
        "top_p must be between 0 and 1"
    } else if params.max_tokens == Some(0) {
        "max_tokens must be at least 1"
    } else {
        return Ok(());
    };
    Err(invalid(wrong))
}

/// A status with these results. They hold at least the requests that were worked on if the batch was completed, and those
/// that were answered by then if it was cut short or failed.
fn status(state: BatchState, counts: Option<BatchCounts>, results: Vec<String>) -> BatchStatus {
    let expected = counts.and_then(|counts| match state {
        BatchState::Completed => Some(counts.completed.saturating_add(counts.failed)),
        BatchState::Expired | BatchState::Cancelled | BatchState::Failed(_) => {
            Some(counts.completed)
        }
        _ => None,
    });
    BatchStatus {
        state,
        counts,
        results,
        expected: expected.filter(|least| *least > 0),
        poll_after: None,
    }
}

/// What every provider takes as the name of a request.
fn check_key(key: &str) -> Result<(), Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if (1..=64).contains(&key.len()) && key.bytes().all(plain) {
        return Ok(());
    }
    let why = format!("a key has 1 to 64 letters, digits, `-` and `_`, unlike `{key}`");
    Err(Error::new(ErrorKind::Invalid, why))
}

#[cfg(test)]
mod tests;
