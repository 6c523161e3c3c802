//! Finds the queue that has the items of an earlier run of an output, so that nothing is bought twice.

use std::path::{Path, PathBuf};

use batchwright::files::{FileRunError, QueueRun, ResultsAppender, Sidecar, file_id};
use batchwright::queue::{ProcessState, SqliteOptions};
use batchwright::{Error, JobQueue, ProcessId};

use crate::command_line::quoted;
use crate::exit::Refusal;
use crate::format::count;
use crate::queue::failed;

/// An earlier run of which a queue still has something, or whose results lie elsewhere.
pub struct EarlierRun {
    pub process: ProcessId,
    /// The queue, if it is another one than that of the data folder in use.
    pub elsewhere: Option<(JobQueue, PathBuf)>,
    /// Lines on where it was found.
    pub lines: Vec<String>,
}

/// What is known of the output, and what may be done to find its earlier run.
pub struct EarlierRunSearch<'a> {
    pub output: &'a Path,
    /// `None` for standard input.
    pub input: Option<String>,
    /// The database of the data folder in use, which may not be there.
    pub database: &'a Path,
    /// This run may put items on the queue.
    pub submits: bool,
    /// Nothing is changed.
    pub dry_run: bool,
    pub options: SqliteOptions,
}

impl EarlierRunSearch<'_> {
    /// Finds what an earlier run of the output left.
    ///
    /// # Errors
    /// When something was left that cannot be found: what would be sent then may be bought already.
    pub fn find(&self) -> Result<Option<EarlierRun>, Refusal> {
        let sidecar =
            Sidecar::read(self.output).map_err(|error| Refusal::usage(error.message()))?;
        if let Some(sidecar) = sidecar {
            return self.of_sidecar(&sidecar, None);
        }
        if let Some(sidecar) = Sidecar::of_renamed(self.output) {
            let line = renamed(sidecar.info.output.as_deref());
            return self.of_sidecar(&sidecar, Some(line));
        }
        if !self.database.exists() {
            return Ok(None);
        }
        match self.open(self.database) {
            Ok(queue) => self.of_processes(&queue),
            // Opening the queue for use reports the error.
            Err(error) => {
                log::warn!("whether the queue has items of this output is unknown: {error}");
                Ok(None)
            }
        }
    }

    fn open(&self, database: &Path) -> Result<JobQueue, Error> {
        JobQueue::open_with(database, self.options.clone())
    }

    fn of_sidecar(
        &self,
        sidecar: &Sidecar,
        line: Option<String>,
    ) -> Result<Option<EarlierRun>, Refusal> {
        self.refuse_other_files(sidecar)?;
        self.refuse_copies(sidecar)?;
        let mut lines = Vec::from_iter(line);
        if !sidecar.taken.is_empty() {
            lines.push(taken_line(sidecar));
        }
        let id = sidecar.process_id;
        let recorded = Path::new(&sidecar.queue);
        let found = |elsewhere: Option<JobQueue>, lines| {
            let folder = recorded.parent().unwrap_or(recorded).to_owned();
            let elsewhere = elsewhere.map(|queue| (queue, folder));
            Ok(Some(EarlierRun {
                process: id,
                elsewhere,
                lines,
            }))
        };
        let here = self.database.exists().then(|| self.open(self.database));
        let here = here.transpose().map_err(failed)?;
        let mut same = false;
        if let Some(queue) = &here {
            // Another queue may have a process of the same id, for a file that was here before.
            same = queue.id().map_err(failed)? == sidecar.queue_id;
            if same && queue.process(id).map_err(failed)?.is_some() {
                return found(None, lines);
            }
        }
        if !same && recorded.exists() {
            let queue = self.open(recorded).map_err(failed)?;
            let there = queue.process(id).map_err(failed)?.is_some();
            if there || queue.id().map_err(failed)? == sidecar.queue_id {
                let folder = recorded.parent().unwrap_or(recorded).display();
                lines.push(format!(
                    "an earlier run of this output used the data folder {folder}: what is under way \
                     is there, and this run goes on there"
                ));
                if there {
                    return found(Some(queue), lines);
                }
                lines.pop();
                same = true;
            }
        }
        let is_taken = !sidecar.taken.is_empty();
        match same {
            // The queue knows the process no more (it ended, was given up or never began), or results were taken
            // elsewhere.
            true if self.submits || is_taken || !sidecar.batches.is_empty() => found(None, lines),
            false if is_taken && sidecar.items == 0 => found(None, lines),
            true => self.forget(id).map(|()| None),
            false => Err(self.lost(sidecar)),
        }
    }

    /// Removes a sidecar that describes nothing any more, while holding the lock of the output.
    fn forget(&self, id: ProcessId) -> Result<(), Refusal> {
        if self.dry_run {
            return Ok(());
        }
        match ResultsAppender::open(self.output) {
            Ok(_locked) => Sidecar::discard(self.output, id)
                .map_err(|error| Refusal::could_not_run(error.message())),
            // Opening the output for use reports the error.
            Err(FileRunError::Output(_) | FileRunError::Usage(_)) => Ok(()),
            Err(error) => Err(Refusal::could_not_run(error.to_string())),
        }
    }

    /// How to give the submitted items up and buy them again.
    fn to_give_up(&self) -> String {
        let path = Sidecar::path(self.output).unwrap_or_default();
        let path = quoted(&path.to_string_lossy());
        format!("To give them up and buy them again: rm {path}, then this command again")
    }

    /// Refuses a sidecar that describes another file than the one that lies at the output's path now.
    fn refuse_other_files(&self, sidecar: &Sidecar) -> Result<(), Refusal> {
        let same_file = match (&sidecar.info.output_file, file_id(self.output)) {
            (Some(before), Some(now)) => *before == now,
            (Some(_), None) => false,
            (None, _) => true,
        };
        let known = sidecar.info.input.as_ref();
        let same_input = known.is_none() || known == self.input.as_ref();
        if same_file || same_input {
            return Ok(());
        }
        let beside = Sidecar::path(self.output).unwrap_or_default();
        let known = sidecar.info.input.as_deref().unwrap_or_default();
        Err(Refusal::usage(format!(
            "{} says that items of {known} are under way for the output that was here, and this is \
             another file for another input. If that output was renamed, rename this file with it: \
             NAME.batchwright for NAME. {}",
            beside.display(),
            self.to_give_up()
        )))
    }

    /// Refuses an output that was copied together with its sidecar: both would take the items for theirs. A
    /// moved output is still the same file.
    fn refuse_copies(&self, sidecar: &Sidecar) -> Result<(), Refusal> {
        let (Some(original), Some(file)) = (&sidecar.info.output, &sidecar.info.output_file) else {
            return Ok(());
        };
        let elsewhere = Sidecar::path(self.output).ok() != Sidecar::path(Path::new(original)).ok();
        let copied = file_id(self.output).as_ref() != Some(file);
        if !(elsewhere && copied && Path::new(original).exists()) {
            return Ok(());
        }
        let quoted_original = quoted(original);
        Err(Refusal::usage(format!(
            "{} looks like a copy of {original}, which is still there: the items that are under way belong \
             to that one, and nothing was sent. Go on with -o {quoted_original}. {}",
            self.output.display(),
            self.to_give_up()
        )))
    }

    fn lost(&self, sidecar: &Sidecar) -> Refusal {
        let items = match sidecar.items {
            0 => "items".to_owned(),
            n => format!("{} items", count(n)),
        };
        let host = match sidecar.host.as_str() {
            "" => String::new(),
            host => format!(" on {host}"),
        };
        let at = match (&sidecar.batches[..], &sidecar.info.provider) {
            ([], None) => String::new(),
            ([], Some(provider)) => format!(", meant for {provider}"),
            (batches, _) => {
                let named = batches
                    .iter()
                    .take(5)
                    .map(|(at, id)| format!("{id} at {at}"));
                let more = match batches.len() {
                    0..=5 => String::new(),
                    n => format!(" and {} more", n - 5),
                };
                let named: Vec<String> = named.collect();
                format!(", in batches {}{more}", named.join(", "))
            }
        };
        let folder = Path::new(&sidecar.queue).parent().unwrap_or(Path::new(""));
        let folder = folder.display();
        Refusal::usage(format!(
            "an earlier run of {} put {items} on the queue in {folder}{host}{at}: process {}. That queue \
             is not there, so they would be bought again; nothing was sent. Where it is now, this \
             command goes on with --data-dir FOLDER. {}",
            self.output.display(),
            sidecar.process_id,
            self.to_give_up()
        ))
    }

    /// Looks for the output in what the queue stores about its processes.
    fn of_processes(&self, queue: &JobQueue) -> Result<Option<EarlierRun>, Refusal> {
        let Ok(own) = QueueRun::process_of(self.output) else {
            // Opening the output for use reports the error.
            return Ok(None);
        };
        let found = |process, lines| {
            Ok(Some(EarlierRun {
                process,
                elsewhere: None,
                lines,
            }))
        };
        let file = file_id(self.output);
        let input = &self.input;
        let runs = queue.open_processes().map_err(failed)?;
        if let Some(known) = runs.iter().find(|known| known.process_id == own) {
            let info = &known.info;
            let moved = info.output_file.is_some() && info.output_file != file;
            if !moved || info.input == *input {
                return found(own, Vec::new());
            }
        }
        let of_file = |known: &&ProcessState| file.is_some() && known.info.output_file == file;
        if let Some(known) = runs.iter().find(of_file) {
            let line = renamed(known.info.output.as_deref());
            return found(known.process_id, vec![line]);
        }
        let gone = runs.iter().find(|known| {
            let output = known.info.output.as_deref();
            input.is_some()
                && known.info.input == *input
                && output.is_some_and(|output| !Path::new(output).exists())
        });
        if let Some(known) = gone {
            let output = known.info.output.as_deref().unwrap_or_default();
            let id = known.process_id;
            return Err(Refusal::usage(format!(
                "items of this input are under way for {output}, which is no longer there, as process \
                 {id}: they would be bought again; nothing was sent. If the output is to be {} now: mv \
                 it there, or run with -o {} as before. To give them up: batchwright cancel {id} --delete",
                self.output.display(),
                quoted(output),
            )));
        }
        // The process of this path belongs to an output that was moved away.
        match runs.iter().any(|known| known.process_id == own) {
            true if self.submits => found(ProcessId::new(), Vec::new()),
            _ => Ok(None),
        }
    }
}

fn renamed(before: Option<&str>) -> String {
    match before {
        Some(before) => format!("this output was {before} when its items were submitted"),
        None => "this output had another name when its items were submitted".to_owned(),
    }
}

fn taken_line(sidecar: &Sidecar) -> String {
    let from = sidecar.taken.iter().filter_map(|taken| taken.to.as_ref());
    let from: Vec<String> = from.map(|path| path.display().to_string()).collect();
    let n = sidecar
        .taken
        .iter()
        .map(|taken| taken.results.max(taken.pending))
        .sum();
    let (n, from) = (count(n), from.join(", "));
    format!("{n} results of this output were taken to {from}: they are taken in from there")
}
