//! Outcomes as result lines: rendered by the thread that made the call, appended in groups.

use std::borrow::Cow;

use crossbeam_channel::Sender;

use crate::base::cancel::Context;
use crate::base::clock::Time;
use crate::base::error::Error;
use crate::base::usage::Paid;
use crate::engine::item_time::ItemTimer;
use crate::engine::route::Tries;
use crate::engine::run::Reply;
use crate::engine::work::Settled;
use crate::llm::outcome::Outcome;
use crate::llm::outcome_builder::OutcomeBuilder;
use crate::llm::reply_details::RawJson;
use crate::llm::request::Request;
use crate::llm::route::Route;
use crate::observe::tally::{Measure, Tally};

use super::call::{call_step, measure};
use super::input::Item;
use super::replies::Replies;
use super::results::ResultsFile;
use super::work::{Sink, count};
use crate::engine::pack::Pack;

/// What a result line says of its item besides the outcome.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub id: String,
    pub request_hash: String,
    pub model: Option<String>,
    /// What is kept of its row.
    pub input: Option<RawJson>,
}

impl Named {
    pub(super) fn of(item: Item) -> Self {
        let Item {
            request,
            request_hash,
        } = item;
        Self {
            id: request.id.unwrap_or_default(),
            request_hash,
            model: request.model,
            input: request.input,
        }
    }

    /// The same with what the result line says of the item.
    fn item(&self, asked: OutcomeBuilder) -> OutcomeBuilder {
        OutcomeBuilder {
            id: Some(self.id.clone()),
            request_hash: Some(self.request_hash.clone()),
            input: self.input.clone(),
            ..asked
        }
    }
}

/// An item that is answered with another one, which asks the same.
pub(crate) struct Equal {
    pub named: Named,
    /// True when an earlier run wrote a line for it.
    pub supersedes: bool,
}

/// A task that knows what its line is to be called.
pub(crate) trait Identified {
    /// `None` as long as the task was never read.
    fn named(&self) -> Option<&Named>;
    /// True when an earlier run wrote a line for the item.
    fn supersedes(&self) -> bool;

    /// True when it makes no prompt, and so is never sent.
    fn is_bad_row(&self) -> bool {
        false
    }
    /// True when nobody shares its answer.
    fn is_alone(&self) -> bool {
        true
    }
    /// Adds the lines of those that share its answer.
    fn answered(&self, _outcome: Outcome, _lines: &mut Lines) {}
    /// Its lines, and of those that share its answer, where that is known already.
    fn known(&self) -> Option<Lines> {
        None
    }
    /// Adds the lines of those that share its failure.
    fn failed(&self, _outcome: Outcome, _lines: &mut Lines) {}
    /// How many these are, and how many of them had a line already.
    fn failed_too(&self) -> (u64, u64) {
        (0, 0)
    }
    /// Its lines are written; the answer came from that step of the route.
    fn settled(&self, _step: u8) {}
}

/// The finished lines of a pack.
#[derive(Default)]
pub(crate) struct Lines {
    pub bytes: Vec<u8>,
    pub measure: Measure,
    /// Lines of items that share an answer or a failure and had a line already.
    pub superseded: u64,
    /// Items that share a failure.
    pub failed: Option<(Error, u64)>,
    /// Failures of single texts of a pack.
    pub failures: Vec<Error>,
}

impl Lines {
    /// Adds the line of an item that has its answer from an earlier run, and returns what it says.
    pub(crate) fn add_reused(&mut self, outcome: Outcome, named: Named) -> Result<Outcome, Error> {
        let outcome = reused(outcome, named);
        outcome.write_line(&mut self.bytes)?;
        if let Ok(answer) = &outcome.result {
            self.measure.add_reused(answer);
        }
        Ok(outcome)
    }

    fn add_failed(&mut self, error: &Error) {
        let (_, items) = self.failed.get_or_insert_with(|| (error.clone(), 0));
        *items += 1;
    }

    /// Items that share a failure, and how many of them had a line already.
    pub(crate) fn failed_too(&self) -> (u64, u64) {
        let failed = self.failed.as_ref();
        failed.map_or((0, 0), |(_, items)| (*items, self.superseded))
    }

    /// Counts what they say of items that no call was made for.
    pub(crate) fn tell(&self, step: u8, tally: &mut Tally) {
        tally.answered(step, &self.measure);
        if let Some((error, items)) = &self.failed {
            tally.failed_as_equals(error, *items);
        }
    }

    /// Adds the line of an item that has its answer, or its failure, from another one.
    pub(crate) fn add_equal(&mut self, outcome: &Outcome, equal: &Equal) {
        let shared = shared_outcome(outcome, &equal.named);
        if shared.write_line(&mut self.bytes).is_ok() {
            self.superseded += u64::from(equal.supersedes);
            match &shared.result {
                Ok(answer) => self.measure.add_equal(answer),
                Err(error) => self.add_failed(error),
            }
        }
    }
}

/// What costs an item nothing, since it was paid for elsewhere.
const FREE: Paid = Paid {
    usage: None,
    cost_usd: Some(0.0),
};

/// An answer of an earlier run as that of an item.
fn reused(mut outcome: Outcome, named: Named) -> Outcome {
    outcome.id = Some(named.id);
    outcome.input = named.input;
    outcome.answered_by = None;
    outcome.reused = true;
    outcome = outcome.with_calls(0, None);
    if let Ok(answer) = &mut outcome.result {
        answer.set_paid(FREE);
    }
    outcome
}

/// What another item's outcome is for an item that asks the same: paid for there.
fn shared_outcome(outcome: &Outcome, named: &Named) -> Outcome {
    let mut shared = free(outcome);
    shared.id = Some(named.id.clone());
    shared.input.clone_from(&named.input);
    shared
}

/// An item's outcome for one that has no id yet: it names who was asked, and costs nothing.
pub(super) fn free(outcome: &Outcome) -> Outcome {
    let mut shared = outcome.clone();
    shared.answered_by = shared.answered_by.take().or(shared.id.take());
    shared = shared.with_calls(0, None);
    shared.result = match shared.result {
        Ok(mut answer) => {
            answer.set_paid(FREE);
            Ok(answer)
        }
        Err(error) => Err(error.with_paid(FREE)),
    };
    shared
}

/// Is told which step of the route gave which answer.
pub(crate) type Keep<'k> = dyn Fn(u8, &Request, &Outcome) + Sync + 'k;

/// Makes the call of a pack and renders its lines, so that nothing of it is left to do under the
/// lock.
pub(crate) fn call_for_lines<T: Identified>(
    route: &Route<'_>,
    requests: &[&Request],
    tasks: &[&T],
    (tries, timer): (&Tries, &ItemTimer),
    (replies, keep): (Option<&Replies>, &Keep<'_>),
    ctx: &Context,
) -> Reply<Lines> {
    let reply = call_step(route, requests, tries, ctx);
    let result = reply.result.and_then(|answered| {
        let (mut tries, mut timer) = (*tries, *timer);
        tries.calls = tries.calls.saturating_add(1);
        let mut lines = Lines {
            bytes: Vec::with_capacity(512),
            measure: measure(&answered),
            ..Lines::default()
        };
        let now = route.clock_ref().now();
        timer.end_call(tries.first, now);
        let time = timer.split(tries.first, now);
        let pack = requests.iter().zip(tasks);
        for (result, (request, task)) in answered.responses.into_iter().zip(pack) {
            let Some(named) = task.named() else { continue };
            let result = result.map_err(|error| match replies {
                Some(replies) => replies.put(error),
                None => error,
            });
            lines.failures.extend(result.as_ref().err().cloned());
            let asked = OutcomeBuilder::asked(route, request, &tries, time);
            let outcome = named.item(asked).build(result);
            outcome.write_line(&mut lines.bytes)?;
            let is_answer = outcome.is_success();
            if is_answer {
                keep(tries.step, request, &outcome);
            }
            match task.is_alone() {
                true => {}
                false if is_answer => task.answered(outcome, &mut lines),
                false => task.failed(outcome, &mut lines),
            }
        }
        Ok(lines)
    });
    // It is the item's last: such a reply is not asked for again.
    let result = result.map_err(|error| match replies {
        Some(replies) => replies.put(error),
        None => error,
    });
    Reply {
        result,
        used: reply.used,
        hints: reply.hints,
        fatal: false,
    }
}

/// The line of an item that was never sent.
pub(super) fn unsent_line(bytes: &mut Vec<u8>, named: &Named, error: Error) -> Result<(), Error> {
    let asked = OutcomeBuilder {
        model: named.model.clone(),
        ..OutcomeBuilder::default()
    };
    named.item(asked).build(Err(error)).write_line(bytes)
}

/// Where lines go.
pub(crate) enum Target {
    /// Appended under the engine's lock: settled when the write returns.
    File(ResultsFile),
    /// Handed to the caller's thread, which writes them: a pipe may block.
    Caller(Sender<Vec<u8>>),
}

/// What the buffer keeps between two writes; vectors may have needed much more.
pub(super) const REUSED_BUFFER_BYTES: usize = 1 << 20;

/// The sink of a run that writes lines.
pub(crate) struct LineSink<'r> {
    pub route: &'r Route<'r>,
    pub target: Target,
    /// Lines written for items that had one already.
    pub superseded: u64,
    pub buffer: Vec<u8>,
}

impl LineSink<'_> {
    /// The lines of an end; none for what was not sent.
    fn lines<'e, T: Identified>(
        &self,
        end: &'e Settled<Pack<T>, Lines>,
        now: Time,
    ) -> Cow<'e, [u8]> {
        match end {
            Settled::Final(_, Ok(lines)) => Cow::Borrowed(&lines.bytes),
            Settled::Final(ticket, Err(error)) => {
                let mut bytes = Vec::new();
                for member in &ticket.task {
                    let been = (&ticket.tries, &ticket.timer);
                    self.failure(&mut bytes, &member.task, been, error, now);
                }
                Cow::Owned(bytes)
            }
            Settled::Unsent(..) | Settled::Later(..) => Cow::Borrowed(&[]),
        }
    }

    fn failure<T: Identified>(
        &self,
        bytes: &mut Vec<u8>,
        task: &T,
        (tries, timer): (&Tries, &ItemTimer),
        error: &Error,
        now: Time,
    ) {
        let Some(named) = task.named() else {
            return;
        };
        if task.is_bad_row() {
            let _ = unsent_line(bytes, named, error.clone());
            return;
        }
        let request = Request {
            model: named.model.clone(),
            ..Request::default()
        };
        let time = timer.split(tries.first, now);
        let asked = OutcomeBuilder::asked(self.route, &request, tries, time);
        let outcome = named.item(asked).build(Err(error.clone()));
        let mut lines = Lines::default();
        if outcome.write_line(&mut lines.bytes).is_err() {
            return;
        }
        if !task.is_alone() {
            task.failed(outcome, &mut lines);
        }
        bytes.append(&mut lines.bytes);
    }

    /// The lines of outcomes that could not be written.
    pub(crate) fn lines_of<T: Identified>(
        &self,
        lost: &[Settled<Pack<T>, Lines>],
        now: Time,
    ) -> Vec<Vec<u8>> {
        let ends = lost.iter().map(|end| self.lines(end, now));
        ends.flat_map(|lines| each_line(&lines)).collect()
    }

    fn note<T: Identified>(&mut self, end: &Settled<Pack<T>, Lines>, tally: &mut Tally) {
        count(tally, end, |lines| lines.measure);
        let Settled::Final(ticket, result) = end else {
            return;
        };
        let members = ticket.task.iter();
        let superseding = members.filter(|member| member.task.supersedes());
        self.superseded += superseding.count() as u64;
        match result {
            Ok(lines) => {
                self.superseded += lines.superseded;
                lines
                    .failures
                    .iter()
                    .for_each(|error| tally.failed(error, 1));
                if let Some((error, items)) = &lines.failed {
                    tally.failed_as_equals(error, *items);
                }
            }
            Err(error) => {
                let too = ticket.task.iter().map(|member| member.task.failed_too());
                let (items, superseding) = too.fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
                tally.failed_as_equals(error, items);
                self.superseded += superseding;
            }
        }
        for member in &ticket.task {
            member.task.settled(ticket.tries.step);
        }
    }
}

/// The lines apart, each with its end.
pub(crate) fn each_line(lines: &[u8]) -> Vec<Vec<u8>> {
    let lines = lines.split_inclusive(|byte| *byte == b'\n');
    lines.map(<[u8]>::to_vec).collect()
}

impl<T: Identified> Sink<T> for LineSink<'_> {
    type Done = Lines;

    fn failure_of_one(done: &Lines) -> Option<&Error> {
        done.failures.first()
    }

    fn put(
        &mut self,
        ends: &mut Vec<Settled<Pack<T>, Lines>>,
        tally: &mut Tally,
        now: Time,
    ) -> Result<(), Error> {
        if let Target::Caller(lines) = &self.target {
            let lines = lines.clone();
            for end in ends.drain(..) {
                let own = self.lines(&end, now).into_owned();
                self.note(&end, tally);
                // Every call holds a permit, and the channel has room for all of them.
                let _ = lines.try_send(own);
            }
            return Ok(());
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        for end in ends.iter() {
            buffer.extend_from_slice(&self.lines(end, now));
        }
        if let Target::File(file) = &mut self.target {
            file.append(&buffer)?;
        }
        buffer.clear();
        buffer.shrink_to(REUSED_BUFFER_BYTES);
        self.buffer = buffer;
        for end in ends.drain(..) {
            self.note(&end, tally);
        }
        Ok(())
    }

    fn defers_release(&self) -> bool {
        matches!(self.target, Target::Caller(_))
    }

    fn known(&self, pack: &Pack<T>) -> Option<Lines> {
        match &pack[..] {
            [only] => only.task.known(),
            _ => None,
        }
    }
}
