//! `batchwright run`: from arguments to a finished, or resumable, results file.

pub mod already_submitted;
pub mod earlier_run;
pub mod summary;
pub mod via_queue;

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use batchwright::{
    Context, ErrorKind, Extract, FileRun, FileRunError, FileRunOptions, Limits, Output, Plan,
    PromptSettings, Prompts, Report, Route, Settings, StopReason, Strategy,
};

use crate::args::run::RunArgs;
use crate::args::shared::TaskArg;
use crate::commands::run::summary::Setup;
use crate::commands::run::via_queue::{Crew, Place, Queued};
use crate::data_dir::data_dir;
use crate::display::{self, Display};
use crate::exit::{About, Exit, Refusal};
use crate::input::{first_checked, on_disk};
use crate::prompts;
use crate::provider::{self, Asked, Chosen, Clients};
use crate::settings::{limits, refused, settings};
use crate::signals::Signals;
use crate::stdout;
use crate::strategy::Way;

pub fn execute(args: &RunArgs) -> Exit {
    display::start_log(&args.show);
    run(args).unwrap_or_else(|refusal| refusal.end(args.json, args.show.quiet))
}

fn run(args: &RunArgs) -> Result<Exit, Refusal> {
    refuse_table(args)?;
    let settings = with_flags(args)?;
    let ctx = Context::new().with_grace(args.pace.grace);
    let signals = Signals::watch_saying(&ctx, stopping(args, &settings))
        .map_err(|e| Refusal::could_not_run(format!("cannot watch for signals: {e}")))?;
    let display = Arc::new(Display::new(&args.show));
    let say = |line: String| {
        if !args.show.quiet {
            display::say(&line);
        }
    };

    if stdout::is_named(args.output.as_deref()) && !args.dry_run && stdout::is_closed() {
        return Err(Refusal::could_not_run(stdout::CLOSED));
    }
    let prompt_settings = prompt_settings(args)?;
    let limits = limits(&settings)?;
    let prompts = args.input.open(&prompt_settings, &ctx, &display);
    display.clear();
    let mut prompts = match prompts {
        Ok(prompts) => prompts,
        Err(error) if error.kind() == ErrorKind::Cancelled => {
            return Ok(signals.exit().unwrap_or(Exit::CouldNotRun));
        }
        Err(error) => return Err(Refusal::usage(error.message()).about(About::Input)),
    };
    if prompts.needs_disk() {
        let folder = data_dir(args.pace.data_dir.as_deref());
        let folder = folder.unwrap_or_else(std::env::temp_dir);
        let Some(all) = on_disk(prompts, &folder, &ctx)? else {
            return Ok(signals.exit().unwrap_or(Exit::CouldNotRun));
        };
        prompts = all;
    }
    let unnamed = prompts.without_model();
    let notes = RefCell::new(Vec::new());
    let note = |note| notes.borrow_mut().push(note);
    let asked = Asked {
        provider: &args.provider,
        embed: args.prompt.task == TaskArg::Embed,
        unnamed,
    };
    let chosen = provider::choose(&asked, &settings, &note);
    if ctx.is_cancelled() {
        return Ok(signals.exit().unwrap_or(Exit::CouldNotRun));
    }
    let chosen = match chosen {
        // Nothing was there before, so all of it would have to be sent.
        Err(refusal) if !args.output.as_ref().is_some_and(|path| path.exists()) => {
            return Err(refusal);
        }
        chosen => chosen,
    };
    let models = chosen.as_ref().is_ok_and(Chosen::asks_a_model);
    let options = FileRunOptions::new()
        .redo_extracts(models)
        .keep_failed(args.keep_failed)
        .ask_again(args.ask_again)
        .max_items(args.max_items)
        .ordered(args.ordered)
        .fsync(args.fsync)
        .dry_run(args.dry_run);
    let way = Way::find(args, &settings, chosen.as_ref().ok())?;
    let place = Place::find(args, &way)?;
    let found = place.as_ref().map_or(&[][..], Place::found);
    found.iter().cloned().for_each(say);
    if let Some(place) = place.as_ref().filter(|_| prompts.items().is_none()) {
        let Some(spooled) = place.spool(prompts, &ctx)? else {
            return Ok(signals.exit().unwrap_or(Exit::CouldNotRun));
        };
        prompts = spooled;
    }
    if prompts.items().is_none() && !args.dry_run {
        let waiting = || say("waiting for the input".to_owned());
        let Some(checked) = first_checked(prompts, &ctx, waiting)? else {
            return Ok(signals.exit().unwrap_or(Exit::CouldNotRun));
        };
        prompts = checked;
    }
    let tokens = prompts.estimated_tokens();
    let run = match &place {
        Some(place) => Run::queued(place, prompts, output(args), options),
        None => Run::here(prompts, output(args), options),
    };
    let run = run.map_err(|error| match error {
        FileRunError::Usage(error) => Refusal::usage(error.message()).about(About::Output),
        error => Refusal::could_not_run(error.to_string()).about(About::Output),
    })?;
    let plan = run.plan().clone();
    if !plan.resumable && args.output.is_some() && !args.dry_run {
        say("the output is not a regular file: this run cannot be resumed".to_owned());
    }
    if let Some(total) = plan.total {
        say(summary::plan_line(&plan, total));
        summary::unusable_line(args, &plan)
            .into_iter()
            .for_each(&say);
    }

    let fallen = chosen.as_ref().is_ok_and(Chosen::fell_to_extract);
    if fallen && plan.changed > 0 && plan.models_before.iter().any(|model| model != "extract") {
        return Err(Refusal::could_not_run(format!(
            "no model can be asked, and extract would replace answers of {}: name a provider",
            plan.models_before.join(", ")
        )));
    }

    let held = place.as_ref().map_or(Ok(false), Place::holds_something)?;
    let nothing_to_do = plan.to_send == Some(0) && !held;
    let (ready, setup) = if nothing_to_do {
        if unnamed != Some(0) {
            let model = settings.model().map_err(refused)?;
            provider::note_changed_default(&plan, model.as_deref(), &say);
        }
        let setup = Setup {
            way,
            bad_rows: plan.bad_rows,
            ..Setup::default()
        };
        (None, setup)
    } else {
        let mut chosen = chosen?;
        if asks_for_json(args) {
            chosen = chosen.for_json(&say)?;
        }
        notes.into_inner().into_iter().for_each(&say);
        match (chosen.is_loading(), args.dry_run) {
            (true, true) => say("the server is still loading its model".to_owned()),
            (_, true) => {}
            (_, false) => {
                let loaded = chosen.once_loaded(&ctx, &say);
                if ctx.is_cancelled() {
                    return Ok(signals.exit().unwrap_or(Exit::CouldNotRun));
                }
                chosen = loaded?;
            }
        }
        if let Some(output) = &args.output {
            chosen.fits_vectors(&plan, output)?;
        }
        let clients = chosen.clients()?;
        say(chosen.line(&clients));
        if let Some(reason) = &way.fallback_reason {
            say(format!("strategy: {reason}"));
        }
        if let Some(place) = &place {
            let lines = place.lines(&chosen, &settings, &plan, way.strategy)?;
            lines.into_iter().for_each(&say);
        }
        chosen.warn_of_extract(args.show.quiet);
        chosen.warn_of_fallbacks(&say);
        if unnamed != Some(0) && args.provider.model.is_none() {
            provider::note_changed_default(&plan, chosen.default_model(), &say);
        }
        let setup = Setup {
            concurrency: clients.concurrency,
            steps: chosen.steps(),
            way,
            bad_rows: plan.bad_rows,
        };
        (Some((chosen, clients)), setup)
    };
    if args.dry_run {
        // The input's tokens, in proportion to what of it would be sent.
        let tokens = match (tokens, plan.total, plan.to_send) {
            (Some(tokens), Some(total), Some(n)) if total > 0 => {
                Some((tokens as u128 * u128::from(n) / u128::from(total)) as u64)
            }
            _ => None,
        };
        return Ok(summary::print_dry_run(args, &plan, &setup, tokens));
    }

    let retry = settings
        .retry_policy(args.pace.max_retries)
        .map_err(refused)?
        .fall_back_when_blocked(args.provider.fallback_blocked);
    let run = match run {
        Run::Here(run) => *run,
        Run::Queued(run) => {
            let crew = Crew {
                args,
                settings: &settings,
                chosen: ready.as_ref().map(|(chosen, _)| chosen),
                limits,
                retry,
                setup: &setup,
            };
            return crew.run(run, &ctx, &display, &signals);
        }
    };
    let route = match ready {
        Some((chosen, clients)) => route(args, clients, limits, chosen.shares_limits()),
        None => Route::new(Extract),
    };
    let report = run
        .concurrency(setup.concurrency)
        .on_error(args.on_error.policy())
        .context(&ctx)
        .notifier(display.clone())
        .run(route.retry(retry));
    display.clear();
    let report = report.map_err(|error| Refusal::could_not_run(error.message()))?;
    let mut exit = exit(args, &report, &signals);
    rescue(&report);
    if let Err(error) = &report.compaction {
        display::error(error.message());
    }
    if args.json {
        exit = summary::print_json(args, &report, &setup, exit, None);
    }
    if !args.show.quiet {
        summary::print(args, &report, &setup, None);
    } else if let Some(stop) = &report.stop {
        display::error(&format!("stopped: {stop}"));
    }
    Ok(exit)
}

/// A run that is prepared, and makes its calls here or goes through the queue.
enum Run<'p> {
    Here(Box<FileRun<'static>>),
    Queued(Queued<'p>),
}

impl<'p> Run<'p> {
    fn here(
        prompts: Prompts,
        output: Output,
        options: FileRunOptions,
    ) -> Result<Self, FileRunError> {
        let run = FileRun::prepare(prompts, output, options)?;
        Ok(Self::Here(Box::new(run)))
    }

    fn queued(
        place: &'p Place,
        prompts: Prompts,
        output: Output,
        options: FileRunOptions,
    ) -> Result<Self, FileRunError> {
        place.prepare(prompts, output, options).map(Self::Queued)
    }

    fn plan(&self) -> &Plan {
        match self {
            Self::Here(run) => run.plan(),
            Self::Queued(run) => run.plan(),
        }
    }
}

/// What the first signal brings, in words.
fn stopping(args: &RunArgs, settings: &Settings) -> Option<String> {
    let grace = args.pace.grace.as_secs();
    let batches = match settings.bulk_strategy() {
        Ok(Strategy::Batch) => "batches go on at their provider, ",
        _ => "",
    };
    let line = format!(
        "stopping: {batches}calls in flight may end within {grace} s; once more to end now"
    );
    (!args.show.quiet).then_some(line)
}

pub fn route(args: &RunArgs, clients: Clients, limits: Limits, shared: bool) -> Route<'static> {
    let mut route = Route::limited(clients.first, limits);
    let folder = data_dir(args.pace.data_dir.as_deref());
    if let Some(folder) = folder.filter(|_| shared && !args.dry_run) {
        route = route.share_limits(&folder.join("quotas"));
    }
    for (fallback, limits) in clients.fallbacks {
        route = route.then(fallback, limits);
    }
    route
}

fn prompt_settings(args: &RunArgs) -> Result<PromptSettings, Refusal> {
    let settings = prompts::settings(&args.prompt, args.provider.model.as_deref())?;
    let falls_back = args.provider.fallback.is_some() || args.provider.fallback_blocked;
    match args.prompt.task == TaskArg::Embed && falls_back {
        false => Ok(args.input.settings(settings)),
        true => Err(Refusal::usage(
            "--fallback does not go with --task embed: vectors of two models cannot be compared",
        )),
    }
}

fn asks_for_json(args: &RunArgs) -> bool {
    let prompt = &args.prompt;
    if prompt.json_schema.is_some() {
        return true;
    }
    prompt.json_mode
}

/// The settings of this data folder and environment beneath the flags.
fn with_flags(args: &RunArgs) -> Result<Settings, Refusal> {
    let pace = &args.pace;
    let settings = settings(pace.data_dir.as_deref())?;
    let mut settings = provider::with_flags(settings, &args.provider)?;
    for (key, flag, words) in [
        ("llm.bulk_strategy", "--strategy", &args.strategy),
        ("llm.sync_concurrency", "--concurrency", &pace.concurrency),
        ("llm.requests_per_minute", "--rpm", &pace.rpm),
        ("llm.tokens_per_minute", "--tpm", &pace.tpm),
        ("llm.request_timeout", "--timeout", &pace.timeout),
    ] {
        settings = settings.flag(key, flag, words.clone()).map_err(refused)?;
    }
    Ok(settings)
}

fn output(args: &RunArgs) -> Output {
    match &args.output {
        Some(path) if !goes_to_stdout(args) => Output::file(path),
        _ => Output::writer(std::io::stdout()),
    }
}

/// Refuses an output that is named like a table: no other program could open it.
fn refuse_table(args: &RunArgs) -> Result<(), Refusal> {
    let Some(path) = &args.output else {
        return Ok(());
    };
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    let extension = extension.to_ascii_lowercase();
    let table = ["csv", "tsv", "xlsx", "xls", "ods", "parquet"].contains(&extension.as_str());
    match table && !args.input.files.contains(path) {
        false => Ok(()),
        true => Err(Refusal::usage(format!(
            "{}: found an output named .{extension}; results are JSON lines: name it .jsonl",
            path.display()
        ))
        .about(About::Output)),
    }
}

fn goes_to_stdout(args: &RunArgs) -> bool {
    let output = args.output.as_deref();
    output.is_none_or(|path| path == Path::new("-"))
}

fn exit(args: &RunArgs, report: &Report, signals: &Signals) -> Exit {
    if !report.unsaved.is_empty() && !matches!(report.stop, Some(StopReason::SinkClosed)) {
        return Exit::CouldNotRun;
    }
    match &report.stop {
        Some(StopReason::Cancelled) => return signals.exit().unwrap_or(Exit::StoppedEarly),
        // A bad line of standard input is bad input; a file was checked before.
        Some(StopReason::Fatal(_)) if args.input.is_stream() => return Exit::Usage,
        Some(_) => return Exit::StoppedEarly,
        None => {}
    }
    let summary = &report.summary;
    if report.compaction.is_err() {
        Exit::CouldNotRun
    } else if summary.pending > 0 && args.max_items.is_none() {
        Exit::StoppedEarly
    } else if summary.total == 0 {
        display::error(&args.input.nothing());
        Exit::Usage
    } else if summary.failed > 0 {
        Exit::SomeFailed
    } else {
        Exit::Success
    }
}

/// Results that no file would take are shown rather than dropped.
pub fn rescue(report: &Report) {
    if report.unsaved.is_empty() || matches!(report.stop, Some(StopReason::SinkClosed)) {
        return;
    }
    display::error(&format!(
        "{} results could not be saved; here they are:",
        report.unsaved.len()
    ));
    crate::lines::flush();
    for line in &report.unsaved {
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line);
    }
}
