//! The one change that would have made a run faster, reckoned from its own numbers.

use std::time::Duration;

use batchwright::progress::TimeSplit;

/// Shorter runs need no advice,
const SHORTEST: Duration = Duration::from_secs(10);
/// nor do those that would save less than this share of their time.
const WORTH_IT: f64 = 0.8;
/// Maximum factor of a recommendation: beyond it, other limits apply.
const MOST_TIMES: u32 = 10;

/// Options and results of a run.
pub struct Run {
    pub elapsed: Duration,
    pub time: TimeSplit,
    /// The total duration of its calls.
    pub call_time: Duration,
    pub calls: u64,
    /// Tokens that they used.
    pub tokens: u64,
    pub rate_limited: u64,
    pub concurrency: usize,
    /// Whether the run finds the concurrency automatically; then there is no better number.
    pub finds_concurrency: bool,
    /// The requests and tokens per minute that were configured.
    pub rpm: Option<f64>,
    pub tpm: Option<f64>,
    /// More calls at once are no use to a server that computes on this machine.
    pub local: bool,
}

/// A configured limit.
struct Given {
    flag: &'static str,
    /// The limit per minute.
    limit: f64,
    /// How much the run needed in all.
    used: f64,
}

impl Given {
    /// The time in seconds that the limit needs to allow the used amount.
    fn seconds(&self) -> f64 {
        self.used * 60.0 / self.limit
    }
}

impl Run {
    fn given(&self) -> Vec<Given> {
        let limits = [
            ("--rpm", self.rpm, self.calls),
            ("--tpm", self.tpm, self.tokens),
        ];
        let given = limits.into_iter().filter_map(|(flag, limit, used)| {
            let limit = limit.filter(|limit| *limit > 0.0)?;
            let used = used as f64;
            Some(Given { flag, limit, used })
        });
        given.collect()
    }
}

/// The change that would have helped most, if any.
pub fn faster(run: &Run) -> Option<String> {
    if run.elapsed < SHORTEST {
        return None;
    }
    let candidates = [higher_rate(run), more_at_once(run)];
    let best = candidates.into_iter().flatten();
    let (change, seconds) = best.min_by(|(_, a), (_, b)| a.total_cmp(b))?;
    let taken = run.elapsed.as_secs_f64();
    (seconds <= WORTH_IT * taken).then(|| {
        format!(
            "with {change} this run would have taken about {} instead of {}",
            about(seconds),
            about(taken)
        )
    })
}

/// While the configured limits delayed items, higher ones allow more, until all slots are full.
fn higher_rate(run: &Run) -> Option<(String, f64)> {
    if run.rate_limited > 0 {
        return None;
    }
    let given = run.given();
    let held_back = run.time.quota.as_secs_f64();
    // A limit that was hardly used was not the bottleneck: the provider's capacity was.
    let bound = |given: &&Given| given.seconds() >= held_back / 2.0;
    let binding = given.iter().filter(bound);
    let binding = binding.max_by(|a, b| a.seconds().total_cmp(&b.seconds()))?;
    let rest = run.elapsed.as_secs_f64() - held_back;
    let full = run.call_time.as_secs_f64() / run.concurrency as f64;
    let with = |times: u32| (rest + held_back / f64::from(times)).max(full);
    let least = with(MOST_TIMES);
    let times = (2..=MOST_TIMES).find(|times| with(*times) <= 1.1 * least)?;
    // Another limit that the faster run would reach is raised with it.
    let up = |given: &&Given| given.flag == binding.flag || given.seconds() > 0.9 * with(times);
    let change = given.iter().filter(up).map(|given| {
        let wanted = given.limit * f64::from(times);
        format!("{} {}", given.flag, wanted.round())
    });
    Some((change.collect::<Vec<_>>().join(" "), with(times)))
}

/// While items waited for a slot, twice as many slots process twice as much, up to the configured limits.
fn more_at_once(run: &Run) -> Option<(String, f64)> {
    if run.local || run.finds_concurrency || run.rate_limited > 0 {
        return None;
    }
    let halved = run.elapsed.as_secs_f64() - run.time.all_slots.as_secs_f64() / 2.0;
    let paced = run
        .given()
        .iter()
        .map(Given::seconds)
        .fold(halved, f64::max);
    Some((format!("-j {}", 2 * run.concurrency), paced))
}

/// A reckoned time is no exact one.
fn about(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// 6,600 calls of a second at 600 a minute in 64 slots.
    fn paced() -> Run {
        let mut time = TimeSplit::default();
        (time.quota, time.provider) = (secs(655), secs(5));
        Run {
            elapsed: secs(660),
            time,
            call_time: secs(6600),
            calls: 6600,
            tokens: 6_600_000,
            rate_limited: 0,
            concurrency: 64,
            finds_concurrency: false,
            rpm: Some(600.0),
            tpm: None,
            local: false,
        }
    }

    #[test]
    fn a_run_that_its_own_rate_held_back_is_told_a_better_one() {
        let advice = faster(&paced()).unwrap();
        assert_eq!(
            advice,
            "with --rpm 4200 this run would have taken about 103 s instead of 11 min"
        );
        // The number of slots limits the effect of a higher rate.
        let narrow = Run {
            concurrency: 20,
            ..paced()
        };
        let advice = faster(&narrow).unwrap();
        assert!(advice.starts_with("with --rpm 1200 "), "{advice}");
        assert!(
            advice.ends_with("about 6 min instead of 11 min"),
            "{advice}"
        );
    }

    #[test]
    fn the_limit_that_binds_is_named_and_another_that_would_bind_next() {
        let tokens = Run {
            rpm: Some(60_000.0),
            tpm: Some(600_000.0),
            ..paced()
        };
        let advice = faster(&tokens).unwrap();
        assert!(advice.starts_with("with --tpm 4200000 this"), "{advice}");
        // 6,600 calls at 1,200 a minute are five and a half minutes.
        let both = Run {
            rpm: Some(1200.0),
            ..tokens
        };
        let advice = faster(&both).unwrap();
        let expected = "with --rpm 8400 --tpm 4200000 this";
        assert!(advice.starts_with(expected), "{advice}");
        // Other limits than these delayed it.
        let mut provider = paced();
        (provider.rpm, provider.tpm) = (Some(60_000.0), Some(1e9));
        assert_eq!(faster(&provider), None);
    }

    #[test]
    fn a_run_in_full_slots_is_told_of_more() {
        let mut run = paced();
        (run.time.quota, run.time.provider) = (Duration::ZERO, secs(660));
        (run.time.all_slots, run.rpm, run.concurrency) = (secs(640), None, 10);
        let advice = faster(&run).unwrap();
        assert!(advice.starts_with("with -j 20 "), "{advice}");
        run.local = true;
        assert_eq!(faster(&run), None);
        (run.local, run.finds_concurrency) = (false, true);
        assert_eq!(faster(&run), None);
    }

    #[test]
    fn where_nothing_would_help_nothing_is_said() {
        let mut refused = paced();
        refused.rate_limited = 3;
        let mut short = paced();
        short.elapsed = secs(9);
        let mut unknown = paced();
        unknown.rpm = None;
        let mut slow_source = paced();
        std::mem::swap(&mut slow_source.time.source, &mut slow_source.time.quota);
        for run in [refused, short, unknown, slow_source] {
            assert_eq!(faster(&run), None);
        }
    }
}
