//! The types of jobs that this program enqueues and processes.

use std::path::Path;

use batchwright::{Error, Settings};
use batchwright_jobs::JobTypes;

/// The built-in types, with the source of articles from the settings. A user of the command line may read the files
/// that payloads name.
pub fn built_in(settings: &Settings) -> Result<JobTypes, Error> {
    Ok(of_clients(settings)?.local_files(true))
}

/// The same for payloads that arrive over HTTP.
pub fn of_clients(settings: &Settings) -> Result<JobTypes, Error> {
    Ok(match settings.articles()? {
        Some(source) => JobTypes::new().article_source(source, settings.private_articles()?),
        None => JobTypes::new(),
    })
}

/// The same for a worker, with its folder for audio.
pub fn of_worker(
    settings: &Settings,
    named: Option<&Path>,
    data: &Path,
) -> Result<JobTypes, Error> {
    let folder = named.map_or_else(|| data.join("audio"), Path::to_owned);
    Ok(built_in(settings)?.audio_folder(folder))
}
