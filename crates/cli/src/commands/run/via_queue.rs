//! `batchwright run` through the queue: the batch strategy, and what is left of it under another one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use batchwright::{
    BatchAccount, BatchClient, BatchInfo, Context, Durability, Error, ErrorKind, ErrorPolicy,
    FileRunError, FileRunOptions, JobQueue, Limits, Output, Plan, ProcessId, ProcessInfo, Prompts,
    QueuedReport, QueuedRun, RetryPolicy, Scale, Settings, SqliteOptions, StopReason, Strategy,
    Worker,
};

use crate::args::run::RunArgs;
use crate::args::shared::TaskArg;
use crate::batches;
use crate::commands::run::already_submitted::UnderWay;
use crate::commands::run::earlier_run::{Asker, Kept};
use crate::commands::run::summary::{self, More, Setup};
use crate::commands::run::{rescue, route};
use crate::data_dir::data_dir;
use crate::display::{self, Display};
use crate::exit::{About, Exit, Refusal};
use crate::format::count;
use crate::input::{on_disk, whole};
use crate::provider::Chosen;
use crate::queue::failed;
use crate::settings::refused;
use crate::signals::Signals;
use crate::strategy::Way;
use crate::typed::{self, quoted};

/// Where the items of a run wait.
pub struct Place {
    pub queue: JobQueue,
    pub process: ProcessId,
    /// Of the data folder in use.
    folder: PathBuf,
    /// That of the queue, where it has to be named.
    data_dir: Option<PathBuf>,
    /// What is said of where it is.
    lines: Vec<String>,
    /// The process belongs to an output that can be attached to again.
    lasts: bool,
}

impl Place {
    /// The place of a run that goes through the queue: by its strategy, or since an earlier one did and
    /// has something there.
    pub fn find(args: &RunArgs, way: &Way) -> Result<Option<Self>, Refusal> {
        let batch = way.strategy == Strategy::Batch;
        let output = args.output.as_deref().filter(|path| is_regular(path));
        let folder = data_dir(args.pace.data_dir.as_deref());
        let named = folder.clone().unwrap_or_default();
        let database = named.join("llm_jobs.db");
        let options = SqliteOptions::default().durability(match args.fsync {
            true => Durability::Full,
            false => Durability::Normal,
        });
        let kept = match output {
            Some(output) if args.prompt.task != TaskArg::Embed => Asker {
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
        let lasts = output.is_some();
        let place = |queue, process, lines| Self {
            queue,
            process,
            folder: named.clone(),
            data_dir: args.pace.data_dir.clone(),
            lines,
            lasts,
        };
        if let Some(Kept {
            process,
            elsewhere: Some((queue, folder)),
            lines,
        }) = kept
        {
            way.stops_at_nothing(args)?;
            let place = place(queue, process, lines);
            return Ok(Some(Self {
                data_dir: Some(folder),
                ..place
            }));
        }
        let (process, lines) = match (kept, output) {
            (Some(kept), _) => (kept.process, kept.lines),
            (None, _) if !batch || (args.dry_run && !database.exists()) => return Ok(None),
            (None, None) => (ProcessId::new(), Vec::new()),
            (None, Some(path)) => match QueuedRun::process_of(path) {
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
        way.stops_at_nothing(args)?;
        let queue = JobQueue::open_with(&database, options).map_err(failed)?;
        Ok(Some(place(queue, process, lines)))
    }

    /// What is said of where the queue is, and of results that lie elsewhere.
    pub fn found(&self) -> &[String] {
        &self.lines
    }

    /// Compares the input with the output and with what is on the queue.
    pub fn prepare(
        &self,
        prompts: Prompts,
        output: Output,
        options: FileRunOptions,
    ) -> Result<Queued<'_>, FileRunError> {
        let run = QueuedRun::prepare(prompts, output, options, &self.queue, self.process)?;
        Ok(Queued {
            place: self,
            run: Box::new(run),
        })
    }

    /// Takes all of a stream in; `None` when that was interrupted.
    pub fn spool(&self, prompts: Prompts, ctx: &Context) -> Result<Option<Prompts>, Refusal> {
        on_disk(prompts, &self.folder, ctx)
    }

    /// True when the queue has something of this output.
    pub fn holds_something(&self) -> Result<bool, Refusal> {
        Ok(self.queue.process(self.process).map_err(failed)?.is_some())
    }

    /// What is said before it begins.
    pub fn lines(
        &self,
        chosen: &Chosen,
        settings: &Settings,
        plan: &Plan,
        strategy: Strategy,
    ) -> Result<Vec<String>, Refusal> {
        let (id, name) = (self.process, chosen.name());
        let mut lines = Vec::new();
        let known = self.queue.process(id).map_err(failed)?;
        let batches = self.queue.batches(Some(id)).map_err(failed)?;
        let account = match strategy {
            Strategy::Batch => chosen.manager(settings)?.batches().map_err(refused)?,
            Strategy::Sync => None,
        };
        let under_way = UnderWay {
            batches: &batches,
            process: id,
            asked: (name, account.map(|api| api.account())),
            at_provider: known.as_ref().map_or(0, |known| known.counts.at_provider),
            plan,
            data_dir: &self.named(),
        };
        lines.extend(under_way.lines());
        lines.push(match strategy {
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

    /// What is told of the process.
    fn info(&self, args: &RunArgs, chosen: Option<&Chosen>) -> ProcessInfo {
        let mut info = ProcessInfo::new().name(args.input.short());
        if let Some(chosen) = chosen {
            info = info.provider(chosen.name());
        }
        if !args.input.is_stream() {
            info = info.input(args.input.whole());
        }
        let output = args.output.as_deref().filter(|_| self.lasts);
        match output {
            Some(output) => info.output(whole(output)).command(typed::from_anywhere()),
            None => info,
        }
    }

    /// The queue's folder, behind a command that is given on it.
    fn named(&self) -> String {
        let folder = self.data_dir.as_deref().map(Path::to_string_lossy);
        folder.map_or_else(String::new, |folder| {
            format!(" --data-dir {}", quoted(&folder))
        })
    }

    /// Lines on what is left, and how to come back or give up.
    fn left(&self, ended: &QueuedReport, strange: &dyn Fn(&BatchInfo) -> bool) -> Vec<String> {
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
                (Some(why), state) => {
                    format!("batch {name} ({requests} requests) at {at}: {state}; {why}")
                }
                (None, _) if batch.remote_id.is_some() => {
                    format!("batch {name} ({requests} requests) goes on at {at}")
                }
                (None, state) => format!("batch {name} ({requests} requests) for {at}: {state}"),
            });
        }
        let dir = self.named();
        if ended.batches.iter().any(strange) {
            lines.push(batches::rotated(|words| {
                format!("batchwright {words}{dir}")
            }));
        }
        let waiting = process.counts.pending;
        if waiting > 0 {
            lines.push(format!("{} items wait in the queue", count(waiting)));
        }
        let id = self.process;
        if self.lasts {
            lines.push("the same command comes back to it, from any folder".to_owned());
        } else {
            lines.push(format!(
                "to collect:  batchwright work --strategy batch --processes {id} --until-empty{dir} \
                 && batchwright results {id}{dir} -o FILE"
            ));
        }
        lines.push(format!("to give it up:  batchwright cancel {id}{dir}"));
        lines
    }

    /// What is said when results go where they cannot be attached to.
    fn note(&self) -> Option<String> {
        let dir = self.named();
        let id = self.process;
        (!self.lasts).then(|| {
            format!(
                "the output cannot be attached to again: if this ends early, process {id} has the \
                 rest; batchwright results {id}{dir} -o FILE"
            )
        })
    }
}

fn is_regular(path: &Path) -> bool {
    let plain = std::fs::metadata(path).map_or(true, |metadata| metadata.is_file());
    path != Path::new("-") && plain
}

/// A run that is compared with what is on the queue.
pub struct Queued<'p> {
    place: &'p Place,
    run: Box<QueuedRun>,
}

impl Queued<'_> {
    pub fn plan(&self) -> &Plan {
        self.run.plan()
    }
}

/// What it takes to carry a run out through the queue.
pub struct Crew<'a> {
    pub args: &'a RunArgs,
    pub settings: &'a Settings,
    /// Nobody when nothing is to be done.
    pub chosen: Option<&'a Chosen>,
    pub limits: Limits,
    pub retry: RetryPolicy,
    pub setup: &'a Setup,
}

impl Crew<'_> {
    pub fn run(
        &self,
        queued: Queued<'_>,
        ctx: &Context,
        display: &Arc<Display>,
        signals: &Signals,
    ) -> Result<Exit, Refusal> {
        let Queued { place, run } = queued;
        let args = self.args;
        let note = place.note().filter(|_| !args.show.quiet);
        note.iter().for_each(|line| display::say(line));
        let run = run
            .context(ctx)
            .notifier(display.clone())
            .until_handed_over(args.no_wait)
            .on_error(args.on_error.policy())
            .described(place.info(args, self.chosen));
        let hire = || {
            self.worker(place)
                .map_err(|refusal| Error::new(ErrorKind::Invalid, refusal.message))
        };
        let ended = run.run(hire);
        display.clear();
        let ended = ended.map_err(failed)?;
        let report = &ended.report;
        let mut exit = exit(args, &ended, signals);
        rescue(report);
        if let Err(error) = &report.compaction {
            display::error(error.message());
        }
        let more = More {
            batches: told(&ended),
            left: place.left(&ended, &self.strange()),
            json: json(place, &ended),
        };
        if args.json {
            exit = summary::print_json(args, report, self.setup, exit, Some(&more));
        }
        if !args.show.quiet {
            summary::print(args, report, self.setup, Some(&more));
        } else if let Some(stop) = &report.stop {
            display::error(&format!("stopped: {stop}"));
        }
        Ok(exit)
    }

    /// Tells batches whose key is not here.
    fn strange(&self) -> impl Fn(&BatchInfo) -> bool {
        let clients = self.chosen.and_then(|chosen| {
            chosen
                .manager(self.settings)
                .ok()?
                .clients_by_account()
                .ok()
        });
        move |batch| {
            let lacks = |clients: &dyn Fn(&BatchAccount) -> Option<Arc<dyn BatchClient>>| {
                clients(&batch.account()).is_none()
            };
            !batch.attended && clients.as_ref().is_some_and(|clients| lacks(clients))
        }
    }

    fn worker(&self, place: &Place) -> Result<Worker, Refusal> {
        let args = self.args;
        let chosen = self.chosen.ok_or_else(|| {
            Refusal::could_not_run("there is something to do now that was not there before: again")
        })?;
        let clients = chosen.clients()?;
        let calls = clients.concurrency;
        let manager = chosen.manager(self.settings)?;
        let route = route(args, clients, self.limits, chosen.shares_limits());
        let mut worker = Worker::new(&place.queue)
            .completions(route.retry(self.retry))
            .retry(self.retry)
            .max_retries(args.pace.max_retries)
            .scale(Scale::fixed(calls))
            .batch_settings(self.settings.batch_settings().map_err(refused)?)
            .batch_clients(manager.clients_by_account().map_err(refused)?)
            .on_error(ErrorPolicy::StopOnCriticalError);
        if let Some(client) = manager.batches().map_err(refused)? {
            worker = worker.batches(client);
        }
        Ok(worker)
    }
}

/// How the program ends.
fn exit(args: &RunArgs, ended: &QueuedReport, signals: &Signals) -> Exit {
    let report = &ended.report;
    let summary = &report.summary;
    match &report.stop {
        _ if !report.unsaved.is_empty() => Exit::CouldNotRun,
        Some(StopReason::Cancelled) => signals.exit().unwrap_or(Exit::StoppedEarly),
        Some(_) => Exit::StoppedEarly,
        None if report.compaction.is_err() => Exit::CouldNotRun,
        // The queue has what is left, which is what was asked for; but what is held needs a decision.
        None if args.no_wait && ended.left.is_some() => {
            match ended.batches.iter().any(|batch| batch.state == "held") {
                true => Exit::StoppedEarly,
                false => Exit::Success,
            }
        }
        None if summary.pending > 0 && args.max_items.is_none() => Exit::StoppedEarly,
        None if summary.failed > 0 => Exit::SomeFailed,
        None => Exit::Success,
    }
}

/// What the queue adds to the JSON of a run.
fn json(place: &Place, ended: &QueuedReport) -> Vec<(&'static str, serde_json::Value)> {
    vec![
        ("process_id", serde_json::json!(place.process)),
        ("submitted", ended.submitted.into()),
        ("attached", ended.attached.into()),
        ("batches_created", ended.created.into()),
        ("batches", serde_json::json!(ended.batches)),
    ]
}

/// The same for people.
fn told(ended: &QueuedReport) -> String {
    let mut text = format!("{} created", count(ended.created));
    for (n, what) in [
        (ended.submitted, "items submitted"),
        (ended.attached, "items attached to"),
        (
            ended.foreign,
            "results of items that the input no longer has",
        ),
    ] {
        if n > 0 {
            text.push_str(&format!(", {} {what}", count(n)));
        }
    }
    text
}
