//! Everything for people, on standard error: progress, the summary, errors.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use batchwright::progress::{LearnedLimit, LimitSource, Phase};
use batchwright::{Progress, ProgressNotifier, Usd};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use log::Level;

use super::args::shared::{LogFormat, SayArgs, ShowArgs, When};
use super::format::{count, span, time_of_day};
use super::sanitize::shortened;
use super::{logging, stderr};

/// Writes a line for people, above the bar if there is one. A closed standard error is ignored.
pub fn say(line: &str) {
    logging::line(Level::Info, line);
}

/// Writes an error for people.
pub fn error(message: &str) {
    logging::line(Level::Error, message);
}

impl SayArgs {
    /// Prints a line unless `--quiet` is set.
    pub fn say(&self, line: &str) {
        if !self.quiet {
            say(line);
        }
    }
}

/// Progress as a bar or as lines, whichever suits, and notes about a server that still loads its model.
pub struct Display {
    shape: Shape,
    quiet: bool,
    line: Line,
    /// When the server was first found loading, in the run's own time.
    loading_since: Mutex<Option<Duration>>,
}

/// The state of a run in a line of at most this number of characters.
type Line = fn(&Progress, usize) -> String;

enum Shape {
    Bar(Box<ProgressBar>),
    Lines(Mutex<Lines>),
    Nothing,
}

/// When the next line is due.
struct Lines {
    next: Instant,
    every: Duration,
}

impl Display {
    pub fn new(show: &ShowArgs) -> Self {
        let terminal = std::io::stderr().is_terminal()
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let shape = match show.progress {
            When::Never => Shape::Nothing,
            _ if show.say.quiet => Shape::Nothing,
            When::Auto | When::Always if terminal && show.say.log_format == LogFormat::Text => {
                let canvas = Box::<stderr::Canvas>::default();
                let target = ProgressDrawTarget::term_like_with_hz(canvas, 8);
                let bar = ProgressBar::with_draw_target(None, target);
                bar.set_style(Self::spinner());
                Shape::Bar(Box::new(bar))
            }
            When::Auto => Self::lines(Duration::from_secs(10)),
            When::Always => Self::lines(Duration::from_secs(1)),
        };
        Self {
            shape,
            quiet: show.say.quiet,
            line,
            loading_since: Mutex::new(None),
        }
    }

    /// Replaces the progress line for prompts by another one.
    pub fn with_line(mut self, line: Line) -> Self {
        self.line = line;
        self
    }

    fn lines(every: Duration) -> Shape {
        Shape::Lines(Mutex::new(Lines {
            next: Instant::now() + every,
            every,
        }))
    }

    fn spinner() -> ProgressStyle {
        ProgressStyle::with_template("{spinner} {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner())
    }

    /// The bar and the message, all on one line.
    fn bar() -> ProgressStyle {
        let columns = bar_columns(width());
        if columns == 0 {
            return Self::spinner();
        }
        ProgressStyle::with_template(&format!("[{{bar:{columns}}}] {{wide_msg}}"))
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ")
    }

    /// Shows the progress of the check of the input.
    pub fn checking(&self, done: u64, total: u64) {
        if let Shape::Bar(bar) = &self.shape {
            bar.set_style(Self::bar());
            bar.set_length(total.max(1));
            bar.set_position(done);
            bar.set_message(format!("checking the input, {} MB", total / 1_000_000));
        }
    }

    /// Removes the bar.
    pub fn clear(&self) {
        if let Shape::Bar(bar) = &self.shape {
            bar.finish_and_clear();
        }
    }

    /// Reports once that a server is loading its model, and once that it no longer is.
    fn note_loading(&self, progress: &Progress) {
        let Ok(mut since) = self.loading_since.lock() else {
            return;
        };
        let line = match (*since, progress.loading) {
            (None, Some(time)) => {
                *since = Some(progress.elapsed.saturating_sub(time));
                let why = progress.trouble.as_deref().unwrap_or(LOADING);
                format!("{}; waiting", shortened(why, 160))
            }
            (Some(start), None) => {
                *since = None;
                let took = progress.elapsed.saturating_sub(start);
                format!("the server is ready after {}", span(took))
            }
            _ => return,
        };
        if !self.quiet {
            say(&line);
        }
    }
}

fn width() -> usize {
    stderr::bar_width().into()
}

/// Columns of the bar, without its brackets, in a terminal of this width. On a narrow one, the message needs the space.
fn bar_columns(width: usize) -> usize {
    match width {
        ..50 => 0,
        50..90 => 8,
        _ => 24,
    }
}

const LOADING: &str = "the server is still loading its model";

impl ProgressNotifier for Display {
    fn on_progress(&self, progress: &Progress) {
        self.note_loading(progress);
        match &self.shape {
            Shape::Nothing => {}
            Shape::Bar(bar) => {
                if progress.phase == Phase::Finished {
                    bar.finish_and_clear();
                    return;
                }
                // The bar of the input check was finished, and a finished bar is not drawn.
                if bar.is_finished() {
                    bar.set_message("");
                    bar.reset();
                }
                match progress.total {
                    Some(total) => {
                        bar.set_style(Self::bar());
                        bar.set_length(total.max(1));
                        bar.set_position(progress.completed + progress.failed);
                    }
                    None => bar.set_style(Self::spinner()),
                }
                let width = width();
                let room = width.saturating_sub(bar_columns(width) + "[] ".len());
                bar.set_message((self.line)(progress, room));
            }
            Shape::Lines(lines) => {
                let Ok(mut lines) = lines.lock() else { return };
                let now = Instant::now();
                if progress.phase != Phase::Finished && now >= lines.next {
                    lines.next = now + lines.every;
                    say(&(self.line)(progress, usize::MAX));
                }
            }
        }
    }
}

/// A part of a line of progress.
struct Part {
    /// If space is short, parts with the highest rank are omitted first; parts of rank 0 stay.
    rank: u8,
    text: String,
}

/// The parts of a line of progress, in order.
#[derive(Default)]
pub struct Parts(Vec<Part>);

impl Parts {
    pub fn add(&mut self, rank: u8, text: String) {
        self.0.push(Part { rank, text });
    }

    /// Adds the elapsed time of a run, and the expected remaining time.
    pub fn add_times(&mut self, progress: &Progress, eta: Option<Duration>) {
        self.add(0, format!("{} so far", span(progress.elapsed)));
        if let Some(eta) = eta {
            self.add(0, format!("{} left", span(eta)));
        }
    }

    /// The parts in a line of `room` columns. A cut at the end could leave a part of a number, which looks like a
    /// complete one, so less important parts are omitted first.
    pub fn fitted(self, room: usize) -> String {
        let Self(mut parts) = self;
        loop {
            let texts: Vec<&str> = parts.iter().map(|part| part.text.as_str()).collect();
            let line = texts.join(" · ");
            let least = parts.iter().enumerate().max_by_key(|(_, part)| part.rank);
            match least {
                Some((at, part)) if part.rank > 0 && line.chars().count() > room => {
                    parts.remove(at);
                }
                _ => return line,
            }
        }
    }
}

/// The flags that influence a part of the time.
fn lever(limit: &str) -> &'static str {
    match limit {
        "concurrency" | "load" | "memory" => " (-j)",
        "quota" => " (--rpm, --tpm)",
        _ => "",
    }
}

/// A learned limit, its source, and its age once it is no longer fresh.
fn source(limit: &LearnedLimit) -> String {
    let source = match limit.source {
        LimitSource::Header(name) => format!("by {name}"),
        LimitSource::OtherRun => "from another run".to_owned(),
        LimitSource::Refusals => "inferred from refused calls".to_owned(),
        _ => "from a reply".to_owned(),
    };
    let age = match limit.age.as_secs() {
        0..10 => String::new(),
        age => format!(" {age} s ago"),
    };
    let (rate, unit) = (count(limit.per_minute), limit.unit);
    format!("{rate} {unit}/min {source}{age}")
}

/// One line of progress.
pub fn line(progress: &Progress, room: usize) -> String {
    let settled = progress.completed + progress.failed;
    let mut parts = Parts::default();
    parts.add(
        0,
        match (progress.total, progress.percent) {
            (Some(total), Some(percent)) => {
                format!("{}/{} {percent:.1}%", count(settled), count(total))
            }
            _ => format!("{} done", count(settled)),
        },
    );
    // A batch arrives all at once, so its beginning shows no rate.
    let paced = progress.at_provider == 0;
    if paced {
        parts.add(2, format!("{:.1}/s", progress.rate));
    }
    parts.add_times(progress, progress.eta.filter(|_| paced && settled > 0));
    if progress.failed > 0 {
        parts.add(1, format!("{} failed", count(progress.failed)));
    }
    match (progress.at_provider, progress.at_provider_done) {
        (0, _) => {}
        (n, Some(done)) => {
            let text = format!("{} in batches: {} done", count(n), count(done));
            parts.add(0, text);
        }
        // Some providers report no counts; only the time can be shown.
        (n, None) => parts.add(0, format!("{} in batches", count(n))),
    }
    if progress.in_flight > 0 || paced {
        parts.add(3, format!("{} in flight", progress.in_flight));
    }
    if progress.retries > 0 {
        parts.add(4, format!("{} retries", count(progress.retries)));
    }
    let tokens = progress.input_tokens.saturating_add(progress.output_tokens);
    if tokens > 0 {
        parts.add(6, format!("{} tokens", count(tokens)));
    }
    if let Some(cost) = progress.cost_usd.filter(|cost| *cost > Usd::ZERO) {
        let more = if progress.unpriced > 0 { "+" } else { "" };
        parts.add(6, format!("{cost}{more}"));
    }
    if let Some(limit) = progress.limited_by.filter(|_| paced) {
        let learned = progress.learned_limit.as_ref();
        let mut text = match learned.map(|limit| limit.source) {
            None => format!("limited by {limit}{}", lever(limit)),
            Some(_) => "limited by the provider's limit".to_owned(),
        };
        if let Some(wait) = progress.resumes_in {
            text.push_str(&format!(" until {}", time_of_day(wait)));
        }
        // A limit that no one configured may be wrong, so it is shown before most other parts.
        parts.add(if learned.is_some() { 1 } else { 5 }, text);
        if let Some(limit) = learned {
            parts.add(2, source(limit));
        }
    }
    if progress.phase == Phase::Stopping {
        parts.add(0, "stopping".to_owned());
    }
    let Some(trouble) = &progress.trouble else {
        return parts.fitted(room);
    };
    // The cause is more important than all other parts that can be omitted.
    let trouble = format!(" · {}", shortened(trouble, 160));
    let line = parts.fitted(room.saturating_sub(trouble.chars().count()));
    let left = room.saturating_sub(line.chars().count() + 1);
    line + &shortened(&trouble, left)
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
        let notifier = move |now: &Progress| *seen.lock().unwrap() = Some(now.clone());
        Bulk::new(Extract)
            .notifier(Arc::new(notifier))
            .for_each([Request::new("x")], |_| ControlFlow::Continue(()))
            .unwrap();
        progress.lock().unwrap().take().unwrap()
    }

    #[test]
    fn on_narrow_terminals_times_stay_and_other_parts_are_omitted() {
        let mut progress = progress();
        (progress.rate, progress.eta) = (2.0, Some(Duration::from_secs(90)));
        (progress.input_tokens, progress.output_tokens) = (1_000_000, 234_567);
        progress.elapsed = Duration::from_secs(30);
        progress.limited_by = Some("quota");
        progress.failed = 1;
        progress.completed = 0;
        let whole = "1/1 100.0% · 2.0/s · 30.0 s so far · 1m 30s left · 1 failed · 0 in flight · \
                     1,234,567 tokens · limited by quota (--rpm, --tpm)";
        let without = |line: &str, part: &str| line.replace(&format!(" · {part}"), "");
        assert_eq!(line(&progress, usize::MAX), whole);
        let mut expected = whole.to_owned();
        // From the least important part on; the times stay.
        for part in [
            "1,234,567 tokens",
            "limited by quota (--rpm, --tpm)",
            "0 in flight",
            "2.0/s",
            "1 failed",
        ] {
            let room = expected.chars().count();
            assert_eq!(line(&progress, room), expected);
            let shorter = without(&expected, part);
            assert_ne!(shorter, expected);
            expected = shorter;
            assert_eq!(line(&progress, room - 1), expected);
        }
        assert_eq!(expected, "1/1 100.0% · 30.0 s so far · 1m 30s left");
        assert_eq!(line(&progress, 0), expected);
    }

    #[test]
    fn the_cause_of_trouble_comes_before_parts_that_can_be_omitted() {
        let mut progress = progress();
        progress.in_flight = 5;
        progress.elapsed = Duration::from_secs(30);
        progress.trouble = Some("cannot reach http://127.0.0.1:8090".to_owned());
        let whole = line(&progress, usize::MAX);
        assert!(whole.contains("5 in flight") && whole.ends_with("8090"));
        let room = whole.chars().count() - 1;
        let narrow = line(&progress, room);
        assert!(
            !narrow.contains("5 in flight")
                && narrow.ends_with(" · cannot reach http://127.0.0.1:8090")
        );
        let short = line(&progress, 50);
        assert!(
            short.ends_with('…') && short.chars().count() <= 50,
            "{short}"
        );
        assert!(short.contains(" left · cannot"), "{short}");
    }

    #[test]
    fn a_wait_shows_its_end() {
        let mut progress = progress();
        progress.limited_by = Some("backoff");
        assert!(line(&progress, usize::MAX).ends_with("limited by backoff"));
        progress.resumes_in = Some(Duration::from_secs(90));
        let shown = line(&progress, usize::MAX);
        let (_, until) = shown.split_once("limited by backoff until ").unwrap();
        assert!(until.len() == 12 && until.ends_with(" UTC"), "{shown}");
    }
}
