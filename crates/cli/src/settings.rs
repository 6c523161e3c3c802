//! The settings for a command: flags override the environment, which overrides stored settings. And the folder of the
//! program's own data, where they are stored.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use batchwright::config::FileConfig;
use batchwright::{Error, Settings};

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

/// The settings of a data folder.
pub fn in_folder(folder: &Path) -> FileConfig {
    FileConfig::new(folder.join("settings.json"))
}

/// An unusable setting is a usage error.
pub fn refused(error: Error) -> Refusal {
    Refusal::usage(error.message())
}

/// The folder that `--data-dir` names.
pub static NAMED_FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// The named folder; otherwise `BATCHWRIGHT_HOME`; otherwise the platform's default.
pub fn data_dir() -> Option<PathBuf> {
    let variable = |name: &str| {
        env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    NAMED_FOLDER
        .get()
        .cloned()
        .or_else(|| variable("BATCHWRIGHT_HOME"))
        .or_else(|| platform(&variable).map(|folder| folder.join("batchwright")))
}

#[cfg(target_os = "macos")]
fn platform(variable: &dyn Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    variable("HOME").map(|home| home.join("Library/Application Support"))
}

#[cfg(not(target_os = "macos"))]
fn platform(variable: &dyn Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    variable("XDG_DATA_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/share")))
}
