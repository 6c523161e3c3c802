//! The state of the Batch endpoint, which its handlers and its thread share.

use std::sync::Arc;

use super::storage::Storage;
use super::waiting::Waiting;
use crate::background::Wake;

/// The state of the Batch endpoint in addition to the queue.
pub(crate) struct OpenAi {
    pub storage: Storage,
    pub waiting: Arc<Waiting>,
    /// Wakes the thread of [`progress`](super::progress).
    pub wake: Arc<Wake>,
}

impl OpenAi {
    pub fn new(storage: Storage) -> Self {
        Self {
            storage,
            waiting: Arc::default(),
            wake: Wake::new(),
        }
    }
}
