//! The settings for a command: flags override the environment, which overrides stored settings.

use std::path::Path;
use std::sync::Arc;

use batchwright::config::{ConfigStore, SettingsWatch, SqliteConfig};
use batchwright::{Error, Settings};

use super::exit::{Refusal, could_not_run};

/// Where settings are stored.
pub struct Place {
    pub store: Arc<dyn ConfigStore>,
    /// Its description, for messages.
    pub name: String,
}

/// The settings of the environment and of the store: on this server, otherwise in the data folder.
///
/// A store that cannot be read is an error, because the run might otherwise use, and be billed for, another model
/// than the configured one.
pub fn settings(data_dir: Option<&Path>, server: Option<&str>) -> Result<Settings, Refusal> {
    let settings = Settings::new().environment(|name| std::env::var(name).ok());
    match place(data_dir, server)? {
        Some(place) => settings.store(&*place.store).map_err(could_not_run),
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
pub fn watch(
    data_dir: Option<&Path>,
    server: Option<&str>,
) -> Result<Option<SettingsWatch>, Refusal> {
    let Some(place) = place(data_dir, server)? else {
        return Ok(None);
    };
    let settings = Settings::new().environment(|name| std::env::var(name).ok());
    SettingsWatch::new(settings, place.store)
        .map(Some)
        .map_err(could_not_run)
}

/// Where settings are stored: on this server, otherwise in the data folder; `None` without one.
pub fn place(data_dir: Option<&Path>, server: Option<&str>) -> Result<Option<Place>, Refusal> {
    if let Some(address) = server {
        return on_server(address).map(Some).map_err(could_not_run);
    }
    Ok(super::data_dir::data_dir(data_dir).map(|folder| in_folder(&folder)))
}

/// The settings of a data folder.
pub fn in_folder(folder: &Path) -> Place {
    let store = SqliteConfig::new(folder.join("config.db"));
    Place {
        name: store.path().display().to_string(),
        store: Arc::new(store),
    }
}

#[cfg(feature = "mysql")]
fn on_server(address: &str) -> Result<Place, Error> {
    use batchwright::queue::{MysqlConfig, MysqlOptions};
    let store = MysqlConfig::open(MysqlOptions::new(address).connections(2))?;
    Ok(Place {
        name: store.location().to_owned(),
        store: Arc::new(store),
    })
}

#[cfg(not(feature = "mysql"))]
fn on_server(_address: &str) -> Result<Place, Error> {
    Err(super::queue::knows_no_server())
}

/// An unusable setting is a usage error.
pub fn refused(error: Error) -> Refusal {
    Refusal::usage(error.message())
}
