//! The batch strategy for a program that waits for the end: it uses a queue that survives the program.

use crate::base::{Error, ErrorKind, ProcessId, Usd};
use crate::bulk::run::BulkError;
use crate::engine::dispatch::StopReason;
use crate::llm::outcome::Outcome;
use crate::llm::request::Request;
use crate::queue::host::JobQueue;
use crate::queue::info::{ProcessBudget, ProcessInfo};
use crate::queue::job::Job;
use crate::queue::store::DeliveredResult;

use super::LlmManager;

/// Items that are read at a time.
const CHUNK: usize = 1000;

impl LlmManager {
    /// At the deadline it returns as after a cancel: calls in flight end, because they are billed.
    pub(super) fn run_batch(
        &self,
        process: ProcessId,
        requests: &[Request],
    ) -> Result<Vec<Outcome>, BulkError> {
        let queue = self.queue()?;
        let (limited, before) = self.limited(&queue, process)?;
        enlist(&limited, process, requests)?;
        let report = self
            .run_worker(&queue)
            .and_then(|worker| worker.processes([process]).until_empty(true).run());
        let (stop, began) = match report {
            Ok(report) => (report.stop, true),
            Err(error) => (Some(StopReason::Fatal(error)), false),
        };
        let why_not = match &stop {
            Some(StopReason::DeadlineExceeded) => Error::new(
                ErrorKind::DeadlineExceeded,
                "it had no result at the deadline; its job stays in the queue, and the same call attaches to it",
            ),
            _ => Error::cancelled(),
        };
        // Even if the results cannot be read.
        let budget = self.budget.as_ref();
        let noted = budget.map(|budget| queue.note_spent(process, budget, before));
        let (outcomes, missing) = outcomes(&queue, process, requests, &why_not)?;
        let unnoted = noted.and_then(Result::err).map(StopReason::Fatal);
        let stop = stop.filter(|_| missing > 0 || !began).or(unnoted);
        let stop = stop.or_else(|| (missing > 0).then(|| StopReason::Fatal(unfinished(missing))));
        match stop {
            Some(reason) => Err(BulkError { reason, outcomes }),
            None => {
                // The caller has all results.
                if let Err(error) = queue.delete(process) {
                    log::warn!("the results of {process} stay in the queue: {error}");
                }
                Ok(outcomes)
            }
        }
    }

    /// The queue on which the process gets the budget of this manager, and what this process has used before. A process
    /// of an earlier call gets its limit, or what it has used and what other calls have left, if that is less.
    fn limited(
        &self,
        queue: &JobQueue,
        process: ProcessId,
    ) -> Result<(JobQueue, Option<Usd>), Error> {
        let Some(budget) = &self.budget else {
            return Ok((queue.clone(), None));
        };
        let (limit, spent) = (budget.limit(), budget.used());
        let mut before = spent;
        if queue.process(process)?.is_some() {
            queue.set_budget(process, limit)?;
            let known = queue.process(process)?.and_then(|known| known.budget);
            before = known.map_or(spent, |known| known.used);
            let most = before + limit.saturating_sub(spent);
            queue.set_budget(process, most.min(limit))?;
        }
        let info = ProcessInfo::new().budget(ProcessBudget::new(limit, spent));
        Ok((queue.described(info), Some(before)))
    }

    fn queue(&self) -> Result<JobQueue, Error> {
        let folder = self.plan.options.data_dir.as_ref().ok_or_else(|| {
            let why =
                "the batch strategy keeps its work in a folder: set `ProviderOptions::data_dir`";
            Error::new(ErrorKind::Invalid, why)
        })?;
        JobQueue::open(&folder.join("llm_jobs.db"))
    }
}

/// Adds the jobs that the process does not have yet, because an earlier call with these requests was interrupted.
///
/// # Errors
/// If the process was created by other requests, or has ended within the last day.
fn enlist(queue: &JobQueue, process: ProcessId, requests: &[Request]) -> Result<(), Error> {
    let jobs = || requests.iter().map(Job::from);
    let names = jobs().map(|job| format!("{:?} {:?}\n", job.item_id, job.request_hash));
    let all = ProcessId::named(names.collect::<String>().as_bytes());
    let jobs = jobs().map(Ok::<_, Error>);
    queue.try_enqueue_once(process, &all.to_string(), jobs)?;
    Ok(())
}

/// The outcomes in the order of the requests, and how many are still missing, which have this error.
fn outcomes(
    queue: &JobQueue,
    process: ProcessId,
    requests: &[Request],
    why_not: &Error,
) -> Result<(Vec<Outcome>, usize), Error> {
    let mut slots: Vec<Option<Outcome>> = requests.iter().map(|_| None).collect();
    let mut after = None;
    loop {
        let chunk = queue.peek_after(process, after, CHUNK)?;
        let Some(last) = chunk.last() else {
            break;
        };
        after = Some(last.result.job_id);
        for DeliveredResult { receipt, result } in chunk {
            let at = receipt.number() as usize;
            let read = serde_json::from_str::<Outcome>(&result.line());
            let mut outcome = read.map_err(|error| {
                let why = format!(
                    "the result of job {} cannot be read: {error}",
                    result.job_id
                );
                Error::new(ErrorKind::Malformed, why)
            })?;
            // A job without a name uses its id as its name.
            outcome.id.clone_from(&requests[at].id);
            slots[at] = Some(outcome);
        }
    }
    let missing = slots.iter().filter(|slot| slot.is_none()).count();
    let outcomes = slots.into_iter().zip(requests).enumerate();
    let outcomes = outcomes.map(|(index, (slot, request))| {
        let unfinished = || Outcome {
            model: request.model.clone(),
            ..Outcome::new(request.id.clone(), Err(why_not.clone()))
        };
        slot.unwrap_or_else(unfinished).of(index, request)
    });
    Ok((outcomes.collect(), missing))
}

fn unfinished(missing: usize) -> Error {
    let why = format!(
        "{missing} requests have no result yet: a batch is on hold, its results are missing, or another worker has them; to see what to do: batchwright status"
    );
    Error::new(ErrorKind::Transient, why)
}

#[cfg(test)]
mod tests {
    use crate::assembly::{ProviderOptions, ProviderPlan};
    use crate::base::secret::Secret;
    use crate::config::settings::Settings;
    use crate::engine::budget::Budget;

    use super::*;

    /// A budget of 10 picodollars, a process that has used 4 of them, and other calls that have spent 5.
    #[test]
    fn a_call_that_is_repeated_leaves_what_other_calls_have_spent() {
        let picos = Usd::from_picos;
        let folder = tempfile::tempdir().unwrap();
        let budget = Budget::usd(picos(10));
        budget.replace(picos(9), None).unwrap();
        let options = ProviderOptions::new().data_dir(folder.path());
        let options = options.api_key("openai", Secret::new("k"));
        let settings = Settings::new().flag("llm.provider", "test", Some("openai".to_owned()));
        let plan = ProviderPlan::new(settings.unwrap(), options).unwrap();
        let manager = LlmManager::of(plan).budget(&budget);
        let (queue, process) = (manager.queue().unwrap(), ProcessId::new());
        let info = ProcessInfo::new().budget(ProcessBudget::new(picos(10), picos(4)));
        let job = Job::from(&Request::new("a"));
        queue.described(info).enqueue_iter(process, [job]).unwrap();
        let (_, before) = manager.limited(&queue, process).unwrap();
        let state = queue.process(process).unwrap().unwrap().budget.unwrap();
        assert_eq!((state.limit, state.used), (picos(5), picos(4)));
        queue.note_spent(process, &budget, before).unwrap();
        assert_eq!(budget.spent(), picos(9));
        // The call has used one more.
        budget.replace(picos(5), Some(picos(4))).unwrap();
        assert_eq!(budget.spent(), picos(10));

        // In another program, the same process counts with what it has used.
        let budget = Budget::usd(picos(10));
        let manager = manager.budget(&budget);
        let (_, before) = manager.limited(&queue, process).unwrap();
        let state = queue.process(process).unwrap().unwrap().budget.unwrap();
        assert_eq!(state.limit, picos(10));
        queue.note_spent(process, &budget, before).unwrap();
        assert_eq!(budget.spent(), picos(4));
    }
}
