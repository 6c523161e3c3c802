//! Going on with a queue and a `server.db` that are not of one moment: what that may cost is said first.

use std::path::Path;

use batchwright::queue::{Durability, ProcessInfo};
use batchwright::unstable::Apart;
use batchwright::{Context, Error, JobQueue};
use rusqlite::{Connection, OpenFlags};

use crate::records::{BatchRecord, BatchState, FileRecord, Records, Stored as _};
use crate::server::lock;

/// Has a queue and the `server.db` of a folder go on together although one of them is a backup, or is gone. Returns what may
/// be paid again, and what is not known, in sentences; nothing if they belong together.
///
/// # Errors
/// When one of both cannot be read or written; while a server uses the folder.
pub fn restore(queue: &JobQueue, folder: &Path) -> Result<Vec<String>, Error> {
    let _lock = lock(folder)?;
    let path = folder.join("server.db");
    let Some(apart) = queue.apart(&path)? else {
        return Ok(Vec::new());
    };
    // One that is gone is made anew.
    let records = Records::open(&path, Durability::Full, &Context::new())?;
    let batches = BatchRecord::all(&records.single(), "true ORDER BY number", &[])?;
    let (mut said, mut done) = (Vec::new(), Vec::new());
    let processes = queue.open_processes()?;
    for process in &processes {
        let (id, counts) = (process.process_id, &process.counts);
        let open = counts.total - counts.finished();
        let collector = process.info.collector.as_ref();
        let batch = |id: &String| batches.iter().find(|batch| batch.id == *id);
        match collector.map(|collector| (collector, batch(collector))) {
            Some((batch, Some(known))) if has_ended(known) && !are_files_there(&records, folder, known) => said.push(format!(
                "{batch} has ended, and files of its results are missing in {}: its process {id} stays",
                folder.join("files").display()
            )),
            Some((batch, Some(known))) if has_ended(known) && known.state != BatchState::Failed => {
                said.push(format!(
                    "{batch} has ended, and its results are in its files: its process is deleted from the queue"
                ));
                done.push((batch, id));
            }
            Some((batch, None)) => said.push(format!(
                "{batch} is lost. Its process {id} has {} results, and {open} requests still to be done: batchwright results \
                 {id} -o FILE fetches them, and batchwright cancel {id} --delete ends it",
                counts.finished() - counts.consumed
            )),
            _ if apart == Apart::OlderQueue && open > 0 => said.push(format!(
                "process {id}: {open} jobs are still to be done; what was done of them since is paid again"
            )),
            _ => {}
        }
    }
    let is_there =
        |batch: &&BatchRecord| processes.iter().any(|one| one.process_id == batch.process);
    for batch in batches
        .iter()
        .filter(|batch| !has_ended(batch) && !is_there(batch))
    {
        let id = &batch.id;
        said.push(if batch.state == BatchState::Validating {
            format!(
                "{id} begins again. Not sent again is what has a reply in its files, and all of it if it began within a day; \
                 anything else that was sent since is paid again"
            )
        } else {
            format!("{id} has nothing in the queue: it ends with the results in its files")
        });
    }
    let unknown = match apart {
        Apart::OlderQueue => {
            "batches that were created at a provider since. Look at its list, and cancel there what is not needed"
        }
        _ => {
            "what clients have sent to the server, cancelled or deleted since. What nobody knows in its folder files stays: \
             delete it yourself"
        }
    };
    said.push(format!("Not known: {unknown}"));
    for (batch, process) in done {
        let of_batch = queue.described(ProcessInfo::new().collector(batch));
        of_batch.delete(process)?;
    }
    queue.forget_servers(&path)?;
    records.begin(&path, queue)?;
    Ok(said)
}

/// Whether the result files of a batch are there. One that was deleted, or has expired, is not missed.
fn are_files_there(records: &Records, folder: &Path, batch: &BatchRecord) -> bool {
    let files = [
        (batch.has_output, &batch.output_file),
        (batch.has_errors, &batch.error_file),
    ];
    files.into_iter().all(|(has, id)| {
        let is_known = || FileRecord::get(&records.single(), id).is_ok_and(|file| file.is_some());
        !has || folder.join("files").join(id).exists() || !is_known()
    })
}

fn has_ended(batch: &BatchRecord) -> bool {
    use BatchState::{Cancelled, Completed, Expired, Failed};
    matches!(batch.state, Completed | Failed | Expired | Cancelled)
}

/// Whether a `server.db` has a batch.
///
/// # Errors
/// When it cannot be read.
pub fn has_batch(server_db: &Path, id: &str) -> Result<bool, Error> {
    if !server_db.exists() {
        return Ok(false);
    }
    let look = || -> rusqlite::Result<bool> {
        let database = Connection::open_with_flags(server_db, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let find = "SELECT EXISTS (SELECT 1 FROM batches WHERE id = ?)";
        database.query_row(find, [id], |row| row.get(0))
    };
    look().map_err(|error| {
        let why = format!("{}: {error}", server_db.display());
        Error::new(batchwright::ErrorKind::Invalid, why).with_storage()
    })
}
