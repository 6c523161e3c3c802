//! The strategy of a run, and the reason for it.

use batchwright::config::SettingSource;
use batchwright::plan::{EffectiveStrategy, ProviderPlan};
use batchwright::{Settings, Strategy};

use super::args::run::{AUTO, OnError, RunArgs};
use super::args::shared::TaskArg;
use super::exit::{About, Refusal};
use super::settings::refused;

/// The effect of the configured strategy.
#[derive(Debug, Clone, Default)]
pub struct RunStrategy {
    pub strategy: Strategy,
    /// Why it differs from the requested strategy.
    pub fallback_reason: Option<String>,
    /// The run has a deadline, which selects the strategy while it runs: `auto`.
    pub in_time: bool,
}

/// A deadline selects the strategy. Returns whether there is one.
fn check_deadline(args: &RunArgs) -> Result<bool, Refusal> {
    let named = args.strategy.as_deref();
    let Some(given) = args.time.given() else {
        return match named {
            Some(AUTO) => Err(Refusal::usage(
                "--strategy auto selects the strategy that meets a deadline: add --by TIME or --within TIME",
            )),
            _ => Ok(false),
        };
    };
    let flag = given.words.split(' ').next().unwrap_or_default();
    let excluded = [
        (
            named.is_some_and(|name| name != AUTO),
            "--strategy, other than auto",
        ),
        (args.no_wait, "--no-wait"),
        (args.prompt.service_tier.is_some(), "--service-tier"),
        (args.prompt.task == TaskArg::Embed, "--task embed"),
    ];
    match excluded.into_iter().find(|(is_given, _)| *is_given) {
        Some((_, other)) => Err(Refusal::usage(format!(
            "{flag} cannot be used with {other}: the run selects the strategy that meets the deadline"
        ))),
        None => Ok(true),
    }
}

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

impl RunStrategy {
    /// The strategy of this plan, if there is one.
    pub fn find(
        args: &RunArgs,
        settings: &Settings,
        plan: Option<&ProviderPlan>,
    ) -> Result<Self, Refusal> {
        let asked = settings.bulk_strategy().map_err(refused)?;
        if check_deadline(args)? {
            let auto = Self {
                strategy: Strategy::Batch,
                fallback_reason: None,
                in_time: true,
            };
            auto.check_error_policy(args)?;
            return Ok(auto);
        }
        let effective = match (asked, plan) {
            (Strategy::Batch | Strategy::Flex, _) if args.prompt.task == TaskArg::Embed => Self {
                strategy: Strategy::Sync,
                fallback_reason: Some(
                    match asked {
                        Strategy::Flex => "embeddings have no flex tier: uses strategy sync",
                        _ => "embeddings are not made in batches: uses strategy sync",
                    }
                    .to_owned(),
                ),
                in_time: false,
            },
            (_, Some(plan)) => Self::of(&plan.strategy(), settings)?,
            // The key may be available where the real run will take place.
            (_, None) if args.dry_run => {
                Self::of(&EffectiveStrategy::expected(settings), settings)?
            }
            // There is no provider.
            (_, None) => Self::default(),
        };
        if args.prompt.service_tier.is_some() && asked == Strategy::Flex {
            return Err(Refusal::usage(
                "--service-tier and --strategy flex exclude each other: the strategy selects the tier",
            ));
        }
        if args.no_wait && asked != Strategy::Batch {
            return Err(Refusal::usage("--no-wait applies only to --strategy batch"));
        }
        if effective.strategy == Strategy::Batch {
            effective.check_error_policy(args)?;
        }
        Ok(effective)
    }

    fn of(effective: &EffectiveStrategy, settings: &Settings) -> Result<Self, Refusal> {
        refuse_full_price(effective, settings)?;
        Ok(Self {
            strategy: effective.strategy,
            fallback_reason: effective.fallback_reason.clone(),
            in_time: false,
        })
    }

    /// Its name in the summary.
    pub fn name(&self) -> &'static str {
        if self.in_time {
            AUTO
        } else {
            self.strategy.as_str()
        }
    }

    /// Rejects a policy that has no meaning for items that are submitted together.
    pub fn check_error_policy(&self, args: &RunArgs) -> Result<(), Refusal> {
        match args.on_error {
            OnError::Stop => Err(Refusal::usage(
                "--on-error stop cannot be used with batches, because their items are submitted together: use \
                 stop-critical, or --strategy sync",
            )),
            OnError::Continue | OnError::StopCritical => Ok(()),
        }
    }
}
