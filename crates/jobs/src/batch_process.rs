//! `batch_process`: combines jobs of other types into one job, which is done when all of them are.

use std::collections::HashSet;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use batchwright::queue::{Children, PRIORITIES};
use batchwright::{Context, Error, Handler, Job, RunningJob};

use super::fields::{Fields, PayloadError};
use super::job_type::JobType;

pub(crate) const NAME: &str = "batch_process";
/// Limits the size of the result, which contains the results of all jobs.
const MOST_JOBS: usize = 10_000;

/// `others` are the types that its jobs may have.
pub(crate) fn job_type(
    others: impl Fn() -> Vec<JobType> + Clone + Send + Sync + 'static,
) -> JobType {
    let (checks, prepares) = (others.clone(), others.clone());
    let handler =
        Handler::with_children(move |job: &RunningJob, children: &Children, _: &Context| {
            process(&others(), job, children)
        });
    JobType::handled(NAME, handler)
        .about("Several jobs of other types as one job, with all their results")
        .prepare(move |payload| prepared(&prepares(), payload))
        .check(move |payload| members(&checks(), payload).map(drop))
}

/// The payload in which the payloads of its jobs are replaced by their prepared form.
fn prepared(types: &[JobType], mut payload: Value) -> Result<Value, PayloadError> {
    let jobs = payload.get_mut("jobs").and_then(Value::as_array_mut);
    for (i, member) in jobs.into_iter().flatten().enumerate() {
        let name = member.get("type").and_then(Value::as_str);
        // Errors in the other jobs are reported when they are checked.
        let Some(one) = types.iter().find(|one| Some(one.name()) == name) else {
            continue;
        };
        if let Some(given) = member.get_mut("payload") {
            let made = one.prepared(given.take());
            *given = made.map_err(|error| error.within(&format!("jobs[{i}].payload")))?;
        }
    }
    Ok(payload)
}

/// The jobs of a payload, each with its type.
fn members(types: &[JobType], payload: &Value) -> Result<Vec<Job>, PayloadError> {
    let fields = Fields::of(payload, &["jobs"])?;
    let members = fields.list("jobs", MOST_JOBS)?;
    let members = members.ok_or_else(|| fields.missing("jobs"))?;
    let mut seen = HashSet::new();
    let mut jobs = Vec::with_capacity(members.len());
    for (i, (path, member)) in members.into_iter().enumerate() {
        let names = ["type", "payload", "id", "priority", "max_retries"];
        let fields = Fields::at(path.clone(), member, &names)?;
        let name = fields.required_text("type")?;
        let Some(one) = types.iter().find(|one| one.name() == name) else {
            let names: Vec<&str> = types.iter().map(JobType::name).collect();
            let why = format!("unknown type; known types: {}", names.join(", "));
            return Err(fields.bad("type", why));
        };
        let payload = fields.get("payload");
        let payload = payload.ok_or_else(|| fields.missing("payload"))?;
        let job = one.checked(payload);
        let mut job = job.map_err(|error| error.within(&format!("{path}.payload")))?;
        let id = fields.text("id")?.map(str::to_owned);
        let id = id.unwrap_or_else(|| i.to_string());
        if !seen.insert(id.clone()) {
            return Err(fields.bad("id", format!("{id:?} occurs twice")));
        }
        let range = usize::from(*PRIORITIES.start())..=usize::from(*PRIORITIES.end());
        if let Some(priority) = fields.whole("priority", range)? {
            job = job.priority(u8::try_from(priority).unwrap_or(*PRIORITIES.end()));
        }
        if let Some(retries) = fields.whole("max_retries", 0..=usize::from(u8::MAX))? {
            job = job.max_retries(u8::try_from(retries).unwrap_or(u8::MAX));
        }
        jobs.push(job.item_id(id));
    }
    Ok(jobs)
}

fn process(
    types: &[JobType],
    job: &RunningJob,
    children: &Children,
) -> Result<Option<Value>, Error> {
    let jobs = || {
        let payload: Value = job.parse()?;
        Ok(members(types, &payload)?)
    };
    let Some(results) = children.gather("jobs", jobs)? else {
        return Ok(None);
    };
    let completed = results.iter().filter(|result| result.is_success()).count();
    let lines = results
        .iter()
        .map(|result| RawValue::from_string(result.line()));
    let lines: Vec<Box<RawValue>> = lines.filter_map(Result::ok).collect();
    Ok(Some(json!({
        "total": results.len(),
        "completed": completed,
        "failed": results.len() - completed,
        "results": lines,
    })))
}
