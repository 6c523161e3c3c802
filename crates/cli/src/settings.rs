//! The settings for a command: flags override the environment, which overrides stored settings.

use std::path::Path;
use std::sync::Arc;

use batchwright::config::{SettingsWatch, SqliteConfig};
use batchwright::{Error, Settings};

use super::exit::{Refusal, could_not_run};

/// The settings of the environment and of the data folder.
///
/// A store that cannot be read is an error, because the run might otherwise use, and be billed for, another model
/// than the configured one.
pub fn settings(data_dir: Option<&Path>) -> Result<Settings, Refusal> {
    let settings = Settings::new().environment(|name| std::env::var(name).ok());
    match place(data_dir) {
        Some(store) => settings.store(&store).map_err(could_not_run),
        None => Ok(settings),
    }
}

/// The settings below these flags, each given with its setting, its name and its value.
pub fn with_flags(
    settings: Settings,
    flags: &[(&str, &'static str, &Option<String>)],
) -> Result<Settings, Refusal> {
    let mut flags = flags.iter();
    let settings = flags.try_fold(settings, |settings, (key, flag, value)| {
        settings.flag(key, flag, Option::clone(value))
    });
    settings.map_err(refused)
}

/// The same, with later changes; `None` without a data folder.
pub fn watch(data_dir: Option<&Path>) -> Result<Option<SettingsWatch>, Refusal> {
    let Some(store) = place(data_dir) else {
        return Ok(None);
    };
    let settings = Settings::new().environment(|name| std::env::var(name).ok());
    SettingsWatch::new(settings, Arc::new(store))
        .map(Some)
        .map_err(could_not_run)
}

/// Where settings are stored; `None` without a data folder.
pub fn place(data_dir: Option<&Path>) -> Option<SqliteConfig> {
    super::data_dir::data_dir(data_dir).map(|folder| in_folder(&folder))
}

/// The settings of a data folder.
pub fn in_folder(folder: &Path) -> SqliteConfig {
    SqliteConfig::new(folder.join("config.db"))
}

/// An unusable setting is a usage error.
pub fn refused(error: Error) -> Refusal {
    Refusal::usage(error.message())
}
