//! What the calls of tokens have cost, for their limits.

use std::collections::HashMap;
use std::time::Instant;

use batchwright::provider::Day;
use batchwright::{Error, Usd};
use parking_lot::Mutex;

/// The cost of an owner's calls is reused for this multiple of the time that reading it took, because each request needs
/// it: with few charges hardly at all.
const REUSED_TIMES: u32 = 20;

/// What the calls of each owner have cost since a day, and until when this is reused.
#[derive(Default)]
pub(crate) struct Spent(Mutex<HashMap<(String, Day), (Instant, Usd)>>);

impl Spent {
    /// Reads it, unless it was read a moment ago.
    pub fn of(
        &self,
        owner: &str,
        since: Day,
        read: impl FnOnce() -> Result<Usd, Error>,
    ) -> Result<Usd, Error> {
        let began = Instant::now();
        let key = (owner.to_owned(), since);
        if let Some((until, spent)) = self.0.lock().get(&key)
            && began < *until
        {
            return Ok(*spent);
        }
        let spent = read()?;
        let mut known = self.0.lock();
        known.retain(|_, (until, _)| began < *until);
        let until = Instant::now() + began.elapsed() * REUSED_TIMES;
        known.insert(key, (until, spent));
        Ok(spent)
    }
}
