//! Compares prompts with an output before anything is sent.

use std::path::Path;

use crate::base::{Context, Error, ErrorKind};
use crate::bulk::copies::{Copies, OutputAnswers};
use crate::bulk::input::{Entry, FileIndex, Fit, InputFile, State, is_automatic};
use crate::bulk::open_output::{OpenOutput, open, refuse_same_file};
use crate::bulk::options::{FileRunError, FileRunOptions, OutputTarget, RunOutput, RunPlan};
use crate::bulk::prompts::Prompts;
use crate::bulk::results::archive::Archived;
use crate::bulk::results::{PreviousLine, ResultsFile};
use crate::llm::params::RequestTask;
use crate::observe::causes::{Causes, FailureCause};
use crate::observe::drive::RunOptions;

use super::FileRun;

impl FileRun<'_> {
    /// The same as [`prepare`](Self::prepare), and compares items that are in progress elsewhere once the output is locked.
    pub(crate) fn prepare_comparing(
        mut prompts: Prompts,
        output: RunOutput,
        options: FileRunOptions,
        compare: &mut dyn FnMut(&mut FileIndex) -> Result<(), Error>,
    ) -> Result<Self, FileRunError> {
        let mut plan = RunPlan::default();
        let task = prompts.settings.task;
        let mut earlier = EarlierLines {
            embeds: task == RequestTask::Embed,
            redo_extracts: options.redo_extracts,
            items: &mut prompts.items,
            plan: &mut plan,
            restored: Vec::new(),
            matched: 0,
            has_old_bad_rows: false,
        };
        let output = match open(output, &options)? {
            OutputTarget::Writer(writer) => OpenOutput::Writer(writer),
            OutputTarget::File(path) => {
                let mut inputs = prompts.input.names();
                inputs.try_for_each(|input| refuse_same_file(&path, Path::new(input)))?;
                OpenOutput::File(earlier.read(&path, &options)?)
            }
        };
        let EarlierLines {
            embeds,
            restored,
            matched,
            has_old_bad_rows,
            ..
        } = earlier;
        plan.restored = restored.len() as u64;
        compare(&mut prompts.items)?;
        prompts.items.in_order();
        let mut copies = Copies {
            input: prompts.input,
            index: prompts.items,
            answers: OutputAnswers::new(),
            options,
            ctx: Context::new(),
            begins: 0,
        };
        copies.find(&output, embeds, &mut plan)?;
        let index = &copies.index;
        plan.count(index);
        // An item may have several earlier answers, and an item without an id gets another id if its request changes.
        let unnamed = index.count(State::New).min(plan.without_id);
        plan.differing = plan.differing.min(plan.changed + unnamed);
        if plan.bad_rows > 0 {
            plan.bad_row_causes = bad_row_causes(&copies.input, index)?;
        }
        let known_items = plan.total - index.count(State::New);
        // Each of these gets a second line.
        let replaces = index
            .iter()
            .any(|item| item.state() != State::New && (item.is_untold() || options.wants(item)));
        Ok(Self {
            kinds: prompts.kinds,
            prefix: prompts.prefix,
            output_cap: prompts.settings.output_cap(),
            task,
            sending: RunOptions::new(5),
            repeated: replaces || has_old_bad_rows || !restored.is_empty() || matched > known_items,
            restored,
            copies,
            output,
            plan,
        })
    }
}

impl FileRun<'_> {
    /// Rejects a run that would buy answers again because earlier versions took the model and the system text of rows with a
    /// template from their fields.
    pub(crate) fn refuse_taken(&self) -> Result<(), FileRunError> {
        let Copies { input, index, .. } = &self.copies;
        if self.plan.differing == 0 || self.copies.options.resend_changed {
            return Ok(());
        }
        let items = (0..index.len()).filter(|i| index[*i].lacks_answer());
        let taken = input.taken(items, index).map_err(FileRunError::Usage)?;
        if taken.is_empty() {
            return Ok(());
        }
        let quoted: Vec<String> = taken.iter().map(|name| format!("\"{name}\"")).collect();
        let columns: Vec<String> = taken
            .iter()
            .map(|name| format!("--column {name}={name}"))
            .collect();
        Err(FileRunError::Usage(Error::new(
            ErrorKind::Invalid,
            format!(
                "{} requests differ from those answered before; nothing was sent. Rows have {}, which versions before this one sent as \
                 such with a template; now it is data. If such a version made these answers, this takes them: {}; with \
                 --dry-run it then says that nothing is to be sent. If prompts or rows have changed: --resend changed",
                self.plan.differing,
                quoted.join(" and "),
                columns.join(" "),
            ),
        )))
    }
}

impl RunPlan {
    /// Counts the items by their state after the comparison with the output.
    fn count(&mut self, index: &FileIndex) {
        self.under_way = index.count_by(Entry::is_taken);
        self.total = index.len() as u64;
        self.done = index.count(State::Done);
        self.failed_before = index.count(State::Failed);
        self.unusable_before = index.count(State::Unusable);
        self.changed = index.count(State::Changed);
        self.foreign = index.unknown_lines;
        self.without_id = index.count_by(Entry::is_auto);
        self.bad_rows = index.count_by(Entry::is_bad);
        self.rows_cut = index.cut;
    }
}

/// The result of comparing the lines of earlier runs with the items of a file.
struct EarlierLines<'e> {
    embeds: bool,
    redo_extracts: bool,
    items: &'e mut FileIndex,
    plan: &'e mut RunPlan,
    /// Answers of the archive that are restored.
    restored: Vec<Archived>,
    /// Number of lines of items that the input has.
    matched: u64,
    has_old_bad_rows: bool,
}

impl EarlierLines<'_> {
    /// Opens the output, and compares its lines with the items.
    fn read(&mut self, path: &Path, options: &FileRunOptions) -> Result<ResultsFile, FileRunError> {
        self.plan.resumable = true;
        let file = ResultsFile::open(path, options.fsync, &mut |line, _| self.add(line))?;
        self.take_back(&file);
        Ok(file)
    }

    /// Compares a line of the output with the items.
    fn add(&mut self, line: PreviousLine) {
        let prefix = line.prefix(self.redo_extracts);
        let found = self.items.match_line(&line.id, prefix, line.ended());
        let (unknown, outdated) = (found.is_none(), found == Some(State::Changed));
        self.matched += u64::from(!unknown);
        self.has_old_bad_rows |= unknown && line.is_unnamed_bad_row();
        let unnamed = unknown && is_automatic(&line.id);
        let differs = (outdated || unnamed) && line.is_paid_reply();
        self.plan.differing += u64::from(differs);
        if found == Some(State::Done) {
            self.remember_maker(line);
        }
    }

    /// Restores answers of the archive that the items need again.
    fn take_back(&mut self, output: &ResultsFile) {
        if !self.items.iter().any(Entry::lacks_answer) {
            return;
        }
        output.archived(&mut |line, place| {
            let prefix = line.prefix(self.redo_extracts);
            let fit = self.items.fit(&line.id, prefix);
            if line.success && matches!(fit, Fit::Same(item) if item.lacks_answer()) {
                self.items.match_line(&line.id, prefix, line.ended());
                self.restored.push(place);
                self.remember_maker(line);
            }
        });
    }

    /// Records the maker of a valid embedding. A few suffice to show that they differ.
    fn remember_maker(&mut self, line: PreviousLine) {
        let makers = &mut self.plan.vectors_before;
        if let Some(maker) = line.provider.zip(line.model)
            && self.embeds
            && makers.len() < 8
            && !makers.contains(&maker)
        {
            makers.push(maker);
        }
    }
}

/// Why rows make no prompt, most frequent cause first.
fn bad_row_causes(input: &InputFile, index: &FileIndex) -> Result<Vec<FailureCause>, Error> {
    let mut causes = Causes::default();
    for i in (0..index.len()).filter(|i| index[*i].is_bad()) {
        let why = input.read_bad(i, index)?.why;
        causes.add(&Error::new(ErrorKind::Invalid, why), 1);
    }
    Ok(causes.sorted())
}
