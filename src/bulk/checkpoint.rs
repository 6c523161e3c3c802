//! A file run whose calls are made elsewhere: selects the requests to submit, and saves the results.

use crate::base::{Clock, Error, ErrorKind, SystemClock, Time};
use crate::engine::dispatch::Counters;
use crate::engine::dispatch::StopReason;
use crate::llm::outcome::Outcome;
use crate::llm::request::Request;
use crate::observe::progress::{Phase, Progress};
use crate::observe::tally::{Measure, Tally};

use super::copies::Copies;
use super::file::FileRun;
use super::input::{FileIndex, Fit, State, hash_prefix};
use super::open_output::OpenOutput;
use super::options::{RunPlan, RunReport};
use super::results::{PreviousLine, ResultsFile};
use super::tidy;

/// A received result line without its line end.
pub(crate) struct Line {
    pub id: String,
    pub request_hash: Option<String>,
    pub success: bool,
    pub text: String,
}

/// An output with its input, while the calls are made elsewhere.
pub(crate) struct Checkpoint {
    copies: Copies,
    output: ResultsFile,
    pub(crate) plan: RunPlan,
    /// Whether the output has several lines of one item.
    repeated: bool,
    tally: Tally,
    started: Time,
    /// Number of results that were saved although the input has no such item.
    pub(crate) foreign: u64,
    /// Number of answers that were saved although the input has a different request now.
    pub(crate) superseded: u64,
}

impl Checkpoint {
    /// Takes over a prepared run and repairs what a killed run left behind.
    pub(crate) fn open(run: FileRun<'_>) -> Result<Self, Error> {
        let FileRun {
            copies,
            mut output,
            plan,
            repeated,
            restored,
            ..
        } = run;
        if let Some(file) = output.file() {
            file.mend()?;
            file.restore(&restored)?;
        }
        let started = SystemClock.now();
        let mut tally = Tally::new(Some(plan.total), started);
        copies.count_before(&plan, &mut tally);
        output.tell_bad_rows(&copies.input, &copies.index, &mut tally)?;
        let OpenOutput::File(output) = output else {
            let why = "only a file can be the output of a run through a queue";
            return Err(Error::new(ErrorKind::Invalid, why));
        };
        Ok(Self {
            copies,
            output,
            plan,
            repeated,
            tally,
            started,
            foreign: 0,
            superseded: 0,
        })
    }

    /// The index, sorted by id.
    pub(crate) fn by_id(&mut self) -> &mut FileIndex {
        self.copies.index.by_id()
    }

    /// The requests that were not submitted, in the order of the input. Each counts as submitted once this iterator
    /// returned it. The last item is an error if the file has changed since it was checked.
    pub(crate) fn unsent(&mut self) -> impl Iterator<Item = Result<Request, Error>> + '_ {
        let (input, options) = (self.copies.input.clone(), self.copies.options);
        let most = options.max_items.unwrap_or(usize::MAX);
        let index = self.copies.index.in_order();
        let mut next = 0;
        let unsent = std::iter::from_fn(move || {
            let i = (next..index.len()).find(|i| options.wants(&index[*i]))?;
            next = i + 1;
            let item = input.read(i, index);
            index.hold(i);
            Some(item.map(|item| item.request).map_err(Error::from))
        });
        unsent.take(most)
    }

    /// Saves received lines and syncs them to the disk if they answer the current request of an item, or belong to an
    /// item that the input no longer has. A billed answer to an outdated request is saved too, and leaves the output when
    /// it is tidied. Returns the ids of items whose answers are now permanent, however the output is tidied.
    ///
    /// # Errors
    /// [`ErrorKind::Transient`] if saving can be retried, for example because the disk is full.
    pub(crate) fn save(&mut self, lines: Vec<Line>) -> Result<Vec<String>, Error> {
        let index = self.by_id();
        let lines = lines.into_iter();
        let lines: Vec<Line> = lines.filter(|line| is_news(index, line)).collect();
        let replies = self.output.replies();
        let mut bytes = Vec::new();
        for line in &lines {
            bytes.extend_from_slice(replies.put_line(&line.text).as_bytes());
            bytes.push(b'\n');
        }
        if !bytes.is_empty() {
            // Lines written to a file that was removed would be lost, and deleted from the queue.
            self.output.undisturbed()?;
            self.output.append(&bytes)?;
        }
        lines.iter().for_each(|line| self.note(line));
        let index = self.by_id();
        let stays = |line: &&Line| {
            line.success && matches!(index.fit(&line.id, prefix(line)), Fit::Same(_))
        };
        let last = lines.iter().rev().filter(stays).take(4);
        let mut last: Vec<String> = last.map(|line| line.id.clone()).collect();
        last.reverse();
        Ok(last)
    }

    fn note(&mut self, line: &Line) {
        let settled = match self.by_id().fit(&line.id, prefix(line)) {
            Fit::Same(item) => item.is_settled(),
            Fit::Other => {
                self.superseded += 1;
                self.repeated = true;
                return;
            }
            Fit::Unknown => {
                self.foreign += 1;
                self.repeated = true;
                return;
            }
        };
        let before = self.by_id().settle(&line.id, line.success);
        self.repeated |= before.is_some_and(|before| before != State::New);
        if settled {
            return;
        }
        let Ok(outcome) = serde_json::from_str::<Outcome>(&line.text) else {
            log::warn!("the result of {:?} is not a result line", line.id);
            return;
        };
        match &outcome.result {
            Ok(answer) => {
                let mut measure = Measure::of([answer]);
                measure.took = outcome.latency;
                let step = self.tally.step_of(&answer.provider);
                self.tally.answered(step, &measure);
            }
            Err(error) => self.tally.failed(error, 1),
        }
    }

    /// True if every item has its outcome.
    pub(crate) fn is_settled(&self) -> bool {
        self.tally.pending() == 0
    }

    /// Sets how many items are expected.
    pub(crate) fn will_take(&mut self, items: u64) {
        self.tally.will_send(items);
    }

    /// The progress at the end of the run.
    pub(crate) fn finished(&mut self, counters: &Counters) -> Progress {
        let now = SystemClock.now();
        (self.tally).progress(counters, now, Phase::Finished, None, None)
    }

    /// Ends the run: tidies the output unless the run was stopped, and returns the numbers. If the output is a file, it
    /// stays locked until the returned lock is dropped.
    pub(crate) fn finish(
        mut self,
        stop: Option<StopReason>,
        counters: Counters,
    ) -> (RunReport, ResultsFile) {
        let now = SystemClock.now();
        let counters = Counters {
            first_start: Some(self.started),
            last_end: Some(now),
            ..counters
        };
        let mut summary = self.tally.summary(&counters, now);
        // The duration of a batch is not the time of a call.
        summary.latency_p50 = None;
        summary.latency_p95 = None;
        summary.latency_p99 = None;
        let mut report = RunReport {
            summary,
            stop,
            unsaved: Vec::new(),
            compaction: Ok(()),
        };
        let (file, copies) = (&mut self.output, &mut self.copies);
        tidy::end(file, copies, self.repeated, &mut report);
        (report, self.output)
    }
}

/// The beginning of the line's request hash; without a hash, a value that matches nothing.
fn prefix(line: &Line) -> u64 {
    let hash = line.request_hash.as_deref();
    hash.and_then(hash_prefix).unwrap_or(0)
}

/// Whether the output lacks what the line reports. A failure that the output contains was written by a run that was
/// killed before it could acknowledge it to the queue. A reply to an outdated request is saved if it was billed.
fn is_news(index: &FileIndex, line: &Line) -> bool {
    match index.fit(&line.id, prefix(line)) {
        Fit::Unknown => true,
        Fit::Other => {
            let known = serde_json::from_str::<PreviousLine>(&line.text);
            known.is_ok_and(|known| known.is_paid_reply())
        }
        Fit::Same(item) => match item.state() {
            State::Done => false,
            State::Failed | State::Unusable => line.success || item.is_held(),
            State::New | State::Changed => true,
        },
    }
}
