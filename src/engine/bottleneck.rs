//! What kept a run from going faster.

use std::time::Duration;

use crate::base::clock::Time;

/// What kept a run from going faster, in time spent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bottlenecks {
    /// All permits were in use.
    pub concurrency: Duration,
    /// A limit or a pause of a quota held items back.
    pub rate_limit: Duration,
    /// Only items waiting for a retry were left.
    pub backoff: Duration,
    /// The source had nothing ready.
    pub source: Duration,
    /// The output took nothing.
    pub output: Duration,
}

impl Bottlenecks {
    /// The times by their names, in the order of the fields.
    pub fn named(&self) -> [(&'static str, Duration); 5] {
        [
            ("concurrency", self.concurrency),
            ("rate_limit", self.rate_limit),
            ("backoff", self.backoff),
            ("source", self.source),
            ("output", self.output),
        ]
    }
}

/// Milliseconds by name.
impl serde::Serialize for Bottlenecks {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let named = self.named();
        serializer.collect_map(named.iter().map(|(name, time)| {
            (
                format!("{name}_ms"),
                (time.as_secs_f64() * 1e6).round() / 1e3,
            )
        }))
    }
}

/// What is in the way at the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Bottleneck {
    #[default]
    Nothing,
    Concurrency,
    RateLimit,
    Backoff,
    Source,
    Output,
}

/// The times up to now.
#[derive(Debug, Default)]
pub(super) struct BottleneckTimer {
    pub times: Bottlenecks,
    bottleneck: Bottleneck,
    since: Option<Time>,
}

impl BottleneckTimer {
    pub(super) fn account(&mut self, bottleneck: Bottleneck, now: Time) {
        if let Some(since) = self.since {
            let passed = now.since(since);
            match self.bottleneck {
                Bottleneck::Nothing => {}
                Bottleneck::Concurrency => self.times.concurrency += passed,
                Bottleneck::RateLimit => self.times.rate_limit += passed,
                Bottleneck::Backoff => self.times.backoff += passed,
                Bottleneck::Source => self.times.source += passed,
                Bottleneck::Output => self.times.output += passed,
            }
        }
        self.bottleneck = bottleneck;
        self.since = Some(now);
    }
}
