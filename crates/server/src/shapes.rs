//! How processes, jobs and batches look in JSON.

use std::time::{Duration, UNIX_EPOCH};

use batchwright::progress::Timestamp;
use batchwright::queue::{
    AttemptError, DeliveredResult, JobReceipt, JobState, JobStatus, ProcessState,
};
use batchwright::unstable::{Clock, SystemClock};
use batchwright::{Error, JobId, ProcessId, Progress};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// The present time.
pub(crate) fn now() -> Timestamp {
    SystemClock.wall()
}

/// A time as RFC 3339 has it, in UTC and with milliseconds.
pub(crate) fn time(at: Timestamp) -> String {
    let since = Duration::from_millis(u64::try_from(at.0).unwrap_or(0));
    // The last second that has a form.
    let since = since.min(Duration::from_secs(253_402_300_799));
    humantime::format_rfc3339_millis(UNIX_EPOCH + since).to_string()
}

/// Where a process stands.
pub(crate) fn process_state(process: &ProcessState) -> &'static str {
    match process {
        ProcessState { sealed: false, .. } => "unsealed",
        ProcessState {
            cancelled: true, ..
        } => "cancelled",
        process if process.is_finished() => "finished",
        _ => "running",
    }
}

/// A process.
pub(crate) fn process(process: &ProcessState, pace: Option<&Progress>) -> Value {
    let (counts, spent) = (&process.counts, &process.spent);
    let percent = match counts.total {
        0 => 0.0,
        total => (counts.finished() as f64 * 1000.0 / total as f64).floor() / 10.0,
    };
    let pace = pace.filter(|_| !process.is_finished());
    let mut shown = json!(counts);
    let facts = json!({
        "process_id": process.process_id,
        "name": process.info.name,
        "state": process_state(process),
        "percent": percent,
        "eta_seconds": pace.and_then(|pace| pace.eta).map(|eta| eta.as_secs_f64().ceil()),
        "rate": pace.map(|pace| pace.rate),
        "input_tokens": spent.input_tokens,
        "output_tokens": spent.output_tokens,
        "cost_usd": spent.cost_usd,
        "unpriced": spent.unpriced,
        "created_at": time(process.created_at),
        "changed_at": time(process.changed_at),
        "limited_by": pace.and_then(|pace| pace.limited_by),
    });
    if let (Value::Object(shown), Value::Object(facts)) = (&mut shown, facts) {
        shown.extend(facts);
    }
    if let Some(parent) = process.info.parent {
        shown["parent"] = json!(parent);
    }
    if let Some(budget) = &process.budget {
        shown["budget"] = json!(budget);
    }
    shown
}

/// What a result is deleted by: the job's key and the number of its claim, which a retry raises.
fn receipt_text(JobReceipt { job, claim }: JobReceipt) -> String {
    format!("{job}-{claim}")
}

/// The receipt that a client has sent back.
pub(crate) fn receipt(text: &str) -> Option<JobReceipt> {
    let (job, claim) = text.split_once('-')?;
    Some(JobReceipt {
        job: job.parse().ok()?,
        claim: claim.parse().ok()?,
    })
}

/// A job.
#[derive(Serialize)]
pub(crate) struct ShownJob<'a> {
    job_id: JobId,
    process_id: ProcessId,
    r#type: &'a str,
    model: Option<&'a str>,
    item_id: Option<&'a str>,
    status: JobStatus,
    at_provider: bool,
    progress: u8,
    priority: u8,
    attempts: u32,
    created_at: String,
    due_at: Option<String>,
    receipt: Option<String>,
    result: Option<&'a RawValue>,
    error: Option<&'a Error>,
    errors: Vec<Value>,
}

/// How much of a job is done, in percent: of one that has others carried out, all of which are known from its start, how
/// many of these have ended.
fn progress(job: &JobState) -> u8 {
    match &job.children {
        _ if job.status.is_final() => 100,
        // Its own end is to come.
        Some(jobs) if job.kind == "batch_process" && jobs.total > 0 => {
            (jobs.finished() * 100 / jobs.total).min(99) as u8
        }
        _ => 0,
    }
}

impl<'a> ShownJob<'a> {
    pub fn of(job: &'a JobState) -> Self {
        let attempt = |attempt: &AttemptError| {
            let at = time(attempt.at);
            json!({"at": at, "step": attempt.step, "error": attempt.error})
        };
        Self {
            job_id: job.job_id,
            process_id: job.process_id,
            r#type: &job.kind,
            model: job.lane.as_deref(),
            item_id: job.item_id.as_deref(),
            status: job.status,
            at_provider: job.at_provider,
            progress: progress(job),
            priority: job.priority,
            attempts: job.attempts,
            created_at: time(job.created_at),
            due_at: job.due_at.map(time),
            receipt: job.receipt.map(receipt_text),
            result: job.result.as_deref(),
            error: job.error.as_ref(),
            errors: job.errors.iter().map(attempt).collect(),
        }
    }
}

/// The line of an outcome, without its end.
pub(crate) fn result_line(DeliveredResult { result, receipt }: &DeliveredResult) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        item_id: Option<&'a str>,
        r#type: &'a str,
        status: JobStatus,
        result: Option<&'a RawValue>,
        error: Option<&'a Error>,
        attempts: u32,
    }
    let rest = if is_prompt(&result.kind) {
        result.line()
    } else {
        let line = serde_json::to_string(&Line {
            item_id: result.item_id.as_deref(),
            r#type: &result.kind,
            status: result.status,
            result: result.result.as_deref(),
            error: result.error.as_ref(),
            attempts: result.attempts,
        });
        // A result is JSON that was read before, in which line ends mean nothing.
        line.unwrap_or_default().replace(['\n', '\r'], " ")
    };
    let (job, receipt) = (result.job_id, receipt_text(*receipt));
    let rest = rest.strip_prefix('{').unwrap_or_default();
    format!("{{\"job_id\":\"{job}\",\"receipt\":\"{receipt}\",{rest}")
}

/// Whether jobs of this kind are prompts, whose results are result lines.
pub(crate) fn is_prompt(kind: &str) -> bool {
    ["completion", "completion_direct", "embedding"].contains(&kind)
}
