//! Bulk runs for programs that have their prompts in memory or generate them.

use std::borrow::Borrow;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;
use std::{fmt, thread};

use crossbeam_channel::{Receiver, bounded};

use crate::base::brief::Many;
use crate::base::thread::spawn_scoped;
use crate::base::{Context, Error, ErrorKind};
use crate::engine::dispatch::{ErrorPolicy, Event, StopReason};
use crate::engine::feeder::{Feeder, Tail};
use crate::engine::route::Tries;
use crate::engine::run::{Outlet, Waker, read_ahead};
use crate::engine::work::Ticket;
use crate::llm::client::LlmClient;
use crate::llm::outcome::Outcome;
use crate::llm::pack::Pack;
use crate::llm::params::RequestTask;
use crate::llm::prompt_cache::PromptPrefix;
use crate::llm::request::Request;
use crate::llm::route::Route;
use crate::observe::drive::{DriveEnd, RunOptions, drive};
use crate::observe::progress::ProgressNotifier;
use crate::observe::tally::{Summary, Tally};

use super::list::{ListBacklog, Source, feed};
use super::work::{
    Answered, Batch, Item, Job, Outcomes as Put, Sink, call_step, dispatcher, outcome,
};

mod outcomes;

pub use outcomes::Outcomes;

/// Name of the thread that reads the items.
const SOURCE_THREAD: &str = "batchwright-source";

/// A run that ended early, with all its outcomes. Its `Debug` output, which `main` prints after a `?`, shows only the
/// number of outcomes.
pub struct BulkError {
    /// Why it ended.
    pub reason: StopReason,
    /// For [`execute_bulk_sync`], one outcome per request, in order; requests that were not started are
    /// [`ErrorKind::Cancelled`]. For streams, the outcomes that the sink did not receive.
    pub outcomes: Vec<Outcome>,
}

impl fmt::Debug for BulkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answers = self.outcomes.iter().filter(|o| o.is_success()).count();
        f.debug_struct("BulkError")
            .field("reason", &self.reason)
            .field("outcomes", &Many(self.outcomes.len()))
            .field("answers", &Many(answers))
            .finish()
    }
}

impl fmt::Display for BulkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answers = self.outcomes.iter().filter(|o| o.is_success()).count();
        write!(
            f,
            "the run ended early: {} ({answers} answers are kept in the error)",
            self.reason
        )
    }
}

impl std::error::Error for BulkError {}

impl From<Error> for BulkError {
    fn from(error: Error) -> Self {
        Self {
            reason: StopReason::Fatal(error),
            outcomes: Vec::new(),
        }
    }
}

/// Runs all requests on `concurrency` blocking threads and returns one outcome per request, in their order. A failure
/// affects only its item: it is an outcome like any other.
///
/// The outcomes of the whole call are in memory. For more than about 1,000 requests per call, or to save each result
/// when it arrives, use [`Bulk`].
///
/// ```
/// use batchwright::{Context, Extract, Request, execute_bulk_sync};
/// let requests: Vec<Request> = (0..3).map(|i| Request::new(format!("text {i}"))).collect();
/// let outcomes = execute_bulk_sync(&Context::new(), &Extract, &requests, 2)?;
/// assert!(outcomes.iter().all(|outcome| outcome.is_success()));
/// # Ok::<(), batchwright::BulkError>(())
/// ```
///
/// # Errors
/// When the context is cancelled or its deadline passes, or when `concurrency` is 0. [`BulkError::outcomes`] contains
/// the finished outcomes.
pub fn execute_bulk_sync<C: LlmClient + ?Sized>(
    ctx: &Context,
    client: &C,
    requests: &[Request],
    concurrency: usize,
) -> Result<Vec<Outcome>, BulkError> {
    Bulk::new(client)
        .concurrency(concurrency)
        .context(ctx)
        .collect(requests)
}

/// A bulk run: its route and its options.
///
/// Money and time: the [`Route`] has the [prices](Route::prices), also for your own client, and the [budget](Route::budget).
/// [`deadline`](Self::deadline) is of the run. An
/// [`Estimate`](crate::Estimate) is computed before it, from [`Request::estimated_tokens`].
pub struct Bulk<'a> {
    route: Route<'a>,
    options: RunOptions<'a>,
    /// Set by [`Outcomes::finish`]: no further call starts.
    stopping: Arc<AtomicBool>,
}

impl<'a> Bulk<'a> {
    /// A run through a client or a [`Route`].
    pub fn new(route: impl Into<Route<'a>>) -> Self {
        let route = route.into();
        Self {
            options: RunOptions::new(route.concurrency()),
            route,
            stopping: Arc::default(),
        }
    }

    /// Maximum number of calls in flight, each on a separate thread; fewer if the limits of the route allow fewer, see
    /// [`Limits::self_tuned`](crate::Limits::self_tuned). Default: what the first provider of the route recommends
    /// ([`LlmClient::concurrency`]): a local server's slots; 5 for other providers and for your own clients.
    pub fn concurrency(mut self, calls: usize) -> Self {
        self.options.calls = calls;
        self
    }

    /// The effect of a failed item on the others. Default: [`ErrorPolicy::ContinueOnError`].
    pub fn on_error(mut self, policy: ErrorPolicy) -> Self {
        self.options.on_error = policy;
        self
    }

    /// Cancellation, deadline and grace period. Default: a context that is never cancelled.
    pub fn context(mut self, ctx: &Context) -> Self {
        self.options.ctx = ctx.clone();
        self
    }

    /// Starts no call after this deadline, whether a first call or a retry. Calls in flight then end normally, because
    /// their answers are billed. The run ends with [`StopReason::DeadlineExceeded`], and the requests that have no answer
    /// have an error of [`ErrorKind::DeadlineExceeded`]. Its message says whether the request was ever sent; one that was
    /// not sent is not billed. Default: no deadline.
    ///
    /// ```
    /// use std::time::SystemTime;
    /// use batchwright::{Bulk, ErrorKind, Extract, Request};
    /// let now = SystemTime::now();
    /// let error = Bulk::new(Extract).deadline(now).collect(&[Request::new("text")]).unwrap_err();
    /// let not_started = error.outcomes[0].result.as_ref().unwrap_err();
    /// assert_eq!(not_started.kind(), ErrorKind::DeadlineExceeded);
    /// assert_eq!(not_started.message(), "the deadline came before it was sent");
    /// ```
    pub fn deadline(mut self, deadline: SystemTime) -> Self {
        self.options.starts_until = Some(deadline.into());
        self
    }

    /// Receives the progress. Default: no notifier.
    pub fn notifier(mut self, notifier: Arc<dyn ProgressNotifier + 'a>) -> Self {
        self.options.notifier = Some(notifier);
        self
    }

    /// Runs a slice and returns one outcome per request, in order.
    ///
    /// # Errors
    /// As [`execute_bulk_sync`], and if the error policy stops the run.
    pub fn collect(self, requests: &[Request]) -> Result<Vec<Outcome>, BulkError> {
        let misuse = self.options.misuse().map(StopReason::Misuse);
        let route = &self.route;
        let mut prefixes = requests.iter().map(PromptPrefix::of);
        if let ([first, ..], Some(shared)) = (requests, prefixes.next())
            && prefixes.all(|prefix| prefix == shared)
        {
            route.start_with_one(shared.as_ref(), first);
        }
        let source = Source::Ready(Box::new(requests.iter()));
        let backlog = ListBacklog::new(route, source);
        let mut outcomes: Vec<Option<Outcome>> = vec![None; requests.len()];
        let sink = Put {
            route,
            put: |(ended, _): Batch| {
                for outcome in ended {
                    if let Some(index) = outcome.index {
                        outcomes[index] = Some(outcome);
                    }
                }
            },
            defers: false,
        };
        let (rest, stop) = match misuse {
            Some(reason) => (Vec::new(), Some(reason)),
            None => {
                let (waker, woken) = Waker::new();
                let total = Some(requests.len() as u64);
                let mut end = self.turn::<_, _, ()>(backlog, sink, total, waker, woken, None)?;
                (end.work.backlog.rest(), end.stop)
            }
        };
        let why_not = |reason: &Option<StopReason>, calls: u16| match reason {
            Some(StopReason::Critical(e) | StopReason::Unreachable(e)) => {
                let again = if calls > 0 { " again" } else { "" };
                Error::new(e.kind(), format!("not sent{again}: {e}"))
            }
            reason => unfinished(reason.as_ref(), calls),
        };
        let now = route.clock_ref().now();
        for (item, tries) in rest {
            let error = tries.ended(why_not(&stop, tries.calls));
            let error = item.carried.at_end(error);
            let asked = (item.index, item.request);
            let outcome = outcome(route, asked, &tries, Err(error), now);
            outcomes[item.index] = Some(outcome);
        }
        let outcomes = outcomes
            .into_iter()
            .zip(requests.iter().enumerate())
            .map(|(slot, asked)| {
                let why = || Err(why_not(&stop, 0));
                slot.unwrap_or_else(|| outcome(route, asked, &Tries::default(), why(), now))
            })
            .collect();
        match stop {
            None => Ok(outcomes),
            // No provider is left that can be called: each item has that error, and the policy was to continue.
            Some(StopReason::Critical(_) | StopReason::Unreachable(_))
                if self.options.on_error == ErrorPolicy::ContinueOnError =>
            {
                Ok(outcomes)
            }
            Some(reason) => Err(BulkError { reason, outcomes }),
        }
    }

    /// Streams: pulls requests as permits become free and passes each outcome to `sink` on this thread, in order of
    /// completion. Payloads do not accumulate. A separate thread reads `items`, so a slow source delays no call;
    /// cancelling waits for a blocking `next()`.
    ///
    /// If `sink` breaks, no further item is read and no further call starts. `sink` still receives the outcome of every
    /// item that was read, whatever it returns: answers of calls in flight, and [`ErrorKind::Cancelled`] for items that
    /// were not sent. Then the summary is returned, which counts those as [pending](Summary::pending).
    ///
    /// # Errors
    /// When the run ends before the items do for another reason. The error contains the outcomes that `sink` did not
    /// receive. Items that were read and not sent before a [deadline](Self::deadline) are
    /// [`ErrorKind::DeadlineExceeded`]; their message says whether they were ever sent.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// use batchwright::{Bulk, Extract, Request};
    /// let mut seen = 0;
    /// let summary = Bulk::new(Extract).concurrency(4).for_each(
    ///     (0..100).map(|i| Request::new(format!("text {i}"))),
    ///     |outcome| {
    ///         assert!(outcome.is_success());
    ///         seen += 1;
    ///         ControlFlow::Continue(())
    ///     },
    /// )?;
    /// assert_eq!((seen, summary.completed), (100, 100));
    /// # Ok::<(), batchwright::BulkError>(())
    /// ```
    ///
    /// Embedding requests share calls:
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// use batchwright::{Bulk, Request};
    /// # use batchwright::testing::ScriptedClient;
    /// # let client = ScriptedClient::new();
    /// // `LlmConfig::new("openai").model("text-embedding-3-small").client()?` is such a client.
    /// let summary = Bulk::new(&client).for_each(
    ///     (0..100).map(|i| Request::embedding(format!("text {i}")).with_id(i.to_string())),
    ///     |outcome| {
    ///         let vector = outcome.result.unwrap().embedding.unwrap();
    ///         assert_eq!(vector.len(), 2);
    ///         ControlFlow::Continue(())
    ///     },
    /// )?;
    /// assert_eq!(summary.vectors, 100);
    /// assert!(summary.calls < 100);
    /// # Ok::<(), batchwright::BulkError>(())
    /// ```
    pub fn for_each<I>(
        self,
        items: I,
        mut sink: impl FnMut(Outcome) -> ControlFlow<()>,
    ) -> Result<Summary, BulkError>
    where
        I: IntoIterator<Item = Request>,
        I::IntoIter: Send,
    {
        let items = items.into_iter();
        let total = exact(items.size_hint());
        let (waker, woken) = Waker::new();
        let (feeder, source, tail) = self.feed(&waker);
        thread::scope(|scope| {
            spawn_scoped(scope, SOURCE_THREAD, move || feeder.feed(items.map(Ok)))
                .map_err(misused)?;
            let (summary, end) = self.stream(source, total, waker, woken, &mut sink)?;
            let Some(mut error) = end else {
                return Ok(summary);
            };
            let (first, unread) = tail.drain();
            let now = self.route.clock_ref().now();
            let unsent = unread.iter().enumerate().map(|(at, request)| {
                let why = Err(unfinished(Some(&error.reason), 0));
                let asked = (first + at, request);
                outcome(&self.route, asked, &Tries::default(), why, now)
            });
            let unsent: Vec<_> = unsent.collect();
            error.outcomes.extend(unsent);
            if !matches!(error.reason, StopReason::SinkClosed) {
                return Err(error);
            }
            for outcome in error.outcomes {
                let _ = sink(outcome);
            }
            Ok(summary)
        })
    }

    /// A feeder of requests, see [`feed`].
    fn feed(&self, waker: &Waker) -> (Feeder<Request>, Source<'static, Request>, Tail<Request>) {
        let ahead = read_ahead(self.options.calls);
        let pack = self.route.pack_limits(RequestTask::Embed);
        feed(ahead, pack, waker.clone())
    }

    /// The summary, and why the run ended early, if it did.
    fn stream(
        &self,
        source: Source<'_, Request>,
        total: Option<u64>,
        waker: Waker,
        woken: Receiver<()>,
        mut sink: impl FnMut(Outcome) -> ControlFlow<()>,
    ) -> Result<(Summary, Option<BulkError>), BulkError> {
        if let Some(why) = self.options.misuse() {
            return Err(misused(why));
        }
        let (tx, rx) = bounded(self.options.calls);
        let mut left = Vec::new();
        let mut broken = false;
        let mut take = |(outcomes, own): Batch| {
            let before = broken;
            for outcome in outcomes {
                if broken || !own {
                    left.push(outcome);
                } else {
                    broken = sink(outcome).is_break();
                }
            }
            if broken && !before {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let outlet = Outlet {
            outcomes: rx,
            sink: &mut take,
        };
        let sink = Put {
            route: &self.route,
            // Every call holds a permit, and the channel has capacity for all of them.
            put: |batch| drop(tx.try_send(batch)),
            defers: true,
        };
        let mut end = self.turn(
            ListBacklog::new(&self.route, source),
            sink,
            total,
            waker,
            woken,
            Some(outlet),
        )?;
        let (summary, now) = (end.summary(), end.now);
        let rest = end.work.backlog.rest();
        left.extend(rest.into_iter().map(|(item, tries)| {
            let asked = (item.index, &item.request);
            let why = tries.ended(unfinished(end.stop.as_ref(), tries.calls));
            let error = item.carried.at_end(why);
            outcome(&self.route, asked, &tries, Err(error), now)
        }));
        let all_done = summary.pending == 0 && left.is_empty() && total.is_some();
        // A break at the very last outcome does not end the run early.
        let stop = end
            .stop
            .filter(|stop| !(all_done && matches!(stop, StopReason::SinkClosed)));
        let early = stop.map(|reason| BulkError {
            reason,
            outcomes: left,
        });
        Ok((summary, early))
    }

    fn turn<'r, R, K, O>(
        &'r self,
        backlog: ListBacklog<'r, R>,
        sink: K,
        total: Option<u64>,
        waker: Waker,
        woken: Receiver<()>,
        outlet: Option<Outlet<'_, O>>,
    ) -> Result<DriveEnd<Job<ListBacklog<'r, R>, K>>, BulkError>
    where
        R: Borrow<Request> + Send,
        K: Sink<Item<R>, Done = Answered> + Send,
        O: Send,
    {
        let (route, options) = (&self.route, &self.options);
        let clock = route.clock_ref();
        let job = Job {
            backlog,
            sink,
            tally: Tally::new(total, clock.now()).by(route.providers()),
        };
        let runner = |ticket: &Ticket<Pack<Item<R>>>, ctx: &Context| {
            let carried = &ticket.task[0].carried;
            call_step(route, &ticket.task, &ticket.tries, carried, ctx)
        };
        let ended = drive(
            options,
            clock,
            dispatcher(job, route, options),
            &runner,
            (waker, woken),
            outlet,
            &|dispatcher, now| {
                if self.stopping.load(Ordering::SeqCst) {
                    dispatcher.handle(Event::Stop(StopReason::SinkClosed), now);
                }
            },
        );
        ended.map_err(misused)
    }
}

/// The error of a request without an outcome that was sent this number of times. At the deadline it says whether the
/// request was ever sent, because a request that was not sent is not billed.
fn unfinished(stop: Option<&StopReason>, calls: u16) -> Error {
    let why = match (stop, calls) {
        (Some(StopReason::DeadlineExceeded), 0) => "the deadline came before it was sent",
        (Some(StopReason::DeadlineExceeded), _) => "the deadline came before it was sent again",
        _ => return Error::cancelled(),
    };
    Error::new(ErrorKind::DeadlineExceeded, why)
}

fn misused(why: impl fmt::Display) -> BulkError {
    BulkError {
        reason: StopReason::Misuse(why.to_string()),
        outcomes: Vec::new(),
    }
}

fn exact((low, high): (usize, Option<usize>)) -> Option<u64> {
    (Some(low) == high).then_some(low as u64)
}
