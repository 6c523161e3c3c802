//! Text about batches.

use std::time::Duration;

use batchwright::batch::{BatchInfo, clients_by_account};
use batchwright::unstable::{Clock, SystemClock};

use super::format::{count, span};
use super::sanitize::one_line;

/// A batch on one line.
pub fn line(batch: &BatchInfo) -> String {
    let mut line = state(batch);
    // The age is known in whole seconds only.
    line.push_str(&match batch.age_seconds {
        seconds @ 0..60 => format!(", {seconds} s old"),
        seconds => format!(", {} old", span(Duration::from_secs(seconds))),
    });
    if let Some(problem) = &batch.problem {
        line.push_str(&format!("; {problem}"));
    }
    if let Some(waiting) = missing_results(batch) {
        line.push_str(&format!("; {waiting}; batchwright cancel abandons them"));
    }
    if lacks_its_key(batch) {
        line.push_str("; its key is not set here: ");
        line.push_str(NEEDS_ITS_KEY);
    }
    one_line(&line)
}

/// For a batch whose billed results are missing: since when, and how long the provider keeps them.
pub fn missing_results(batch: &BatchInfo) -> Option<String> {
    let what = batch.uncollected.as_ref()?;
    let (now, provider) = (SystemClock.wall(), &batch.provider);
    let since = span(now.since(what.since));
    let kept = match what.kept_until.map(|until| until.since(now)) {
        None => format!("{provider} does not report how long it keeps them"),
        Some(Duration::ZERO) => format!("{provider} may have removed them by now"),
        Some(left) => format!("{provider} keeps them for about {} more", span(left)),
    };
    let requests = count(what.requests);
    Some(format!(
        "{requests} billed results are missing for {since}; {kept}"
    ))
}

/// True if no worker owns it and no API key for its address is set here.
pub fn lacks_its_key(batch: &BatchInfo) -> bool {
    let clients = clients_by_account(None);
    !batch.attended && !batch.provider.is_empty() && clients(&batch.account()).is_none()
}

/// What batches wait for whose API key is not set, or does not show them.
pub const NEEDS_ITS_KEY: &str = "set the key that created them, or one of the same account, and the provider's base URL \
     if it was not the default";

/// The state, without parts that change only with time.
pub fn state(batch: &BatchInfo) -> String {
    let name = batch.remote_id.as_deref().unwrap_or(&batch.label);
    let state = match &*batch.state {
        _ if batch.unsent => "not handed over",
        _ if batch.cancel_asked => "being cancelled",
        state => state,
    };
    let mut line = format!("batch {name} at {}: {state}", batch.provider);
    let total = count(batch.total);
    line.push_str(&match batch.completed {
        Some(done) => format!(", {} of {total} done", count(done)),
        None => format!(", {total} requests"),
    });
    if let Some(failed) = batch.failed.filter(|n| *n > 0) {
        line.push_str(&format!(", {} failed", count(failed)));
    }
    if !batch.attended {
        line.push_str(", no active worker");
    }
    line
}
