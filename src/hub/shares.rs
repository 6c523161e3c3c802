//! The shares of common limits that OS processes receive. One script decides, by the clock of Redis.

use std::time::Duration;

use redis::{Connection, FromRedisValue, RedisResult, Value};

/// The owner of a process's limits. All methods are called by a thread of the hub and return immediately.
pub(crate) trait ShareUser: Send + Sync {
    /// What it requests or reports now.
    fn ask(&self) -> Vec<ShareRequest>;

    /// Receives the shares, in the order of its requests.
    fn receive(&self, shares: &[Share]);

    /// Redis is unavailable: the last requests are not answered. `workers` is the number of workers known from
    /// elsewhere.
    fn lose(&self, workers: usize);
}

/// A request for one quota: requests and tokens.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ShareRequest {
    /// Hash of the quota's identity; it reveals no credential.
    pub quota: u64,
    /// Duration of the pause, if this process detected it.
    pub pause: Duration,
    /// A call of this process was answered.
    pub has_replied: bool,
    /// Limit of concurrent first calls of the quota, if the process requests one of them; otherwise 0.
    pub first_calls: u32,
    pub outage: Outage,
    /// Whether the process requests the probe, or is making it.
    pub probes: bool,
    pub parts: [Option<PartRequest>; 2],
}

/// A change of an outage that a process reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Outage {
    #[default]
    Unchanged,
    /// No process may call it for this time.
    For(Duration),
    /// The provider is available again.
    Over,
}

/// State of a provider that all processes share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Standing {
    /// Whether a call was answered recently.
    pub has_replied: bool,
    /// Whether the process may make one of the first calls.
    pub may_begin: bool,
    /// Time until the next call, if the provider is unavailable. Zero: this process may probe.
    pub outage: Option<Duration>,
}

/// A request for one limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct PartRequest {
    pub per_second: f64,
    /// Age of the provider's report of the limit, if there is one.
    pub reported: Option<Duration>,
    /// Amount that may be used at once after a period without use.
    pub capacity: f64,
    pub wanted: f64,
    /// Received earlier and not needed.
    pub back: f64,
    /// Amount that is available if no process has requested any before.
    pub first: f64,
    /// The rest that the provider reported.
    pub left: Option<f64>,
}

/// The shares of a quota.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Share {
    /// Processes that use the quota.
    pub processes: u32,
    /// Remaining duration of the pause.
    pub pause: Duration,
    pub standing: Standing,
    pub parts: [PartShare; 2],
}

/// The share of one limit.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct PartShare {
    pub granted: f64,
    /// Time until the share may be used; if the share is empty, time until the next request is useful.
    pub wait: Duration,
    /// The rate per second that a provider's reply reported to another process, and how long ago.
    pub learned: Option<(f64, Duration)>,
}

const SCRIPT: &str = include_str!("shares.lua");

/// Sends all requests in one round trip.
pub(super) fn exchange(
    connection: &mut Connection,
    me: &str,
    requests: &[ShareRequest],
) -> RedisResult<Vec<Share>> {
    let mut pipeline = redis::pipe();
    for request in requests {
        let command = pipeline.cmd("EVAL").arg(SCRIPT).arg(2);
        command.arg(&keys(request)).arg(arguments(me, request));
    }
    let answers: Vec<Value> = pipeline.query(connection)?;
    answers.into_iter().map(share).collect()
}

/// The keys of the bucket and of its users; both are in the same slot of a cluster.
fn keys(request: &ShareRequest) -> [String; 2] {
    let bucket = format!("{{batchwright:quota:{:016x}}}", request.quota);
    let users = format!("{bucket}:processes");
    [bucket, users]
}

/// The values that the script expects, in the order of its arguments.
fn arguments(me: &str, request: &ShareRequest) -> Vec<String> {
    let pause = request.pause.as_secs_f64() * 1000.0;
    let outage = match request.outage {
        Outage::Unchanged => -1.0,
        Outage::For(time) => time.as_secs_f64().max(0.001) * 1000.0,
        Outage::Over => 0.0,
    };
    let flag = |is: bool| u8::from(is).to_string();
    let mut arguments = vec![
        me.to_owned(),
        pause.to_string(),
        flag(request.has_replied),
        request.first_calls.to_string(),
        outage.to_string(),
        flag(request.probes),
    ];
    for part in request.parts {
        let of = |get: fn(PartRequest) -> f64| part.map_or(0.0, get);
        let values = [
            of(|part| part.per_second),
            part.and_then(|part| part.reported)
                .map_or(-1.0, |age| age.as_secs_f64() * 1000.0),
            of(|part| part.capacity),
            of(|part| part.wanted),
            of(|part| part.back),
            of(|part| part.first),
            part.and_then(|part| part.left).unwrap_or(-1.0).max(-1.0),
        ];
        arguments.extend(values.map(|value| value.to_string()));
    }
    arguments
}

fn share(answer: Value) -> RedisResult<Share> {
    type Part = (f64, f64, f64, f64);
    type Answer = (u32, f64, u8, u8, f64, (Part, Part));
    let (processes, pause, replied, begins, outage, (a, b)): Answer =
        FromRedisValue::from_redis_value(answer)?;
    let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default();
    let part = |(granted, wait, rate, age): Part| PartShare {
        granted,
        wait: seconds(wait),
        learned: (age >= 0.0 && rate > 0.0).then(|| (rate, seconds(age / 1000.0))),
    };
    Ok(Share {
        processes,
        pause: seconds(pause / 1000.0),
        standing: Standing {
            has_replied: replied == 1,
            may_begin: begins == 1,
            outage: (outage >= 0.0).then(|| seconds(outage / 1000.0)),
        },
        parts: [part(a), part(b)],
    })
}

#[cfg(test)]
#[path = "simulated_redis.rs"]
pub(crate) mod simulated_redis;
#[cfg(test)]
#[path = "shares_tests.rs"]
mod tests;
