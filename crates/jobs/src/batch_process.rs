//! `batch_process`: combines jobs of other types into one job, which is done when all of them are.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use batchwright::queue::{Children, JobResult, PRIORITIES};
use batchwright::{Context, Error, Handler, Job, RunningJob};

use super::fields::{PayloadError, Text, check_list, read};
use super::job_type::JobType;

const NAME: &str = "batch_process";
/// Limits the size of the result, which contains the results of all jobs.
const MOST_JOBS: usize = 10_000;

/// The types that its jobs may have: when it is created, and when it runs.
pub(crate) fn job_type(others: Vec<JobType>, running: Vec<JobType>) -> JobType {
    let handler =
        Handler::with_children(move |job: &RunningJob, children: &Children, _: &Context| {
            process(&running, job, children)
        });
    JobType::handled(NAME, handler)
        .about("Several jobs of other types as one job, with all their results")
        .accept(move |payload| members(&others, payload).map(|_| None))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    jobs: Vec<Member>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Member {
    #[serde(rename = "type")]
    job_type: String,
    payload: Value,
    id: Option<Text>,
    priority: Option<u8>,
    max_retries: Option<u8>,
}

/// The jobs of a payload. Their payloads are replaced in it by what their types make of them.
fn members(types: &[JobType], payload: &mut Value) -> Result<Vec<Job>, PayloadError> {
    let members = read::<Payload>(payload)?.jobs;
    check_list("jobs", &members, MOST_JOBS)?;
    let mut seen = HashSet::new();
    let mut jobs = Vec::with_capacity(members.len());
    for (i, mut member) in members.into_iter().enumerate() {
        let path = format!("jobs[{i}]");
        let bad = |field, why: String| PayloadError::new(field, why).within(&path);
        let one = JobType::find(types, &member.job_type).map_err(|error| error.within(&path))?;
        let job = one.accepted(&mut member.payload);
        let mut job = job.map_err(|error| error.within(&format!("{path}.payload")))?;
        payload["jobs"][i]["payload"] = member.payload;
        let id = member.id.map_or_else(|| i.to_string(), |id| id.0);
        if !seen.insert(id.clone()) {
            return Err(bad("id", format!("{id:?} occurs twice")));
        }
        if let Some(priority) = member.priority {
            if !PRIORITIES.contains(&priority) {
                return Err(bad("priority", "write a number from 1 to 10".to_owned()));
            }
            job = job.priority(priority);
        }
        if let Some(retries) = member.max_retries {
            job = job.max_retries(retries);
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
        let mut payload: Value = job.parse()?;
        Ok(members(types, &mut payload)?)
    };
    let Some(results) = children.gather("jobs", jobs)? else {
        return Ok(None);
    };
    let completed = results.iter().filter(|result| result.is_success()).count();
    let line = |result: &JobResult| RawValue::from_string(result.line()).ok();
    let lines: Vec<Box<RawValue>> = results.iter().filter_map(line).collect();
    Ok(Some(json!({
        "total": results.len(),
        "completed": completed,
        "failed": results.len() - completed,
        "results": lines,
    })))
}
