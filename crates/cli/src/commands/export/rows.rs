//! How the rows are read that results are joined with: as the run read them.

use batchwright::client::RequestTask;
use batchwright::files::PromptSettings;

use crate::args::export::ExportArgs;
use crate::args::input::BadRows;
use crate::args::shared::TaskArg;
use crate::data_dir::data_dir;
use crate::exit::Refusal;
use crate::folder;
use crate::prompts::with_extra;

/// The settings of the run, as far as they were told: ids that were made of what was asked depend on them.
/// Whether it asked for JSON is found out: the flags for that say what the table is to be.
pub fn settings(args: &ExportArgs) -> Result<PromptSettings, Refusal> {
    let rows = &args.rows;
    let mut settings = PromptSettings::new();
    if rows.task == TaskArg::Embed {
        settings = settings.task(RequestTask::Embed);
    }
    settings = with_extra(
        settings,
        rows.extra.as_deref(),
        rows.service_tier.as_deref(),
    )?;
    if let Some(model) = &rows.model {
        settings = settings.model(model);
    }
    if let Some(system) = &rows.system {
        settings = settings.system(system);
    }
    if let Some(template) = &rows.template {
        let read = settings.template(template);
        settings = read.map_err(|error| Refusal::usage(error.message()))?;
    }
    if let Some(tokens) = rows.max_tokens {
        settings = settings.max_tokens(tokens);
    }
    if let Some(temperature) = rows.temperature {
        settings = settings.temperature(temperature);
    }
    if let Some(dimensions) = rows.dimensions {
        settings = settings.dimensions(dimensions);
    }
    let settings = folder::settings(settings, &rows.reading, &rows.input)?;
    let settings = rows.reading.settings(settings, data_dir(None))?;
    let settings = settings.skip_bad_rows(rows.bad_rows == BadRows::Skip);
    Ok(settings.for_joining(true))
}
