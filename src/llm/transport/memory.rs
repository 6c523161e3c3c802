//! The memory that all large replies of a process take together.
//!
//! A limit per reply does not bound the memory of 256 calls in flight. Therefore a call that reads more than the first
//! [`FREE`] bytes of a reply takes the memory for it from one account of the process, and returns it when the reply
//! has been decoded. Small replies, which are nearly all, do not use the account and take no lock. A reply that must
//! wait is on the disk until then.
//!
//! No call can wait forever. A call takes from the account once and holds nothing before that, so a call that holds
//! memory never waits; see [`MemoryManager`] for the rest. The limit that the process may have for all of its memory
//! holds in addition.

use std::sync::LazyLock;

use parking_lot::Mutex;

use crate::base::memory::MemoryHold;
use crate::base::{Context, Error, MemoryManager};

/// The bytes of each reply that need no memory from the account.
pub(super) const FREE: u64 = 256 * 1024;

/// The limit of each account. It is enough for four replies with embeddings or sixteen others of the maximum size, and
/// for dozens of the usual size.
const MOST: u64 = 256 << 20;

/// The memory of one call for a large reply. It is returned when the share is dropped, after the reply was decoded.
pub struct ReplyShare {
    account: &'static MemoryManager,
    held: Mutex<Option<MemoryHold>>,
}

impl ReplyShare {
    /// A share of the memory of this process for large replies. It waits while all calls together would hold more than
    /// 256 MiB, unless no other call holds any.
    pub fn of_process() -> Self {
        static PROCESS: LazyLock<MemoryManager> = LazyLock::new(account);
        Self::of(&PROCESS)
    }

    /// The same for large requests; a call holds this share until it is answered. Requests and replies have separate
    /// accounts: a call that holds memory for its request may wait for memory for the reply, but a call that holds
    /// memory for a reply never waits.
    pub fn of_requests() -> Self {
        static PROCESS: LazyLock<MemoryManager> = LazyLock::new(account);
        Self::of(&PROCESS)
    }

    pub(super) fn of(account: &'static MemoryManager) -> Self {
        Self {
            account,
            held: Mutex::default(),
        }
    }

    /// Takes the memory for a reply if it is available and no call waits.
    pub(super) fn take_now(&self, bytes: u64) -> bool {
        let hold = self.account.try_for_memory(bytes);
        let taken = hold.is_some();
        *self.held.lock() = hold;
        taken
    }

    /// Waits for the memory for a reply and takes it. Once per reply.
    ///
    /// # Errors
    /// If the context ends first.
    pub(crate) fn take(&self, bytes: u64, ctx: &Context) -> Result<(), Error> {
        *self.held.lock() = Some(self.account.wait_for_call(bytes, ctx)?);
        Ok(())
    }

    /// Returns the memory that the reply did not need.
    pub(crate) fn keep(&self, bytes: u64) {
        if let Some(hold) = &mut *self.held.lock() {
            hold.keep(bytes);
        }
    }
}

fn account() -> MemoryManager {
    MemoryManager::counting(MOST, MemoryManager::of_process())
}

#[cfg(test)]
#[path = "memory_tests.rs"]
pub(super) mod tests;
