//! The sink that appends result lines in groups.

use std::borrow::Cow;

use super::backlog::FileTask;
use super::copies::Copies;
use super::lines::{Lines, REUSED_BUFFER_BYTES, each_line};
use super::open_output::{OpenOutput, Unsaved};
use super::work::{Sink, count};
use crate::base::{Error, ErrorKind, Time};
use crate::engine::route::Tries;
use crate::engine::work::Settled;
use crate::llm::pack::Pack;
use crate::llm::request::Request;
use crate::llm::route::Route;
use crate::observe::tally::Tally;

/// The sink of a run that writes lines.
pub(super) struct LineSink<'r> {
    pub route: &'r Route<'r>,
    pub output: OpenOutput,
    pub buffer: Vec<u8>,
    /// Why a stream takes no more lines, and the lines that it did not take.
    pub broken: Option<Unsaved>,
    pub unsaved: Vec<Vec<u8>>,
    /// Items that get copies of these lines at the end.
    pub copies: &'r Copies,
}

impl LineSink<'_> {
    /// The lines of an end; empty for unsent items.
    pub(super) fn lines<'e>(
        &self,
        end: &'e Settled<Pack<FileTask>, Lines>,
        now: Time,
    ) -> Cow<'e, [u8]> {
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
        let mut buffer = std::mem::take(&mut self.buffer);
        for end in ends.iter() {
            buffer.extend_from_slice(&self.lines(end, now));
        }
        if self.broken.is_none() {
            match self.output.write(&mut buffer) {
                Ok(()) => {}
                Err(Unsaved::Now(error)) => return Err(error),
                Err(lost) => self.broken = Some(lost),
            }
        }
        self.unsaved.extend(each_line(&buffer));
        buffer.clear();
        buffer.shrink_to(REUSED_BUFFER_BYTES);
        self.buffer = buffer;
        for end in ends.drain(..) {
            self.note(&end, tally);
        }
        match self.broken {
            None => Ok(()),
            // No call starts any more.
            Some(_) => Err(Error::new(
                ErrorKind::Invalid,
                "the output takes no more results",
            )),
        }
    }

    fn conclude(&mut self, tally: &mut Tally) {
        let OpenOutput::File(file) = &mut self.output else {
            return;
        };
        if file.undisturbed().is_err() {
            return;
        }
        // The next run copies what is missing.
        if let Err(error) = self.copies.of_this_run(file, tally) {
            log::warn!("{error}");
        }
    }
}
