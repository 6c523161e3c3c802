//! Compares prompts with an output before anything is sent.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crate::base::error::{Error, ErrorKind};
use crate::bulk::equals::Equals;
use crate::bulk::input::{AttachedFiles, FileIndex, InputFile, Match, Matching, is_automatic};
use crate::bulk::known::{self, KnownAnswers, OutputAnswers, remember};
use crate::bulk::open_output::{OpenOutput, Opened, open, refuse_same_file};
use crate::bulk::options::{FileRunError, FileRunOptions, RunOutput, RunPlan};
use crate::bulk::prompts::{PromptSource, Prompts};
use crate::bulk::results::ResultsFile;
use crate::bulk::results::superseded::SupersededFlags;
use crate::bulk::run_settings::{RunSettings, names_settings};
use crate::bulk::stream::{Previous, StreamInput};
use crate::llm::params::RequestTask;
use crate::observe::causes::{Causes, FailureCause};

use super::Prepared;

pub(super) fn prepare_file(
    prompts: Prompts,
    output: RunOutput,
    options: &FileRunOptions,
    plan: &mut RunPlan,
    compare: &mut dyn FnMut(&mut Matching) -> Result<(), Error>,
) -> Result<(Prepared, OpenOutput), FileRunError> {
    let PromptSource::File(mut checked) = prompts.source else {
        unreachable!("asked for files only");
    };
    let (mut matched, mut says_input, mut has_old_bad_rows) = (0, false, false);
    let mut flags = SupersededFlags::default();
    let settings = RunSettings::of(&prompts.settings.0);
    let mut differing: HashMap<String, u64> = HashMap::new();
    let embeds = prompts.settings.0.task == RequestTask::Embed;
    let output = match open(output, options)? {
        Opened::Writer(writer) => OpenOutput::Writer(writer),
        Opened::File(path) => {
            let mut inputs = checked.input.names();
            inputs.try_for_each(|input| refuse_same_file(&path, Path::new(input)))?;
            plan.resumable = true;
            let (models, vectors) = (&mut plan.models_before, &mut plan.vectors_before);
            let superseded = &mut plan.superseded;
            let file = ResultsFile::open(&path, options.fsync, &mut |line, _| {
                let prefix = line.prefix(options.redo_extracts);
                let found = checked.items.match_line(&line.id, prefix, line.ended());
                if found != Match::Unknown {
                    matched += 1;
                    says_input |= line.input.is_some();
                }
                has_old_bad_rows |= found == Match::Unknown && line.is_unnamed_bad_row();
                let outdated = found == Match::Changed;
                *superseded += u64::from(outdated && line.success);
                let unnamed = found == Match::Unknown && is_automatic(&line.id);
                if (outdated || unnamed) && line.is_paid_reply() {
                    let differs = settings.changed_since(line.settings.as_deref());
                    // An item without an id is another one for another request: only its settings tell.
                    if outdated || names_settings(&differs) {
                        *differing.entry(differs).or_default() += 1;
                    }
                }
                let unknown = found == Match::Unknown;
                flags.next(line.superseded, outdated || (unknown && line.superseded));
                if embeds && found == Match::Done {
                    remember(vectors, line.provider.clone().zip(line.model.clone()));
                }
                if line.success && found != Match::Unknown {
                    remember(models, line.model);
                }
            })?;
            OpenOutput::File(file.of_run(settings, !options.drop_superseded))
        }
    };
    let mut restored = Vec::new();
    if let OpenOutput::File(file) = &output
        && checked.items.lacks_answers()
    {
        file.archived(&mut |line, place| {
            let prefix = line.prefix(options.redo_extracts);
            if line.success && checked.items.lacks_answer(&line.id, prefix) {
                checked.items.match_line(&line.id, prefix, line.ended());
                restored.push(place);
                says_input |= line.input.is_some();
                if embeds {
                    let maker = line.provider.clone().zip(line.model.clone());
                    remember(&mut plan.vectors_before, maker);
                }
                remember(&mut plan.models_before, line.model);
            }
        });
    }
    plan.restored = restored.len() as u64;
    let is_renamed = checked.items.is_renamed();
    let totals = checked.items.totals();
    compare(&mut checked.items).map_err(FileRunError::Output)?;
    let attached = std::mem::take(&mut checked.items.attached);
    let index = checked.items.finish();
    let tally = index.tally();
    let total = index.len() as u64;
    plan.under_way = (0..index.len()).filter(|i| index.is_taken(*i)).count() as u64;
    let found = known::find(&index, &checked.kinds, &output, options, embeds, plan);
    let (equals, of_output) = found.map_err(FileRunError::Output)?;
    let known = KnownAnswers {
        of_output: &of_output,
        store: None,
        kinds: &checked.kinds,
        options,
    };
    known.plan(&checked.input, &index, &equals, plan);
    plan.total = Some(total);
    plan.done = tally.done;
    plan.failed_before = tally.failed;
    plan.unusable_before = tally.unusable;
    plan.changed = tally.changed;
    let unnamed = tally.new.min(tally.automatic);
    plan.differing = differing_items(differing, tally.changed + unnamed);
    plan.foreign = tally.unknown_lines;
    plan.without_id = tally.automatic;
    plan.bad_rows = totals.bad;
    plan.null_rows = totals.left_out;
    if totals.bad > 0 {
        let causes = bad_row_causes(&checked.input, &index);
        plan.bad_row_causes = causes.map_err(FileRunError::Output)?;
    }
    let prepared = Prepared {
        has_marks: false,
        is_kept_otherwise: says_input
            || is_renamed
            || checked.input.keeps() && (matched > 0 || !restored.is_empty()),
        input: checked.input,
        index: Arc::new(index),
        kinds: checked.kinds,
        equals,
        of_output,
        output_cap: prompts.settings.output_cap(),
        task: prompts.settings.0.task,
        repeated: has_old_bad_rows
            || !restored.is_empty()
            || matched > tally.done + tally.failed + tally.unusable + tally.changed,
        flags,
        restored,
        attached,
        stream: None,
    };
    Ok((prepared, output))
}

/// Why rows make no prompt, the most frequent cause first.
fn bad_row_causes(input: &InputFile, index: &FileIndex) -> Result<Vec<FailureCause>, Error> {
    let mut causes = Causes::default();
    for i in (0..index.len()).filter(|i| index.is_bad(*i)) {
        let why = input.read_bad(i, index)?.why;
        causes.add(&Error::new(ErrorKind::Invalid, why), 1);
    }
    Ok(causes.sorted())
}

/// The reasons with their counts of paid answers, the most frequent first, for at most so many items: an item may
/// have several earlier answers.
fn differing_items(answers: HashMap<String, u64>, items: u64) -> Vec<(String, u64)> {
    let mut reasons: Vec<(String, u64)> = answers.into_iter().collect();
    reasons.sort_unstable_by(|a, b| (b.1, &a.0).cmp(&(a.1, &b.0)));
    let mut left = items;
    for (_, count) in &mut reasons {
        *count = (*count).min(left);
        left -= *count;
    }
    reasons.retain(|(_, count)| *count > 0);
    reasons
}

pub(super) fn prepare_stream(
    prompts: Prompts,
    output: RunOutput,
    options: &FileRunOptions,
    plan: &mut RunPlan,
) -> Result<(Prepared, OpenOutput), FileRunError> {
    let PromptSource::Stream { name, reader } = prompts.source else {
        unreachable!("asked for streams only");
    };
    let settings = prompts.settings;
    let mut previous = Previous::default();
    let output = match open(output, options)? {
        Opened::Writer(writer) => OpenOutput::Writer(writer),
        Opened::File(path) => {
            plan.resumable = true;
            let file = ResultsFile::open(&path, options.fsync, &mut |line, _| {
                previous.add(&line, options.redo_extracts);
            })?;
            let settings = RunSettings::of(&settings.0);
            OpenOutput::File(file.of_run(settings, !options.drop_superseded))
        }
    };
    previous.seal();
    let prepared = Prepared {
        input: Arc::new(InputFile::growing(settings.0.clone())),
        index: Arc::new(FileIndex::growing()),
        kinds: Vec::new(),
        equals: Equals::default(),
        of_output: OutputAnswers::default(),
        output_cap: settings.output_cap(),
        task: settings.0.task,
        repeated: previous.repeated,
        is_kept_otherwise: !previous.is_empty(),
        has_marks: previous.marked,
        flags: SupersededFlags::default(),
        restored: Vec::new(),
        attached: AttachedFiles::default(),
        stream: Some(Box::new(StreamInput {
            name,
            reader,
            settings,
            previous,
        })),
    };
    Ok((prepared, output))
}
