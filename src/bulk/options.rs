//! What a file run is told before it begins, and what it tells after it has ended.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::base::brief::Many;
use crate::base::disk::is_regular;
use crate::base::error::Error;
use crate::config::choices::Dedupe;
use crate::engine::dispatch::StopReason;
use crate::observe::causes::FailureCause;
use crate::observe::tally::{Summary, Tally};

use super::input::{FileIndex, State};

/// Where results go.
pub struct RunOutput(pub(super) OutputTarget);

pub(super) enum OutputTarget {
    File(PathBuf),
    Writer(Box<dyn Write + Send>),
}

impl RunOutput {
    /// A file; an existing results file is resumed from. A path that is no regular file (a pipe,
    /// a device) is written to like any stream.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(OutputTarget::File(path.into()))
    }

    /// A stream, such as standard output. It cannot be resumed from.
    pub fn writer(writer: impl Write + Send + 'static) -> Self {
        Self(OutputTarget::Writer(Box::new(writer)))
    }

    /// The file, if it is one that can be resumed from.
    pub(crate) fn regular_file(&self) -> Option<&Path> {
        match &self.0 {
            OutputTarget::File(path) => Some(path.as_path()).filter(|path| is_regular(path)),
            OutputTarget::Writer(_) => None,
        }
    }
}

/// Why a run could not begin.
#[derive(Debug)]
#[non_exhaustive]
pub enum FileRunError {
    /// The output cannot be used: not writable, or another run has it.
    Output(Error),
    /// The options or the existing output do not fit; nothing was changed.
    Usage(Error),
}

impl RunPlan {
    /// Counts what this run leaves as earlier ones have settled it.
    pub(super) fn count_before(
        &self,
        options: &FileRunOptions,
        index: &FileIndex,
        tally: &mut Tally,
    ) {
        let left = |state, items| if options.want(state) { 0 } else { items };
        let unusable = left(State::Unusable, self.unusable_before);
        // What makes no prompt fails whatever is wanted.
        let failed = if options.want(State::Failed) {
            self.bad_rows - index.tally().bad_untold
        } else {
            self.failed_before
        } + unusable;
        tally.count_before(self.done, failed);
        tally.count_unusable_before(unusable);
    }
}

impl fmt::Display for FileRunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Output(error) | Self::Usage(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for FileRunError {}

/// What is to be done, before anything is sent.
// More than 15 fields: each is public, and a number that a dry run shows.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RunPlan {
    /// Items in the input; `None` for a stream.
    pub total: Option<u64>,
    /// Items finished by earlier runs.
    pub done: u64,
    /// Items that failed in earlier runs, but for those of `unusable_before`.
    pub failed_before: u64,
    /// Items that earlier runs got a reply for that was paid for and cannot be used. They are sent
    /// again only if [asked for](FileRunOptions::ask_again).
    pub unusable_before: u64,
    /// Items whose request differs from the one that was answered.
    pub changed: u64,
    /// Answers to what such items asked before, or to what this input asked before it was changed
    /// back. Before the first call they are marked in the output (`"superseded":true` at the end of
    /// the line); a run that ends by itself removes them. Not known for a stream.
    pub superseded: u64,
    /// Answers that a queue has, or is going to have, to what such items asked before. They are marked in the output once
    /// they are there, like those of [`superseded`](Self::superseded).
    pub under_way_superseded: u64,
    /// Why the items differ that have a paid answer to another request, there or under way, and are sent again: the names of the settings
    /// that changed (`template`, `system`, `schema`, `model`, `parameters`), `row` if the input changed, or `request` if
    /// the output does not carry the earlier settings; each with its number of items. Not known for a stream.
    pub differing: Vec<(String, u64)>,
    /// Of the finished items, those whose answer an earlier run moved to `OUTPUT.superseded.jsonl`: it is taken back. Not
    /// known for a stream, which takes none back.
    pub restored: u64,
    /// Results of items that this input does not have; they are kept.
    pub foreign: u64,
    /// Items without an id of their own. Theirs is made of all that their request says, so that a
    /// changed setting makes other items of them and the old results are `foreign`.
    pub without_id: u64,
    /// Items that make no prompt: not sent, and failed.
    pub bad_rows: u64,
    /// Why they make none, the most frequent cause first.
    pub bad_row_causes: Vec<FailureCause>,
    /// Rows that are left out, since a field of their prompt is null ([`Nulls::Skip`](crate::files::Nulls::Skip)).
    pub null_rows: u64,
    /// Items that a queue has in hand, from an earlier run, and that have no outcome yet.
    pub under_way: u64,
    /// Items whose outcome a queue has, from an earlier run: it is written to the output.
    pub to_collect: u64,
    /// Items to send; `None` for a stream.
    pub to_send: Option<u64>,
    /// Items that are not sent since they have the same request as one that is: they get its answer. Not known for a
    /// stream.
    pub equal: u64,
    /// Items that the output has the answer to, of an earlier run and for another item with the same request. Not known
    /// for a stream.
    pub answered: u64,
    /// Items whose request has a reply of an earlier run, for another item, that was paid for and cannot be used: they
    /// fail with it, unless it is to be [asked for again](FileRunOptions::ask_again). Not known for a stream.
    pub unusable_equal: u64,
    /// Items that a store of earlier answers has the answer to, those with the same request included; known after
    /// [`FileRun::plan_reuse`](crate::FileRun::plan_reuse).
    pub reusable: u64,
    /// Models that answered items of this input in earlier runs, in their providers' words.
    pub models_before: Vec<String>,
    /// For [`RequestTask::Embed`](crate::client::RequestTask::Embed): who made the finished vectors, each provider with
    /// the model in its words; those that answer equal items of this input too. Empty for a stream.
    pub vectors_before: Vec<(String, String)>,
    /// Whether the output can be resumed from.
    pub resumable: bool,
}

/// What a run did. Its `Debug` shows nothing of the lines.
#[derive(derive_more::Debug)]
#[non_exhaustive]
pub struct RunReport {
    /// The numbers.
    pub summary: Summary,
    /// Why it ended early, if it did.
    pub stop: Option<StopReason>,
    /// Result lines that could not be written although all was tried.
    #[debug("{:?}", Many(unsaved.len()))]
    pub unsaved: Vec<Vec<u8>>,
    /// The finished output could not be put into order or cleaned of superseded lines, or is no
    /// longer where it was.
    pub compaction: Result<(), Error>,
}

/// How results are kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileRunOptions {
    pub(super) keep_failed: bool,
    pub(super) ask_again: bool,
    pub(super) max_items: Option<usize>,
    pub(super) ordered: bool,
    pub(super) fsync: bool,
    pub(super) dry_run: bool,
    pub(super) redo_extracts: bool,
    pub(super) drop_superseded: bool,
    pub(super) dedupe: Dedupe,
}

impl FileRunOptions {
    /// The defaults of every setting.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether items that failed in earlier runs stay failed. Default: they are tried again.
    pub fn keep_failed(mut self, yes: bool) -> Self {
        self.keep_failed = yes;
        self
    }

    /// Whether items are sent again whose earlier reply was paid for and cannot be used, see
    /// [`Error::is_unusable_reply`]; each is paid for again. Default: no.
    pub fn ask_again(mut self, yes: bool) -> Self {
        self.ask_again = yes;
        self
    }

    /// Whether an item is to be sent that stands so towards earlier runs.
    pub(super) fn want(&self, state: State) -> bool {
        match state {
            State::Done => false,
            State::Failed => !self.keep_failed,
            State::Unusable => self.ask_again,
            State::New | State::Changed => true,
        }
    }

    /// Whether an item of a file is to be sent, and nobody has it in hand.
    pub(super) fn wants(&self, index: &FileIndex, item: usize) -> bool {
        self.want(index.state(item)) && !index.is_taken(item) && !index.is_bad(item)
    }

    /// The most items to send in this run. Default: all.
    pub fn max_items(mut self, most: Option<usize>) -> Self {
        self.max_items = most;
        self
    }

    /// Whether the finished output is put into the order of the input. Default: no.
    pub fn ordered(mut self, yes: bool) -> Self {
        self.ordered = yes;
        self
    }

    /// Whether only the plan is wanted: nothing is created or changed, and the run refuses to
    /// start. Default: no.
    pub fn dry_run(mut self, yes: bool) -> Self {
        self.dry_run = yes;
        self
    }

    /// Whether nothing is sent.
    pub(crate) fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// Whether answers of `extract` in the output are replaced: they stand in for a model's.
    /// Default: they count as finished.
    pub fn redo_extracts(mut self, yes: bool) -> Self {
        self.redo_extracts = yes;
        self
    }

    /// Whether paid answers that a new answer of the same item replaces are deleted. Default: no, they are appended to
    /// `OUTPUT.superseded.jsonl` beside the output, each with the time and the reason, before they are removed.
    pub fn drop_superseded(mut self, yes: bool) -> Self {
        self.drop_superseded = yes;
        self
    }

    /// Which items with equal requests are sent once, and all get the answer; the output is looked through for answers to
    /// such requests, too. Through a queue none are. Default: [`Dedupe::Auto`].
    pub fn dedupe(mut self, which: Dedupe) -> Self {
        self.dedupe = which;
        self
    }

    /// Whether every write is synced to the disk. Default: no; a killed process loses nothing,
    /// a power loss may cost the last seconds.
    pub fn fsync(mut self, yes: bool) -> Self {
        self.fsync = yes;
        self
    }
}
