//! Stores the received requests for answers, for tests that check them.

use std::mem;
use std::sync::Arc;

use parking_lot::Mutex;

/// The bodies of requests for answers, by calls and in batches, in the order in which they arrived. Clones
/// share them.
#[derive(Clone, Default, derive_more::Debug)]
#[debug("Recorder")]
pub struct Recorder(Arc<Mutex<Vec<String>>>);

impl Recorder {
    /// The requests received since the last call of this function.
    pub fn take(&self) -> Vec<String> {
        mem::take(&mut self.0.lock())
    }

    pub(super) fn record(&self, body: &[u8]) {
        let body = String::from_utf8_lossy(body).into_owned();
        self.0.lock().push(body);
    }
}
