//! What the calls of tokens have cost, for their limits.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use batchwright::provider::Day;
use batchwright::{Error, Usd};
use parking_lot::Mutex;

/// The cost of an owner's calls is reused for this multiple of the time that reading it took, because each request needs
/// it: with few charges hardly at all.
const REUSED_TIMES: u32 = 20;
/// It is reused for at most this time: a token can spend more than its limit meanwhile, and a read may have been slow
/// for another reason than many charges, for example a lost connection.
const LONGEST_REUSE: Duration = Duration::from_secs(2);

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
        // A request that began to read later may have finished before: costs only grow, so its higher sum is newer.
        if let Some((_, newer)) = known.get(&key)
            && spent < *newer
        {
            return Ok(*newer);
        }
        let until = Instant::now() + reuse(began.elapsed());
        known.insert(key, (until, spent));
        Ok(spent)
    }
}

/// How long a sum is reused that took this time to read.
fn reuse(read: Duration) -> Duration {
    read.saturating_mul(REUSED_TIMES).min(LONGEST_REUSE)
}

#[cfg(test)]
mod tests {
    use batchwright::progress::Timestamp;

    use super::*;

    #[test]
    fn a_slow_read_is_not_reused_for_long() {
        let [quick, slow] = [1, 30_000].map(Duration::from_millis);
        assert_eq!(reuse(quick), Duration::from_millis(20));
        assert_eq!(reuse(slow), LONGEST_REUSE);
        assert_eq!(reuse(Duration::MAX), LONGEST_REUSE);
    }

    #[test]
    fn an_older_sum_does_not_replace_a_newer_one() {
        let spent = Spent::default();
        let day = Day::of(Timestamp(0));
        let [older, newer] = [1.0, 9.0].map(|usd| Usd::from_dollars(usd).unwrap());
        let found = spent.of("ann", day, || {
            // Another request reads after this one and finishes before it.
            let later = spent.of("ann", day, || Ok(newer));
            assert_eq!(later.unwrap(), newer);
            Ok(older)
        });
        assert_eq!(found.unwrap(), newer);
    }
}
