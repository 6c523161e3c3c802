//! The types of jobs that this program puts on the queue and carries out.

use std::path::Path;

use batchwright::jobs::JobTypes;

/// Those that are built in. Whoever submits by the command line may read the files that payloads name.
pub fn built_in() -> JobTypes {
    JobTypes::new().local_files(true)
}

/// The same for a worker, with its folder for sound.
pub fn of_worker(named: Option<&Path>, data: &Path) -> JobTypes {
    let folder = named.map_or_else(|| data.join("audio"), Path::to_owned);
    built_in().audio_folder(folder)
}
