//! The worker of `work` and `serve`: its settings, its providers, lines about them, and its types of jobs.

use std::path::Path;
use std::sync::Arc;

use batchwright::config::{FileConfig, SettingsWatch};
use batchwright::plan::{ProviderPlan, SettingsEvent};
use batchwright::queue::SqliteOptions;
use batchwright::{Context, Error, JobQueue, LlmManager, Settings, Strategy};
use batchwright_jobs::JobTypes;

use super::args::worker::WorkerArgs;
use super::display;
use super::exit::{Refusal, could_not_run};
use super::format::number_of;
use super::provider;
use super::queue::{check_server, durability, existing_file, failed, open};
use super::settings::{of_environment, refused};
use super::stderr::is_quiet;

/// The queue in this file, otherwise on a server or in the data folder.
pub fn queue(
    args: &WorkerArgs,
    file: Option<&Path>,
    folder: &Path,
    ctx: &Context,
) -> Result<JobQueue, Refusal> {
    let options = SqliteOptions::default().durability(durability(args.fsync));
    let file = file.map(existing_file).transpose()?;
    let queue = open(&args.store, file, folder, options, ctx).map_err(failed)?;
    check_server(&queue, file, folder)?;
    Ok(queue)
}

/// The settings of this place and environment, overridden by the flags, and their later changes.
pub fn settings(args: &WorkerArgs, config: Arc<FileConfig>) -> Result<SettingsWatch, Refusal> {
    let settings = provider::with_flags(of_environment(), &args.provider, &args.pace)?;
    let retries = args.max_retries.clone();
    let settings = settings.flag("queue.max_retries", "--max-retries", retries);
    let settings = settings.map_err(refused)?;
    SettingsWatch::new(settings, config).map_err(could_not_run)
}

/// The manager that makes the worker.
pub fn manager(args: &WorkerArgs, settings: &Settings) -> Result<LlmManager, Refusal> {
    settings.worker_settings().map_err(refused)?;
    let options = provider::options(&args.provider);
    // Jobs without a model fail one by one with a clear message if there is no default model.
    let plan = provider::plan(&args.provider, settings, options, false, 0)?;
    provider::choice(&plan, &args.provider)
        .iter()
        .for_each(display::note);
    provider::refuse_full_price(&plan.strategy(), settings)?;
    if let Some(why) = plan.strategy().fallback_reason.filter(|_| is_quiet()) {
        // Also with --quiet, because it may cost twice as much as the setting requests.
        display::say(&format!("strategy: {why}"));
    }
    Ok(LlmManager::of(plan))
}

/// The providers, their address and model, the strategy, and the providers that are skipped.
pub fn line(plan: &ProviderPlan) -> Result<String, Refusal> {
    let mut line = provider::line(plan, &jobs_at_once(plan)?);
    let strategy = plan.strategy();
    if let Some(reason) = &strategy.fallback_reason {
        line += &format!("\n  strategy: {reason}");
    } else if strategy.strategy == Strategy::Batch {
        let name = plan.first.provider;
        line += &format!("\n  strategy batch: prompts go to {name} in batches");
    }
    let job_types = plan.for_job_types().map_err(refused)?;
    for step in &job_types.skipped {
        let (name, reason) = (&step.provider, &step.reason);
        line += &format!("\n  job types such as summarize skip {name}: {reason}");
    }
    Ok(line)
}

/// How many jobs a worker of this plan runs at once.
fn jobs_at_once(plan: &ProviderPlan) -> Result<String, Refusal> {
    let settings = plan.settings();
    if let Some(jobs) = settings.sync_concurrency().map_err(refused)? {
        return Ok(format!("{jobs} at once"));
    }
    let most = settings.max_concurrent_requests().map_err(refused)?;
    let start = settings.worker_count().map_err(refused)?.min(most);
    let jobs = number_of(start as u64, "job|jobs");
    Ok(if settings.finds_concurrency().map_err(refused)? {
        format!("{jobs} at once, more while that helps")
    } else if plan.first.provider == "local" {
        provider::in_flight(plan.worker_concurrency())
    } else {
        format!("{jobs} at once, 1 to {most} by load")
    })
}

/// Reports the effect of changed settings on a running worker.
pub fn tell_change(event: &SettingsEvent<'_>) {
    match event {
        SettingsEvent::Applied(manager) => {
            if let Ok(line) = line(manager.plan()) {
                display::note(format!("changed settings apply: {line}"));
            }
        }
        SettingsEvent::Refused(error) => {
            display::note(format!("the old settings still apply: {}", error.message()));
        }
        _ => {}
    }
}

/// The built-in types, with the source of articles from the settings. A user of the command line may read the files
/// that payloads name.
pub fn job_types(settings: &Settings) -> Result<JobTypes, Error> {
    Ok(job_types_of_clients(settings)?.local_files(true))
}

/// The same for payloads that arrive over HTTP.
pub fn job_types_of_clients(settings: &Settings) -> Result<JobTypes, Error> {
    Ok(match settings.articles()? {
        Some(source) => JobTypes::new().article_source(source, settings.private_articles()?),
        None => JobTypes::new(),
    })
}

/// The same for a worker, with its folder for audio.
pub fn job_types_of_worker(
    settings: &Settings,
    named: Option<&Path>,
    data: &Path,
) -> Result<JobTypes, Error> {
    let folder = named.map_or_else(|| data.join("audio"), Path::to_owned);
    Ok(job_types(settings)?.audio_folder(folder))
}
