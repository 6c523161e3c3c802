//! How the rows are read that results are joined with: as the run read them.

use batchwright::client::RequestTask;
use batchwright::files::PromptSettings;

use crate::args::export::ExportArgs;
use crate::args::shared::TaskArg;
use crate::data_dir::data_dir;
use crate::exit::Refusal;
use crate::prompts::with_schema;

/// The settings of the run, as far as they were told: ids that were made of what was asked depend on them.
pub fn settings(args: &ExportArgs) -> Result<PromptSettings, Refusal> {
    let rows = &args.rows;
    let mut settings = PromptSettings::new().json_mode(args.json_mode);
    if rows.task == TaskArg::Embed {
        settings = settings.task(RequestTask::Embed);
    }
    if let Some(given) = &args.json_schema {
        settings = with_schema(settings, given)?;
    }
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
    let settings = rows.reading.settings(settings, data_dir(None))?;
    Ok(settings.for_joining(true))
}
