//! Where a command finds the queue. A flag, the environment or the settings of the data folder name a server. If none
//! of them does, the queue is the file in the data folder.

use std::fmt;
use std::path::Path;

use batchwright::Settings;

use super::args::shared::{StoreArgs, StoreSource};
use super::args::{Command, variables};
use super::data_dir::data_dir;
use super::exit::{Refusal, could_not_run};
use super::settings::in_folder;

/// Selects the file in the data folder.
const NONE: &str = "none";
/// The setting.
pub const KEY: &str = "queue.store";

/// Completes the arguments of a command that uses the queue.
pub fn find(command: &mut Command) -> Result<(), Refusal> {
    // It reports what is wrong, so it also works if the settings cannot be read.
    let tolerant = matches!(command, Command::Doctor(_));
    let Some((folder, store)) = command.queue() else {
        return Ok(());
    };
    match choose(folder, store) {
        Err(_) if tolerant => Ok(()),
        chosen => chosen,
    }
}

fn choose(folder: Option<&Path>, store: &mut StoreArgs) -> Result<(), Refusal> {
    if store.store.is_some() {
        let is_variable = store.store == variables::of_environment("BATCHWRIGHT_STORE");
        store.source = if is_variable {
            StoreSource::Variable
        } else {
            StoreSource::Flag
        };
    } else {
        stored(folder, store)?;
    }
    match store.store.as_deref().map(str::trim) {
        Some("") => {
            return Err(Refusal::usage(
                "--store has no address; for the queue in the data folder: --store none",
            ));
        }
        Some(NONE) => store.store = None,
        _ => {}
    }
    if store.store.is_none() {
        let is_variable = store.redis == variables::of_environment("BATCHWRIGHT_REDIS");
        if store.redis.is_some() && !is_variable {
            return Err(Refusal::usage(
                "--redis is for a queue on a database server only; name that server with --store ADDRESS",
            ));
        }
        store.redis = None;
    }
    Ok(())
}

/// Takes the address from the settings of the data folder.
fn stored(folder: Option<&Path>, store: &mut StoreArgs) -> Result<(), Refusal> {
    let Some(folder) = data_dir(folder) else {
        return Ok(());
    };
    let config = in_folder(&folder);
    let settings = Settings::new().store(&config).map_err(could_not_run)?;
    let address = settings.queue_store().map_err(|error| {
        let message = format!("{} in {}", error.message(), config.path().display());
        Refusal::usage(message).hint(format!("to delete it: batchwright config unset {KEY}"))
    })?;
    if address.is_some() {
        store.source = StoreSource::Setting(config.path().to_owned());
        store.store = address;
    }
    Ok(())
}

/// The source of the address, for messages.
impl fmt::Display for StoreSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Flag => f.write_str("--store"),
            Self::Variable => f.write_str("BATCHWRIGHT_STORE"),
            Self::Setting(file) => write!(f, "{KEY} in {}", file.display()),
        }
    }
}
