//! Everything for people, on standard error: progress, the summary, errors.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use batchwright::{Phase, Progress, ProgressNotifier};
use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::args::{ShowArgs, When};
use super::{lines, text};

/// Says a line, above the bar if there is one. A closed standard error is nobody's problem.
pub fn say(line: &str) {
    let line = format!("batchwright: {}", harmless(line));
    let mut line = match Term::stderr().size_checked() {
        Some((_, columns)) => text::fitted(&line, columns.into()),
        None => line,
    };
    line.push('\n');
    lines::write(line.into_bytes());
}

/// Says what went wrong.
pub fn error(message: &str) {
    say(&format!("error: {message}"));
}

/// A text without what commands a terminal or turns the direction of writing: servers choose the names
/// of models, the states of batches and the texts of errors. Every foreign text that people see goes
/// through here or [`one_line`]; results and JSON have it as it is.
pub fn harmless(text: &str) -> String {
    let shown = |c| if c == '\n' { c } else { harmless_char(c) };
    text.chars().map(shown).collect()
}

/// As [`harmless`], for a name or whatever else has one line to itself or a part of it.
pub fn one_line(text: &str) -> String {
    text.chars().map(harmless_char).collect()
}

pub fn harmless_char(c: char) -> char {
    match c {
        _ if c.is_control() => ' ',
        _ if is_unseen(c) => char::REPLACEMENT_CHARACTER,
        _ => c,
    }
}

/// Marks that are not seen themselves, and change how what stands around them is: its direction, its
/// lines, its bytes.
fn is_unseen(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// JSON in which such characters are escaped: the same to programs, and nothing to a terminal.
pub fn json(value: &impl std::fmt::Display) -> String {
    let mut out = String::new();
    for c in value.to_string().chars() {
        match c {
            '\n' => out.push(c),
            _ if c.is_control() || is_unseen(c) => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            _ => out.push(c),
        }
    }
    out
}

/// Starts the log as loud as asked; `RUST_LOG` overrides it.
pub fn start_log(show: &ShowArgs) {
    let level = match (show.quiet, show.verbose) {
        (true, _) => "error",
        (_, 0) => "warn",
        (_, 1) => "batchwright=info,warn",
        _ => "batchwright=debug,info",
    };
    let env = env_logger::Env::default().default_filter_or(level);
    // A second start (in tests) is refused and harmless.
    let _ = env_logger::Builder::from_env(env)
        .target(env_logger::Target::Pipe(Box::new(lines::Log)))
        .format(|out, record| {
            let level = record.level().as_str().to_lowercase();
            let text = record.args().to_string();
            writeln!(out, "batchwright: {level}: {}", harmless(&text))
        })
        // It prints what goes over the wire, keys and all; RUST_LOG cannot ask for that.
        .filter_module("ureq_proto::util", log::LevelFilter::Off)
        .try_init();
}

/// Progress as a bar or as lines, whichever suits, and word of a server that makes all wait.
pub struct Display {
    shape: Shape,
    quiet: bool,
    /// When the server was first found loading, in the run's own time.
    loading_since: Mutex<Option<Duration>>,
}

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
            _ if show.quiet => Shape::Nothing,
            When::Auto | When::Always if terminal => {
                let canvas = Box::<lines::Canvas>::default();
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
            quiet: show.quiet,
            loading_since: Mutex::new(None),
        }
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

    /// Takes [`BAR`] columns beside the message, all in one line.
    fn bar() -> ProgressStyle {
        if usize::from(Term::stderr().size().1) <= BAR {
            return Self::spinner();
        }
        ProgressStyle::with_template("[{bar:24}] {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ")
    }

    /// How far the check of the input has come.
    pub fn checking(&self, done: u64, total: u64) {
        if let Shape::Bar(bar) = &self.shape {
            bar.set_style(Self::bar());
            bar.set_length(total.max(1));
            bar.set_position(done);
            bar.set_message(format!("checking the input, {} MB", total / 1_000_000));
        }
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        if let Shape::Bar(bar) = &self.shape {
            bar.finish_and_clear();
        }
    }

    /// Says once that a server is loading its model, and once that it no longer is.
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

/// Columns of the bar itself.
const BAR: usize = 27;

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
                // The check of the input took it away, and what is finished is not drawn.
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
                let width = usize::from(Term::stderr().size().1);
                bar.set_message(line(progress, width.saturating_sub(BAR)));
            }
            Shape::Lines(lines) => {
                let Ok(mut lines) = lines.lock() else { return };
                let now = Instant::now();
                if progress.phase != Phase::Finished && now >= lines.next {
                    lines.next = now + lines.every;
                    say(&line(progress, usize::MAX));
                }
            }
        }
    }
}

/// One line of progress. What is too long is cut at its end, where half a number would pass for a
/// whole one: the tokens are shown only if all fits into so many columns.
pub fn line(progress: &Progress, room: usize) -> String {
    let tokens = progress.input_tokens.saturating_add(progress.output_tokens);
    let whole = line_with(progress, tokens);
    match whole.chars().count() > room {
        true => line_with(progress, 0),
        false => whole,
    }
}

fn line_with(progress: &Progress, tokens: u64) -> String {
    let settled = progress.completed + progress.failed;
    let mut out = match (progress.total, progress.percent) {
        (Some(total), Some(percent)) => {
            format!("{}/{} {percent:.0}%", count(settled), count(total))
        }
        _ => format!("{} done", count(settled)),
    };
    // A batch comes all at once: its pace so far says nothing.
    let paced = progress.at_provider == 0;
    if paced {
        out.push_str(&format!(" · {:.1}/s", progress.rate));
    }
    if let Some(eta) = progress.eta.filter(|_| paced && settled > 0) {
        out.push_str(&format!(" · {} left", span(eta)));
    }
    if progress.failed > 0 {
        out.push_str(&format!(" · {} failed", count(progress.failed)));
    }
    match (progress.at_provider, progress.at_provider_done) {
        (0, _) => {}
        (n, Some(done)) => {
            out.push_str(&format!(" · {} in batches: {} done", count(n), count(done)));
        }
        // Where the provider tells nothing, time is all there is.
        (n, None) => {
            let waited = span(progress.elapsed);
            out.push_str(&format!(" · {} in batches, {waited} so far", count(n)));
        }
    }
    if progress.in_flight > 0 || progress.at_provider == 0 {
        out.push_str(&format!(" · {} in flight", progress.in_flight));
    }
    if progress.retries > 0 {
        out.push_str(&format!(" · {} retries", count(progress.retries)));
    }
    if tokens > 0 {
        out.push_str(&format!(" · {} tokens", count(tokens)));
    }
    if progress.phase == Phase::Stopping {
        out.push_str(" · stopping");
    }
    if let Some(trouble) = &progress.trouble {
        out.push_str(&format!(" · {}", shortened(trouble, 160)));
    }
    out
}

/// A text on one line, cut if it is long.
pub fn shortened(text: &str, most: usize) -> String {
    let mut out: String = text.chars().take(most).map(harmless_char).collect();
    if text.chars().nth(most).is_some() {
        out.push('…');
    }
    out
}

/// A count with its thousands set apart.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// An age in one unit.
pub fn age(time: Duration) -> String {
    match time.as_secs() {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3600 => format!("{}m", s / 60),
        s @ 3600..172_800 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

/// A time in the unit that suits it.
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        0.0 => "0 s".to_owned(),
        s if s < 0.001 => format!("{:.2} ms", s * 1e3),
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{}m {:02}s", (s / 60.0) as u64, s as u64 % 60),
        s if s < 172_800.0 => format!("{}h {:02}m", (s / 3600.0) as u64, (s / 60.0) as u64 % 60),
        s => format!(
            "{}d {:02}h",
            (s / 86_400.0) as u64,
            (s / 3600.0) as u64 % 24
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::sync::Arc;

    use batchwright::{Bulk, Extract, Request};

    use super::*;

    #[test]
    fn foreign_texts_command_no_terminal() {
        let evil = "a\x1b[2Jb\r\nc\u{9b}31md\u{202e}e\u{2066}f\u{feff}ü\t👩\u{200d}🔬";
        let line = one_line(evil);
        assert_eq!(
            line,
            "a [2Jb  c 31md\u{fffd}e\u{fffd}f\u{fffd}ü 👩\u{200d}🔬"
        );
        assert_eq!(harmless(evil), line.replacen("  ", " \n", 1));
        assert_eq!(shortened(evil, 3), "a […");
        let value = serde_json::json!({ "model": evil });
        let written = json(&value);
        assert!(
            !written.chars().any(|c| c.is_control() || is_unseen(c)),
            "{written}"
        );
        let read: serde_json::Value = serde_json::from_str(&written).unwrap();
        assert_eq!(read, value);
        let plain = serde_json::json!({ "model": "qwen:7b", "why": "a \"b\"\n" });
        assert_eq!(json(&plain), plain.to_string());
    }

    #[test]
    fn where_room_is_short_the_tokens_go_and_the_time_left_stays() {
        let progress = Arc::new(Mutex::new(None));
        let seen = progress.clone();
        let notifier = move |now: &Progress| *seen.lock().unwrap() = Some(now.clone());
        Bulk::new(Extract)
            .notifier(Arc::new(notifier))
            .for_each([Request::new("x")], |_| ControlFlow::Continue(()))
            .unwrap();
        let mut progress = progress.lock().unwrap().take().unwrap();
        (progress.rate, progress.eta) = (2.0, Some(Duration::from_secs(90)));
        (progress.input_tokens, progress.output_tokens) = (1_000_000, 234_567);
        let short = "1/1 100% · 2.0/s · 1m 30s left · 0 in flight";
        let whole = format!("{short} · 1,234,567 tokens");
        let most = whole.chars().count();
        for (room, expected) in [(usize::MAX, &*whole), (most, &whole), (most - 1, short)] {
            assert_eq!(line(&progress, room), expected);
        }
    }

    #[test]
    fn counts_and_spans_are_readable() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(span(Duration::from_millis(412)), "412 ms");
        assert_eq!(span(Duration::ZERO), "0 s");
        assert_eq!(span(Duration::from_micros(120)), "0.12 ms");
        assert_eq!(span(Duration::from_secs(61)), "1m 01s");
        assert_eq!(span(Duration::from_secs(7322)), "2h 02m");
        assert_eq!(span(Duration::from_secs(172_799)), "47h 59m");
        assert_eq!(span(Duration::from_secs(29 * 86_400 - 1)), "28d 23h");
    }
}
