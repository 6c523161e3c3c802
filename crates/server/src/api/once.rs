//! Requests with an `Idempotency-Key`: the key names the process, so a request that is sent again gets what is there.

use batchwright::queue::EnqueueError;
use batchwright::{ErrorKind, Job, JobQueue, ProcessId};
use sha2::{Digest, Sha256};

use crate::app::App;
use crate::http::{Call, Response, is_visible};
use crate::problem::Problem;

/// Longest key, in bytes.
const LONGEST: usize = 255;

/// The process, or the bits of the object of `/v1`, that the client's key of a request names, if it sent one.
///
/// # Errors
/// When the key is empty, too long, or has other characters: two such keys could be taken for the same one.
pub(crate) fn named(app: &App, call: &Call<'_>) -> Result<Option<ProcessId>, Problem> {
    let Some(key) = call.head.header("idempotency-key") else {
        return Ok(None);
    };
    if key.len() > LONGEST || !is_visible(key) {
        let why = format!("idempotency-key: send from 1 to {LONGEST} visible characters of ASCII");
        return Err(Problem::invalid(why).param("idempotency-key"));
    }
    let name = [app.queue.id(), &call.head.path, key].join("\0");
    Ok(Some(ProcessId::named(name.as_bytes())))
}

/// The hash of these parts of a request; different splits of the same bytes give different hashes.
pub(crate) fn hash(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let hex = hash.finalize();
    hex.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The answer to another request than the first one with its key.
pub(crate) fn another() -> Problem {
    let why = "this idempotency key was sent before, with another request or more than a day ago: use a new key for a new \
               request";
    Problem::new(422, "idempotency_key_reused", why).param("idempotency-key")
}

/// Adds the jobs of a request with a key to its process, each once. Returns their number.
///
/// # Errors
/// That of `jobs`; 422 if the key was sent with another request, 409 if its process is gone.
pub(crate) fn enqueue(
    queue: &JobQueue,
    process: ProcessId,
    request: &str,
    jobs: impl IntoIterator<Item = Result<Job, Problem>>,
) -> Result<u64, Problem> {
    let added = queue.try_enqueue_once(process, request, jobs);
    added.map_err(|error| match error {
        EnqueueError::Source(problem) => problem,
        EnqueueError::Queue(error) => match error.kind() {
            ErrorKind::NotFound => Problem::conflict(error.message()).param("idempotency-key"),
            ErrorKind::Changed => another(),
            _ => error.into(),
        },
    })
}

/// Marks the answer to a request that was sent before.
pub(crate) fn replayed(response: Response, is_replayed: bool) -> Response {
    if is_replayed {
        response.header("idempotency-replayed", "true")
    } else {
        response
    }
}
