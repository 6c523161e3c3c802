//! The strategy of a run, and the reason for it.

use batchwright::config::SettingSource;
use batchwright::plan::{EffectiveStrategy, ProviderPlan};
use batchwright::{Settings, Strategy};

use super::args::run::{OnError, RunArgs};
use super::args::shared::TaskArg;
use super::exit::{About, Refusal};
use super::settings::refused;

/// Rejects a flag that requests half the price if only the full price is possible. A setting that was stored for other
/// providers falls back instead.
pub fn refuse_full_price(
    effective: &EffectiveStrategy,
    settings: &Settings,
) -> Result<(), Refusal> {
    let setting = settings.explain("llm.bulk_strategy").map_err(refused)?;
    match (setting.source, effective.check_price()) {
        (SettingSource::Flag(flag), Err(error)) => Err(Refusal::usage(format!(
            "{flag} {}: {}",
            effective.asked,
            error.message()
        ))
        .about(About::Provider)
        .hint(format!(
            "use {flag} sync to pay the full price, or --provider NAME for one that has it"
        ))),
        _ => Ok(()),
    }
}

/// The strategy of a run with this plan, if there is one.
pub fn find(
    args: &RunArgs,
    settings: &Settings,
    plan: Option<&ProviderPlan>,
) -> Result<EffectiveStrategy, Refusal> {
    let asked = settings.bulk_strategy().map_err(refused)?;
    let mut effective = match plan {
        _ if args.prompt.task == TaskArg::Embed => EffectiveStrategy::possible(Strategy::Sync),
        Some(plan) => plan.strategy(),
        // The key may be available where the real run will take place.
        None if args.dry_run => EffectiveStrategy::expected(settings),
        // There is no provider.
        None => EffectiveStrategy::possible(Strategy::Sync),
    };
    if asked == Strategy::Batch && args.prompt.task == TaskArg::Embed {
        let why = "embeddings are not made in batches: uses strategy sync";
        effective.fallback_reason = Some(why.to_owned());
    }
    refuse_full_price(&effective, settings)?;
    if args.no_wait && asked != Strategy::Batch {
        return Err(Refusal::usage("--no-wait applies only to --strategy batch"));
    }
    if effective.strategy == Strategy::Batch {
        check_error_policy(args)?;
    }
    Ok(effective)
}

/// Rejects a policy that has no meaning for items that are submitted together.
pub fn check_error_policy(args: &RunArgs) -> Result<(), Refusal> {
    match args.on_error {
        OnError::Stop => Err(Refusal::usage(
            "--on-error stop cannot be used with batches, because their items are submitted together: use \
             stop-critical, or --strategy sync",
        )),
        OnError::Continue | OnError::StopCritical => Ok(()),
    }
}
