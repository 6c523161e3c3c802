//! What a run works with: settings beneath flags, prompts, a provider, a strategy, and the queue where
//! that is needed.

use std::cell::RefCell;

use batchwright::files::PromptSettings;
use batchwright::{Context, Prompts, Settings, Strategy};

use super::run_queue::RunQueue;
use crate::args::run::RunArgs;
use crate::args::shared::TaskArg;
use crate::data_dir::data_dir;
use crate::exit::{About, Early, Refusal};
use crate::input::on_disk;
use crate::prompts;
use crate::provider::{self, Asked, Beside, Chosen};
use crate::session::Session;
use crate::settings::{self, refused};
use crate::signals::stopping_line;
use crate::stdout;
use crate::strategy::RunStrategy;

pub struct Resolved {
    pub settings: Settings,
    pub prompts: Prompts,
    /// Requests that name no model, if known.
    pub unnamed: Option<u64>,
    /// Kept as a `Result`: where all is finished already no provider is needed, and the error does not matter.
    pub provider: Result<Chosen, Refusal>,
    /// Lines about the choice, said if the provider is needed.
    pub provider_notes: Vec<String>,
    pub strategy: RunStrategy,
    /// The queue that the items go through, if they do.
    pub queue: Option<RunQueue>,
}

/// The settings of this data folder and environment beneath the flags.
pub fn settings(args: &RunArgs) -> Result<Settings, Refusal> {
    refuse_table(args)?;
    let pace = &args.pace;
    let settings = settings::settings(pace.data_dir.as_deref())?;
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

/// From here on a signal winds the run down.
pub fn session(args: &RunArgs, settings: &Settings) -> Result<Session, Refusal> {
    let ctx = Context::new().with_grace(args.pace.grace);
    let stopping = match settings.bulk_strategy() {
        Ok(Strategy::Batch) => stopping_line(&ctx, "batches go on at their provider, "),
        _ => stopping_line(&ctx, ""),
    };
    Session::start(&args.show, ctx, stopping)
}

pub fn resolve(args: &RunArgs, settings: Settings, session: &Session) -> Result<Resolved, Early> {
    if stdout::is_named(args.output.as_deref()) && !args.dry_run && stdout::is_closed() {
        return Err(Refusal::could_not_run(stdout::CLOSED).into());
    }
    let prompt_settings = prompt_settings(args)?;
    let prompts = open(args, &prompt_settings, session)?;
    let unnamed = prompts.without_model();
    let notes = RefCell::new(Vec::new());
    let provider = choose_provider(args, &settings, unnamed, session, &|note| {
        notes.borrow_mut().push(note);
    })?;
    let strategy = RunStrategy::find(args, &settings, provider.as_ref().ok())?;
    let queue = RunQueue::find(args, &strategy)?;
    Ok(Resolved {
        settings,
        prompts,
        unnamed,
        provider,
        provider_notes: notes.into_inner(),
        strategy,
        queue,
    })
}

fn open(args: &RunArgs, settings: &PromptSettings, session: &Session) -> Result<Prompts, Early> {
    let prompts = args.input.open(settings, session)?;
    if !prompts.needs_disk() {
        return Ok(prompts);
    }
    let folder = data_dir(args.pace.data_dir.as_deref());
    on_disk(prompts, &folder.unwrap_or_else(std::env::temp_dir), session)
}

fn choose_provider(
    args: &RunArgs,
    settings: &Settings,
    unnamed: Option<u64>,
    session: &Session,
    note: &dyn Fn(String),
) -> Result<Result<Chosen, Refusal>, Early> {
    let asked = Asked {
        provider: &args.provider,
        embed: args.prompt.task == TaskArg::Embed,
        or_extract: true,
        unnamed,
        beside: Beside {
            fallback_blocked: args.provider.fallback_blocked,
            max_retries: Some(args.pace.max_retries),
            data_dir: data_dir(args.pace.data_dir.as_deref()),
            fixed_slots: true,
        },
    };
    let chosen = provider::choose(asked, settings, note);
    if session.ctx.is_cancelled() {
        return Err(session.interrupted());
    }
    match chosen {
        // There is no output yet, so everything would have to be sent.
        Err(refusal) if !args.output.as_ref().is_some_and(|path| path.exists()) => {
            Err(refusal.into())
        }
        chosen => Ok(chosen),
    }
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
