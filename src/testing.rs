//! For tests of programs that use this crate, with waits for events instead of sleeps.
//!
//! | to | use |
//! |---|---|
//! | answer from a script, count calls, delay calls | [`ScriptedClient`]; its embeddings: [`scripted_vector`] |
//! | control the time | [`ManualClock`], on [`Route::clock`](crate::Route::clock) and `JobQueue::clock` |
//!
//! A provider on the loopback interface, with HTTP, limits, trouble and batches, is the crate
//! `batchwright-simulate`.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::base::clock::Wake;
use crate::base::{Clock, Context, Error, Time, Timestamp};
use crate::llm::client::LlmClient;
use crate::llm::pack::PackLimits;
use crate::llm::request::Request;
use crate::llm::response::Response;

/// A client that answers from a script and remembers what it was asked.
///
/// ```
/// use batchwright::testing::ScriptedClient;
/// use batchwright::{Context, Error, ErrorKind, Request, execute_bulk_sync};
///
/// let client = ScriptedClient::new();
/// client.fail("bad", Error::new(ErrorKind::Invalid, "no"));
/// let requests = [Request::new("good"), Request::new("bad")];
/// let outcomes = execute_bulk_sync(&Context::new(), &client, &requests, 2)?;
/// assert_eq!(outcomes[0].result.as_ref().unwrap().text, "echo: good");
/// assert_eq!(outcomes[1].result.as_ref().unwrap_err().kind(), ErrorKind::Invalid);
/// # Ok::<(), batchwright::BulkError>(())
/// ```
///
/// Where calls come in any order, a closure chooses the answers instead:
///
/// ```
/// use batchwright::testing::ScriptedClient;
/// use batchwright::{Context, Error, ErrorKind, Request, Response, execute_bulk_sync};
///
/// let client = ScriptedClient::answering(|request, call| match (request.id.as_deref(), call) {
///     (Some("flaky"), 1) => Err(Error::new(ErrorKind::Transient, "try again")),
///     _ => Ok(Response::new("scripted", "fine")),
/// });
/// let requests = ["flaky", "steady"].map(|id| Request::new("Hello").with_id(id));
/// execute_bulk_sync(&Context::new(), &client, &requests, 2)?;
/// assert_eq!((client.calls_of("flaky"), client.calls_of("steady")), (2, 1));
/// # Ok::<(), batchwright::BulkError>(())
/// ```
#[derive(Default)]
pub struct ScriptedClient {
    state: Mutex<Script>,
    changed: Condvar,
    choose: Option<Box<Choose>>,
}

type Choose = dyn Fn(&Request, usize) -> Result<Response, Error> + Send + Sync;

#[derive(Default)]
struct Script {
    replies: HashMap<String, VecDeque<Result<Response, Error>>>,
    calls: Vec<String>,
    calls_of: HashMap<String, usize>,
    in_flight: usize,
    max_in_flight: usize,
    held: bool,
    refused: HashMap<String, Error>,
}

impl ScriptedClient {
    /// A client that echoes every prompt, until told otherwise.
    pub fn new() -> Self {
        Self::default()
    }

    /// A client whose answers the closure makes, from the request and the number of its call: 1 for
    /// the first that is made for it. A request is recognised by its id, one without by its prompt.
    /// What is scripted with [`reply`](Self::reply), [`fail`](Self::fail) and
    /// [`refuse`](Self::refuse) comes first. The closure may block and may ask the client.
    pub fn answering(
        choose: impl Fn(&Request, usize) -> Result<Response, Error> + Send + Sync + 'static,
    ) -> Self {
        Self {
            choose: Some(Box::new(choose)),
            ..Self::default()
        }
    }

    /// The next answer to this prompt. Scripted replies are used once each, in order.
    pub fn reply(&self, prompt: &str, text: &str) {
        self.push(prompt, Ok(Response::new("scripted", text)));
    }

    /// The next answer to this prompt is a failure.
    pub fn fail(&self, prompt: &str, error: Error) {
        self.push(prompt, Err(error));
    }

    /// Every call for this prompt is a failure, and every call for texts to embed that holds it.
    pub fn refuse(&self, prompt: &str, error: Error) {
        let refused = (prompt.to_owned(), error);
        self.state.lock().refused.extend([refused]);
    }

    fn push(&self, prompt: &str, result: Result<Response, Error>) {
        let mut state = self.state.lock();
        let queue = state.replies.entry(prompt.to_owned()).or_default();
        queue.push_back(result);
    }

    /// Calls block from now on until [`release`](Self::release) or their context ends them.
    pub fn hold(&self) {
        self.state.lock().held = true;
    }

    /// Lets held calls go on.
    pub fn release(&self) {
        self.state.lock().held = false;
        self.changed.notify_all();
    }

    /// The prompts asked so far, in the order in which their calls began.
    pub fn calls(&self) -> Vec<String> {
        self.state.lock().calls.clone()
    }

    /// How many calls were made for the request of this id, or for requests without an id that have this prompt. (A
    /// queue's worker makes them under ids of its own.)
    pub fn calls_of(&self, request: &str) -> usize {
        let state = self.state.lock();
        state.calls_of.get(request).copied().unwrap_or(0)
    }

    /// The most calls that were in flight at once: those that [`hold`](Self::hold) or the closure of
    /// [`answering`](Self::answering) keeps waiting are among them.
    pub fn max_in_flight(&self) -> usize {
        self.state.lock().max_in_flight
    }

    /// Waits until `n` calls have begun; false after ten seconds.
    pub fn wait_for_calls(&self, n: usize) -> bool {
        self.wait(|script| script.calls.len() >= n)
    }

    /// Waits until `n` calls are in flight; false after ten seconds.
    pub fn wait_for_in_flight(&self, n: usize) -> bool {
        self.wait(|script| script.in_flight >= n)
    }

    fn wait(&self, reached: impl Fn(&Script) -> bool) -> bool {
        let until = Instant::now() + Duration::from_secs(10);
        let mut state = self.state.lock();
        while !reached(&state) {
            if self.changed.wait_until(&mut state, until).timed_out() {
                return reached(&state);
            }
        }
        true
    }
}

/// The vector that a [`ScriptedClient`] makes of a text: of its length and its bytes' sum.
pub fn scripted_vector(text: &str) -> Vec<f32> {
    let sum: u32 = text.bytes().map(u32::from).sum();
    vec![text.len() as f32, sum as f32 / 7.0]
}

fn prompt(request: &Request) -> String {
    let last = request.messages.last();
    last.map(|message| message.text()).unwrap_or_default()
}

impl ScriptedClient {
    /// One call for these requests; the first failure among them is the call's.
    fn call(
        &self,
        requests: &[&Request],
        prompts: &[String],
        ctx: &Context,
    ) -> Result<Vec<Option<Response>>, Error> {
        let mut state = self.state.lock();
        state.calls.extend_from_slice(prompts);
        let mut numbers = Vec::with_capacity(requests.len());
        for (request, prompt) in requests.iter().zip(prompts) {
            let name = request.id.as_ref().unwrap_or(prompt);
            let calls = state.calls_of.entry(name.clone()).or_default();
            *calls += 1;
            numbers.push(*calls);
        }
        state.in_flight += 1;
        state.max_in_flight = state.max_in_flight.max(state.in_flight);
        self.changed.notify_all();
        // Until this call returns, or panics: one that waits in the closure is in flight, too.
        let _ends = Ends(self);
        while state.held && !ctx.is_cancelled() {
            // The context has no way to reach this lock, so it is looked at now and then.
            self.changed.wait_for(&mut state, Duration::from_millis(5));
        }
        drop(state);
        ctx.check()?;
        let mut state = self.state.lock();
        if let Some(error) = prompts.iter().find_map(|prompt| state.refused.get(prompt)) {
            return Err(error.clone());
        }
        let scripted = prompts.iter().map(|prompt| {
            let queue = state.replies.get_mut(prompt);
            queue.and_then(VecDeque::pop_front).transpose()
        });
        let mut answers = scripted.collect::<Result<Vec<Option<Response>>, Error>>()?;
        drop(state);
        if let Some(choose) = &self.choose {
            for ((answer, request), number) in answers.iter_mut().zip(requests).zip(numbers) {
                if answer.is_none() {
                    *answer = Some(choose(request, number)?);
                }
            }
        }
        Ok(answers)
    }
}

/// Counts a call as ended when it is dropped.
struct Ends<'a>(&'a ScriptedClient);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.state.lock().in_flight -= 1;
    }
}

impl LlmClient for ScriptedClient {
    fn complete(&self, request: &Request, ctx: &Context) -> Result<Response, Error> {
        let prompt = prompt(request);
        let echo = Response::new("scripted", format!("echo: {prompt}"));
        let mut answer = self.call(&[request], &[prompt], ctx)?;
        Ok(answer.remove(0).unwrap_or(echo))
    }

    fn embed(
        &self,
        requests: &[&Request],
        ctx: &Context,
    ) -> Result<Vec<Result<Response, Error>>, Error> {
        let texts: Vec<String> = requests.iter().map(|request| prompt(request)).collect();
        let answers = self.call(requests, &texts, ctx)?.into_iter().zip(&texts);
        let vector = |text: &str| Response::vector("scripted", scripted_vector(text));
        Ok(answers
            .map(|(answer, text)| Ok(answer.unwrap_or_else(|| vector(text))))
            .collect())
    }

    fn pack_limits(&self) -> PackLimits {
        PackLimits {
            inputs: 16,
            tokens: u32::MAX,
        }
    }

    fn provider(&self) -> &str {
        "scripted"
    }
}

/// A clock that stands still until it is moved. Runs on a route with it wait for
/// [`advance`](Self::advance) instead of for time.
#[derive(Default)]
pub struct ManualClock {
    now: AtomicU64,
    wakes: Mutex<Vec<Wake>>,
}

impl ManualClock {
    /// A clock at the origin.
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves time on and wakes everybody who waits for it: runs, workers of a queue and their batches.
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.now.fetch_add(nanos, Ordering::SeqCst);
        self.wakes.lock().iter().for_each(|wake| wake());
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Time {
        Time::from_nanos(self.now.load(Ordering::SeqCst))
    }

    /// Time passed since the origin, as if that had been in 2020.
    fn wall(&self) -> Timestamp {
        Timestamp(1_577_836_800_000).after(self.now().since(Time::ZERO))
    }

    fn real_wait(&self, _until: Time) -> Option<Duration> {
        None
    }

    fn on_jump(&self, wake: Wake) {
        self.wakes.lock().push(wake);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};

    use super::*;
    use crate::bulk::run::execute_bulk_sync;

    #[test]
    fn calls_that_wait_in_the_closure_are_in_flight() {
        let both = Arc::new(Barrier::new(2));
        let client = ScriptedClient::answering(move |_, _| {
            both.wait();
            Ok(Response::new("scripted", "fine"))
        });
        let requests = ["a", "b"].map(Request::new);
        execute_bulk_sync(&Context::new(), &client, &requests, 2).unwrap();
        assert_eq!(client.max_in_flight(), 2);
        assert_eq!(client.state.lock().in_flight, 0);
    }
}
