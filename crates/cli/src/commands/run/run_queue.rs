//! The queue of a run: its own store next to the output, and lines about it at the start and the end of the run.

use std::path::{Path, PathBuf};

use batchwright::batch::BatchInfo;
use batchwright::files::{QueueRun, QueueRunReport, RunStore, store_path};
use batchwright::plan::ProviderPlan;
use batchwright::provider::redacted_url;
use batchwright::queue::{ProcessInfo, SqliteOptions};
use batchwright::unstable::BatchClient;
use batchwright::unstable::Optional;
use batchwright::{JobQueue, LlmManager, ProcessId, Strategy};

use super::already_submitted::AlreadySubmitted;
use crate::args::run::RunArgs;
use crate::args::shared::{ProviderArgs, TaskArg};
use crate::batches;
use crate::command_line::{command_line_from_anywhere, quoted, quoted_path};
use crate::data_dir::data_dir;
use crate::exit::{About, Refusal};
use crate::format::count;
use crate::queue::{durability, failed, open_existing};
use crate::runs;
use crate::settings::refused;
use crate::strategy::RunStrategy;

/// Where the items of a run wait.
pub struct RunQueue {
    pub store: RunStore,
    /// The data folder, if there is one.
    folder: Option<PathBuf>,
    /// The flag by which a command finds the queue, with a space before it; empty for the default queue.
    queue_flag: String,
    /// The output, if a later run can attach to it.
    output: Option<PathBuf>,
    /// The flags by which a command reaches the provider where this one names its address, with a space before each.
    provider_flags: String,
}

impl RunQueue {
    /// The queue of a run that uses one: because of its strategy, or because an earlier run of the same output has left
    /// its store.
    pub fn find(args: &RunArgs, strategy: &RunStrategy) -> Result<Option<Self>, Refusal> {
        let batch = strategy.strategy == Strategy::Batch;
        if args.prompt.task == TaskArg::Embed {
            return Ok(None);
        }
        let output = args.output.as_deref().filter(|path| is_regular(path));
        let folder = data_dir(args.pace.data_dir.as_deref());
        let store = output.and_then(|path| store_path(path).ok());
        if let Some(output) = output.filter(|_| !args.dry_run) {
            RunStore::tidy(output);
        }
        let is_there = store.as_ref().is_some_and(|store| store.exists());
        if let Some(output) = output.filter(|_| !is_there) {
            refuse_orphans(args, output, folder.as_deref())?;
        }
        if !is_there && (!batch || args.dry_run) {
            return Ok(None);
        }
        strategy.check_error_policy(args)?;
        let options = SqliteOptions::default().durability(durability(args.fsync));
        let (store, queue_flag) = match (output, store) {
            (Some(_), Some(store)) => (
                RunStore::Beside(options),
                format!(" --queue {}", quoted_path(store)),
            ),
            (Some(output), None) => {
                let why = format!(
                    "{}: cannot open the output: its folder is not there",
                    output.display()
                );
                return Err(Refusal::could_not_run(why).about(About::Output));
            }
            (None, _) => {
                let folder = folder.as_ref().ok_or_else(|| {
                    let why = "there is no place for the queue: name one with --data-dir";
                    Refusal::could_not_run(why)
                })?;
                let queue = JobQueue::open_with(folder.join("llm_jobs.db"), options);
                let named = args.pace.data_dir.as_deref();
                let flag = named.map(|folder| format!(" --data-dir {}", quoted_path(folder)));
                let store = RunStore::On(queue.map_err(failed)?, ProcessId::new());
                (store, flag.unwrap_or_default())
            }
        };
        Ok(Some(Self {
            store,
            folder,
            queue_flag,
            output: output.map(Path::to_owned),
            provider_flags: provider_flags(&args.provider),
        }))
    }

    /// Adds the store of the run to those that `status` reads.
    pub fn note_store(&self) {
        if let (Some(folder), Some(output)) = (&self.folder, &self.output) {
            runs::note(folder, output);
        }
    }

    /// Lines about the strategy and batches of earlier runs, shown before the run begins.
    pub fn lines(
        &self,
        providers: &ProviderPlan,
        run: &QueueRun,
        strategy: Strategy,
    ) -> Result<Vec<String>, Refusal> {
        let (queue, id, plan, name) = (
            run.queue(),
            run.process(),
            run.compared().plan(),
            providers.first.provider,
        );
        let mut lines = Vec::new();
        let known = queue.process(id).map_err(failed)?;
        let batches = queue.batches(Some(id)).map_err(failed)?;
        let account = match strategy {
            Strategy::Batch => providers.batches().map_err(refused)?,
            Strategy::Sync => None,
        };
        let submitted = AlreadySubmitted {
            batches: &batches,
            process: id,
            asked: (name, account.map(|api| api.account())),
            at_provider: known.as_ref().map_or(0, |known| known.counts.at_provider),
            plan,
            queue_flag: &self.queue_flag,
        };
        lines.extend(submitted.lines());
        let cancelled = known
            .as_ref()
            .is_some_and(|known| known.cancelled && known.counts.at_provider > 0);
        lines.push(match strategy {
            _ if cancelled => format!(
                "process {id} was cancelled: what its batches have not answered is sent again once they have ended"
            ),
            Strategy::Batch if plan.to_send == 0 && known.is_some() => {
                format!("strategy batch: nothing new to submit (process {id})")
            }
            Strategy::Batch => {
                format!("strategy batch: prompts go to {name} in batches, as process {id}")
            }
            Strategy::Sync => format!(
                "process {id} of an earlier run goes on, which the queue has; what is new runs {strategy}"
            ),
        });
        Ok(lines)
    }

    /// The description of the process in the queue, for people.
    pub fn info(&self, args: &RunArgs, manager: Option<&LlmManager>) -> ProcessInfo {
        let provider = manager.map(|manager| manager.plan().first.provider);
        let input = (!args.input.is_stream()).then(|| args.input.whole());
        let command = self.output.as_ref().map(|_| command_line_from_anywhere());
        ProcessInfo::new()
            .name(args.input.short())
            .set(provider, ProcessInfo::provider)
            .set(input, ProcessInfo::input)
            .set(command, ProcessInfo::command)
    }

    /// Lines about remaining items, and how to resume or cancel them.
    pub fn remaining(
        &self,
        ended: &QueueRunReport,
        id: ProcessId,
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
        let at_queue = &self.queue_flag;
        if ended.batches.iter().any(lacks_its_key) {
            lines.push(batches::NEEDS_ITS_KEY.to_owned());
        }
        let waiting = process.counts.pending;
        if waiting > 0 {
            lines.push(format!("{} items wait in the queue", count(waiting)));
        }
        if self.output.is_some() {
            lines.push("to collect the results, run the same command in this folder".to_owned());
        } else {
            lines.push(format!(
                "to collect:  batchwright work --strategy batch --processes {id} --until-empty{at_queue} \
                 && batchwright results {id}{at_queue} -o FILE"
            ));
        }
        let at = &self.provider_flags;
        lines.push(format!(
            "to give it up:  batchwright cancel {id}{at}{at_queue}"
        ));
        lines
    }

    /// A line for an output that no later run can attach to.
    pub fn note(&self, id: ProcessId) -> Option<String> {
        let at_queue = &self.queue_flag;
        self.output.is_none().then(|| {
            format!(
                "the output cannot be attached to again: if this ends early, process {id} has the \
                 rest; batchwright results {id}{at_queue} -o FILE"
            )
        })
    }
}

/// Rejects a new output if another run of the same input has items in progress and its output is missing: the output
/// may have been renamed without its store.
fn refuse_orphans(args: &RunArgs, output: &Path, folder: Option<&Path>) -> Result<(), Refusal> {
    if args.input.is_stream() {
        return Ok(());
    }
    let input = args.input.whole();
    for store in runs::without_output(folder, output) {
        let processes = open_existing(&store).and_then(|queue| queue.open_processes());
        // A file that is not a queue, or belongs to another program, stops no run.
        let Ok(processes) = processes.inspect_err(|error| log::warn!("{error}")) else {
            continue;
        };
        let Some(known) = processes
            .iter()
            .find(|known| known.info.input.as_ref() == Some(&input))
        else {
            continue;
        };
        let was = runs::output_of(&store).unwrap_or_default();
        let own = store_path(output).unwrap_or_default();
        return Err(Refusal::usage(format!(
            "{} has items of this input that are under way, and its output {} is no longer there: they would be bought \
             again; nothing was sent. If {} is that output, move its store with it: mv {} {}\n  If that output is lost, \
             go on with -o {}. To give them up: batchwright cancel {} --delete --queue {}",
            store.display(),
            was.display(),
            output.display(),
            quoted_path(&store),
            quoted_path(&own),
            quoted_path(&was),
            known.process_id,
            quoted_path(&store),
        )));
    }
    Ok(())
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
