//! The parts of a worker for `work` and `serve`: the folder with its settings, and the queue in it or on a server.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use batchwright::config::{SettingsWatch, SqliteConfig};
use batchwright::queue::SqliteOptions;
use batchwright::{Error, JobQueue, Settings};

use super::args::shared::StoreArgs;
use super::args::worker::WorkerArgs;
use super::data_dir::data_dir;
use super::exit::{Refusal, could_not_run};
use super::provider;
use super::queue::{durability, existing_file};
use super::settings::{in_folder, with_flags};

/// The place of a worker's settings and queue.
pub struct Home {
    pub folder: PathBuf,
    /// Where settings are stored.
    pub config: Arc<SqliteConfig>,
    #[cfg(feature = "mysql")]
    server: Option<Arc<batchwright::queue::Store>>,
}

impl Home {
    /// The place that these arguments name. A queue in a folder is not opened yet; a queue on a server is.
    pub fn open(args: &WorkerArgs) -> Result<Self, Refusal> {
        let folder = data_dir(args.data_dir.as_deref()).ok_or_else(|| {
            Refusal::could_not_run("no data folder for the queue: set --data-dir")
        })?;
        match &args.store.store {
            Some(address) => Self::on_server(&args.store, address, folder).map_err(could_not_run),
            None => Ok(Self {
                config: Arc::new(in_folder(&folder)),
                folder,
                #[cfg(feature = "mysql")]
                server: None,
            }),
        }
    }

    #[cfg(feature = "mysql")]
    fn on_server(args: &StoreArgs, address: &str, folder: PathBuf) -> Result<Self, Error> {
        let server = super::queue::store(args, address, &folder)?;
        Ok(Self {
            config: Arc::new(in_folder(&folder)),
            folder,
            server: Some(server),
        })
    }

    #[cfg(not(feature = "mysql"))]
    fn on_server(_args: &StoreArgs, _address: &str, _folder: PathBuf) -> Result<Self, Error> {
        Err(super::queue::knows_no_server())
    }

    /// The queue in this file, or without one, the queue in the data folder, which is created if it does not exist.
    pub fn queue(&self, args: &WorkerArgs, file: Option<&Path>) -> Result<JobQueue, Refusal> {
        #[cfg(feature = "mysql")]
        if let Some(server) = self.server.as_ref().filter(|_| file.is_none()) {
            return Ok(JobQueue::on(server.clone()));
        }
        let options = SqliteOptions::default().durability(durability(args.fsync));
        let (path, options) = match file {
            Some(file) => (existing_file(file)?.to_owned(), options.existing()),
            None => (self.folder.join("llm_jobs.db"), options),
        };
        JobQueue::open_with(&path, options).map_err(could_not_run)
    }

    /// The settings of this place and environment, overridden by the flags, and their later changes.
    pub fn settings(&self, args: &WorkerArgs) -> Result<SettingsWatch, Refusal> {
        let settings = Settings::new().environment(|name| std::env::var(name).ok());
        let settings = provider::with_flags(settings, &args.provider)?;
        let flags = [
            ("llm.bulk_strategy", "--strategy", &args.strategy),
            ("llm.sync_concurrency", "--concurrency", &args.concurrency),
            ("llm.requests_per_minute", "--rpm", &args.rpm),
            ("llm.tokens_per_minute", "--tpm", &args.tpm),
            ("llm.request_timeout", "--timeout", &args.timeout),
            ("queue.max_retries", "--max-retries", &args.max_retries),
        ];
        let settings = with_flags(settings, &flags)?;
        SettingsWatch::new(settings, self.config.clone()).map_err(could_not_run)
    }
}
