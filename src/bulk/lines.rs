//! Outcomes as result lines: rendered by the thread that made the call, appended in groups.

use std::borrow::Cow;
use std::sync::OnceLock;
use std::time::Duration;

use crossbeam_channel::Sender;

use crate::base::cancel::Context;
use crate::base::clock::Time;
use crate::base::error::{Error, ErrorKind};
use crate::engine::route::Tries;
use crate::engine::run::Reply;
use crate::engine::work::{Settled, Ticket};
use crate::llm::request::Request;
use crate::llm::response::{Earlier, Outcome, Response};
use crate::llm::route::{Route, latency};
use crate::observe::tally::{Measure, Tally};

use super::job::{Sink, count};
use super::once::{call_step, measure};
use super::results::ResultsFile;

/// What a result line says of its item besides the outcome.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub id: String,
    pub request_hash: String,
    pub model: Option<String>,
}

/// A task that knows what its line is to be called.
pub(crate) trait Identified {
    /// `None` as long as the task was never read.
    fn named(&self) -> Option<&Named>;
    /// True when an earlier run wrote a line for the item.
    fn supersedes(&self) -> bool;
}

/// A task of a file: its place, and its name once a worker has read it.
pub(crate) struct FileTask {
    pub index: u32,
    pub supersedes: bool,
    pub named: OnceLock<Named>,
}

impl Identified for FileTask {
    fn named(&self) -> Option<&Named> {
        self.named.get()
    }
    fn supersedes(&self) -> bool {
        self.supersedes
    }
}

/// A finished line.
pub(crate) struct Line {
    pub bytes: Vec<u8>,
    measure: Measure,
}

/// Makes the call and renders its line, so that nothing of it is left to do under the lock.
pub(crate) fn call_for_line(
    route: &Route<'_>,
    request: &Request,
    named: &Named,
    tries: &Tries,
    ctx: &Context,
) -> Reply<Line> {
    let reply = call_step(route, request, tries, ctx);
    let result = reply.result.and_then(|answered| {
        let mut tries = *tries;
        tries.calls = tries.calls.saturating_add(1);
        let measure = measure(&answered);
        let spent = latency(tries.first, route.clock_ref().now());
        let earlier = route.earlier(tries.trail, request);
        let bytes = render(named, None, earlier, &tries, spent, Ok(answered.response))?;
        Ok(Line { bytes, measure })
    });
    Reply {
        result,
        used: reply.used,
        hints: reply.hints,
        fatal: false,
    }
}

fn render(
    named: &Named,
    provider: Option<String>,
    earlier: Vec<Earlier>,
    tries: &Tries,
    latency: Duration,
    result: Result<Response, Error>,
) -> Result<Vec<u8>, Error> {
    let outcome = Outcome {
        id: Some(named.id.clone()),
        result,
        attempts: u32::from(tries.calls),
        latency,
        provider,
        model: named.model.clone(),
        earlier,
        request_hash: Some(named.request_hash.clone()),
    };
    let mut bytes = serde_json::to_vec(&outcome).map_err(|e| {
        Error::new(
            ErrorKind::Malformed,
            format!("cannot write the result: {e}"),
        )
    })?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Where lines go.
pub(crate) enum Target {
    /// Appended under the engine's lock: settled when the write returns.
    File(ResultsFile),
    /// Handed to the caller's thread, which writes them: a pipe may block.
    Caller(Sender<Vec<u8>>),
}

/// The sink of a run that writes lines.
pub(crate) struct LineSink<'r> {
    pub route: &'r Route<'r>,
    pub target: Target,
    /// Lines written for items that had one already.
    pub superseded: u64,
    pub buffer: Vec<u8>,
}

impl LineSink<'_> {
    /// The line of an end; none for what was not sent.
    fn line<'e, T: Identified>(&self, end: &'e Settled<T, Line>, now: Time) -> Cow<'e, [u8]> {
        match end {
            Settled::Final(_, Ok(line)) => Cow::Borrowed(&line.bytes),
            Settled::Final(ticket, Err(error)) => {
                Cow::Owned(self.failure(ticket, error, now).unwrap_or_default())
            }
            Settled::Unsent(..) | Settled::Later(..) => Cow::Borrowed(&[]),
        }
    }

    fn failure<T: Identified>(
        &self,
        ticket: &Ticket<T>,
        error: &Error,
        now: Time,
    ) -> Option<Vec<u8>> {
        let mut named = ticket.task.named()?.clone();
        let request = Request {
            model: named.model.take(),
            ..Request::default()
        };
        let (provider, model) = self.route.asked(ticket.tries.step, &request);
        named.model = model;
        let earlier = self.route.earlier(ticket.tries.trail, &request);
        let spent = latency(ticket.tries.first, now);
        let failed = Err(error.clone());
        let tries = &ticket.tries;
        render(&named, Some(provider), earlier, tries, spent, failed).ok()
    }

    /// The lines of outcomes that could not be written.
    pub(crate) fn lines_of<T: Identified>(
        &self,
        lost: &[Settled<T, Line>],
        now: Time,
    ) -> Vec<Vec<u8>> {
        let lines = lost.iter().map(|end| self.line(end, now).into_owned());
        lines.filter(|line| !line.is_empty()).collect()
    }

    fn note<T: Identified>(&mut self, end: &Settled<T, Line>, tally: &mut Tally) {
        count(tally, end, |line| line.measure);
        if let Settled::Final(ticket, _) = end {
            self.superseded += u64::from(ticket.task.supersedes());
        }
    }
}

impl<T: Identified> Sink<T> for LineSink<'_> {
    type Done = Line;

    fn put(
        &mut self,
        ends: &mut Vec<Settled<T, Line>>,
        tally: &mut Tally,
        now: Time,
    ) -> Result<(), Error> {
        if let Target::Caller(lines) = &self.target {
            let lines = lines.clone();
            for end in ends.drain(..) {
                self.note(&end, tally);
                // Every outcome holds a permit, and the channel has room for all of them.
                let _ = lines.try_send(self.line(&end, now).into_owned());
            }
            return Ok(());
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        for end in ends.iter() {
            buffer.extend_from_slice(&self.line(end, now));
        }
        if let Target::File(file) = &mut self.target {
            file.append(&buffer)?;
        }
        self.buffer = buffer;
        for end in ends.drain(..) {
            self.note(&end, tally);
        }
        Ok(())
    }

    fn defers_release(&self) -> bool {
        matches!(self.target, Target::Caller(_))
    }
}
