//! The strategy of bulk work at a provider.

use crate::base::{Error, ErrorKind};
use crate::config::choices::Strategy;
use crate::config::settings::Settings;
use crate::llm::providers::config::known;

use super::route_plan::has_allowance;

/// The strategy that is used for bulk work, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EffectiveStrategy {
    /// The strategy that is used.
    pub strategy: Strategy,
    /// The strategy that `llm.bulk_strategy` sets.
    pub asked: Strategy,
    /// Why the strategy differs from the setting, as text for people. The setting does not change.
    pub fallback_reason: Option<String>,
    /// The provider that charges the full price for these calls, although a strategy at half the price was requested.
    full_price_at: Option<String>,
}

impl EffectiveStrategy {
    /// The effect of a strategy at a provider that has a Batch API.
    pub fn possible(asked: Strategy) -> Self {
        Self {
            strategy: asked,
            asked,
            fallback_reason: None,
            full_price_at: None,
        }
    }

    /// The expected effect of the strategy in these settings, if they name the provider. It ignores unusable settings,
    /// and does not check whether the provider can be called.
    pub fn expected(settings: &Settings) -> Self {
        let asked = settings.bulk_strategy().unwrap_or_default();
        match settings.provider() {
            Ok(Some(provider)) => Self::new(asked, &provider),
            _ => Self::possible(asked),
        }
    }

    /// The effect of a strategy at the provider with this name.
    pub fn new(asked: Strategy, provider: &str) -> Self {
        let possible = known(provider).is_ok_and(|vendor| vendor.batches.is_some());
        let sells_flex = known(provider).is_ok_and(|vendor| vendor.flex);
        match asked {
            Strategy::Batch if !possible => Self::at_full_price(asked, provider, "Batch API"),
            Strategy::Flex if !sells_flex => Self::at_full_price(asked, provider, "flex tier"),
            _ => Self::possible(asked),
        }
    }

    /// Falls back to individual calls, because the provider lacks what the strategy needs.
    fn at_full_price(asked: Strategy, provider: &str, lacks: &str) -> Self {
        Self {
            strategy: Strategy::Sync,
            asked,
            fallback_reason: Some(format!("{provider} has no {lacks}: runs sync")),
            full_price_at: has_allowance(provider).then(|| provider.to_owned()),
        }
    }

    /// Checks that prompts cost no more than the setting requests: a paid provider without a Batch API or flex tier
    /// charges the full price where others charge half. Local servers and `extract` cost the same either way.
    ///
    /// # Errors
    /// If they cost more; the error names the providers that support the strategy.
    pub fn check_price(&self) -> Result<(), Error> {
        let Some(provider) = &self.full_price_at else {
            return Ok(());
        };
        let vendor = known(provider)?;
        let checked = match self.asked {
            Strategy::Flex => vendor.check_flex(),
            _ => vendor.batch_api().map(drop),
        };
        let Err(error) = checked else {
            return Ok(());
        };
        let why = format!(
            "every prompt would cost the full price, because {}",
            error.message()
        );
        Err(Error::new(ErrorKind::Invalid, why))
    }
}
