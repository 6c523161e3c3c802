//! Handles the end of each command: writes its output or its record, then its line in the job log. If the run is killed
//! in between, it does this again.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use batchwright::{Context, Error};
use batchwright_exec::{Finished, JobLog, JobRecord, JobStatus, RecordFile};

use super::is_stdin;
use crate::args::exec::ExecArgs;
use crate::display::Display;
use crate::exit::{About, Refusal};
use crate::stdout::ResultsOut;
use crate::{sanitize, stderr};

/// Maximum number of failures that are named at the end.
const MOST_NAMED: usize = 5;

pub struct Emitter {
    /// The file for records; without one, they or the outputs are printed.
    file: Option<RecordFile>,
    prints_records: bool,
    out: ResultsOut,
    log: Option<JobLog>,
    /// The progress, which is removed before the output of a command is shown.
    pub progress: Option<Arc<Display>>,
    /// The first failures, for people.
    pub failures: Vec<String>,
    pub trouble: Option<Trouble>,
    /// The commands whose ends were written, completed and failed ones.
    pub written: [u64; 2],
}

/// Why no more commands can be read.
pub enum Trouble {
    /// The reader closed standard output.
    Gone,
    /// A command's output or record could not be written.
    Unwritten(String),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Unwritten(error.message().to_owned())
    }
}

impl Emitter {
    pub fn open(args: &ExecArgs, ctx: &Context) -> Result<Self, Refusal> {
        let refused = |error: Error| Refusal::usage(error.message()).about(About::Output);
        // The same command goes on with its log, as a run goes on with its output.
        let log_exists = |path: &PathBuf| path.exists();
        let continues = args.resume || args.joblog.as_ref().is_some_and(log_exists);
        // A dry run creates no file.
        let wanted = |path: &&std::path::PathBuf| !args.dry_run || path.exists();
        let log = args.joblog.as_ref().filter(wanted);
        let log = log
            .map(|path| JobLog::open(path, args.resume_failed))
            .transpose();
        let output = args.output.as_ref().filter(wanted);
        let file = output.filter(|path| !is_stdin(Some(path)));
        let file = file.map(|path| RecordFile::open(path, continues));
        Ok(Self {
            file: file.transpose().map_err(refused)?,
            prints_records: output.is_some(),
            out: ResultsOut::new(ctx),
            log: log.map_err(refused)?,
            progress: None,
            failures: Vec::new(),
            trouble: None,
            written: [0; 2],
        })
    }

    /// Number of results that an earlier run has written.
    pub fn records_before(&self) -> Option<u64> {
        self.file.as_ref().map(|file| file.before)
    }

    /// The commands that an earlier run finished.
    pub fn finished(&self) -> Finished {
        self.log.as_ref().map(JobLog::finished).unwrap_or_default()
    }

    /// Takes the end of a command.
    pub fn take(&mut self, record: &JobRecord) -> ControlFlow<()> {
        self.note(record);
        match self.write(record).and_then(|()| self.log(record)) {
            Ok(()) => {
                self.written[0] += u64::from(record.status == JobStatus::Completed);
                self.written[1] += u64::from(record.status == JobStatus::Failed);
                ControlFlow::Continue(())
            }
            Err(trouble) => {
                self.trouble.get_or_insert(trouble);
                ControlFlow::Break(())
            }
        }
    }

    /// Checks a last time whether everything that was written still exists.
    pub fn finish(&mut self) {
        let records = self.file.as_ref().map_or(Ok(()), RecordFile::check);
        let log = self.log.as_ref().map_or(Ok(()), JobLog::check);
        if let Err(error) = records.and(log) {
            self.trouble.get_or_insert(error.into());
        }
    }

    fn log(&mut self, record: &JobRecord) -> Result<(), Trouble> {
        let log = self.log.as_mut();
        Ok(log.map_or(Ok(()), |log| log.append(record))?)
    }

    fn write(&mut self, record: &JobRecord) -> Result<(), Trouble> {
        if let Some(file) = &mut self.file {
            return Ok(file.append(record)?);
        }
        if !self.prints_records {
            return self.print_output(record);
        }
        let line = serde_json::to_string(record);
        let line = line.map_err(|why| Trouble::Unwritten(why.to_string()))?;
        self.make_room();
        let line = sanitize::json(&line) + "\n";
        self.out.write_all(line.as_bytes()).map_err(not_printed)
    }

    fn print_output(&mut self, record: &JobRecord) -> Result<(), Trouble> {
        let Some(result) = &record.result else {
            return Ok(());
        };
        if result.stdout.total() + result.stderr.total() == 0 {
            return Ok(());
        }
        self.make_room();
        result.stdout.write_to(&mut self.out).map_err(not_printed)?;
        if result.stderr.total() > 0 {
            stderr::flush();
            // A closed standard error is not an error.
            let _ = result.stderr.write_to(&mut io::stderr().lock());
        }
        Ok(())
    }

    fn make_room(&self) {
        if let Some(progress) = &self.progress {
            progress.clear();
            stderr::flush();
        }
    }

    fn note(&mut self, record: &JobRecord) {
        if let Some(result) = &record.result {
            for (output, name) in [(&result.stdout, "output"), (&result.stderr, "error output")] {
                if output.lost() > 0 {
                    let (command, bytes) = (named(record), output.total());
                    log::warn!("{command}: of its {name} of {bytes} bytes not all was kept");
                }
            }
        }
        let Some(error) = record
            .error
            .as_ref()
            .filter(|_| record.status == JobStatus::Failed)
        else {
            return;
        };
        let line = format!("{}: {}", named(record), error.message);
        log::info!("{line}");
        if self.failures.len() < MOST_NAMED {
            self.failures.push(line);
        }
    }
}

/// The name of a command for people.
fn named(record: &JobRecord) -> String {
    let job = &record.job;
    let text = sanitize::shortened(&job.text(), 80);
    match (&job.file, job.line) {
        (Some(file), Some(line)) if !is_stdin(Some(file)) => {
            format!("{}, line {line} (`{text}`)", file.display())
        }
        _ => format!("command {} (`{text}`)", job.id()),
    }
}

fn not_printed(error: io::Error) -> Trouble {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Trouble::Gone,
        _ => Trouble::Unwritten(format!("cannot write to standard output: {error}")),
    }
}
