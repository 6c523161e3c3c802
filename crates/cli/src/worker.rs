//! What `work` and `serve` make a worker of: the folder, the queue in it, and the settings.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use batchwright::config::{SettingsWatch, SqliteConfig};
use batchwright::queue::{Durability, SqliteOptions};
use batchwright::{JobQueue, Settings};

use super::args::worker::WorkerArgs;
use super::data_dir::data_dir;
use super::exit::Refusal;
use super::provider;
use super::settings::{self, refused};

/// The folder of the queue.
pub fn folder(args: &WorkerArgs) -> Result<PathBuf, Refusal> {
    data_dir(args.data_dir.as_deref()).ok_or_else(|| {
        Refusal::could_not_run("there is no place for the queue: name one with --data-dir")
    })
}

/// The queue in this folder, made if there is none.
pub fn queue(args: &WorkerArgs, folder: &Path) -> Result<JobQueue, Refusal> {
    let options = SqliteOptions::default().durability(match args.fsync {
        true => Durability::Full,
        false => Durability::Normal,
    });
    JobQueue::open_with(&folder.join("llm_jobs.db"), options)
        .map_err(|error| Refusal::could_not_run(error.message()))
}

/// The settings of this data folder and environment beneath the flags, and their later changes.
pub fn settings(args: &WorkerArgs) -> Result<SettingsWatch, Refusal> {
    let settings = Settings::new().environment(|name| std::env::var(name).ok());
    let mut settings = provider::with_flags(settings, &args.provider)?;
    for (key, flag, words) in [
        ("llm.bulk_strategy", "--strategy", &args.strategy),
        ("llm.sync_concurrency", "--concurrency", &args.concurrency),
        ("llm.requests_per_minute", "--rpm", &args.rpm),
        ("llm.tokens_per_minute", "--tpm", &args.tpm),
        ("llm.request_timeout", "--timeout", &args.timeout),
        ("queue.max_retries", "--max-retries", &args.max_retries),
    ] {
        settings = settings.flag(key, flag, words.clone()).map_err(refused)?;
    }
    SettingsWatch::new(settings, Arc::new(store(args)?))
        .map_err(|error| Refusal::could_not_run(error.message()))
}

/// Where settings are kept.
pub fn store(args: &WorkerArgs) -> Result<SqliteConfig, Refusal> {
    settings::store(args.data_dir.as_deref()).ok_or_else(|| {
        Refusal::could_not_run("there is no place for settings: name one with --data-dir")
    })
}
