//! The sink that appends result lines in groups.

use std::borrow::Cow;
use std::sync::Arc;

use crossbeam_channel::Sender;

use super::backlog::FileTask;
use super::copies::Copies;
use super::lines::{Lines, REUSED_BUFFER_BYTES, each_line};
use super::results::ResultsFile;
use super::work::{Sink, count};
use crate::base::memory::UnwrittenResult;
use crate::base::{Error, Time};
use crate::engine::route::Tries;
use crate::engine::work::Settled;
use crate::llm::pack::Pack;
use crate::llm::request::Request;
use crate::llm::route::Route;
use crate::observe::tally::Tally;

/// Where lines are written.
pub(super) enum Target {
    /// Appended under the engine's lock: settled when the write returns.
    File(ResultsFile),
    /// Sent to the caller's thread, which writes them, because a pipe may block.
    Caller(Sender<SentLines>),
}

/// Lines on their way to the caller's thread, with their place in the memory of the process.
pub(super) struct SentLines {
    pub bytes: Vec<u8>,
    pub unwritten: Option<UnwrittenResult>,
}

/// The sink of a run that writes lines.
pub(super) struct LineSink<'r> {
    pub route: &'r Route<'r>,
    pub target: Target,
    pub buffer: Vec<u8>,
    /// Items that get copies of these lines at the end.
    pub copies: Option<Arc<Copies>>,
    /// Whether a signal ended the copying.
    pub is_cancelled: bool,
}

impl LineSink<'_> {
    /// The lines of an end; empty for unsent items.
    fn lines<'e>(&self, end: &'e Settled<Pack<FileTask>, Lines>, now: Time) -> Cow<'e, [u8]> {
        match end {
            Settled::Final(_, Ok(lines)) => Cow::Borrowed(&lines.bytes),
            Settled::Final(ticket, Err(error)) => {
                let mut bytes = Vec::new();
                for task in &ticket.task {
                    self.failure(&mut bytes, task, &ticket.tries, error, now);
                }
                Cow::Owned(bytes)
            }
            Settled::Unsent(..) | Settled::Later(..) => Cow::Borrowed(&[]),
        }
    }

    fn failure(
        &self,
        bytes: &mut Vec<u8>,
        task: &FileTask,
        tries: &Tries,
        error: &Error,
        now: Time,
    ) {
        let Some(named) = task.named.get() else {
            return;
        };
        let request = Request {
            model: named.model.clone(),
            ..Request::default()
        };
        let latency = tries.latency(now);
        let outcome = self
            .route
            .outcome(&request, tries, latency, Err(error.clone()));
        let outcome = named.item(outcome);
        let begins = bytes.len();
        if outcome.write_line(bytes).is_err() {
            bytes.truncate(begins);
        }
    }

    /// The lines of outcomes that could not be written.
    pub(super) fn lines_of(
        &self,
        lost: &[Settled<Pack<FileTask>, Lines>],
        now: Time,
    ) -> Vec<Vec<u8>> {
        let ends = lost.iter().map(|end| self.lines(end, now));
        ends.flat_map(|lines| each_line(&lines)).collect()
    }

    fn note(&self, end: &Settled<Pack<FileTask>, Lines>, tally: &mut Tally) {
        count(tally, end, |lines| lines.measure);
        if let Settled::Final(_, Ok(lines)) = end {
            let failures = lines.failures.iter();
            failures.for_each(|error| tally.failed(error, 1));
        }
    }
}

impl Sink<FileTask> for LineSink<'_> {
    type Done = Lines;

    fn failure_of_one(done: &Lines) -> Option<&Error> {
        done.failures.first()
    }

    fn put(
        &mut self,
        ends: &mut Vec<Settled<Pack<FileTask>, Lines>>,
        tally: &mut Tally,
        now: Time,
    ) -> Result<(), Error> {
        if let Target::Caller(lines) = &self.target {
            let lines = lines.clone();
            for mut end in ends.drain(..) {
                let sent = match &mut end {
                    Settled::Final(_, Ok(lines)) => SentLines {
                        bytes: std::mem::take(&mut lines.bytes),
                        unwritten: lines.unwritten.take(),
                    },
                    _ => SentLines {
                        bytes: self.lines(&end, now).into_owned(),
                        unwritten: None,
                    },
                };
                self.note(&end, tally);
                // Every call holds a permit, and the channel has capacity for all of them.
                let _ = lines.try_send(sent);
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

    fn conclude(&mut self, tally: &mut Tally) {
        let (Target::File(file), Some(copies)) = (&mut self.target, &self.copies) else {
            return;
        };
        if file.undisturbed().is_err() {
            return;
        }
        // The next run copies what is missing.
        if let Err(error) = copies.of_this_run(file, tally) {
            log::warn!("{error}");
        }
        self.is_cancelled = copies.ctx.is_cancelled() && tally.pending() > 0;
    }
}
