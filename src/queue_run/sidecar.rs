//! What is kept beside an output while anything of it is on a queue.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::clock::{Clock, SystemClock, Timestamp};
use crate::base::disk::sync_folder;
use crate::base::error::{Error, ErrorKind};
use crate::base::host::host;
use crate::base::id::{JobId, ProcessId};
use crate::base::private;
use crate::base::sidecar_path::sidecar_path;
use crate::bulk::run_settings::RunSettings;
use crate::queue::batch::BatchInfo;
use crate::queue::host::JobQueue;
use crate::queue::info::ProcessInfo;
use crate::queue::job::ProcessState;

/// What is kept beside an output, in a file with `.batchwright` behind its name, from before the first
/// item of it is put on a queue until nothing of it is left there: on which queue it is, and as which
/// process. So the next run of this output finds it, whatever data folder it looks in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Sidecar {
    /// For people who open it.
    about: String,
    version: u32,
    /// The process that has the items.
    pub process_id: ProcessId,
    /// Where its queue is: see [`JobQueue::location`].
    pub queue: String,
    /// Which queue that is: see [`JobQueue::id`].
    pub queue_id: String,
    /// The machine that it is on; empty where its name is not known.
    pub host: String,
    /// What is told of the process.
    #[serde(default)]
    pub info: ProcessInfo,
    /// Items of it that were on the queue when this was written.
    #[serde(default)]
    pub items: u64,
    /// The batches it had then, each as provider and id there.
    #[serde(default)]
    pub batches: Vec<(String, String)>,
    /// Results of it that were taken to other places.
    #[serde(default)]
    pub taken: Vec<TakenResults>,
    /// The settings of its jobs, those of the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) settings: Vec<JobSettings>,
    /// When this was written.
    pub written_at: Timestamp,
}

/// The settings that a run submitted its jobs with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct JobSettings {
    /// They are those of the jobs behind this one; `None` for all.
    after: Option<JobId>,
    settings: RunSettings,
}

impl JobSettings {
    /// Takes note of the settings of all jobs behind the last one.
    pub(super) fn note(known: &mut Vec<Self>, last: Option<JobId>, settings: &RunSettings) {
        if last.is_none() {
            known.clear();
        }
        if known
            .last()
            .is_none_or(|latest| latest.settings != *settings)
        {
            known.push(Self {
                after: last,
                settings: settings.clone(),
            });
        }
    }

    /// The settings of a job; `None` where they are not known.
    pub(super) fn of(known: &[Self], job: JobId) -> Option<&RunSettings> {
        let mut latest = known.iter().rev();
        let found = latest.find(|known| known.after.is_none_or(|after| after < job));
        found.map(|known| &known.settings)
    }
}

/// Results that were taken out of the queue to another place than the output they belong to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TakenResults {
    /// The file that has them, as an absolute path; `None` for a pipe or a terminal.
    pub to: Option<PathBuf>,
    /// How many left the queue for certain.
    pub results: u64,
    /// So many more were being taken: they may be there, and may have left the queue.
    #[serde(default)]
    pub pending: u64,
}

const VERSION: u32 = 1;

const ABOUT: &str = "Items of the output beside this file are on a queue or at a provider, and paid for. \
    The next run of that output finds them by this file and removes it at its end: keep both together.";

/// What the file's own version is read by; the rest may be another's.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl Sidecar {
    /// The sidecar of what this process has on the queue.
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub fn new(queue: &JobQueue, process: ProcessId, info: ProcessInfo) -> Result<Self, Error> {
        Ok(Self {
            about: ABOUT.to_owned(),
            version: VERSION,
            process_id: process,
            queue: queue.location(),
            queue_id: queue.id()?,
            host: host(),
            info,
            items: 0,
            batches: Vec::new(),
            taken: Vec::new(),
            settings: Vec::new(),
            written_at: SystemClock.wall(),
        })
    }

    /// Where the sidecar of an output is, whatever link or relative path leads to that.
    ///
    /// # Errors
    /// When the output's folder is not there.
    pub fn path(output: impl AsRef<Path>) -> io::Result<PathBuf> {
        let output = output.as_ref();
        sidecar_path(output)
    }

    /// Reads the sidecar of an output; `None` if there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is of another program or a newer version.
    pub fn read(output: impl AsRef<Path>) -> Result<Option<Self>, Error> {
        let output = output.as_ref();
        match Self::path(output) {
            Ok(path) => read(&path),
            // Nor is there an output.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(trouble(output, "its folder cannot be read", &error)),
        }
    }

    /// The sidecar of this very output in the same folder, under the name that the output had when it was
    /// written. One that cannot be read is none.
    pub fn of_renamed(output: impl AsRef<Path>) -> Option<Self> {
        let output = output.as_ref();
        renamed(output).map(|(sidecar, _)| sidecar)
    }

    /// The sidecar of this very output: the one beside it, else the one that it had under its name before,
    /// in the same folder or where its process was told it is.
    pub(super) fn find(
        output: &Path,
        process: Option<&ProcessState>,
    ) -> Result<Option<(Self, PathBuf)>, Error> {
        if let Some(own) = Self::read(output)? {
            let path = Self::path(output).map_err(|e| trouble(output, "its folder is gone", &e))?;
            return Ok(Some((own, path)));
        }
        let at = |process: &ProcessState| {
            let path = Self::path(Path::new(process.info.output.as_ref()?)).ok()?;
            let sidecar = read(&path).ok()??;
            (sidecar.process_id == process.process_id).then_some((sidecar, path))
        };
        Ok(renamed(output).or_else(|| process.and_then(at)))
    }

    /// Moves the sidecar of a renamed output beside it, and returns what is beside the output then.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn bring(
        output: impl AsRef<Path>,
        process: Option<&ProcessState>,
    ) -> Result<Option<Self>, Error> {
        let output = output.as_ref();
        let Some((sidecar, path)) = Self::find(output, process)? else {
            return Ok(None);
        };
        if Self::path(output).is_ok_and(|own| own != path) {
            sidecar.write(output)?;
            fs::remove_file(&path).map_err(|e| trouble(&path, "cannot be removed", &e))?;
        }
        Ok(Some(sidecar))
    }

    /// Where the output of a process is now: where the process was told, or in the same folder under
    /// another name; `None` where it is not found.
    pub fn output_of(process: &ProcessState) -> Option<PathBuf> {
        let info = &process.info;
        let recorded = PathBuf::from(info.output.as_ref()?);
        let Some(file) = &info.output_file else {
            return Some(recorded);
        };
        let is_it = |path: &PathBuf| file_id(path).as_ref() == Some(file);
        let names_it = |path: &PathBuf| {
            let sidecar = Self::read(path).ok().flatten();
            path.exists() && sidecar.is_some_and(|known| known.process_id == process.process_id)
        };
        if is_it(&recorded) {
            return Some(recorded);
        }
        let entries = fs::read_dir(recorded.parent()?).ok()?.flatten();
        let beside: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        let renamed = || beside.iter().find(|path| is_it(path)).cloned();
        // Its file is another one since it was tidied up or edited.
        let sidecars = beside.iter().filter(|path| is_sidecar(path));
        let mut named = sidecars.map(|path| path.with_extension(""));
        renamed()
            .or_else(|| names_it(&recorded).then(|| recorded.clone()))
            .or_else(|| named.find(names_it))
    }

    /// Writes it beside the output, synced to the disk.
    ///
    /// # Errors
    /// When it cannot be written there.
    pub fn write(&self, output: impl AsRef<Path>) -> Result<(), Error> {
        let output = output.as_ref();
        let path = Self::path(output).map_err(|e| trouble(output, "its folder is gone", &e))?;
        let write = || -> io::Result<()> {
            let text = serde_json::to_string_pretty(self)?;
            let half = half(&path);
            let mut file = private::make_file(&half)?;
            file.write_all(text.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&half, &path)?;
            sync_folder(&path)
        };
        write().map_err(|error| {
            let _ = fs::remove_file(half(&path));
            let why = "cannot be written, and without it another data folder's run would buy these \
                       items again; name an output in a folder that can be written to";
            trouble(&path, why, &error)
        })
    }

    /// Nothing of this process is left on its queue: removes the sidecar of its output, unless results
    /// were taken elsewhere, from where the next run has to take them in.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn remove(output: impl AsRef<Path>, process: ProcessId) -> Result<(), Error> {
        let output = output.as_ref();
        match Self::read(output) {
            Ok(Some(mut sidecar)) if sidecar.process_id == process && !sidecar.taken.is_empty() => {
                sidecar.nothing_left();
                sidecar.write(output)
            }
            _ => Self::discard(output, process),
        }
    }

    /// Gives up what is known of this process: removes the sidecar of an output, if it names this process.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn discard(output: impl AsRef<Path>, process: ProcessId) -> Result<(), Error> {
        let output = output.as_ref();
        let (Ok(path), Ok(Some(sidecar))) = (Self::path(output), Self::read(output)) else {
            return Ok(());
        };
        if sidecar.process_id != process {
            return Ok(());
        }
        let _ = fs::remove_file(half(&path));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(trouble(&path, "cannot be removed", &error))
            }
            _ => Ok(()),
        }
    }

    /// Takes note that so many more results were taken to this file, or to where nobody reads them again,
    /// and that so many others are about to be.
    pub fn add_taken(&mut self, to: Option<&Path>, results: u64, pending: u64) {
        let known = self.taken.iter_mut();
        let mut same = known.filter(|taken| taken.to.as_deref() == to);
        match same.next() {
            Some(taken) => {
                taken.results += results;
                taken.pending = pending;
            }
            None => self.taken.push(TakenResults {
                to: to.map(Path::to_owned),
                results,
                pending,
            }),
        }
    }

    /// Takes note that nothing of its process is left on the queue.
    pub fn nothing_left(&mut self) {
        self.items = 0;
        self.batches.clear();
        self.settings.clear();
    }

    pub(super) fn with_batches(mut self, items: u64, batches: &[BatchInfo]) -> Self {
        let known = |batch: &BatchInfo| Some((batch.provider.clone(), batch.remote_id.clone()?));
        self.items = items;
        self.batches = batches.iter().filter_map(known).collect();
        self
    }

    /// True unless time alone tells them apart.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        let other = Self {
            written_at: self.written_at,
            ..other.clone()
        };
        *self == other
    }
}

fn is_sidecar(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "batchwright")
}

/// The sidecar of this very file under another name in the same folder, and its own path.
fn renamed(output: &Path) -> Option<(Sidecar, PathBuf)> {
    let (own, file) = (Sidecar::path(output).ok()?, file_id(output)?);
    let beside = fs::read_dir(own.parent()?).ok()?.flatten();
    let others = beside.map(|entry| entry.path()).filter(|path| *path != own);
    let sidecars = others.filter(|path| is_sidecar(path));
    let mut read = sidecars.filter_map(|path| Some((read(&path).ok()??, path)));
    read.find(|(sidecar, _)| sidecar.info.output_file.as_ref() == Some(&file))
}

fn read(path: &Path) -> Result<Option<Sidecar>, Error> {
    let text = match content(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(trouble(path, "cannot be read", &error)),
    };
    let refused = |why: String| {
        let why = format!("{}: {why}", path.display());
        Err(Error::new(ErrorKind::Invalid, why))
    };
    match serde_json::from_slice::<Versioned>(&text) {
        Ok(found) if found.version > VERSION => refused(format!(
            "was written by a newer batchwright (version {} of it, this one knows {VERSION}); update \
             batchwright",
            found.version
        )),
        _ => serde_json::from_slice(&text).map(whole).or_else(|error| {
            refused(format!(
                "should say which items of the file beside it are on a queue, and cannot be understood \
                 ({error}), so nothing is sent. If it is of another program, move it away; if it was \
                 damaged, see what the queue has by `batchwright status`, then remove it"
            ))
        }),
    }
}

/// A sidecar is a few kilobytes long; whatever is longer, or no file, is none and not waited for.
const MAX_SIDECAR_BYTES: u64 = 16 << 20;

fn content(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a file; move it away"));
    }
    let mut text = Vec::new();
    File::open(path)?
        .take(MAX_SIDECAR_BYTES)
        .read_to_end(&mut text)?;
    Ok(text)
}

/// What was about to be taken, and was not, is where it was.
fn whole(mut sidecar: Sidecar) -> Option<Sidecar> {
    sidecar
        .taken
        .retain(|taken| taken.results + taken.pending > 0);
    Some(sidecar)
}

/// What is being written, and not whole before it has its name.
fn half(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn trouble(path: &Path, what: &str, error: &io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull => ErrorKind::Transient,
        _ => ErrorKind::Invalid,
    };
    Error::new(kind, format!("{}: {what} ({error})", path.display()))
}

/// Which file it is, whatever its name; `None` where that is not known, or there is none.
pub fn file_id(path: impl AsRef<Path>) -> Option<String> {
    let path = path.as_ref();
    let meta = fs::metadata(path).ok()?;
    // Numbers of removed files are given to new ones, which were made at another time.
    let made = meta.created().ok()?.duration_since(std::time::UNIX_EPOCH);
    #[cfg(unix)]
    let id = {
        use std::os::unix::fs::MetadataExt;
        format!("{}:{}", meta.dev(), meta.ino())
    };
    #[cfg(not(unix))]
    let id = String::new();
    Some(format!("{id}:{}", made.ok()?.as_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(folder: &Path, name: &str) -> JobQueue {
        JobQueue::open(&folder.join(name)).unwrap()
    }

    #[test]
    fn it_is_found_by_every_path_and_by_the_file_itself() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        fs::write(&output, "").unwrap();
        let info = ProcessInfo::new().output_file(file_id(&output).unwrap());
        let process = ProcessId::new();
        let sidecar = Sidecar::new(&queue(folder.path(), "q.db"), process, info).unwrap();
        sidecar.write(&output).unwrap();
        let found = |path: &Path| Sidecar::read(path).unwrap();
        assert_eq!(found(&output).as_ref(), Some(&sidecar));
        let around = folder
            .path()
            .join("../")
            .join(folder.path().file_name().unwrap());
        assert_eq!(found(&around.join("out.jsonl")).as_ref(), Some(&sidecar));
        #[cfg(unix)]
        {
            let link = folder.path().join("link.jsonl");
            std::os::unix::fs::symlink(&output, &link).unwrap();
            assert_eq!(found(&link).as_ref(), Some(&sidecar));
        }
        let renamed = folder.path().join("new.jsonl");
        assert_eq!(Sidecar::of_renamed(&renamed), None);
        fs::rename(&output, &renamed).unwrap();
        assert_eq!(found(&renamed), None);
        assert_eq!(Sidecar::of_renamed(&renamed), Some(sidecar));
        Sidecar::remove(&output, ProcessId::new()).unwrap();
        assert!(found(&output).is_some(), "of another process");
        Sidecar::remove(&output, process).unwrap();
        assert_eq!(found(&output), None);
        Sidecar::remove(&output, process).unwrap();
    }

    #[test]
    fn what_is_none_of_ours_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let path = Sidecar::path(&output).unwrap();
        let process = ProcessId::new();
        let sidecar = Sidecar::new(&queue(folder.path(), "q.db"), process, ProcessInfo::new());
        let sidecar = sidecar.unwrap();
        sidecar.write(&output).unwrap();
        let whole = fs::read_to_string(&path).unwrap();
        let refused = |text: &str| {
            fs::write(&path, text).unwrap();
            let error = Sidecar::read(&output).unwrap_err();
            // What is not understood is not removed either.
            Sidecar::remove(&output, process).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            error.message().to_owned()
        };
        let torn = refused(&whole[..whole.len() / 2]);
        assert!(torn.contains("out.jsonl.batchwright: ") && torn.contains("nothing is sent"));
        assert!(refused("").contains("cannot be understood"));
        assert!(refused("[1]").contains("cannot be understood"));
        let newer = refused("{\"version\": 2, \"other\": 1}");
        assert!(newer.contains("newer batchwright"), "{newer}");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let error = sidecar.write(&output).unwrap_err();
        assert!(error.message().contains("name an output"), "{error}");
        assert!(!half(&path).exists());
    }
}
