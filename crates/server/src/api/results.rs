//! Outcomes: read and consumed.

use std::io::{self, Write};

use batchwright::queue::{DeliveredResult, JobReceipt};
use batchwright::{Error, JobId, JobQueue, ProcessId};
use serde::Deserialize;
use serde_json::json;

use super::processes;
use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::shapes::{receipt, result_line};

/// Outcomes that are read at a time.
const CHUNK: usize = 500;
/// Maximum number of lines per request.
pub(super) const MOST_LINES: usize = 1_000_000_000;

/// `GET …/{process_id}/results`: a line each, as they are read, each with its receipt, up to the first job that is open:
/// a client that continues after the last line misses no result.
pub(super) fn get(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&["after", "limit"])?;
    let process = processes::find(app, call.param("process_id")?)?.process_id;
    let mut after = call.query::<JobId>("after")?;
    let mut left = call.limit(MOST_LINES, MOST_LINES)?;
    let queue = app.queue.clone();
    let write = move |out: &mut dyn Write| {
        while left > 0 {
            let chunk = without_gap(&queue, process, after, CHUNK.min(left));
            let chunk = chunk.map_err(io::Error::other)?;
            let Some(last) = chunk.last() else { break };
            after = Some(last.result.job_id);
            left -= chunk.len();
            for delivered in &chunk {
                writeln!(out, "{}", result_line(delivered))?;
            }
            out.flush()?;
        }
        Ok(())
    };
    Ok(Response::stream("application/jsonl", write))
}

/// The next outcomes, up to the first open job.
fn without_gap(
    queue: &JobQueue,
    process: ProcessId,
    after: Option<JobId>,
    most: usize,
) -> Result<Vec<DeliveredResult>, Error> {
    // Jobs are read first, so that a job that ends or is requeued in between leaves no gap.
    let jobs = queue.items(process, after, most)?;
    let mut chunk = queue.peek_after(process, after, most)?;
    let pairs = jobs.iter().zip(&chunk);
    let whole = pairs.take_while(|(job, one)| job.job_id == one.result.job_id);
    chunk.truncate(whole.count());
    Ok(chunk)
}

/// The receipts of results that were saved.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    receipts: Vec<String>,
}

/// `POST …/{process_id}/results/ack`: deletes the results with these receipts. A job that was put back since its failure
/// was read has another receipt, and stays.
pub(super) fn ack(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&[])?;
    let process = processes::find(app, call.param("process_id")?)?;
    let queue = processes::queue_to_delete(app, &process)?;
    let saved: Saved = call.json()?;
    let invalid =
        |text: &str| Problem::invalid(format!("receipts: {text:?} is no receipt of a result"));
    let receipts = saved.receipts.iter();
    let receipts = receipts.map(|text| receipt(text).ok_or_else(|| invalid(text)));
    let receipts = receipts.collect::<Result<Vec<_>, _>>()?;
    let known = queue.peek(process.process_id, 1)?;
    // As `JobReceipt::job` says.
    let process_no = |receipt: &JobReceipt| receipt.job >> 32;
    let is_other = |receipt: &JobReceipt| {
        let mut known = known.iter();
        known.any(|known| process_no(&known.receipt) != process_no(receipt))
    };
    if receipts.iter().any(is_other) {
        let why = "receipts: some are of another process";
        return Err(Problem::conflict(why).param("receipts"));
    }
    let mut consumed = 0;
    // An open process without results has none to delete.
    for part in receipts.chunks(CHUNK).take_while(|_| !known.is_empty()) {
        consumed += queue.ack(part)?;
    }
    app.observer.touch(process.process_id);
    Ok(Response::json(200, &json!({"consumed": consumed})))
}
