//! The note beside the output of a run that its results were taken to another file.

use std::path::{Path, PathBuf};

use batchwright::files::{ResultsAppender, Sidecar};
use batchwright::queue::ProcessState;
use batchwright::{Error, JobQueue};

use crate::args::results::ResultsArgs;
use crate::exit::Refusal;
use crate::queue::failed;

/// Results that leave the queue for another place than the output they belong to.
pub struct TakenElsewhere {
    output: PathBuf,
    to: Option<PathBuf>,
    sidecar: Sidecar,
    /// Results that were saved last: they have left the queue when it gives out the next.
    last: u64,
    /// Keeps runs of that output out meanwhile.
    _lock: Option<ResultsAppender>,
}

impl TakenElsewhere {
    /// Notes beside the output, for its next run, that results go elsewhere.
    pub fn begin(
        output: Option<&Path>,
        args: &ResultsArgs,
        queue: &JobQueue,
        process: &ProcessState,
    ) -> Result<Self, Refusal> {
        let refused = |error: Error| Refusal::usage(error.message());
        let id = process.process_id;
        let Some(output) = output.filter(|output| output.parent().is_some_and(Path::is_dir)) else {
            let told = process.info.output.as_deref().unwrap_or_default();
            return Err(Refusal::usage(format!(
                "these results belong to {told}, which is not there, so the run that comes back for them \
                 could not be told where they went; nothing was taken. Put it back; or copy them by: {}\n  \
                 and then give the process up: {}",
                args.data.command(&format!("results {id} -o FILE --keep")),
                args.data.command(&format!("cancel {id} --delete")),
            )));
        };
        let lock = match output.exists() {
            true => ResultsAppender::open(output)
                .map(Some)
                .map_err(|error| Refusal::usage(error.to_string()))?,
            false => None,
        };
        if let Some(known) = Sidecar::read(output).map_err(refused)?
            && known.process_id != id
        {
            return Err(Refusal::usage(format!(
                "what is under way of {} is process {}, and not {id}; nothing was taken",
                output.display(),
                known.process_id
            )));
        }
        let known = Sidecar::bring(output, Some(process)).map_err(refused)?;
        let sidecar = match known.filter(|known| known.process_id == id) {
            Some(known) => known,
            None => Sidecar::new(queue, id, process.info.clone()).map_err(failed)?,
        };
        let to = args.output.as_deref();
        let to = to.filter(|path| std::fs::metadata(path).is_ok_and(|meta| meta.is_file()));
        let taken_elsewhere = Self {
            output: output.to_owned(),
            to: to.map(|path| path.canonicalize().unwrap_or_else(|_| path.to_owned())),
            sidecar,
            last: 0,
            _lock: lock,
        };
        taken_elsewhere
            .sidecar
            .write(&taken_elsewhere.output)
            .map_err(refused)?;
        Ok(taken_elsewhere)
    }

    /// So many more are saved there, and leave the queue now.
    pub fn add(&mut self, results: u64) -> Result<(), Error> {
        let left = std::mem::replace(&mut self.last, results);
        self.sidecar.add_taken(self.to.as_deref(), left, results);
        self.sidecar.write(&self.output)
    }

    /// All that was saved has left the queue.
    pub fn end(&mut self, gone: bool) -> Result<(), Error> {
        if gone {
            self.sidecar.nothing_left();
        }
        // What a command saved that was killed may have left the queue as well.
        match self.last {
            0 => self.sidecar.write(&self.output),
            _ => self.add(0),
        }
    }
}
