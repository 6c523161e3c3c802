//! Reads the rows that results are joined with, in the same way as the run.

use batchwright::files::PromptSettings;

use crate::args::export::ExportArgs;
use crate::args::input::BadRows;
use crate::data_dir::data_dir;
use crate::exit::Refusal;
use crate::folder;
use crate::prompts::{task_settings, with_extra, with_template};
use batchwright::unstable::Optional;

/// The settings of the run, as given by flags: ids that were made from requests depend on them. Whether the run
/// requested JSON is detected, because the flags for that describe the table here.
pub fn settings(args: &ExportArgs) -> Result<PromptSettings, Refusal> {
    let rows = &args.rows;
    let settings = task_settings(rows.task)
        .set(rows.model.as_ref(), PromptSettings::model)
        .set(rows.system.as_ref(), PromptSettings::system)
        .set(rows.max_tokens, PromptSettings::max_tokens)
        .set(rows.temperature, PromptSettings::temperature)
        .set(rows.dimensions, PromptSettings::dimensions);
    let settings = with_template(settings, rows.template.as_deref())?;
    let (extra, tier) = (&rows.extra, &rows.service_tier);
    let settings = with_extra(settings, extra.as_deref(), tier.as_deref())?;
    let settings = folder::settings(settings, &rows.reading, &rows.input)?;
    let settings = rows.reading.settings(settings, data_dir(None))?;
    let settings = settings.skip_bad_rows(rows.bad_rows == BadRows::Skip);
    Ok(settings.for_joining(true))
}
