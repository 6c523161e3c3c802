//! Requests and tokens per minute: two buckets that refill continuously, and their values for reply headers. Times are
//! arguments, measured from the simulator's start; the dialects format rejections.

use std::time::Duration;

/// The names of the buckets.
pub(super) const NAMES: [&str; 2] = ["requests", "tokens"];

/// Both limits; either may be absent.
#[derive(Debug)]
pub(super) struct Limits([Option<Bucket>; 2]);

/// Why a call was rejected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Denial {
    /// `requests` or `tokens`, the bucket with the longer wait.
    pub(super) bucket: &'static str,
    pub(super) per_minute: u64,
    pub(super) asked: u64,
    /// Time until the call would be accepted; `None` if it is larger than the bucket.
    pub(super) wait: Option<Duration>,
}

impl Denial {
    pub(super) fn message(&self, model: &str) -> String {
        let (bucket, per_minute, asked) = (self.bucket, self.per_minute, self.asked);
        let again = self
            .wait
            .map(|wait| format!(" Please try again in {}.", in_seconds(wait)));
        let again = again.unwrap_or_default();
        format!(
            "Rate limit reached for {model} on {bucket} per min: Limit {per_minute}, Requested \
             {asked}.{again}"
        )
    }
}

/// The values of reply headers about one bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Told {
    pub(super) limit: u64,
    pub(super) remaining: u64,
    pub(super) reset: Duration,
}

impl Limits {
    pub(super) fn new(rpm: Option<u64>, burst: Option<u64>, tpm: Option<u64>) -> Limits {
        Limits([
            rpm.map(|rpm| Bucket::new(rpm, burst.unwrap_or(rpm))),
            tpm.map(|tpm| Bucket::new(tpm, tpm)),
        ])
    }

    /// Takes one request and `tokens` tokens from the buckets, or nothing.
    pub(super) fn take(&mut self, now: Duration, tokens: u64) -> Result<(), Denial> {
        let asked = [1, tokens];
        let buckets = NAMES.into_iter().zip(&mut self.0).zip(asked);
        let denials = buckets.filter_map(|((name, bucket), asked)| {
            let bucket = bucket.as_mut()?;
            bucket.refill(now);
            (!bucket.holds(asked)).then(|| Denial {
                bucket: name,
                per_minute: bucket.per_minute,
                asked,
                wait: bucket.wait_for(asked),
            })
        });
        // The one that takes longest, or for ever.
        if let Some(denial) = denials.max_by_key(|denial| denial.wait.unwrap_or(Duration::MAX)) {
            return Err(denial);
        }
        for (bucket, asked) in self.0.iter_mut().zip(asked) {
            if let Some(bucket) = bucket {
                bucket.level -= asked as f64;
            }
        }
        Ok(())
    }

    /// The state of the requests bucket and of the tokens bucket.
    pub(super) fn tell(&mut self, now: Duration) -> [Option<Told>; 2] {
        self.0.each_mut().map(|bucket| {
            bucket.as_mut().map(|bucket| {
                bucket.refill(now);
                bucket.tell()
            })
        })
    }
}

#[derive(Debug)]
struct Bucket {
    per_minute: u64,
    capacity: f64,
    level: f64,
    refilled: Duration,
}

/// Much less than one request, and much more than the rounding error of a long run.
const ROUNDING: f64 = 1e-6;

impl Bucket {
    fn new(per_minute: u64, capacity: u64) -> Bucket {
        Bucket {
            per_minute,
            capacity: capacity as f64,
            level: capacity as f64,
            refilled: Duration::ZERO,
        }
    }

    fn refill(&mut self, now: Duration) {
        // Callers read the clock before they get the lock, so `now` may be slightly earlier.
        let passed = now.saturating_sub(self.refilled);
        self.refilled = self.refilled.max(now);
        let gained = passed.as_secs_f64() * self.per_second();
        self.level = (self.level + gained).min(self.capacity);
    }

    fn per_second(&self) -> f64 {
        self.per_minute as f64 / 60.0
    }

    fn holds(&self, asked: u64) -> bool {
        self.level + ROUNDING >= asked as f64
    }

    fn wait_for(&self, asked: u64) -> Option<Duration> {
        (asked as f64 <= self.capacity).then(|| self.time_to(asked as f64))
    }

    fn time_to(&self, level: f64) -> Duration {
        let seconds = (level - self.level).max(0.0) / self.per_second();
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    fn tell(&self) -> Told {
        Told {
            limit: self.per_minute,
            remaining: (self.level + ROUNDING).max(0.0) as u64,
            reset: self.time_to(self.capacity),
        }
    }
}

/// The whole milliseconds of `duration`, rounded up.
pub(super) fn millis_up(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// A duration as OpenAI writes it, always in seconds. A client that waits this long must not arrive too early.
pub(super) fn in_seconds(duration: Duration) -> String {
    format!("{}s", millis_up(duration) as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_full_bucket_lets_its_burst_through_and_then_the_rate() {
        let mut limits = Limits::new(Some(60), Some(3), None);
        for _ in 0..3 {
            assert_eq!(limits.take(ms(0), 0), Ok(()));
        }
        let denial = limits.take(ms(400), 0).unwrap_err();
        assert_eq!(denial.bucket, "requests");
        assert_eq!(denial.wait.map(millis_up), Some(600));
        assert_eq!(limits.take(ms(1_000), 0), Ok(()));
        assert!(limits.take(ms(1_001), 0).is_err());
    }

    #[test]
    fn a_refused_call_takes_nothing_from_either_bucket() {
        let mut limits = Limits::new(Some(60), None, Some(600));
        assert_eq!(limits.take(ms(0), 595), Ok(()));
        let denial = limits.take(ms(0), 10).unwrap_err();
        assert_eq!((denial.bucket, denial.asked), ("tokens", 10));
        assert_eq!(denial.wait, Some(ms(500)));
        let [requests, tokens] = limits.tell(ms(0));
        assert_eq!(requests.map(|told| told.remaining), Some(59));
        assert_eq!(tokens.map(|told| told.remaining), Some(5));
    }

    #[test]
    fn an_hour_at_the_rate_lets_exactly_the_rate_through() {
        let mut limits = Limits::new(Some(600), Some(1), None);
        let accepted = (0..36_000)
            .filter(|tick| limits.take(ms(tick * 100), 0).is_ok())
            .count();
        assert_eq!(accepted, 36_000);
    }
}
