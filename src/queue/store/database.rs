//! What a store is, whatever it stores.

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use crate::base::clock::{Clock, Timestamp};
use crate::base::error::Error;

use super::HealthFinding;
use super::moving::MovableStore;

/// Called, from any thread, when jobs may have become claimable. Must return at once.
pub type WorkSignal = dyn Fn() + Send + Sync;

/// What a store is: where it lies, how it tells of changes, how it is kept in order. A part of [`JobStore`](super::JobStore).
pub trait StoreDatabase: Send + Sync {
    /// Where the store is, as a path or an address without any credential.
    fn location(&self) -> String;

    /// What tells this store apart from every other one, also from one that is made anew in its place. A
    /// copy has the same.
    fn id(&self) -> Result<String, Error>;

    /// A folder beside the database for what is too long for it: the input of batches on its way out,
    /// and their results on the way in.
    fn folder(&self) -> PathBuf;

    /// Whether workers on other machines may take its jobs. If so, a job holds the bytes of the files that its prompt names.
    /// Default: no.
    fn is_shared(&self) -> bool {
        false
    }

    /// The clock by whose time of day jobs come due, if machines share the store and theirs may differ. Default: that of the
    /// machine.
    fn clock(&self) -> Option<Arc<dyn Clock>> {
        None
    }

    /// A number that differs from the last one when anybody else has written in between.
    fn version(&self) -> Result<u64, Error>;

    /// Whether [`version`](Self::version) hears at once of what others write, so that asking it costs nothing, and wakes of
    /// [`on_work`](Self::on_work) come from other processes too. Then workers look at the store less often. Default: no.
    fn hears_others(&self) -> bool {
        false
    }

    /// Redis, through which workers on all machines share limits per minute and pauses: those of one provider, key and
    /// model hold for all of them together. Default: limits hold within a process, or within the folder that its routes
    /// [share](crate::Route::share_limits).
    #[cfg(feature = "redis")]
    fn redis(&self) -> Option<crate::hub::RedisHub> {
        None
    }

    /// Has `wake` called whenever jobs become claimable through this store, until it is dropped; not
    /// for what [`settle`](super::ClaimStore::settle) puts back, which its caller knows, but for a job that had waited for what
    /// it ends.
    fn on_work(&self, wake: Weak<WorkSignal>);

    /// Looks at the store's health. What callers look for has a fixed name in
    /// [`what`](HealthFinding::what): `unsealed` (with the process in [`seen`](HealthFinding::seen)), `worker`
    /// (a warning for one that died), `batches` (a note when nobody has some), and `due times` (a warning for
    /// jobs further ahead than any wait). [`Severity::Bad`](super::Severity::Bad) says that counters or claims are wrong.
    fn check(&self, now: Timestamp) -> Result<Vec<HealthFinding>, Error>;

    /// Does one short piece of maintenance, if there is any: goes on with what somebody left halfway,
    /// gives room back. True when more is left to do.
    fn maintain(&self, now: Timestamp) -> Result<bool, Error>;

    /// The store as one whose queue can move. Only this library's stores support that. Default: `None`.
    #[doc(hidden)]
    fn movable(&self) -> Option<&dyn MovableStore> {
        None
    }
}
