//! `batchwright submit`: from prompts to jobs in the queue, all of them or none.

use batchwright::plan::EffectiveStrategy;
use batchwright::queue::{EnqueueError, ProcessBudget, ProcessInfo};
use batchwright::{Context, Error, ErrorKind, Job, JobQueue, ProcessId};

use crate::args::queue::SubmitArgs;
use crate::display;
use crate::exit::{About, Exit, Refusal, could_not_run};
use crate::format::number_of;
use crate::input::until_cancelled;
use crate::payloads;
use crate::prompts;
use crate::queue::failed;
use crate::settings::{self, data_dir};
use crate::signals::Session;
use crate::stderr::is_json;
use crate::stdout;
use crate::worker;
use batchwright::unstable::Optional;

pub fn execute(args: &SubmitArgs) -> Result<Exit, Refusal> {
    let stopping = "stopping: nothing stays in the queue; press Ctrl-C again to stop now";
    let session = Session::start(&args.show, Context::new(), stopping.to_owned())?;
    match &args.job_type {
        Some(name) => submit_payloads(args, name, &session),
        None => submit_prompts(args, &session),
    }
}

/// Payloads of a type, one a line.
fn submit_payloads(args: &SubmitArgs, name: &str, session: &Session) -> Result<Exit, Refusal> {
    let settings = settings::settings()?;
    let types = worker::job_types(&settings).map_err(could_not_run)?;
    let one = types.get(name);
    let one = one.map_err(|error| Refusal::usage(format!("--type {name}: {}", error.message)))?;
    queued(
        args,
        payloads::open(&args.input, one, &session.ctx)?,
        session,
    )
}

fn submit_prompts(args: &SubmitArgs, session: &Session) -> Result<Exit, Refusal> {
    let settings = prompts::settings(&args.prompt, args.model.as_deref())?;
    let settings = args.input.settings(settings, data_dir())?;
    let prompts = args.input.open(&settings, session)?;
    let left_out = prompts.bad_rows();
    if left_out > 0 {
        let rows = number_of(left_out, "row|rows that is|are invalid");
        display::say(&format!("skipped {rows}"));
    }
    let requests = until_cancelled(prompts.into_requests(), &session.ctx);
    let jobs = requests.map(|request| request.map(|request| Job::from(&request)));
    queued(args, jobs, session)
}

fn queued(
    args: &SubmitArgs,
    jobs: impl Iterator<Item = Result<Job, Error>>,
    session: &Session,
) -> Result<Exit, Refusal> {
    let queue = args.data.open(&session.ctx)?;
    let process = args.process.unwrap_or_else(ProcessId::new);
    refuse_known(args, &queue, process)?;
    let with_options = |job: Job| {
        job.set(args.priority, Job::priority)
            .set(args.max_retries, Job::max_retries)
    };
    let jobs = jobs.map(|job| job.map(with_options));
    match queue.described(info(args)).try_enqueue_iter(process, jobs) {
        Ok(0) => Err(Refusal::usage("the input held no prompts").about(About::Input)),
        Ok(total) => Ok(report(args, process, total)),
        Err(error) => Err(take_back(args, &queue, process, error, session)),
    }
}

/// Rejects an id that is in the queue already: its process would get the prompts twice.
fn refuse_known(args: &SubmitArgs, queue: &JobQueue, id: ProcessId) -> Result<(), Refusal> {
    let Some(known) = queue.process(id).map_err(failed)? else {
        return Ok(());
    };
    let what = if known.sealed { "" } else { ", incomplete" };
    Err(Refusal::usage(format!(
        "the queue has process {id} already, with {}{what}; nothing was added. To start over: {}",
        number_of(known.counts.total, "job|jobs"),
        args.data.command(&format!("cancel {id} --delete"))
    ))
    .about(About::Queue))
}

/// The description of the process in the queue, for people.
fn info(args: &SubmitArgs) -> ProcessInfo {
    let info = ProcessInfo::new().name(match &args.name {
        Some(name) => name.clone(),
        None => args.input.short(),
    });
    let info = info.set(args.budget, |info, limit| {
        info.budget(ProcessBudget::of(limit))
    });
    if args.input.is_stream() {
        info
    } else {
        info.input(args.input.whole())
    }
}

/// Deletes the jobs of a failed submission.
fn take_back(
    args: &SubmitArgs,
    queue: &JobQueue,
    process: ProcessId,
    error: EnqueueError<Error>,
    session: &Session,
) -> Refusal {
    let left = match queue.delete(process) {
        Ok(0) => "nothing was queued".to_owned(),
        Ok(jobs) => format!(
            "the {}",
            number_of(jobs, "job|jobs queued so far is|are deleted")
        ),
        Err(error) => format!(
            "the jobs queued so far could not be deleted ({}); none of them will start. To delete them later: {}",
            error.message(),
            args.data.command(&format!("cancel {process} --delete"))
        ),
    };
    match error {
        EnqueueError::Source(error) if error.kind() == ErrorKind::Cancelled => {
            display::note(format!("interrupted; {left}"));
            session.interrupted()
        }
        EnqueueError::Source(error) => {
            let message = format!("{}; {left}", error.message());
            Refusal::usage(message).about(About::Input)
        }
        EnqueueError::Queue(error) => {
            let message = format!("{}; {left}", error.message());
            Refusal::could_not_run(message).about(About::Queue)
        }
    }
}

fn report(args: &SubmitArgs, process: ProcessId, total: u64) -> Exit {
    let text = if is_json() {
        serde_json::json!({"process_id": process, "total": total}).to_string()
    } else {
        process.to_string()
    };
    let printed = stdout::write(&format!("{text}\n"));
    if let Err(error) = &printed {
        display::error(&format!(
            "process {process} is queued, but its id could not be printed: cannot write to standard output: {error}"
        ));
    }
    let command = |words: String| args.data.command(&words);
    let by = settings::settings().ok();
    let by = by.map_or_else(String::new, |settings| {
        let by = EffectiveStrategy::expected(&settings);
        let strategy = format!("strategy: {}", by.strategy);
        format!("; {}", by.fallback_reason.unwrap_or(strategy))
    });
    display::note(format!(
        "{}{by}\n  to run them:          {}\n  to see the progress:  {}\n  to fetch the results: {}",
        number_of(total, "job|jobs is|are queued"),
        command("work".to_owned()),
        command(format!("status {process}")),
        command(format!("results {process} -o FILE")),
    ));
    match printed {
        Ok(()) => Exit::Success,
        Err(_) => Exit::CouldNotRun,
    }
}
