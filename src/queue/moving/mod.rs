//! A queue that moves to another store: from SQLite to a database server and back.
//!
//! An export closes its queue and copies all rows to a file, which is a closed queue itself. An import copies the rows
//! of that file into an empty queue, which stays closed until it is complete. At any time at most one of the three is
//! open, so no job can run, and be billed, in two places. Marks in all three record the state of a move. The same
//! command resumes an interrupted move.

mod copy;
mod export;
mod import;
mod reopen;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use derive_setters::Setters;
use serde::Serialize;

use crate::base::{Error, ErrorKind};

use super::host::JobQueue;
use super::store::moving::MovableStore;

/// Interval of the checks whether workers and servers still use the queue.
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);

/// After its lease, a worker may stay registered for this long, because a program trusts an expired lease only after it
/// has been connected for a while.
const AFTER_LEASE: Duration = Duration::from_secs(10);

/// Progress of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MoveProgress {
    /// Jobs that were copied with their payloads.
    pub jobs: u64,
    /// Total number of jobs.
    pub total: u64,
}

/// Counts of the rows that a move has copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MoveReport {
    /// Processes.
    pub processes: u64,
    /// Jobs, whatever their state.
    pub jobs: u64,
    /// Waiting jobs.
    pub waiting: u64,
    /// Results that were not fetched yet, including those of failed and cancelled jobs.
    pub results: u64,
    /// Batches that are at a provider, or are being submitted.
    pub batches: u64,
    /// Idempotency keys of the HTTP server.
    #[serde(rename = "idempotency_keys")]
    pub keys: u64,
    /// Jobs whose prompts name local files that were not embedded: the files must exist where the jobs run.
    #[serde(rename = "jobs_by_path")]
    pub by_path: u64,
    /// Files of the HTTP server's `/v1/files`.
    pub files: u64,
}

/// Options of a move. The default does not wait for workers, and embeds local files of prompts into the jobs.
#[derive(Default, derive_more::Debug, Setters)]
#[setters(strip_option)]
pub struct MoveOptions<'a> {
    /// Waits until no worker and no HTTP server uses the queue. Default: a queue in use is refused.
    wait: bool,
    /// Does not embed local files in the jobs: their prompts keep naming paths, which must exist where the jobs run.
    /// Default: an export, and an import into a store for many machines, embed the bytes of such files in the jobs; a
    /// file that cannot be read fails the move.
    keep_paths: bool,
    /// Imports a file although its import into another queue has begun. If that queue is ever used, jobs are billed
    /// twice. Default: such a file is rejected.
    again: bool,
    /// The file `server.db` with the records of the HTTP server of a queue in SQLite. Idempotency keys, webhooks, and
    /// the files and batches of `/v1` move with the queue; the bytes of files are in the folder `files` next to it. For
    /// an import the file must exist. Default: none; a queue on a database server contains its records.
    #[setters(into)]
    records: Option<PathBuf>,
    #[debug(skip)]
    #[setters(skip)]
    on_progress: Option<Box<dyn FnMut(MoveProgress) + 'a>>,
}

impl<'a> MoveOptions<'a> {
    /// The default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Called after each group of copied jobs.
    pub fn on_progress(mut self, tell: impl FnMut(MoveProgress) + 'a) -> Self {
        self.on_progress = Some(Box::new(tell));
        self
    }
}

/// The error of a refused move.
fn invalid(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, why).with_storage()
}

fn changed_meanwhile(place: &str) -> Error {
    let why = format!("another command changed {place}; run this one again");
    Error::new(ErrorKind::Transient, why).with_storage()
}

/// The absolute path of a file that need not exist.
fn absolute(path: &Path) -> Result<PathBuf, Error> {
    let cannot = |error| invalid(format!("{} cannot be used: {error}", path.display()));
    let name = path
        .file_name()
        .ok_or_else(|| invalid(format!("{} does not name a file", path.display())))?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder = std::fs::canonicalize(folder).map_err(cannot)?;
    Ok(folder.join(name))
}

impl JobQueue {
    fn movable(&self) -> Result<&dyn MovableStore, Error> {
        let cannot = || {
            invalid(format!(
                "{} cannot be moved: its store has no such function",
                self.location()
            ))
        };
        self.store.movable().ok_or_else(cannot)
    }

    /// Waits until no program uses the queue, or fails. Always waits until the jobs of killed workers have returned to
    /// the queue.
    fn await_users(&self, wait: bool) -> Result<(), Error> {
        let store = self.movable()?;
        let (mut seen, began) = (None, Instant::now());
        loop {
            let users = store.users(self.clock.wall())?;
            if users.is_empty() {
                return Ok(());
            }
            let are_killed = users.iter().all(|user| user.lease_ended)
                && began.elapsed() < store.lease() + AFTER_LEASE;
            if !wait && !are_killed {
                let users: Vec<_> = users.into_iter().map(|user| user.name).collect();
                return Err(invalid(format!(
                    "{} is in use by {}. Stop them and run the command again, or let it wait for them (--wait). A worker \
                     on a database server that was killed counts as alive for up to 15 s",
                    self.location(),
                    users.join(" and by ")
                )));
            }
            self.wait_for_change(&mut seen, BETWEEN_LOOKS);
        }
    }
}
