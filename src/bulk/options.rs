//! Options of a file run, its plan and its report.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};

use derive_setters::Setters;
use serde::Serialize;

use crate::base::Error;
use crate::base::brief::Many;
use crate::base::disk::is_regular;
use crate::engine::dispatch::StopReason;
use crate::observe::causes::FailureCause;
use crate::observe::tally::Summary;

use super::input::{Entry, FileIndex, State};

/// Where results go.
pub struct RunOutput(pub(super) OutputTarget);

pub(super) enum OutputTarget {
    File(PathBuf),
    Writer(Box<dyn Write + Send>),
}

impl RunOutput {
    /// A file; a run resumes from an existing results file. A path that is not a regular file (a pipe, a device) is
    /// written like a stream.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(OutputTarget::File(path.into()))
    }

    /// A stream, such as standard output. A run cannot resume from it.
    pub fn writer(writer: impl Write + Send + 'static) -> Self {
        Self(OutputTarget::Writer(Box::new(writer)))
    }

    /// The file, if a run can resume from it.
    pub(crate) fn regular_file(&self) -> Option<&Path> {
        match &self.0 {
            OutputTarget::File(path) => Some(path.as_path()).filter(|path| is_regular(path)),
            OutputTarget::Writer(_) => None,
        }
    }
}

/// Why a run could not start.
#[derive(Debug, derive_more::From)]
#[non_exhaustive]
pub enum FileRunError {
    /// The output cannot be used: it is not writable, or another run uses it.
    #[from]
    Output(Error),
    /// The options or the existing output do not match; nothing was changed.
    Usage(Error),
}

impl fmt::Display for FileRunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Output(error) | Self::Usage(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for FileRunError {}

/// What the run will do, before anything is sent.
// More than 15 fields, because each is a public number that a dry run shows.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct RunPlan {
    /// Items in the input.
    pub total: u64,
    /// Items finished by earlier runs.
    #[serde(rename = "finished_before")]
    pub done: u64,
    /// Items that failed in earlier runs, except those of `unusable_before`.
    pub failed_before: u64,
    /// Items with a billed but unusable reply of an earlier run. They are sent again only if
    /// [`ask_again`](FileRunOptions::ask_again) is set.
    pub unusable_before: u64,
    /// Items whose request differs from the one that was answered.
    pub changed: u64,
    /// Items with a billed answer to another request, existing or in progress, which are sent again. For items without an
    /// own id it is an upper bound, because their ids change with their requests.
    pub differing: u64,
    /// Finished items whose answer an earlier run moved to `OUTPUT.superseded.jsonl`: it is restored.
    pub restored: u64,
    /// Results of items that this input does not have; they are kept.
    pub foreign: u64,
    /// Items without an own id. Their ids are made from the whole request, so a changed setting makes new items of
    /// them, and the old results become `foreign`.
    pub without_id: u64,
    /// Items that make no prompt: not sent, and failed.
    pub bad_rows: u64,
    /// Items whose result lines lack fields of their rows, because the rows are large.
    pub rows_cut: u64,
    /// Why they make none, most frequent cause first.
    pub bad_row_causes: Vec<FailureCause>,
    /// Items of an earlier run that are in a queue and have no outcome yet.
    pub under_way: u64,
    /// Items of an earlier run whose outcome is in a queue: it is written to the output.
    pub to_collect: u64,
    /// Items to send.
    pub to_send: u64,
    /// Items whose request equals that of an earlier item, and which are sent because
    /// [`dedupe`](FileRunOptions::dedupe) is not set.
    pub repeated: u64,
    /// Items that are not sent because another item has the same request: they share its answer.
    pub equal: u64,
    /// Items whose answer is in the output, for another item of an earlier run with the same request.
    #[serde(rename = "answered_by_earlier_results")]
    pub answered: u64,
    /// Items whose request got a billed but unusable reply in an earlier run, for another item: they fail with it,
    /// unless [`ask_again`](FileRunOptions::ask_again) is set.
    pub unusable_equal: u64,
    /// For [`RequestTask::Embed`](crate::client::RequestTask::Embed): the makers of the finished embeddings, each
    /// provider with its name of the model, including those of equal items of this input.
    #[serde(skip)]
    pub vectors_before: Vec<(String, String)>,
    /// Whether a run can resume from the output.
    #[serde(skip)]
    pub resumable: bool,
}

/// What a run did. Its `Debug` output omits the lines.
#[derive(derive_more::Debug)]
#[non_exhaustive]
pub struct RunReport {
    /// The numbers.
    pub summary: Summary,
    /// Why it ended early, if it did.
    pub stop: Option<StopReason>,
    /// Result lines that could not be written after all attempts.
    #[debug("{:?}", Many(unsaved.len()))]
    pub unsaved: Vec<Vec<u8>>,
    /// An error if the finished output could not be sorted or cleaned of superseded lines, or is no longer at its path.
    pub compaction: Result<(), Error>,
}

/// Options for the results of a run.
#[derive(Debug, Clone, Copy, Default, Setters)]
pub struct FileRunOptions {
    /// Whether items that failed in earlier runs stay failed. Default: they are sent again.
    pub(super) keep_failed: bool,
    /// Whether items with a billed but unusable reply are sent again, see [`Error::is_unusable_reply`]; each is billed
    /// again. Default: no.
    pub(super) ask_again: bool,
    /// Whether answers may be bought again because of a change of the program, see [`FileRun`](crate::FileRun)'s errors.
    /// Default: no.
    pub(super) resend_changed: bool,
    /// Maximum number of items to send in this run. Default: all.
    pub(super) max_items: Option<usize>,
    /// Whether the finished output is sorted in the order of the input. Default: no.
    pub(super) ordered: bool,
    /// Whether every write is synced to the disk. Default: no; a crash of the OS process loses nothing, a power failure
    /// can lose the last seconds.
    pub(super) fsync: bool,
    /// Whether only the plan is needed: nothing is created or changed, and the run does not start. Default: no.
    pub(crate) dry_run: bool,
    /// Whether answers of the placeholder `extract` in the output are replaced by those of a model. Default: they count
    /// as finished.
    pub(super) redo_extracts: bool,
    /// Whether items with equal requests are sent once and share the answer; the output is also searched for answers to
    /// such requests. The lines of the items that were not sent are written when the run ends, so the output must be a
    /// file. A run through a queue sends each item. Default: no.
    pub(super) dedupe: bool,
}

impl FileRunOptions {
    /// The default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether an item in this state is sent.
    pub(super) fn want(&self, state: State) -> bool {
        match state {
            State::Done => false,
            State::Failed => !self.keep_failed,
            State::Unusable => self.ask_again,
            State::New | State::Changed => true,
        }
    }

    /// Whether an item of a file is sent: it makes a prompt, and no other worker processes it.
    pub(super) fn wants(&self, item: &Entry) -> bool {
        self.want(item.state()) && !item.is_taken() && !item.is_bad()
    }

    /// The items of a file that a run sends itself.
    pub(super) fn to_send<'i>(self, index: &'i FileIndex) -> impl Iterator<Item = usize> + use<'i> {
        let items = (0..index.len()).filter(move |item| self.sends(&index[*item]));
        items.take(self.max_items.unwrap_or(usize::MAX))
    }

    /// Whether an item of a file is sent itself: it does not get a copy of the line of another one.
    pub(super) fn sends(&self, item: &Entry) -> bool {
        self.wants(item) && !item.follows()
    }
}
