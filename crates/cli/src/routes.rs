//! The providers of a worker, and lines about them.

use std::cell::RefCell;

use batchwright::plan::{ProviderPlan, SettingsEvent, SkippedStep};
use batchwright::{LlmManager, Settings, Strategy};

use super::args::worker::WorkerArgs;
use super::display;
use super::exit::Refusal;
use super::logging::is_quiet;
use super::provider;
use super::settings::refused;
use super::strategy;

/// The manager that makes the worker.
pub fn manager(args: &WorkerArgs, settings: &Settings) -> Result<LlmManager, Refusal> {
    let options = provider::options(&args.provider, args.data_dir.as_deref());
    settings.worker_settings().map_err(refused)?;
    let notes = RefCell::new(Vec::new());
    let note = |line| notes.borrow_mut().push(line);
    // Jobs without a model fail one by one with a clear message if there is no default model.
    let plan = provider::plan(&args.provider, settings, options, false, 0, &note)?;
    notes.into_inner().into_iter().for_each(display::note);
    provider::check(&plan, 0)?;
    strategy::refuse_full_price(&plan.strategy(), settings)?;
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
    } else {
        let name = plan.first.provider;
        line += &match strategy.strategy {
            Strategy::Sync => String::new(),
            Strategy::Batch => format!("\n  strategy batch: prompts go to {name} in batches"),
        };
    }
    let job_types = plan.for_job_types().map_err(refused)?;
    for step in &job_types.skipped {
        line += &format!("\n  {}", skipped(step));
    }
    if !job_types.skipped.is_empty() && job_types.first.provider == "extract" {
        line += "\n  summaries are the first 300 characters of their text (extract), marked as degraded";
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
    Ok(if settings.finds_concurrency().map_err(refused)? {
        format!("{start} jobs at once, more while that helps")
    } else if plan.first.provider == "local" {
        provider::in_flight(plan.worker_concurrency())
    } else {
        format!("{start} jobs at once, 1 to {most} by load")
    })
}

/// Reports the effect of changed settings on a running worker.
pub fn tell_change(event: &SettingsEvent<'_>) {
    match event {
        SettingsEvent::Changed { key, before, now } => {
            let (before, now) = (before.unwrap_or("unset"), now.unwrap_or("unset"));
            display::note(format!("settings changed: {key} {before} -> {now}"));
        }
        SettingsEvent::Applied(manager) => {
            if let Ok(line) = line(manager.plan()) {
                display::note(line);
            }
        }
        SettingsEvent::Refused(error) => {
            display::note(format!("the old settings still apply: {}", error.message()));
        }
        _ => {}
    }
}

/// A provider that job types skip, for people.
pub fn skipped(step: &SkippedStep) -> String {
    format!(
        "job types such as summarize skip {}: {}",
        step.provider, step.reason
    )
}
