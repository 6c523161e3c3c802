//! `batchwright status --why`: how the time of processes was spent, and what delays them now.

use super::row::Row;
use crate::format::{number_of, span};
use crate::sanitize::harmless;

/// The meaning of a part of the time, for people.
fn meaning(part: &str) -> &'static str {
    match part {
        "queued" => "no worker had any of its jobs",
        "quota" => "a limit of requests or tokens per minute was reached",
        "cooldown" => "a provider had rejected calls or was unreachable",
        "backoff" => "all remaining jobs waited for a retry",
        "provider" => {
            "as many calls as allowed were in flight, or the last ones; or batches were at the provider"
        }
        "disk" => "outcomes were being written",
        "source" => "its worker had no job that it could start",
        _ => "",
    }
}

/// The parts of the time of each process that are not zero, under its name.
pub fn explained(rows: &[Row]) -> String {
    rows.iter().map(|row| process(row) + "\n").collect()
}

fn process(row: &Row) -> String {
    let time = row.time();
    let whole = time.split.total();
    let mut out = match &row.process.info.name {
        Some(name) => format!("\n{} ({})", row.id(), harmless(name)),
        None => format!("\n{}", row.id()),
    };
    out.push_str(&if row.is_finished() {
        format!(": took {}\n", span(whole))
    } else {
        format!(": {} so far\n", span(whole))
    });
    for (name, part) in time.split.named() {
        if part.is_zero() {
            continue;
        }
        let percent = 100.0 * part.as_secs_f64() / whole.as_secs_f64();
        let (part, meaning) = (span(part), meaning(name));
        out.push_str(&format!(
            "  {name:<9}{part:>9} {percent:>5.1} %  {meaning}\n"
        ));
    }
    out.push_str(&format!("  now: {}", now(row, time.limited_by)));
    out
}

fn now(row: &Row, limited_by: &str) -> String {
    let counts = &row.process.counts;
    let jobs = |n: u64, rest: &str| format!("{} {rest}", number_of(n, "job", "jobs"));
    let mut now = Vec::new();
    if counts.in_progress > 0 {
        let lately = match limited_by {
            "nothing" => "with a worker".to_owned(),
            part => format!("with a worker, limited lately by {part}"),
        };
        now.push(jobs(counts.in_progress, &lately));
    }
    if counts.at_provider > 0 {
        now.push(jobs(counts.at_provider, "in batches at the provider"));
    }
    if counts.pending > 0 {
        now.push(jobs(
            counts.pending,
            if row.process.sealed {
                "waiting"
            } else {
                "waiting until all jobs are submitted"
            },
        ));
    }
    if now.is_empty() {
        "nothing left to do".to_owned()
    } else {
        now.join("; ")
    }
}
