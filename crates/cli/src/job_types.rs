//! The types of jobs that this program enqueues and processes.

use std::path::Path;

use batchwright::config::SettingsWatch;
use batchwright_jobs::JobTypes;

/// The built-in types, with the source of articles from the settings. A user of the command line may read the files
/// that payloads name.
pub fn built_in(watch: Option<SettingsWatch>) -> JobTypes {
    of_clients(watch).local_files(true)
}

/// The same for payloads that arrive over HTTP.
pub fn of_clients(watch: Option<SettingsWatch>) -> JobTypes {
    match watch {
        Some(watch) => JobTypes::new().follow(watch),
        None => JobTypes::new(),
    }
}

/// The same for a worker, with its folder for audio.
pub fn of_worker(watch: SettingsWatch, named: Option<&Path>, data: &Path) -> JobTypes {
    let folder = named.map_or_else(|| data.join("audio"), Path::to_owned);
    built_in(Some(watch)).audio_folder(folder)
}
