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
    /// The provider that charges the full price for these calls, although batches were requested.
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
        if asked == Strategy::Sync || possible {
            return Self::possible(asked);
        }
        Self {
            strategy: Strategy::Sync,
            asked,
            fallback_reason: Some(format!("{provider} has no Batch API: runs sync")),
            full_price_at: has_allowance(provider).then(|| provider.to_owned()),
        }
    }

    /// Checks that prompts cost no more than the setting requests: a paid provider without a Batch API charges the full
    /// price where others charge half. Local servers and `extract` cost the same either way.
    ///
    /// # Errors
    /// If they cost more; the error names the providers that support the strategy.
    pub fn check_price(&self) -> Result<(), Error> {
        let Some(provider) = &self.full_price_at else {
            return Ok(());
        };
        let Err(error) = known(provider)?.batch_api() else {
            return Ok(());
        };
        let why = format!(
            "every prompt would cost the full price, because {}",
            error.message()
        );
        Err(Error::new(ErrorKind::Invalid, why))
    }
}
