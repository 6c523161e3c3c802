//! Settings as a command finds them: flags over environment over what is stored.

use std::path::Path;

use batchwright::{Error, Key, Settings};

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
pub fn store(data_dir: Option<&Path>) -> Option<batchwright::SqliteConfig> {
    let folder = super::data_dir::data_dir(data_dir)?;
    Some(batchwright::SqliteConfig::new(folder.join("config.db")))
}

/// Takes the words of a flag for a setting.
pub fn words_for(key: &'static str) -> impl Fn(&str) -> Result<String, String> + Clone {
    move |words| {
        Key::named(key)
            .and_then(|key| key.check(words))
            .map_err(|error| error.message().to_owned())
    }
}

/// What cannot be used is bad usage.
pub fn refused(error: Error) -> Refusal {
    Refusal::usage(error.message())
}
