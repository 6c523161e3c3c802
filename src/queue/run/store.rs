//! The store of a run: a queue of its own in a file beside the output, and the description of its process there.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::base::disk::store_path;
use crate::base::names::quoted;
use crate::base::{Error, ErrorKind, ProcessId};
use crate::bulk::file::FileRun;
use crate::bulk::options::FileRunOptions;
use crate::bulk::results::ResultsFile;
use crate::queue::host::JobQueue;
use crate::queue::info::ProcessInfo;
use crate::queue::job::ProcessState;
use crate::queue::store::sqlite::SqliteOptions;

use super::QueueRun;

impl QueueRun {
    /// Removes the store beside this output if nothing is left in it, unless a run has the output just now.
    pub fn tidy(output: impl AsRef<Path>) {
        let output = output.as_ref();
        if !store_path(output).is_ok_and(|store| store.is_file()) {
            return;
        }
        let lock = |output| ResultsFile::open(output, false, &mut |_, _| {});
        let lock = output.exists().then(|| lock(output));
        if !matches!(lock, Some(Err(_))) {
            let _ = OpenStore::open(&SqliteOptions::default(), output, &FileRunOptions::new());
        }
    }
}

/// The store of a run, open. A file of the run's own is removed in the end if nothing is left of the run.
pub(super) struct OpenStore {
    /// `None` once it is closed.
    queue: Option<JobQueue>,
    process: ProcessId,
    /// The file that the run removes in the end.
    file: Option<PathBuf>,
}

impl OpenStore {
    /// Opens what the run was given. The lock of the output is held, so that no other run opens its store. A dry run makes
    /// none.
    pub(super) fn open(
        sqlite: &SqliteOptions,
        output: &Path,
        options: &FileRunOptions,
    ) -> Result<Self, Error> {
        let file = store_path(output).map_err(|error| {
            let why = format!("{}: its folder cannot be used: {error}", output.display());
            Error::new(ErrorKind::Invalid, why)
        })?;
        // A pipe would be waited for, and a link would not move with the output.
        if fs::symlink_metadata(&file).is_ok_and(|found| !found.is_file()) {
            let why = format!("{}: it is not a file; move it away", file.display());
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        let queue = match (options.dry_run, file.exists()) {
            (true, false) => JobQueue::in_memory()?,
            (true, true) => JobQueue::open_with(&file, sqlite.clone().only_look())?,
            (false, _) => Self::open_file(&file, sqlite)?,
        };
        // The process belongs to the store, wherever that is moved.
        let process = ProcessId::named(queue.id().as_bytes());
        Ok(Self {
            queue: Some(queue),
            process,
            file: Some(file).filter(|_| !options.dry_run),
        })
    }

    pub(super) fn queue(&self) -> &JobQueue {
        self.queue.as_ref().expect("it is open until it is dropped")
    }

    pub(super) fn process(&self) -> ProcessId {
        self.process
    }

    /// Opens the file. One that this call has made does not stay when that fails.
    fn open_file(file: &Path, sqlite: &SqliteOptions) -> Result<JobQueue, Error> {
        let is_new = !file.exists();
        JobQueue::open_with(file, sqlite.clone()).inspect_err(|_| {
            if is_new && file.exists() {
                remove(file);
            }
        })
    }

    /// Closes the store and leaves its file, as the lock of the output was given back: another run may have it by now.
    pub(super) fn leave(mut self) {
        self.file = None;
    }
}

/// Whether nothing is left in it.
fn is_over(queue: &JobQueue) -> Result<bool, Error> {
    Ok(queue.open_processes()?.is_empty() && queue.batches(None)?.is_empty())
}

impl Drop for OpenStore {
    fn drop(&mut self) {
        let Some(file) = self.file.take() else {
            return;
        };
        let is_over = is_over(self.queue()).unwrap_or_else(|error| {
            log::warn!("{error}");
            false
        });
        // Closed first: SQLite puts its log away.
        self.queue = None;
        // A user who moves the run moves two files: empty folders need not stay behind.
        if is_over {
            remove(&file)
        } else {
            FOLDERS.iter().for_each(|folder| {
                let _ = fs::remove_dir(beside(&file, folder));
            })
        }
    }
}

/// What lies beside a store: locks of workers, and the input and results of batches on their way.
const FOLDERS: [&str; 2] = [".batches", ".workers"];

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Removes a store with all that lies beside it. (SQLite removes the log of a database that is not there.)
fn remove(file: &Path) {
    if let Err(error) = fs::remove_file(file)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        log::warn!("{}: cannot be removed: {error}", file.display());
        return;
    }
    for log in ["-wal", "-shm"] {
        let _ = fs::remove_file(beside(file, log));
    }
    for folder in FOLDERS {
        let _ = fs::remove_dir_all(beside(file, folder));
    }
}

/// Refuses an output that lacks what left the store for it.
pub(super) fn refuse_another_output(
    output: &Path,
    run: &FileRun<'_>,
    process: Option<&ProcessState>,
) -> Result<(), Error> {
    let Some(process) = process else {
        return Ok(());
    };
    let saved = saved(&process.info);
    let Some(last) = saved.last() else {
        return Ok(());
    };
    if run.has_line_of(&saved)? {
        return Ok(());
    }
    let store = store_path(output).unwrap_or_default();
    let why = format!(
        "{}: {} belongs to another output: this one lacks the result of {last:?}, which a run has saved; nothing was \
         sent. Put that output back beside its store. To give up what is under way: batchwright cancel {} --delete \
         --queue {}",
        output.display(),
        store.display(),
        process.process_id,
        quoted(&store),
    );
    Err(Error::new(ErrorKind::Invalid, why))
}

/// Refuses the store of another output that is still there, and has lost it.
pub(super) fn refuse_moved_store(
    output: &Path,
    process: Option<&ProcessState>,
) -> Result<(), Error> {
    let named = process.and_then(|process| process.info.output.as_deref());
    let Some(named) = named.map(Path::new) else {
        return Ok(());
    };
    let [own, its] = [output, named].map(|output| store_path(output).unwrap_or_default());
    // A copy of both is a run of its own. So is a run that has been moved, if the path has a new file.
    let is_new = |named: &Path| {
        let born = named.metadata().and_then(|found| found.created()).ok()?;
        let born = born.duration_since(UNIX_EPOCH).ok()?.as_millis();
        Some(i64::try_from(born).ok()? > process?.created_at.0)
    };
    if own == its || its.exists() || !named.exists() || is_new(named) == Some(true) {
        return Ok(());
    }
    let why = format!(
        "{} is the store of {}, which is there without it; nothing was sent. Move it back: mv {} {}",
        own.display(),
        named.display(),
        quoted(&own),
        quoted(&its)
    );
    Err(Error::new(ErrorKind::Invalid, why))
}

/// Ids of saved items that are kept: a user may take some of their lines out of the output, and not all.
const SAVED: usize = 8;

/// The items whose answers an earlier run has saved last, before they left the store, as it has noted them.
fn saved(info: &ProcessInfo) -> Vec<String> {
    let text = info.note.as_deref().unwrap_or("[]");
    serde_json::from_str(text).unwrap_or_default()
}

/// Notes that the answers to these items are in the output.
pub(super) fn note_saved(info: &mut ProcessInfo, ids: Vec<String>) {
    let mut saved = saved(info);
    saved.extend(ids);
    saved.drain(..saved.len().saturating_sub(SAVED));
    info.note = serde_json::to_string(&saved).ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cancel::Context;
    use crate::bulk::appender::ResultsAppender;
    use crate::bulk::options::{FileRunError, RunOutput};
    use crate::bulk::prompts::{PromptSettings, Prompts};

    #[test]
    fn a_store_goes_with_its_last_item_and_stays_while_its_output_is_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        fs::write(&output, "").unwrap();
        let path = store_path(&output).unwrap();
        let queue = JobQueue::open(&path).unwrap();
        let process = ProcessId::new();
        let job = crate::queue::job::Job::from(&crate::llm::request::Request::new("p"));
        queue.enqueue(process, [job]).unwrap();
        QueueRun::tidy(&output);
        assert!(path.exists(), "it holds an item");
        queue.delete(process).unwrap();
        drop(queue);
        let in_use = ResultsAppender::open(&output).ok().unwrap();
        QueueRun::tidy(&output);
        assert!(path.exists(), "a run has the output");
        drop(in_use);
        QueueRun::tidy(&output);
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    /// No run by calls takes an output whose items wait in a store, and a store that is a link is refused and stays.
    #[test]
    fn a_store_is_no_link_and_its_output_is_not_for_runs_by_calls() {
        let folder = tempfile::tempdir().unwrap();
        let [input, output] = ["in.jsonl", "out.jsonl"].map(|name| folder.path().join(name));
        fs::write(&input, "{\"id\":\"a\",\"prompt\":\"p\"}\n").unwrap();
        let direct = || {
            let settings = PromptSettings::new();
            let prompts = Prompts::open(&input, &settings, &Context::new(), &|_, _| ());
            let (output, options) = (RunOutput::file(&output), FileRunOptions::new());
            FileRun::prepare(prompts.unwrap(), output, options).err()
        };
        let store = store_path(&output).unwrap();
        drop(JobQueue::open(&store).unwrap());
        assert!(matches!(direct(), Some(FileRunError::Usage(_))));
        fs::remove_file(&store).unwrap();
        assert!(direct().is_none());
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("elsewhere", &store).unwrap();
            let options = SqliteOptions::default();
            let refused = OpenStore::open(&options, &output, &FileRunOptions::new());
            assert!(refused.err().unwrap().message().contains("not a file"));
            assert!(store.is_symlink() && !folder.path().join("elsewhere").exists());
        }
    }
}
