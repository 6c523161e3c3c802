//! `batchwright run`: from arguments to a finished, or resumable, results file.
//!
//! In three steps: [`prepare`] determines the settings, prompts, providers and queue, and compares the input with finished
//! items; [`Plan::execute`] makes the calls, itself or through the queue; and [`report`] shows the results. A
//! [`plan::dry_run`] ends after the first step.

mod plan;
mod report;
mod via_queue;

use std::io::{IsTerminal, Write, stderr, stdin};
use std::iter;
use std::path::{Path, PathBuf};

use batchwright::client::RequestTask;
use batchwright::files::{
    ExportFormat, FileRunError, PromptSettings, QueueRun, RunOutput, RunPlan, RunReport,
};
use batchwright::plan::{Concurrency, ProviderPlan};
use batchwright::queue::SqliteOptions;
use batchwright::unstable::{Optional, quoted};
use batchwright::{
    Context, Error, ErrorKind, ErrorPolicy, FileRun, FileRunOptions, LlmClient, LlmManager,
    Prompts, Request, Response, Route, Settings, Strategy,
};

use crate::args::run::{Resend, RunArgs};
use crate::background::{Background, Event};
use crate::budget::{self, starts_from_zero};
use crate::display;
use crate::exit::{About, Exit, Refusal, could_not_run};
use crate::format::count;
use crate::input::SMALL_ROW_BYTES;
use crate::prompts;
use crate::provider;
use crate::queue::{durability, failed};
use crate::settings::{self, data_dir, refused};
use crate::signals::{GRACE, Session, stopping_line};
use crate::stderr::is_json;
use crate::stdout::{self, ResultsOut};
use plan::Setup;
use via_queue::QueueFacts;

pub fn execute(args: &RunArgs) -> Result<Exit, Refusal> {
    args.memory.apply();
    refuse_table(args)?;
    let settings = provider::with_flags(settings::settings()?, &args.provider, &args.pace)?;
    let session = session(args, &settings)?;
    let (run, manager, setup) = prepare(args, &settings, &session)?;
    if args.dry_run {
        return plan::dry_run(args, &settings, manager.as_ref(), run.compared(), &setup);
    }
    confirm(args, run.compared().plan(), &session)?;
    let ended = run.execute(args, manager, setup, &session)?;
    Ok(report::report(args, &ended, &session))
}

/// Up to this number of answered items are sent again without confirmation.
const FEW: u64 = 20;

/// On a terminal, asks for confirmation before more than [`FEW`] answered items are billed again, even with `--quiet`.
///
/// # Errors
/// If the answer is no, or a signal came.
fn confirm(args: &RunArgs, plan: &RunPlan, session: &Session) -> Result<(), Refusal> {
    let most = args.max_items.map_or(u64::MAX, |items| items as u64);
    let again = plan.differing.min(plan.to_send).min(most);
    if again <= FEW || !stdin().is_terminal() || !stderr().is_terminal() {
        return Ok(());
    }
    let again = count(again);
    crate::stderr::flush();
    let _ = write!(stderr(), "Buy {again} answers again? [y/N] ");
    let _ = stderr().flush();
    // A read from a terminal cannot be interrupted, so after a signal the thread is abandoned.
    let answer = iter::once_with(|| {
        let mut line = String::new();
        let _ = stdin().read_line(&mut line);
        line
    });
    let answer = Background::spawn("batchwright-question", answer, &session.ctx)?;
    let line = match answer.next(None) {
        Event::Item(line) => line,
        Event::Ended | Event::Silence => String::new(),
        Event::Cancelled => return Err(session.interrupted()),
    };
    if ["y", "yes"].contains(&line.trim().to_lowercase().as_str()) {
        return Ok(());
    }
    Err(Refusal::usage(format!(
        "nothing was sent: {again} answers would be bought again. To buy them, answer y; to keep the earlier answers, \
         run with the earlier settings, or name another output with -o"
    )))
}

/// From here on a signal winds the run down.
fn session(args: &RunArgs, settings: &Settings) -> Result<Session, Refusal> {
    let ctx = Context::new().with_grace(GRACE);
    let stopping = match settings.bulk_strategy() {
        _ if args.dry_run => "stopping: nothing was sent".to_owned(),
        Ok(Strategy::Batch) => {
            stopping_line(&ctx, "batches that are at their provider go on there, ")
        }
        _ => stopping_line(&ctx, ""),
    };
    Session::start(&args.show, ctx, stopping)
}

/// The prompts of the input.
fn find_prompts(args: &RunArgs, session: &Session) -> Result<Prompts, Refusal> {
    if !args.dry_run && stdout::is_named(args.output.as_deref()) {
        if is_json() {
            let why = "--json needs -o FILE or --dry-run, because results are on standard output";
            return Err(Refusal::usage(why));
        }
        if stdout::is_closed() {
            return Err(Refusal::could_not_run(stdout::CLOSED));
        }
    }
    args.input.open(&prompt_settings(args)?, session)
}

/// Whether the items go through the queue, which takes no flags for single calls.
fn uses_queue(args: &RunArgs, strategy: Strategy) -> Result<bool, Refusal> {
    let is_used = via_queue::is_used(args, strategy)?;
    if !is_used && strategy != Strategy::Batch {
        return Ok(false);
    }
    if args.dedupe {
        return Err(Refusal::usage(
            "--dedupe is for calls that the run makes itself, and this one goes through the queue, where each prompt is a \
             separate request: remove it, or use --strategy sync",
        ));
    }
    if args.on_error == ErrorPolicy::StopOnError {
        return Err(Refusal::usage(
            "--on-error stop cannot be used with batches, because their items are submitted together: use \
             stop-critical, or --strategy sync",
        ));
    }
    Ok(is_used)
}

/// The providers. Stored as a `Result`: if all items are finished, none is needed, and the error does not matter.
fn find_providers(
    args: &RunArgs,
    settings: &Settings,
    unnamed: u64,
    session: &Session,
) -> Result<Result<ProviderPlan, Refusal>, Refusal> {
    let embed = args.prompt.task == RequestTask::Embed;
    let options = provider::options(&args.provider).max_retries(args.max_retries);
    let plan = provider::plan(&args.provider, settings, options, embed, unnamed);
    if session.ctx.is_cancelled() {
        return Err(session.interrupted());
    }
    let has_output = args.output.as_ref().is_some_and(|path| path.exists());
    match plan {
        // There is no output yet, so everything would have to be sent.
        Err(refusal) if !has_output && !may_lack(args, &refusal) => Err(refusal),
        plan => Ok(plan),
    }
}

/// A dry run does not need a usable provider; its key may be missing, for example.
fn may_lack(args: &RunArgs, refusal: &Refusal) -> bool {
    args.dry_run && refusal.about == About::Provider
}

fn prompt_settings(args: &RunArgs) -> Result<PromptSettings, Refusal> {
    let settings = prompts::settings(&args.prompt, args.provider.model.as_deref())?;
    if !(args.prompt.task == RequestTask::Embed && args.provider.fallback.is_some()) {
        let folder = data_dir();
        let settings = settings.set(args.output.as_ref(), PromptSettings::results);
        let keeps = args.input.keep.is_empty();
        let settings = settings.when(keeps, |settings| settings.keep_rows_up_to(SMALL_ROW_BYTES));
        args.input.settings(settings, folder)
    } else {
        Err(Refusal::usage(
            "--fallback does not go with --task embed: vectors of two models cannot be compared",
        ))
    }
}

/// Rejects a new output with the extension of a table: results are lines, from which tables are exported.
fn refuse_table(args: &RunArgs) -> Result<(), Refusal> {
    let new = args.output.as_ref().filter(|path| !path.exists());
    let is_table =
        |path: &PathBuf| ExportFormat::of(path).is_ok_and(|format| format != ExportFormat::Jsonl);
    let Some(path) = new.filter(|path| is_table(path)) else {
        return Ok(());
    };
    let (results, table) = (quoted(path.with_extension("jsonl")), quoted(path));
    Err(Refusal::usage(format!(
        "{}: results are JSON lines, and a table is made of them: run with -o {results}, then batchwright export {results} \
         -o {table}",
        path.display(),
    ))
    .about(About::Output))
}

/// A run whose input was compared with the output, and with the queue if the run uses it.
enum Plan {
    Direct(Box<FileRun<'static>>),
    ViaQueue(Box<QueueRun>),
}

/// How a run ended.
pub struct Ended {
    pub report: RunReport,
    pub setup: Setup,
    /// Facts about the queue, if the run used it.
    pub queue: Option<QueueFacts>,
}

/// The run, the manager of its calls if any item is to be sent, and their options.
fn prepare(
    args: &RunArgs,
    settings: &Settings,
    session: &Session,
) -> Result<(Plan, Option<LlmManager>, Setup), Refusal> {
    let prompts = find_prompts(args, session)?;
    let unnamed = prompts.without_model();
    let providers = find_providers(args, settings, unnamed, session)?;
    let strategy = provider::strategy(args, settings, providers.as_ref().ok())?;
    let uses_queue = uses_queue(args, strategy.strategy)?;
    let from_zero = starts_from_zero(args);
    let models = providers.as_ref().is_ok_and(provider::asks_a_model);
    let output = match &args.output {
        Some(path) if path != Path::new("-") => RunOutput::file(path),
        _ => RunOutput::writer(ResultsOut::new(&session.ctx)),
    };
    let run = compare(args, prompts, output, uses_queue, models)?;
    let plan = run.compared().plan();
    if !plan.resumable && args.output.is_some() && !args.dry_run {
        display::note("the output is not a regular file: this run cannot be resumed");
    }
    plan::lines(args, plan).iter().for_each(display::note);

    let queued = match &run {
        Plan::Direct(_) => None,
        Plan::ViaQueue(run) => run.queue().process(run.process()).map_err(failed)?,
    };
    let is_unlimited = queued.as_ref().is_some_and(|run| run.budget.is_none());
    let budget = if args.dry_run {
        None
    } else {
        budget::open(args, is_unlimited, from_zero)?
    };
    let mut setup = Setup {
        strategy,
        bad_rows: plan.bad_rows,
        rows_cut: plan.rows_cut,
        budget,
        concurrency: Concurrency::Fixed(1),
        steps: Vec::new(),
    };
    let manager = match providers {
        _ if plan.to_send == 0 && queued.is_none() => None,
        Err(refusal) if may_lack(args, &refusal) => {
            display::note(format!("nothing could be sent: {}", refusal.text()));
            None
        }
        Err(refusal) => return Err(refusal),
        Ok(mut providers) => {
            if args.prompt.json_schema.is_some() {
                provider::for_json(&mut providers)?;
            }
            let choice = provider::choice(&providers, &args.provider);
            choice.iter().for_each(display::note);
            run.announce(args, &providers, unnamed, &mut setup)?;
            Some(LlmManager::of(providers))
        }
    };
    Ok((run, manager, setup))
}

fn compare(
    args: &RunArgs,
    prompts: Prompts,
    output: RunOutput,
    uses_queue: bool,
    asks_a_model: bool,
) -> Result<Plan, Refusal> {
    let options = FileRunOptions::new()
        .redo_extracts(asks_a_model)
        .keep_failed(args.resend == Resend::None)
        .resend_changed(matches!(args.resend, Resend::Changed | Resend::All))
        .ask_again(args.resend == Resend::All)
        .max_items(args.max_items)
        .ordered(args.ordered)
        .fsync(args.fsync)
        .dedupe(args.dedupe)
        .dry_run(args.dry_run);
    let run = if uses_queue {
        let store = SqliteOptions::default().durability(durability(args.fsync));
        let run = QueueRun::prepare(prompts, output, options, &store);
        run.map(|run| Plan::ViaQueue(Box::new(run)))
    } else {
        FileRun::prepare(prompts, output, options).map(|run| Plan::Direct(Box::new(run)))
    };
    run.map_err(|error| match error {
        FileRunError::Usage(error) => Refusal::usage(error.message()).about(About::Output),
        error => Refusal::could_not_run(error.to_string()).about(About::Output),
    })
}

impl Plan {
    /// The input compared with the output.
    fn compared(&self) -> &FileRun<'static> {
        match self {
            Self::Direct(run) => run,
            Self::ViaQueue(run) => run.compared(),
        }
    }

    /// Rejects providers that do not suit the input or the output, and describes those that are used.
    fn announce(
        &self,
        args: &RunArgs,
        providers: &ProviderPlan,
        unnamed: u64,
        setup: &mut Setup,
    ) -> Result<(), Refusal> {
        let plan = self.compared().plan();
        if let Some(output) = &args.output {
            provider::fits_vectors(providers, unnamed, plan, output)?;
        }
        provider::check(providers, unnamed)?;
        let calls = providers.concurrency();
        setup.concurrency = match self {
            Self::Direct(_) => calls,
            // The slots of a worker.
            Self::ViaQueue(_) => Concurrency::Fixed(calls.start()),
        };
        let steps = [&providers.first].into_iter().chain(&providers.fallbacks);
        setup.steps = steps.map(|status| status.provider).collect();
        let names: Vec<String> = setup.steps.iter().map(|name| (*name).to_owned()).collect();
        let checked = self.compared().check_providers(&names);
        checked.map_err(|error| refused(error).about(About::Input))?;
        let in_flight = provider::in_flight(setup.concurrency);
        display::note(provider::line(providers, &in_flight));
        if let Some(why) = &setup.strategy.fallback_reason {
            // Also with --quiet, because it may cost twice as much as the setting requests.
            display::say(&format!("strategy: {why}"));
        }
        if let Self::ViaQueue(run) = self {
            let address = args.provider.base_url.as_deref();
            let strategy = setup.strategy.strategy;
            let lines = via_queue::lines(run, providers, strategy, address)?;
            lines.iter().for_each(display::note);
        }
        if !provider::asks_a_model(providers) {
            display::note(provider::NO_MODEL);
        }
        Ok(())
    }

    /// Makes the calls.
    fn execute(
        self,
        args: &RunArgs,
        manager: Option<LlmManager>,
        setup: Setup,
        session: &Session,
    ) -> Result<Ended, Refusal> {
        let budget = setup.budget.as_ref();
        let limited = |manager: &LlmManager| {
            let route = manager.route().map_err(could_not_run)?;
            let route = match budget {
                Some(budget) => route.budget(budget),
                None => route,
            };
            budget::check(args, &route)?;
            Ok(route)
        };
        let (report, queue) = match self {
            Self::Direct(run) => {
                let route = match &manager {
                    Some(manager) => limited(manager)?,
                    None => Route::new(Nobody),
                };
                let run = run.notifier(session.display.clone());
                let run = run.concurrency(setup.concurrency.most());
                let run = run.on_error(args.on_error);
                let report = run.context(&session.ctx).run(route);
                session.display.clear();
                if let Some(Err(error)) = budget.map(|budget| budget.close()) {
                    log::warn!("{}", error.message());
                }
                (report.map_err(could_not_run)?, None)
            }
            Self::ViaQueue(run) => {
                // Refuses a run whose batches have no upper bound.
                if let Some(manager) = manager.as_ref().filter(|_| budget.is_some()) {
                    limited(manager)?;
                }
                let (report, facts) =
                    via_queue::execute(*run, args, manager.as_ref(), budget, session)?;
                (report, Some(facts))
            }
        };
        Ok(Ended {
            report,
            setup,
            queue,
        })
    }
}

/// The client of a run that sends nothing.
struct Nobody;

impl LlmClient for Nobody {
    fn complete(&self, _: &Request, _: &Context) -> Result<Response, Error> {
        let why = "something is to be sent now that was answered when the run began: give the same command again";
        Err(Error::new(ErrorKind::Auth, why))
    }
}
