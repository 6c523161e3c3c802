//! `batchwright submit`: from prompts to jobs in the queue, all of them or none.

use std::{iter, thread};

use batchwright::{
    Context, EnqueueError, Error, ErrorKind, Job, JobQueue, ProcessId, ProcessInfo, Request,
    Requests,
};
use crossbeam_channel::{bounded, select};

use crate::args::submit::SubmitArgs;
use crate::display::{self, Display};
use crate::exit::{About, Exit, Refusal};
use crate::format::count;
use crate::input::on_disk;
use crate::prompts;
use crate::queue::failed;
use crate::settings::{effective_strategy, settings};
use crate::signals::Signals;
use crate::stdout;

pub fn execute(args: &SubmitArgs) -> Exit {
    display::start_log(&args.show);
    submit(args).unwrap_or_else(|refusal| refusal.end(args.json, args.show.quiet))
}

fn submit(args: &SubmitArgs) -> Result<Exit, Refusal> {
    let ctx = Context::new();
    let stopping = "stopping: nothing will be left in the queue; once more to end now";
    let line = (!args.show.quiet).then(|| stopping.to_owned());
    let signals = Signals::watch_saying(&ctx, line)
        .map_err(|e| Refusal::could_not_run(format!("cannot watch for signals: {e}")))?;
    let settings = prompts::settings(&args.prompt, args.model.as_deref())?;
    let settings = args.input.settings(settings);
    let display = Display::new(&args.show);
    let prompts = args.input.open(&settings, &ctx, &display);
    display.clear();
    let mut prompts = match prompts {
        Ok(prompts) => prompts,
        Err(error) if error.kind() == ErrorKind::Cancelled => {
            return Ok(signals.exit().unwrap_or(Exit::CouldNotRun));
        }
        Err(error) => return Err(Refusal::usage(error.message()).about(About::Input)),
    };

    let queue = args.data.open()?;
    let process = args.process.unwrap_or_else(ProcessId::new);
    refuse_known(args, &queue, process)?;
    if prompts.needs_disk() {
        let Some(all) = on_disk(prompts, &args.data.folder()?, &ctx)? else {
            return Ok(signals.exit().unwrap_or(Exit::CouldNotRun));
        };
        prompts = all;
    }
    let left_out = prompts.bad_rows().unwrap_or(0);
    if left_out > 0 {
        display::say(&format!(
            "rows that make no prompt are left out: {} (--bad-rows fail names them)",
            count(left_out)
        ));
    }
    let requests: Box<dyn Iterator<Item = Result<Request, Error>>> = match prompts.items().is_none()
    {
        true => Box::new(read_aside(prompts.into_requests(), &ctx)?),
        false => Box::new(until_cancelled(prompts.into_requests(), &ctx)),
    };
    let jobs = requests.map(|request| request.map(|request| job(args, &request)));
    match queue.described(info(args)).try_enqueue_iter(process, jobs) {
        Ok(0) => Err(Refusal::usage(args.input.nothing()).about(About::Input)),
        Ok(total) => Ok(tell(args, process, total)),
        Err(error) => take_back(args, &queue, process, error, &signals),
    }
}

/// A process that is there already would get its prompts twice.
fn refuse_known(args: &SubmitArgs, queue: &JobQueue, id: ProcessId) -> Result<(), Refusal> {
    let Some(known) = queue.process(id).map_err(failed)? else {
        return Ok(());
    };
    let total = count(known.counts.total);
    let what = match known.sealed {
        true => format!("the queue has process {id} already, with {total} jobs"),
        false => format!(
            "process {id} is being submitted, or that was interrupted: {total} jobs are there. To \
             begin again: {}",
            args.data.command(&format!("cancel {id} --delete"))
        ),
    };
    Err(Refusal::usage(format!("{what}; nothing was added")).about(About::Queue))
}

/// What is told of the process.
fn info(args: &SubmitArgs) -> ProcessInfo {
    let info = ProcessInfo::new().name(match &args.name {
        Some(name) => name.clone(),
        None => args.input.short(),
    });
    match args.input.is_stream() {
        true => info,
        false => info.input(args.input.whole()),
    }
}

fn job(args: &SubmitArgs, request: &Request) -> Job {
    let job = Job::from(request).priority(args.priority);
    match args.max_retries {
        Some(retries) => job.max_retries(retries),
        None => job,
    }
}

fn interrupted() -> Error {
    Error::new(ErrorKind::Cancelled, "interrupted")
}

fn until_cancelled(
    requests: Requests,
    ctx: &Context,
) -> impl Iterator<Item = Result<Request, Error>> {
    requests.map(|request| match ctx.is_cancelled() {
        true => Err(interrupted()),
        false => request,
    })
}

/// Requests that are read but not queued yet.
const AHEAD: usize = 16;

/// Reads on another thread, so that a signal is heard while the read blocks.
fn read_aside(
    requests: Requests,
    ctx: &Context,
) -> Result<impl Iterator<Item = Result<Request, Error>> + use<>, Refusal> {
    let (give, take) = bounded(AHEAD);
    // The end is told, so that a thread that died does not look like it.
    let items = requests.map(Some).chain(iter::once(None));
    thread::Builder::new()
        .name("batchwright-source".to_owned())
        .spawn(move || {
            for item in items {
                if give.send(item).is_err() {
                    return;
                }
            }
        })
        .map_err(|e| Refusal::could_not_run(format!("cannot start a thread: {e}")))?;
    let (stop, stopped) = bounded(1);
    let watch = ctx.on_cancel(move || {
        let _ = stop.try_send(());
    });
    Ok(iter::from_fn(move || {
        let _ = &watch;
        select! {
            recv(stopped) -> _ => Some(Err(interrupted())),
            recv(take) -> item => item.unwrap_or_else(|_| {
                let why = "standard input is no longer read";
                Some(Err(Error::new(ErrorKind::Panic, why)))
            }),
        }
    }))
}

/// Leaves nothing of a submission that has failed.
fn take_back(
    args: &SubmitArgs,
    queue: &JobQueue,
    process: ProcessId,
    error: EnqueueError<Error>,
    signals: &Signals,
) -> Result<Exit, Refusal> {
    let left = match queue.delete(process) {
        Ok(0) => "nothing was queued".to_owned(),
        Ok(jobs) => format!(
            "the {} jobs that were queued so far are deleted again, nothing is left",
            count(jobs)
        ),
        Err(error) => format!(
            "what was queued so far could not be deleted ({}); none of it will be started. Later: {}",
            error.message(),
            args.data.command(&format!("cancel {process} --delete"))
        ),
    };
    match error {
        EnqueueError::Source(error) if error.kind() == ErrorKind::Cancelled => {
            if !args.show.quiet {
                display::say(&format!("interrupted; {left}"));
            }
            Ok(signals.exit().unwrap_or(Exit::CouldNotRun))
        }
        EnqueueError::Source(error) => {
            let message = format!("{}; {left}", error.message());
            Err(Refusal::usage(message).about(About::Input))
        }
        EnqueueError::Queue(error) => {
            let message = format!("{}; {left}", error.message());
            Err(Refusal::could_not_run(message).about(About::Queue))
        }
    }
}

fn tell(args: &SubmitArgs, process: ProcessId, total: u64) -> Exit {
    let text = match args.json {
        true => serde_json::json!({"process_id": process, "total": total}).to_string(),
        false => process.to_string(),
    };
    let told = stdout::write(&format!("{text}\n"));
    if let Err(error) = &told {
        display::error(&format!(
            "process {process} is queued, but nobody was told: cannot write to standard output: {error}"
        ));
    }
    if !args.show.quiet {
        let command = |words: String| args.data.command(&words);
        let by =
            settings(args.data.data_dir.as_deref()).map(|settings| effective_strategy(&settings));
        let by = by.map_or_else(
            |_| String::new(),
            |by| match (by.fallback_reason, by.strategy) {
                (Some(reason), _) => format!("; {reason}"),
                (None, strategy) => format!("; strategy: {strategy}"),
            },
        );
        display::say(&format!(
            "{} jobs are queued{by}\n  to carry them out:   {}\n  to see how it goes:  {}\n  to take the \
             results: {}",
            count(total),
            command("work".to_owned()),
            command(format!("status {process}")),
            command(format!("results {process} -o FILE")),
        ));
    }
    match told {
        Ok(()) => Exit::Success,
        Err(_) => Exit::CouldNotRun,
    }
}
