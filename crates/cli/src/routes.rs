//! Where a worker's prompts go, and saying so.

use std::cell::RefCell;

use batchwright::plan::SkippedStep;
use batchwright::{Context, LlmManager, Settings, Strategy};

use super::args::worker::WorkerArgs;
use super::data_dir::data_dir;
use super::display;
use super::exit::Refusal;
use super::provider::{self, Asked, Beside};
use super::settings::refused;
use super::strategy;

/// What makes the worker, once a server that still loads its model has done so.
pub fn manager(
    args: &WorkerArgs,
    settings: &Settings,
    ctx: &Context,
    quiet: bool,
) -> Result<LlmManager, Refusal> {
    let say = &|line: String| {
        if !quiet {
            display::say(&line);
        }
    };
    let asked = Asked {
        provider: &args.provider,
        embed: false,
        // Jobs that name no model and find no default fail one by one, with a clear word.
        unnamed: Some(0),
        service_tier: None,
        beside: Beside {
            fallback_blocked: args.provider.fallback_blocked,
            data_dir: data_dir(args.data_dir.as_deref()),
            fixed_slots: settings.sync_concurrency().map_err(refused)?.is_some()
                && args.concurrency.is_some(),
            max_retries: None,
        },
    };
    settings.worker_settings().map_err(refused)?;
    let notes = RefCell::new(Vec::new());
    let chosen = provider::choose(asked, settings, &|note| notes.borrow_mut().push(note))?;
    notes.into_inner().into_iter().for_each(say);
    let chosen = chosen.once_loaded(ctx, say)?;
    chosen.check()?;
    let manager = chosen.manager()?;
    let effective = manager.effective_strategy();
    strategy::refuse_full_price(&effective, settings)?;
    if let Some(why) = effective.fallback_reason.filter(|_| quiet) {
        // Also with --quiet: it may cost twice as much as the setting asks for.
        display::say(&format!("strategy: {why}"));
    }
    Ok(manager)
}

/// Which provider is called, where, for which model, by which strategy, and which providers are skipped.
pub fn line(manager: &LlmManager) -> Result<String, Refusal> {
    let calls = manager.worker_concurrency().map_err(refused)?;
    let mut line = provider::line(manager.providers(), calls);
    let effective = manager.effective_strategy();
    if let Some(reason) = &effective.fallback_reason {
        line += &format!("\n  strategy: {reason}");
    } else if effective.strategy == Strategy::Batch {
        let name = manager.provider().provider;
        line += &format!("\n  strategy batch: prompts go to {name} in batches");
    }
    let job_types = manager.providers_of_job_types().map_err(refused)?;
    for step in &job_types.skipped {
        line += &format!("\n  {}", skipped(step));
    }
    if !job_types.skipped.is_empty() && job_types.first.provider == "extract" {
        line += "\n  summaries are the first 300 characters of their text (extract), marked as degraded";
    }
    Ok(line)
}

/// A provider that job types skip, for people.
pub fn skipped(step: &SkippedStep) -> String {
    format!(
        "job types such as summarize skip {}: {}",
        step.provider, step.reason
    )
}
