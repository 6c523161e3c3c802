//! The state of the Batch endpoint, which its handlers and its thread share.

use std::sync::Arc;

use super::storage::Storage;
use super::waiting::Waiting;
use crate::background::Wake;

/// The state of the Batch endpoint in addition to the queue.
pub(crate) struct OpenAi {
    pub(super) storage: Storage,
    /// Most bytes that stored responses may have together.
    pub(super) response_bytes: u64,
    pub waiting: Arc<Waiting>,
    /// Wakes the thread of [`progress`](super::progress).
    pub wake: Arc<Wake>,
}

impl OpenAi {
    pub fn new(storage: Storage, response_bytes: u64) -> Self {
        Self {
            storage,
            response_bytes,
            waiting: Arc::default(),
            wake: Wake::new(),
        }
    }
}
