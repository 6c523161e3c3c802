//! The settings for a command: flags override the environment, which overrides stored settings.

use std::path::Path;

use batchwright::config::SqliteConfig;
use batchwright::{Error, Settings};

use super::data_dir::data_dir;
use super::exit::{Refusal, could_not_run};

/// The settings of the environment and of the data folder.
///
/// A store that cannot be read is an error, because the run might otherwise use, and be billed for, another model
/// than the configured one.
pub fn settings() -> Result<Settings, Refusal> {
    let settings = of_environment();
    match data_dir() {
        Some(folder) => settings.store(&in_folder(&folder)).map_err(could_not_run),
        None => Ok(settings),
    }
}

/// The settings of the environment.
pub fn of_environment() -> Settings {
    Settings::new().environment(|name| std::env::var(name).ok())
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

/// The settings of a data folder.
pub fn in_folder(folder: &Path) -> SqliteConfig {
    SqliteConfig::new(folder.join("config.db"))
}

/// An unusable setting is a usage error.
pub fn refused(error: Error) -> Refusal {
    Refusal::usage(error.message())
}
