//! Where a command finds the queue. A flag, the environment or the settings of the data folder name a server. If none
//! of them does, the queue is the file in the data folder.

use std::env;

use batchwright::Settings;

use super::args::Command;
use super::args::shared::StoreArgs;
use super::command_line::quoted;
use super::exit::{Refusal, could_not_run};
use super::queue::shown;
use super::settings::{data_dir, in_folder};

/// Selects the file in the data folder.
const NONE: &str = "none";

/// Completes the arguments of a command that uses the queue.
pub fn find(command: &mut Command) -> Result<(), Refusal> {
    // It reports what is wrong, so it also works if the settings cannot be read.
    let tolerant = matches!(command, Command::Doctor(_));
    match command.store().map_or(Ok(()), choose) {
        Err(_) if tolerant => Ok(()),
        chosen => chosen,
    }
}

fn choose(store: &mut StoreArgs) -> Result<(), Refusal> {
    let by_flag = |given: &Option<String>, name: &str| {
        let given = given.clone();
        given.filter(|given| {
            env::var(name).is_ok_and(|value| value != *given) || env::var(name).is_err()
        })
    };
    let flag = by_flag(&store.store, "BATCHWRIGHT_STORE");
    let redis = by_flag(&store.redis, "BATCHWRIGHT_REDIS");
    if store.store.is_none() {
        store.store = stored()?;
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
        if redis.is_some() {
            return Err(Refusal::usage(
                "--redis is for a queue on a database server only; name that server with --store ADDRESS",
            ));
        }
        store.redis = None;
    }
    for (name, given) in [("--store", flag), ("--redis", redis)] {
        let given = given.map(|given| if given == NONE { given } else { shown(&given) });
        let words = given.map(|given| format!(" {name} {}", quoted(&given)));
        store.flags.extend(words);
    }
    Ok(())
}

/// The address in the settings of the data folder.
fn stored() -> Result<Option<String>, Refusal> {
    let Some(folder) = data_dir() else {
        return Ok(None);
    };
    let config = in_folder(&folder);
    let settings = Settings::new().store(&config).map_err(could_not_run)?;
    settings.queue_store().map_err(|error| {
        let message = format!("{} in {}", error.message(), config.path().display());
        Refusal::usage(message).hint("to delete it: batchwright config unset queue.store")
    })
}
