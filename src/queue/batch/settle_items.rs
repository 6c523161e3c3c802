//! From the result of a request in a batch to the end of its job: completed, retried in the next batch, failed over,
//! or failed.

use std::time::Duration;

use serde_json::value::RawValue;

use crate::base::{Error, ErrorKind, Paid};
use crate::engine::route::{Next, Tries, decide};
use crate::llm::outcome::Outcome;
use crate::llm::params::RequestTask;
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::{pricing, structured_output};
use crate::queue::history::History;
use crate::queue::store::{ClaimOutcome, ClaimedJob, JobLane, Settlement};
use crate::queue::{prompt_job, prompts};

use super::context::BatchContext;
use super::machine::Record;

/// Time until a job with a rejection that affects all others goes into another batch.
const REFUSED_AGAIN: Duration = Duration::from_secs(60);

impl BatchContext {
    /// The end of a job whose request was answered or failed.
    pub(crate) fn settlement(
        &self,
        claimed: &ClaimedJob,
        batch: &Record,
        result: Result<Response, Error>,
    ) -> Settlement {
        let history = claimed.history.as_deref().map(History::parse);
        let history = history.unwrap_or_default();
        let mut result = result.and_then(|response| fitting(claimed, response));
        if let Some(route) = self.kinds.prompt_route() {
            let pricing = route.pricing();
            let (provider, model) = (&batch.account.provider, batch.intent.model.as_deref());
            let model = || model.map(str::to_owned);
            pricing.price_call(provider, Ok("batch"), model, true, result.as_mut());
        }
        let mut tries = history.tries(claimed.lane.step);
        let default = self.kinds.setup.now().settings.max_retries;
        tries.max_retries = Some(claimed.max_retries.unwrap_or(default));
        let (charge, paid) = match &mut result {
            Ok(response) => (response.charge.take(), response.paid()),
            Err(error) => (error.charge().cloned().map(Box::new), error.paid()),
        };
        let lost = self.lost(claimed, batch, paid, result.as_ref().err());
        let outcome = match result {
            Ok(mut response) => {
                tries.calls = tries.calls.saturating_add(1);
                if history.paid.is_known() {
                    response.set_paid(history.paid + response.paid());
                }
                let spent = prompts::spent(response.paid(), charge.as_deref(), &history);
                let spent = Some(spent);
                match self.line(claimed, &history, batch, &tries, Ok(response)) {
                    Ok(result) => ClaimOutcome::Completed { result, spent },
                    Err(error) => ClaimOutcome::Failed {
                        error,
                        result: None,
                        spent,
                    },
                }
            }
            Err(mut error) => {
                if history.paid.is_known() && error.paid().is_known() {
                    let paid = history.paid + error.paid();
                    error = error.with_paid(paid);
                }
                self.failed(claimed, history, batch, &mut tries, error)
            }
        };
        Settlement {
            receipt: claimed.receipt,
            calls: tries.calls.into(),
            outcome,
            charge,
            lost,
        }
    }

    /// The end of a job in a refused batch that is to be called instead. This is no attempt, and nothing was billed.
    pub(crate) fn called(&self, claimed: &ClaimedJob) -> Settlement {
        let history = claimed.history.clone();
        let outcome = ClaimOutcome::Retry {
            due_at: self.clock.wall(),
            step: claimed.lane.step | JobLane::CALLED,
            attempt: claimed.attempt,
            in_doubt: claimed.in_doubt,
            spent: None,
            history: history.unwrap_or_else(|| History::default().text()),
        };
        Settlement::new(claimed.receipt, claimed.calls, outcome)
    }

    /// What a request of unknown cost may have cost, in picodollars.
    fn lost(&self, claimed: &ClaimedJob, batch: &Record, paid: Paid, error: Option<&Error>) -> u64 {
        if claimed.budget.is_none() || paid.cost_usd.is_some() {
            return 0;
        }
        let model = batch.intent.model.as_deref().unwrap_or_default();
        let payee = [&*batch.account.provider, model];
        let most = self.kinds.prompt_route().and_then(|route| {
            let request = request(claimed).ok()?;
            pricing::bound(&route.pricing(), payee, &request, &Tries::default(), true).ok()
        });
        pricing::spent(paid, error).unwrap_or(most.unwrap_or(0))
    }

    fn failed(
        &self,
        claimed: &ClaimedJob,
        mut history: History,
        batch: &Record,
        tries: &mut Tries,
        error: Error,
    ) -> ClaimOutcome {
        tries.count(&error);
        let steps = self.kinds.prompt_route().map_or(1, |route| route.steps());
        let more = usize::from(tries.step) + 1 < steps;
        let (now, wall) = (self.clock.now(), self.clock.wall());
        let jitter = self.jitter.lock().share();
        let retry = self.kinds.setup.now().settings.retry;
        let next = decide(&retry, more, tries, &error, now, None, jitter);
        let spent = prompts::spent_in_vain(&error, &history);
        let due = match next {
            Next::RetryAt(at) => wall.after(at.since(now)),
            Next::FallBack => {
                tries.next_step(Some(&error));
                wall
            }
            Next::GiveUp if matches!(error.kind(), ErrorKind::Auth | ErrorKind::Quota) => {
                *self.refused.lock() = Some(error);
                return ClaimOutcome::Snooze {
                    due_at: Some(wall.after(REFUSED_AGAIN)),
                };
            }
            Next::GiveUp => {
                let result = self.line(claimed, &history, batch, tries, Err(error.clone()));
                return ClaimOutcome::Failed {
                    error,
                    result: result.ok(),
                    spent,
                };
            }
        };
        // The step that it leaves is that of the batch.
        let names = |_| (batch.account.provider.clone(), batch.intent.model.clone());
        history.failed(&error, tries, names, (now, wall));
        ClaimOutcome::Retry {
            due_at: due,
            step: tries.step,
            attempt: tries.attempt,
            in_doubt: false,
            spent,
            history: history.text(),
        }
    }

    fn line(
        &self,
        claimed: &ClaimedJob,
        history: &History,
        batch: &Record,
        tries: &Tries,
        result: Result<Response, Error>,
    ) -> Result<Box<RawValue>, Error> {
        let now = self.clock.wall();
        let outcome = Outcome {
            attempts: tries.calls.into(),
            latency: history.latency_in_batch(batch.created(), now),
            provider: Some(batch.account.provider.clone()),
            model: batch.intent.model.clone(),
            earlier: history.earlier(Vec::new()),
            ..Outcome::new(None, result)
        };
        prompts::of_job(claimed, outcome).line()
    }
}

/// Checks an answer against the requested JSON format.
fn fitting(claimed: &ClaimedJob, response: Response) -> Result<Response, Error> {
    // A request without this text has no format; most requests need not be parsed.
    let payload = claimed.payload.get();
    if !payload.contains("\"response_format\"") {
        return Ok(response);
    }
    let request = request(claimed)?;
    match &request.params.response_format {
        Some(format) => structured_output::fitting(format, response, request.unchecked),
        None => Ok(response),
    }
}

/// Whether a request has an option with this name. For most payloads a substring search shows that it has not.
pub(super) fn has(claimed: &ClaimedJob, name: &str, option: fn(&Request) -> bool) -> bool {
    claimed.payload.get().contains(name) && request(claimed).is_ok_and(|request| option(&request))
}

/// The request in a job's payload.
pub(crate) fn request(claimed: &ClaimedJob) -> Result<Request, Error> {
    prompt_job::read(claimed.payload.get(), RequestTask::Complete)
}
