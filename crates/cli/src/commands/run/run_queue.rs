//! The queue that a run's items wait in: where it is, what it has of an earlier run, and the lines about it
//! at the beginning and the end.

use std::path::{Path, PathBuf};

use batchwright::batch::BatchInfo;
use batchwright::files::{QueueRun, QueueRunReport, RunPlan};
use batchwright::provider::redacted_url;
use batchwright::queue::{Durability, ProcessInfo, SqliteOptions};
use batchwright::unstable::BatchClient;
use batchwright::{JobQueue, ProcessId, Strategy};

use super::already_submitted::AlreadySubmitted;
use super::earlier_run::{EarlierRun, EarlierRunSearch};
use crate::args::run::RunArgs;
use crate::args::shared::{ProviderArgs, TaskArg};
use crate::batches;
use crate::command_line::{command_line_from_anywhere, quoted};
use crate::data_dir::data_dir;
use crate::exit::{About, Refusal};
use crate::format::count;
use crate::input::whole;
use crate::provider::Chosen;
use crate::queue::failed;
use crate::settings::refused;
use crate::strategy::RunStrategy;

/// Where the items of a run wait.
pub struct RunQueue {
    pub queue: JobQueue,
    pub process: ProcessId,
    /// The data folder in use.
    folder: PathBuf,
    /// The queue's folder, where commands have to name it.
    data_dir: Option<PathBuf>,
    /// Lines on where it was found.
    found: Vec<String>,
    /// The process belongs to an output that a later run can attach to.
    is_attachable: bool,
    /// The flags by which a command reaches the provider where this one names its address, with a space before each.
    provider_flags: String,
}

impl RunQueue {
    /// The queue of a run that goes through one: because of its strategy, or because an earlier run of
    /// the same output still has items there.
    pub fn find(args: &RunArgs, strategy: &RunStrategy) -> Result<Option<Self>, Refusal> {
        let batch = strategy.strategy == Strategy::Batch;
        let output = args.output.as_deref().filter(|path| is_regular(path));
        let folder = data_dir(args.pace.data_dir.as_deref());
        let named = folder.clone().unwrap_or_default();
        let database = named.join("llm_jobs.db");
        let options = SqliteOptions::default().durability(match args.fsync {
            true => Durability::Full,
            false => Durability::Normal,
        });
        let earlier = match output {
            Some(output) if args.prompt.task != TaskArg::Embed => EarlierRunSearch {
                output,
                input: (!args.input.is_stream()).then(|| args.input.whole()),
                database: &database,
                submits: batch,
                dry_run: args.dry_run,
                options: options.clone(),
            }
            .find()?,
            _ => None,
        };
        let is_attachable = output.is_some();
        let place = |queue, process, found| Self {
            queue,
            process,
            folder: named.clone(),
            data_dir: args.pace.data_dir.clone(),
            found,
            is_attachable,
            provider_flags: provider_flags(&args.provider),
        };
        if let Some(EarlierRun {
            process,
            elsewhere: Some((queue, folder)),
            lines,
        }) = earlier
        {
            strategy.check_error_policy(args)?;
            return Ok(Some(Self {
                data_dir: Some(folder),
                ..place(queue, process, lines)
            }));
        }
        let (process, lines) = match (earlier, output) {
            (Some(earlier), _) => (earlier.process, earlier.lines),
            (None, _) if !batch || (args.dry_run && !database.exists()) => return Ok(None),
            (None, None) => (ProcessId::new(), Vec::new()),
            (None, Some(path)) => match QueueRun::process_of(path) {
                Ok(process) => (process, Vec::new()),
                Err(error) => {
                    let path = path.display();
                    let why = format!("{path}: cannot open the output: {error}");
                    return Err(Refusal::could_not_run(why).about(About::Output));
                }
            },
        };
        if folder.is_none() {
            let why = "there is no place for the queue: name one with --data-dir";
            return Err(Refusal::could_not_run(why));
        }
        strategy.check_error_policy(args)?;
        let queue = JobQueue::open_with(&database, options).map_err(failed)?;
        Ok(Some(place(queue, process, lines)))
    }

    /// Lines on where the queue is, and on results that lie elsewhere.
    pub fn found(&self) -> &[String] {
        &self.found
    }

    /// The data folder in use.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// True when the queue has something of this output.
    pub fn has_items(&self) -> Result<bool, Refusal> {
        Ok(self.queue.process(self.process).map_err(failed)?.is_some())
    }

    /// Lines on the strategy and on batches of earlier runs, said before the run begins.
    pub fn lines(
        &self,
        chosen: &Chosen,
        plan: &RunPlan,
        strategy: Strategy,
    ) -> Result<Vec<String>, Refusal> {
        let (id, name) = (self.process, chosen.name());
        let mut lines = Vec::new();
        let known = self.queue.process(id).map_err(failed)?;
        let batches = self.queue.batches(Some(id)).map_err(failed)?;
        let account = match strategy {
            Strategy::Batch => chosen.manager()?.batches().map_err(refused)?,
            Strategy::Sync => None,
        };
        let submitted = AlreadySubmitted {
            batches: &batches,
            process: id,
            asked: (name, account.map(|api| api.account())),
            at_provider: known.as_ref().map_or(0, |known| known.counts.at_provider),
            plan,
            data_dir: &self.data_dir_flag(),
        };
        lines.extend(submitted.lines());
        let cancelled = known
            .as_ref()
            .is_some_and(|known| known.cancelled && known.counts.at_provider > 0);
        lines.push(match strategy {
            _ if cancelled => format!(
                "process {id} was cancelled: what its batches have not answered is sent again once they have ended"
            ),
            Strategy::Batch if plan.to_send == Some(0) && known.is_some() => {
                format!("strategy batch: nothing more is handed over; it is process {id}")
            }
            Strategy::Batch => {
                format!("strategy batch: prompts go to {name} in batches, as process {id}")
            }
            Strategy::Sync => format!(
                "process {id} of an earlier run goes on, which the queue has; what is new runs sync"
            ),
        });
        Ok(lines)
    }

    /// What the queue stores about the process, for people.
    pub fn info(&self, args: &RunArgs, chosen: Option<&Chosen>) -> ProcessInfo {
        let mut info = ProcessInfo::new().name(args.input.short());
        if let Some(chosen) = chosen {
            info = info.provider(chosen.name());
        }
        if !args.input.is_stream() {
            info = info.input(args.input.whole());
        }
        let output = args.output.as_deref().filter(|_| self.is_attachable);
        match output {
            Some(output) => info
                .output(whole(output))
                .command(command_line_from_anywhere()),
            None => info,
        }
    }

    /// The flag that names the queue's folder in a command, with a space before it; empty where none is needed.
    fn data_dir_flag(&self) -> String {
        let folder = self.data_dir.as_deref().map(Path::to_string_lossy);
        folder.map_or_else(String::new, |folder| {
            format!(" --data-dir {}", quoted(&folder))
        })
    }

    /// Lines on what remains, and how to come back or give up.
    pub fn remaining(
        &self,
        ended: &QueueRunReport,
        lacks_its_key: &dyn Fn(&BatchInfo) -> bool,
    ) -> Vec<String> {
        let mut lines = Vec::new();
        let Some(process) = &ended.left else {
            return lines;
        };
        for batch in &ended.batches {
            let requests = count(batch.total);
            let name = batch.remote_id.as_deref().unwrap_or(&batch.label);
            let at = &batch.provider;
            if batch.uncollected.is_some() {
                lines.push(batches::line(batch));
                continue;
            }
            lines.push(match (&batch.problem, batch.state.as_str()) {
                (Some(why), "held") => format!("held: {requests} requests: {why}"),
                _ if batch.unsent => {
                    let why = batch.problem.as_ref();
                    let why = why.map_or_else(String::new, |why| format!(": {why}"));
                    format!("not handed over: {requests} requests, which wait here for {at}{why}")
                }
                (Some(why), state) => {
                    format!("batch {name} ({requests} requests) at {at}: {state}; {why}")
                }
                (None, _) if batch.cancel_asked => format!(
                    "batch {name} ({requests} requests) is being cancelled at {at}: what it has answered by then is \
                     collected"
                ),
                (None, _) if batch.remote_id.is_some() => {
                    format!("batch {name} ({requests} requests) goes on at {at}")
                }
                (None, state) => format!("batch {name} ({requests} requests) for {at}: {state}"),
            });
        }
        let dir = self.data_dir_flag();
        if ended.batches.iter().any(lacks_its_key) {
            lines.push(batches::adoption_advice(|words| {
                format!("batchwright {words}{dir}")
            }));
        }
        let waiting = process.counts.pending;
        if waiting > 0 {
            lines.push(format!("{} items wait in the queue", count(waiting)));
        }
        let id = self.process;
        if self.is_attachable {
            lines.push("the same command comes back to it, from any folder".to_owned());
        } else {
            lines.push(format!(
                "to collect:  batchwright work --strategy batch --processes {id} --until-empty{dir} \
                 && batchwright results {id}{dir} -o FILE"
            ));
        }
        let at = &self.provider_flags;
        lines.push(format!("to give it up:  batchwright cancel {id}{at}{dir}"));
        lines
    }

    /// A line for an output that no later run can attach to.
    pub fn note(&self) -> Option<String> {
        let dir = self.data_dir_flag();
        let id = self.process;
        (!self.is_attachable).then(|| {
            format!(
                "the output cannot be attached to again: if this ends early, process {id} has the \
                 rest; batchwright results {id}{dir} -o FILE"
            )
        })
    }
}

fn provider_flags(args: &ProviderArgs) -> String {
    let Some(url) = &args.base_url else {
        return String::new();
    };
    let name = args.provider.as_ref();
    let name = name.map_or_else(String::new, |name| format!(" --provider {}", quoted(name)));
    format!("{name} --base-url {}", quoted(&redacted_url(url)))
}

fn is_regular(path: &Path) -> bool {
    let plain = std::fs::metadata(path).map_or(true, |metadata| metadata.is_file());
    path != Path::new("-") && plain
}
