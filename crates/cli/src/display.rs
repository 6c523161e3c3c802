//! Everything for people, on standard error: progress, the summary, errors.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use batchwright::progress::Phase;
use batchwright::queue::WorkerReport;
use batchwright::{Progress, ProgressNotifier, Usd};
use parking_lot::Mutex;

use super::args::shared::{ShowArgs, When};
use super::format::{count, number_of, span};
use super::sanitize::{harmless, shortened};
use super::stderr::{self, is_quiet};

/// Writes a line for people, also with `--quiet`. A closed standard error is ignored.
pub fn say(line: &str) {
    // A name with a line end begins no message.
    let line = harmless(line).replace("\nbatchwright:", "\n  batchwright:");
    stderr::write(format!("batchwright: {line}\n").into_bytes());
}

/// Writes a line for people unless `--quiet` is set.
pub fn note(line: impl AsRef<str>) {
    if !is_quiet() {
        say(line.as_ref());
    }
}

/// Writes an error for people.
pub fn error(message: &str) {
    say(&format!("error: {message}"));
}

/// Shows results that could not be recorded rather than to drop them.
pub fn unsaved(report: &WorkerReport) {
    for result in &report.unsaved {
        error("a result could not be recorded; here it is:");
        stderr::flush();
        let _ = writeln!(std::io::stderr(), "{result}");
    }
}

/// Progress as a line that is redrawn, or as lines.
pub struct Display {
    shape: Shape,
    /// When the next line is due.
    next: Mutex<Instant>,
}

enum Shape {
    Bar,
    /// A line at this interval.
    Lines(Duration),
    Nothing,
}

/// Interval at which the line is redrawn.
const REDRAWN: Duration = Duration::from_millis(125);

impl Display {
    pub fn new(show: &ShowArgs) -> Self {
        let terminal = std::io::stderr().is_terminal()
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let shape = match show.progress {
            When::Never => Shape::Nothing,
            _ if is_quiet() => Shape::Nothing,
            When::Auto | When::Always if terminal => Shape::Bar,
            When::Auto => Shape::Lines(Duration::from_secs(10)),
            When::Always => Shape::Lines(Duration::from_secs(1)),
        };
        let first = match shape {
            Shape::Lines(every) => Instant::now() + every,
            Shape::Bar | Shape::Nothing => Instant::now(),
        };
        Self {
            shape,
            next: Mutex::new(first),
        }
    }

    /// Shows the progress of the check of the input.
    pub fn checking(&self, done: u64, total: u64) {
        if matches!(self.shape, Shape::Bar) && self.is_due(REDRAWN) {
            let percent = done * 100 / total.max(1);
            let megabytes = total / 1_000_000;
            stderr::draw(format!("checking the input, {megabytes} MB: {percent}%"));
        }
    }

    /// Removes the line that is redrawn.
    pub fn clear(&self) {
        if matches!(self.shape, Shape::Bar) {
            stderr::draw(String::new());
        }
    }

    fn is_due(&self, every: Duration) -> bool {
        let mut next = self.next.lock();
        let now = Instant::now();
        let is_due = now >= *next;
        if is_due {
            *next = now + every;
        }
        is_due
    }
}

impl ProgressNotifier for Display {
    fn on_progress(&self, progress: &Progress) {
        let is_over = progress.phase == Phase::Finished;
        match self.shape {
            Shape::Bar if is_over => self.clear(),
            Shape::Bar if self.is_due(REDRAWN) => {
                stderr::draw(line(progress, stderr::bar_width()));
            }
            Shape::Lines(every) if !is_over && self.is_due(every) => {
                say(&line(progress, usize::MAX));
            }
            _ => {}
        }
    }
}

/// The first parts of a line that fit `room` columns. A cut within a part could leave a part of a number, which looks
/// like a complete one.
fn fitted(parts: Vec<String>, room: usize) -> String {
    let mut parts = parts.into_iter();
    let mut line = parts.next().unwrap_or_default();
    for part in parts {
        let next = format!("{line} · {part}");
        if next.chars().count() > room {
            break;
        }
        line = next;
    }
    line
}

/// The flags that influence a part of the time.
pub fn lever(limit: &str) -> &'static str {
    match limit {
        "budget" => " (--budget)",
        "concurrency" | "load" | "memory" => " (-j)",
        _ => "",
    }
}

/// One line of progress.
pub fn line(progress: &Progress, room: usize) -> String {
    let settled = progress.completed + progress.failed;
    let mut parts = vec![match (progress.total, progress.percent) {
        (Some(total), Some(percent)) => {
            format!("{}/{} {percent:.1}%", count(settled), count(total))
        }
        _ => format!("{} done", count(settled)),
    }];
    // A batch arrives all at once, so its beginning shows no rate.
    let paced = progress.at_provider == 0;
    parts.push(format!("{} so far", span(progress.elapsed)));
    let eta = progress.eta.filter(|_| paced && settled > 0);
    parts.extend(eta.map(|eta| format!("{} left", span(eta))));
    match (progress.at_provider, progress.at_provider_done) {
        (0, _) => {}
        (n, Some(done)) => parts.push(format!("{} in batches: {} done", count(n), count(done))),
        // Some providers report no counts; only the time can be shown.
        (n, None) => parts.push(format!("{} in batches", count(n))),
    }
    if progress.phase == Phase::Stopping {
        parts.push("stopping".to_owned());
    }
    if progress.failed > 0 {
        parts.push(format!("{} failed", count(progress.failed)));
    }
    if let Some(trouble) = &progress.trouble {
        let used = parts.join(" · ").chars().count();
        let left = room.saturating_sub(used + 4);
        parts.push(shortened(trouble, left.clamp(20, 160)));
    }
    parts.extend(limit(progress).filter(|_| paced));
    if paced {
        parts.push(format!("{:.1}/s", progress.rate));
    }
    if progress.in_flight > 0 || paced {
        parts.push(format!("{} in flight", progress.in_flight));
    }
    if progress.retries > 0 {
        parts.push(number_of(progress.retries, "retry|retries"));
    }
    let tokens = progress.input_tokens.saturating_add(progress.output_tokens);
    if tokens > 0 {
        parts.push(number_of(tokens, "token|tokens"));
    }
    if let Some(cost) = progress.cost_usd.filter(|cost| *cost > Usd::ZERO) {
        let more = if progress.unpriced > 0 { "+" } else { "" };
        parts.push(format!("{cost}{more}"));
    }
    fitted(parts, room)
}

/// What limits a run, and for how long.
fn limit(progress: &Progress) -> Option<String> {
    let limit = progress.limited_by?;
    let mut text = format!("limited by {limit}{}", lever(limit));
    if let Some(wait) = progress.resumes_in {
        text.push_str(&format!(" for {}", span(wait)));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::sync::Arc;

    use batchwright::{Bulk, Extract, Request};

    use super::*;

    /// The progress of a run at its end.
    fn progress() -> Progress {
        let progress = Arc::new(Mutex::new(None));
        let seen = progress.clone();
        let notifier = move |now: &Progress| *seen.lock() = Some(now.clone());
        Bulk::new(Extract)
            .notifier(Arc::new(notifier))
            .for_each([Request::new("x")], |_| ControlFlow::Continue(()))
            .unwrap();
        progress.lock().take().unwrap()
    }

    #[test]
    fn a_narrow_line_has_whole_parts_only() {
        let mut progress = progress();
        (progress.rate, progress.eta) = (2.0, Some(Duration::from_secs(90)));
        (progress.input_tokens, progress.output_tokens) = (1_000_000, 234_567);
        progress.elapsed = Duration::from_secs(30);
        progress.limited_by = Some("quota");
        progress.failed = 1;
        progress.completed = 0;
        let whole = "1/1 100.0% · 30.0 s so far · 1m 30s left · 1 failed · \
                     limited by quota · 2.0/s · 0 in flight · 1,234,567 tokens";
        assert_eq!(line(&progress, usize::MAX), whole);
        let parts: Vec<&str> = whole.split(" · ").collect();
        for n in (1..parts.len()).rev() {
            let shorter = parts[..n].join(" · ");
            assert_eq!(line(&progress, shorter.chars().count() + 3), shorter);
        }
        assert_eq!(line(&progress, 0), parts[0]);
        progress.trouble = Some("cannot reach http://127.0.0.1:8090".to_owned());
        assert!(line(&progress, 80).contains(" left · 1 failed · cannot reach"));
    }

    #[test]
    fn a_wait_shows_how_long_it_takes() {
        let mut progress = progress();
        progress.limited_by = Some("backoff");
        assert!(line(&progress, usize::MAX).contains(" · limited by backoff · "));
        progress.resumes_in = Some(Duration::from_secs(90));
        let shown = line(&progress, usize::MAX);
        assert!(shown.contains("limited by backoff for 1m 30s"), "{shown}");
    }
}
