//! Settings as a command finds them: flags over environment over what is stored.

use std::path::Path;
use std::sync::Arc;

use batchwright::config::SettingsWatch;
use batchwright::{Error, Settings};

use super::exit::Refusal;

/// What the environment and the store of the data folder say.
///
/// A store that cannot be read is an error: without it, another model might be paid for than the one
/// that was set.
pub fn settings(data_dir: Option<&Path>) -> Result<Settings, Refusal> {
    let settings = Settings::new().environment(|name| std::env::var(name).ok());
    stored(settings, data_dir).map_err(|error| Refusal::could_not_run(error.message()))
}

/// The same, to follow later changes; none without a data folder.
pub fn watch(data_dir: Option<&Path>) -> Result<Option<SettingsWatch>, Refusal> {
    let Some(store) = store(data_dir) else {
        return Ok(None);
    };
    let settings = Settings::new().environment(|name| std::env::var(name).ok());
    let watch = SettingsWatch::new(settings, Arc::new(store));
    watch
        .map(Some)
        .map_err(|error| Refusal::could_not_run(error.message()))
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
