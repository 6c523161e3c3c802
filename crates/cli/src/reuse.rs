//! Facts about the answer cache, for messages.

use std::path::{Path, PathBuf};

use batchwright::files::SqliteAnswers;
use batchwright::{Error, Settings};
use serde_json::{Value, json};

use crate::format::count;

/// The contents of the cache in a data folder.
pub struct ReuseStore {
    path: PathBuf,
    answers: u64,
    bytes: u64,
    max_bytes: u64,
}

/// The path of the cache.
pub fn path(folder: &Path) -> PathBuf {
    folder.join("reuse.db")
}

impl ReuseStore {
    pub fn new(path: PathBuf, (bytes, answers): (u64, u64), max_bytes: u64) -> Self {
        Self {
            path,
            answers,
            bytes,
            max_bytes,
        }
    }

    /// Reads the cache of a folder, if it has one.
    pub fn look(folder: &Path, settings: &Settings) -> Result<Option<Self>, Error> {
        let path = path(folder);
        let Some(size) = SqliteAnswers::look_at(&path)? else {
            return Ok(None);
        };
        let max_bytes = settings.reuse_max_bytes()?;
        Ok(Some(Self::new(path, size, max_bytes)))
    }

    pub fn line(&self) -> String {
        format!(
            "{} answers, {} of {} MiB in {}",
            count(self.answers),
            count(self.bytes.div_ceil(1 << 20)),
            count(self.max_bytes >> 20),
            self.path.display()
        )
    }

    pub fn json(&self) -> Value {
        json!({
            "path": self.path.to_string_lossy(),
            "answers": self.answers,
            "bytes": self.bytes,
            "max_bytes": self.max_bytes,
        })
    }
}
