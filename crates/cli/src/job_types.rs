//! The types of jobs that this program puts on the queue and carries out.

use batchwright::jobs::JobTypes;

/// Those that are built in. Whoever submits by the command line may read the files that payloads name.
pub fn built_in() -> JobTypes {
    JobTypes::new().local_files(true)
}
