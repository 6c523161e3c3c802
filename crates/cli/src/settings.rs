//! Settings as a command finds them: flags over environment over what is stored.

use std::path::Path;

use batchwright::config::EffectiveStrategy;
use batchwright::{Error, Limits, Settings};

use super::exit::Refusal;

/// What the environment and the store of the data folder say.
///
/// A store that cannot be read is an error: without it, another model might be paid for than the one
/// that was set.
pub fn settings(data_dir: Option<&Path>) -> Result<Settings, Refusal> {
    let settings = Settings::new().environment(|name| std::env::var(name).ok());
    stored(settings, data_dir).map_err(|error| Refusal::could_not_run(error.message()))
}

fn stored(settings: Settings, data_dir: Option<&Path>) -> Result<Settings, Error> {
    match store(data_dir) {
        Some(store) => settings.store(&store),
        None => Ok(settings),
    }
}

/// Where settings are stored; nowhere without a data folder.
pub fn store(data_dir: Option<&Path>) -> Option<batchwright::config::SqliteConfig> {
    let folder = super::data_dir::data_dir(data_dir)?;
    Some(batchwright::config::SqliteConfig::new(
        folder.join("config.db"),
    ))
}

/// A setting that cannot be used is bad usage.
pub fn refused(error: Error) -> Refusal {
    Refusal::usage(error.message())
}

/// The limits that are set for calls of the first provider.
pub fn limits(settings: &Settings) -> Result<Limits, Refusal> {
    let mut limits = Limits::default().burst(settings.burst_size().map_err(refused)?);
    if let Some(rpm) = settings.requests_per_minute().map_err(refused)? {
        limits = limits.requests_per_minute(rpm);
    }
    if let Some(tpm) = settings.tokens_per_minute().map_err(refused)? {
        limits = limits.tokens_per_minute(tpm);
    }
    Ok(limits)
}

/// The strategy that follows from the settings alone. Whether the provider can be reached is found out by
/// the worker.
pub fn effective_strategy(settings: &Settings) -> EffectiveStrategy {
    // A setting that cannot be used stops the worker, which says so.
    let asked = settings.bulk_strategy().unwrap_or_default();
    match settings.provider() {
        Ok(Some(provider)) => EffectiveStrategy::new(asked, &provider),
        _ => EffectiveStrategy::possible(asked),
    }
}
