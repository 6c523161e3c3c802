//! Prompts about files: the pool turns files into requests, and a bulk run answers them.

use std::ops::ControlFlow;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Sender, bounded};

use crate::base::Error;
use crate::base::thread::spawn_scoped;
use crate::bulk::run::{Bulk, BulkError};
use crate::llm::outcome::Outcome;
use crate::llm::request::Request;
use crate::llm::response::Response;

use super::processor::BatchProcessor;
use super::result::{ProcessResult, ProcessingEnd};
use super::stats::StatsCollector;
use super::task::{ProcessTask, SourceFile};

impl BatchProcessor {
    /// Sends one request per file to a model: `make` turns a file into a request, and `bulk` has the provider and the
    /// settings. `sink` receives each result on this thread as it arrives; returning `Break` ends the run. A file that
    /// cannot be read, or for which `make` fails, counts as a failure and costs nothing.
    ///
    /// [Retries](super::ProcessingConfig::retry) apply to reading only, and the checkpoint is not used: to resume from
    /// results, use a [`FileRun`](crate::FileRun).
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// use batchwright::{Bulk, Extract, Request, processing::BatchProcessor};
    /// # let place = tempfile::tempdir().unwrap();
    /// # let path = place.path().join("a.py");
    /// # std::fs::write(&path, "def f(): pass").unwrap();
    /// // `Extract` answers without a model; a route or an `LlmConfig`'s client asks one.
    /// let end = BatchProcessor::default().process_prompts(
    ///     [path],
    ///     Bulk::new(Extract).concurrency(8),
    ///     |file| Ok(Request::new(format!("Explain:\n{}", file.text()?))),
    ///     |file| {
    ///         println!("{}: {}", file.source_id, file.result.unwrap().text);
    ///         ControlFlow::Continue(())
    ///     },
    /// )?;
    /// assert_eq!(end.stats.completed, 1);
    /// # Ok::<(), batchwright::Error>(())
    /// ```
    ///
    /// # Errors
    /// If no thread can be started. The reason of an early end is in [`ProcessingEnd::stop`].
    pub fn process_prompts<T: Into<ProcessTask>>(
        &self,
        files: impl IntoIterator<Item = T, IntoIter: Send>,
        bulk: Bulk<'_>,
        make: impl Fn(&SourceFile<'_>) -> Result<Request, Error> + Sync,
        mut sink: impl FnMut(ProcessResult<Response>) -> ControlFlow<()>,
    ) -> Result<ProcessingEnd, Error> {
        let ctx = self.executor.options.ctx.child();
        let executor = self.executor.clone().context(&ctx);
        let tasks = self.tasks(files.into_iter());
        let (ready, made) = bounded(1);
        let (answers, results) = bounded(1);
        let failures: Sender<ProcessResult<Response>> = answers.clone();
        let mut stats = StatsCollector::new();
        thread::scope(|scope| {
            let make = &make;
            let reading = spawn_scoped(scope, "batchwright-files", move || {
                executor.execute(tasks, make, |result| pass_on(&ready, result))
            })?;
            let answering = spawn_scoped(scope, "batchwright-bulk", move || {
                let requests = made
                    .into_iter()
                    .map_while(|mut file: ProcessResult<Request>| {
                        let request = std::mem::replace(&mut file.result, Err(Error::cancelled()));
                        match request {
                            Ok(request) => Some(Some(about(file.with(Ok(())), request))),
                            // If this fails, the receiver of the results is gone.
                            Err(error) => failures.send(file.with(Err(error))).ok().map(|()| None),
                        }
                    });
                let ended = bulk.for_each(requests.flatten(), |outcome| match answer_of(outcome) {
                    Some(result) => pass_on(&answers, result),
                    None => ControlFlow::Continue(()),
                });
                ended.err().map(|BulkError { reason, outcomes }| {
                    for result in outcomes.into_iter().filter_map(answer_of) {
                        let _ = answers.send(result);
                    }
                    reason
                })
            })?;
            for result in results {
                if result.attempts > 0 {
                    stats.record(result.size, result.took, result.result.is_ok());
                }
                if sink(result).is_break() {
                    ctx.abort();
                    break;
                }
            }
            let read = reading.join();
            let stop = answering.join();
            let read = read.unwrap_or_else(|panic| resume_unwind(panic));
            let stop = stop.unwrap_or_else(|panic| resume_unwind(panic));
            Ok(ProcessingEnd {
                stats: stats.stats(),
                stop: stop.or(read.stop),
            })
        })
    }
}

/// The request for a file; its outcome carries the file.
fn about(file: ProcessResult<()>, mut request: Request) -> Request {
    request.id.get_or_insert_with(|| file.source_id.clone());
    request.with_user_data(file)
}

fn answer_of(mut outcome: Outcome) -> Option<ProcessResult<Response>> {
    let file = std::mem::take(&mut outcome.user_data).shared::<ProcessResult<()>>()?;
    let file = Arc::try_unwrap(file).unwrap_or_else(|shared| (*shared).clone());
    let mut answer = file.with(outcome.result);
    answer.took += outcome.latency;
    answer.attempts = outcome.attempts;
    Some(answer)
}

fn pass_on<T>(to: &Sender<T>, result: T) -> ControlFlow<()> {
    match to.send(result) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}
