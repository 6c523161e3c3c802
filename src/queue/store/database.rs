//! What every store has, apart from its contents.

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::base::{Clock, Error, Timestamp};

use super::HealthFinding;

/// Called, from any thread, when jobs may have become claimable. Must return immediately.
pub type WorkSignal = dyn Fn() + Send + Sync;

/// The store itself: its location, its notifications, its maintenance. A part of [`JobStore`](super::JobStore).
pub trait StoreDatabase: Send + Sync {
    /// The location of the store as a path or an address, without a credential.
    fn location(&self) -> String;

    /// Identifies this store; a store that replaces it at the same location has another id. A copy has the same id.
    fn id(&self) -> Result<String, Error>;

    /// A folder next to the database for large data: inputs of batches before they are sent, and results before they
    /// are stored.
    fn folder(&self) -> PathBuf;

    /// Whether workers on other machines may take its jobs. If so, a job contains the bytes of the files that its
    /// prompt names. Default: no.
    fn is_shared(&self) -> bool {
        false
    }

    /// The clock that decides when jobs are due, if several machines with different clocks share the store. Default:
    /// the clock of the machine.
    fn clock(&self) -> Option<Arc<dyn Clock>> {
        None
    }

    /// A number that changes when another program has written since the last call.
    fn version(&self) -> Result<u64, Error>;

    /// Registers `wake`, which is called whenever jobs become claimable through this store, until it is dropped. Jobs
    /// that [`settle`](super::ClaimStore::settle) returns to the queue are not reported, because its caller knows them.
    fn on_work(&self, wake: Weak<WorkSignal>);

    /// Checks the store's health. [`Severity::Bad`](super::Severity::Bad) means that counters or claims are wrong.
    fn check(&self) -> Result<Vec<HealthFinding>, Error>;

    /// Performs one short piece of maintenance, if there is any: continues an interrupted chore, or frees disk space.
    /// Returns true if more is left.
    fn maintain(&self, now: Timestamp) -> Result<bool, Error>;
}

/// Callbacks of this OS process that are called when jobs have become claimable.
#[derive(Default)]
pub(super) struct Wakes(Mutex<Vec<Weak<WorkSignal>>>);

impl Wakes {
    pub(super) fn add(&self, wake: Weak<WorkSignal>) {
        self.0.lock().push(wake);
    }

    pub(super) fn call(&self) {
        let mut alive = Vec::new();
        self.0.lock().retain(|wake| {
            let wake = wake.upgrade();
            let keep = wake.is_some();
            alive.extend(wake);
            keep
        });
        // Called outside the lock, because a callback may register another one.
        for wake in alive {
            wake();
        }
    }
}
