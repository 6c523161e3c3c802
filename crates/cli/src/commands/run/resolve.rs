//! Determines what a run uses: flags and settings, prompts, providers, and the queue if necessary.

use batchwright::files::{ExportFormat, PromptSettings};
use batchwright::plan::ProviderPlan;
use batchwright::unstable::Optional;
use batchwright::{Context, Prompts, Settings, Strategy};

use super::via_queue::RunQueue;
use crate::args::run::RunArgs;
use crate::args::shared::TaskArg;
use crate::command_line::quoted_path;
use crate::exit::{About, Early, Refusal};
use crate::input::SMALL_ROW_BYTES;
use crate::logging::is_json;
use crate::prompts;
use crate::provider;
use crate::settings::{self, data_dir};
use crate::signals::{GRACE, Session, stopping_line};
use crate::stdout;

/// The settings of this data folder and environment beneath the flags.
pub fn settings(args: &RunArgs) -> Result<Settings, Refusal> {
    let pace = &args.pace;
    refuse_table(args)?;
    let settings = settings::settings()?;
    let settings = provider::with_flags(settings, &args.provider)?;
    let flags = [
        ("llm.bulk_strategy", "--strategy", &args.strategy),
        ("llm.sync_concurrency", "--concurrency", &pace.concurrency),
        ("llm.requests_per_minute", "--rpm", &pace.rpm),
        ("llm.tokens_per_minute", "--tpm", &pace.tpm),
        ("llm.request_timeout", "--timeout", &pace.timeout),
    ];
    settings::with_flags(settings, &flags)
}

/// From here on a signal winds the run down.
pub fn session(args: &RunArgs, settings: &Settings) -> Result<Session, Refusal> {
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
pub fn prompts(args: &RunArgs, session: &Session) -> Result<Prompts, Early> {
    if !args.dry_run && stdout::is_named(args.output.as_deref()) {
        if is_json() {
            let why = "--json needs -o FILE or --dry-run, because results are on standard output";
            return Err(Refusal::usage(why).into());
        }
        if stdout::is_closed() {
            return Err(Refusal::could_not_run(stdout::CLOSED).into());
        }
    }
    args.input.open(&prompt_settings(args)?, session)
}

/// The queue that the items go through, if they do. A dry run opens no queue that is not there yet.
pub fn queue(args: &RunArgs, strategy: Strategy) -> Result<Option<RunQueue>, Refusal> {
    let queue = RunQueue::find(args, strategy)?;
    if args.dedupe && (queue.is_some() || strategy == Strategy::Batch) {
        return Err(Refusal::usage(
            "--dedupe is for calls that the run makes itself, and this one goes through the queue, where each prompt is a \
             separate request: remove it, or use --strategy sync",
        ));
    }
    Ok(queue)
}

/// The providers. Stored as a `Result`: if all items are finished, none is needed, and the error does not matter.
pub fn providers(
    args: &RunArgs,
    settings: &Settings,
    unnamed: u64,
    session: &Session,
) -> Result<Result<ProviderPlan, Refusal>, Early> {
    let embed = args.prompt.task == TaskArg::Embed;
    let options = provider::options(&args.provider).max_retries(args.pace.max_retries);
    let plan = provider::plan(&args.provider, settings, options, embed, unnamed);
    if session.ctx.is_cancelled() {
        return Err(session.interrupted());
    }
    let has_output = args.output.as_ref().is_some_and(|path| path.exists());
    match plan {
        // There is no output yet, so everything would have to be sent.
        Err(refusal) if !has_output && !may_lack(args, &refusal) => Err(refusal.into()),
        plan => Ok(plan),
    }
}

/// A dry run does not need a usable provider; its key may be missing, for example.
pub fn may_lack(args: &RunArgs, refusal: &Refusal) -> bool {
    args.dry_run && refusal.about == About::Provider
}

fn prompt_settings(args: &RunArgs) -> Result<PromptSettings, Refusal> {
    let settings = prompts::settings(&args.prompt, args.provider.model.as_deref())?;
    if !(args.prompt.task == TaskArg::Embed && args.provider.fallback.is_some()) {
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
    let Some(path) = args.output.as_ref().filter(|path| !path.exists()) else {
        return Ok(());
    };
    if !ExportFormat::of(path).is_ok_and(|format| format != ExportFormat::Jsonl) {
        return Ok(());
    }
    let results = path.with_extension("jsonl");
    Err(Refusal::usage(format!(
        "{}: results are JSON lines, of which a table is made: run with -o {}, then batchwright export {} -o {}",
        path.display(),
        quoted_path(&results),
        quoted_path(&results),
        quoted_path(path),
    ))
    .about(About::Output))
}
