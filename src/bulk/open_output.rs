//! The output of a run: a file that is its own checkpoint, or a stream; and outcomes as its lines.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crate::base::disk::is_regular;
use crate::base::memory::UnwrittenResult;
use crate::base::{Error, ErrorKind, Paid, Usd, named_file};
use crate::llm::outcome::Outcome;
use crate::observe::tally::{Measure, Tally};

use super::input::fault::of_file;
use super::input::{FileIndex, InputFile, Item, Kept, Named};
use super::options::{FileRunError, FileRunOptions, OutputTarget, RunOutput};
use super::results::{ResultsFile, trouble};

/// Rows whose lines are found in one pass over the input.
const ROWS: usize = 4096;

/// Capacity that the buffer keeps between two writes; embeddings may have needed much more.
pub(super) const REUSED_BUFFER_BYTES: usize = 1 << 20;

/// An open output.
pub(super) enum OpenOutput {
    File(ResultsFile),
    Writer(Box<dyn Write + Send>),
    /// A stream whose reader has closed it.
    Closed,
}

/// Why lines are not in the output.
#[derive(Debug)]
pub(crate) enum Unsaved {
    /// A temporary problem, such as a full disk: saving can be retried.
    Now(Error),
    /// A permanent problem.
    Ever(Error),
    /// The reader of the output has closed it.
    ReaderGone,
}

impl OpenOutput {
    pub(super) fn file(&mut self) -> Option<&mut ResultsFile> {
        match self {
            Self::File(file) => Some(file),
            Self::Writer(_) | Self::Closed => None,
        }
    }

    /// Writes the failures of rows that make no prompt and have no line yet.
    pub(super) fn tell_bad_rows(
        &mut self,
        input: &InputFile,
        index: &FileIndex,
        tally: &mut Tally,
    ) -> Result<(), Error> {
        let mut lines = Vec::new();
        let untold = (0..index.len()).filter(|i| index[*i].is_untold());
        let untold: Vec<usize> = untold.collect();
        for rows in untold.chunks(ROWS) {
            for (&i, place) in rows.iter().zip(input.places(rows, index)?) {
                let row = input.read_bad(i, index)?;
                let not_sent =
                    |why: &str| Error::new(ErrorKind::Invalid, format!("not sent: {why}"));
                // The summary counts rows with the same fault together.
                tally.failed(&not_sent(&row.why), 1);
                let error = not_sent(&format!("{place}: {}", row.why));
                unsent_line(&mut lines, &row.named, error)?;
                if lines.len() > REUSED_BUFFER_BYTES {
                    self.write_before(&mut lines)?;
                }
            }
        }
        self.write_before(&mut lines)
    }

    /// Writes lines before the run begins.
    fn write_before(&mut self, lines: &mut Vec<u8>) -> Result<(), Error> {
        match self.write(lines) {
            Ok(()) | Err(Unsaved::ReaderGone) => {
                lines.clear();
                Ok(())
            }
            Err(Unsaved::Now(error) | Unsaved::Ever(error)) => Err(error),
        }
    }

    /// Appends lines, and removes those that are in the output from `lines`. A stream gets one line at a time, because
    /// its reader may go away between two of them.
    pub(super) fn write(&mut self, lines: &mut Vec<u8>) -> Result<(), Unsaved> {
        let writer = match self {
            _ if lines.is_empty() => return Ok(()),
            Self::File(file) => {
                file.append(lines).map_err(Unsaved::Now)?;
                lines.clear();
                return Ok(());
            }
            Self::Closed => return Err(Unsaved::ReaderGone),
            Self::Writer(writer) => writer,
        };
        let mut taken = 0;
        let mut each = lines.split_inclusive(|byte| *byte == b'\n');
        let written = each.try_for_each(|line| {
            writer.write_all(line)?;
            writer.flush()?;
            taken += line.len();
            Ok(())
        });
        lines.drain(..taken);
        written.map_err(|error: io::Error| {
            if error.kind() == io::ErrorKind::BrokenPipe {
                *self = Self::Closed;
                return Unsaved::ReaderGone;
            }
            let why = format!("cannot write the results: {error}");
            Unsaved::Ever(Error::new(ErrorKind::Invalid, why))
        })
    }
}

/// Opens the output; a regular file is read later.
pub(super) fn open(
    output: RunOutput,
    options: &FileRunOptions,
) -> Result<OutputTarget, FileRunError> {
    match output.0 {
        OutputTarget::Writer(writer) => only_lines(options).map(|()| OutputTarget::Writer(writer)),
        OutputTarget::File(path) if options.dry_run && !path.exists() => {
            Ok(OutputTarget::Writer(Box::new(io::sink())))
        }
        OutputTarget::File(path) if is_regular(&path) => Ok(OutputTarget::File(path)),
        OutputTarget::File(path) => {
            only_lines(options)?;
            let file = named_file::output(File::options().write(true), &path, true, true);
            let file = file.map_err(|error| trouble(&path, "cannot open the output", &error))?;
            Ok(OutputTarget::Writer(Box::new(file)))
        }
    }
}

/// Rejects options that read the output at the end of the run.
fn only_lines(options: &FileRunOptions) -> Result<(), FileRunError> {
    let why = if options.ordered {
        "the output is not a regular file, so it cannot be put into order afterwards"
    } else if options.dedupe {
        "the output is not a regular file, so answers cannot be copied from it to items with equal requests: name a file"
    } else {
        return Ok(());
    };
    Err(FileRunError::Usage(Error::new(ErrorKind::Invalid, why)))
}

/// Why an output is refused that is the input.
pub(super) const ALSO_INPUT: &str = "it is also the input; name another output";

/// Rejects an output that is the input under any name.
pub(super) fn refuse_same_file(output: &Path, input: &Path) -> Result<(), FileRunError> {
    if !is_same_file(output, input) {
        Ok(())
    } else {
        Err(FileRunError::Usage(of_file(output.display(), ALSO_INPUT)))
    }
}

/// Whether both names refer to the same existing file.
pub(crate) fn is_same_file(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| path.metadata().map(|found| (found.dev(), found.ino())).ok();
    place(a).is_some_and(|a| Some(a) == place(b))
}

impl Named {
    /// Takes what only the result line of an item needs.
    pub(super) fn of(item: &mut Item) -> Self {
        let request = &mut item.request;
        Self {
            id: request.id.clone().unwrap_or_default(),
            request_hash: std::mem::take(&mut item.request_hash),
            model: request.model.clone(),
            input: request.input.take().map(|fields| Kept {
                fields,
                left_out: request.input_left_out,
            }),
        }
    }

    /// Adds the fields that describe the item.
    pub(super) fn item(&self, outcome: Outcome) -> Outcome {
        let kept = self.input.as_ref();
        Outcome {
            id: Some(self.id.clone()),
            request_hash: Some(self.request_hash.clone()),
            input: kept.map(|kept| kept.fields.clone()),
            input_left_out: kept.map_or(0, |kept| kept.left_out),
            ..outcome
        }
    }
}

/// The finished lines of a pack.
#[derive(Default)]
pub(crate) struct Lines {
    pub bytes: Vec<u8>,
    pub measure: Measure,
    /// Failures of single texts of a pack.
    pub failures: Vec<Error>,
    /// Counts the lines in the memory of the process until they are written.
    pub unwritten: Option<UnwrittenResult>,
}

/// The cost of an item whose answer was billed for another one.
const FREE: Paid = Paid {
    usage: None,
    cost_usd: Some(Usd::ZERO),
};

/// The outcome of an item that shares another item's outcome and has no cost of its own.
pub(super) fn shared_outcome(outcome: &Outcome) -> Outcome {
    let mut shared = outcome.clone();
    shared.answered_by = shared.answered_by.or(shared.id.take());
    (shared.attempts, shared.latency) = (0, Duration::ZERO);
    shared.result = match shared.result {
        Ok(mut answer) => {
            answer.set_paid(FREE);
            Ok(answer)
        }
        Err(error) => Err(error.with_paid(FREE)),
    };
    shared
}

/// The line of an item that was never sent.
pub(super) fn unsent_line(bytes: &mut Vec<u8>, named: &Named, error: Error) -> Result<(), Error> {
    let outcome = Outcome {
        model: named.model.clone(),
        ..Outcome::new(None, Err(error))
    };
    named.item(outcome).write_line(bytes)
}

/// Splits lines; each keeps its line end.
pub(crate) fn each_line(lines: &[u8]) -> Vec<Vec<u8>> {
    let lines = lines.split_inclusive(|byte| *byte == b'\n');
    lines.map(<[u8]>::to_vec).collect()
}
