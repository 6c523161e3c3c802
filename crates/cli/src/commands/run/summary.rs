//! The lines of a run about itself at its end: its summary.

use batchwright::files::RunReport;
use batchwright::plan::Concurrency;
use batchwright::provider::redacted_url;
use batchwright::{ErrorKind, StopReason, Summary, Usd};

use crate::args::run::RunArgs;
use crate::budget::RunBudget;
use crate::command_line::{command_line, command_line_with_budget};
use crate::display;
use crate::exit::Exit;
use crate::format::{count, counts, number_of, span};
use crate::sanitize::shortened;
use crate::stdout;
use crate::strategy::RunStrategy;

/// Causes of failures that have a line each.
const MOST_CAUSES: usize = 10;

/// The options of the calls of a run.
pub struct Setup {
    pub concurrency: Concurrency,
    /// The provider of each step, with its model if it is called for only one.
    pub steps: Vec<(&'static str, Option<String>)>,
    pub strategy: RunStrategy,
    /// Rows of the input that make no prompt, each of them a failure.
    pub bad_rows: u64,
    pub budget: Option<RunBudget>,
}

/// Facts about a run through the queue.
pub struct QueueFacts {
    /// The results of batches.
    pub batches: String,
    /// What remains, and how to continue.
    pub remaining: Vec<String>,
    pub json: Vec<(&'static str, serde_json::Value)>,
    /// The queue still has something of this run.
    pub has_remaining: bool,
    /// Items in batches that have not ended.
    pub in_batches: u64,
    /// Whether a batch on hold needs a decision.
    pub has_held: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            concurrency: Concurrency::Fixed(1),
            steps: Vec::new(),
            strategy: RunStrategy::default(),
            bad_rows: 0,
            budget: None,
        }
    }
}

impl Setup {
    /// Who answered, if not only the first provider. Steps of one provider are counted together, whatever their models.
    fn answered_by(&self, summary: &Summary) -> Option<String> {
        let (first, _) = self.steps.first()?;
        if summary.answered_by.keys().all(|name| name == first) {
            return None;
        }
        let mut parts = Vec::new();
        for (i, (name, model)) in self.steps.iter().enumerate() {
            let place = self.steps.iter().position(|(other, _)| other == name);
            let Some(items) = summary.answered_by.get(*name).filter(|_| place == Some(i)) else {
                continue;
            };
            let again = self.steps[i + 1..].iter().any(|(other, _)| other == name);
            let items = count(*items);
            parts.push(match model.as_deref().filter(|_| !again) {
                Some(model) => format!("{name}/{model} {items}"),
                None => format!("{name} {items}"),
            });
        }
        // Batches of an earlier run may have been at other providers.
        let named = |name: &String| self.steps.iter().any(|(step, _)| step == name);
        let others = summary.answered_by.iter().filter(|(name, _)| !named(name));
        parts.extend(others.map(|(name, items)| format!("{name} {}", count(*items))));
        Some(parts.join(", "))
    }
}

/// The summary for people.
pub fn print(args: &RunArgs, report: &RunReport, setup: &Setup, queue: Option<&QueueFacts>) {
    let summary = &report.summary;
    if let Some(stop) = &report.stop {
        display::say(&stop_line(stop));
    }
    let mut lines = vec![format!(
        "{} items: {} completed{}, {} failed, {} pending",
        count(summary.total),
        count(summary.completed),
        match summary.completed_before {
            0 => String::new(),
            n => format!(" ({} before)", count(n)),
        },
        count(summary.failed),
        count(summary.pending),
    )];
    if let Some(reason) = &setup.strategy.fallback_reason {
        lines.push(row("strategy", reason));
    }
    if let Some(queue) = queue {
        lines.push(row("strategy", setup.strategy.strategy.as_str()));
        lines.push(row("batches", &queue.batches));
    }
    if summary.calls > 0 {
        lines.push(row("calls", &calls(summary)));
    }
    lines.extend(equals_line(summary));
    if summary.calls > 0
        || summary.completed > summary.completed_before + summary.answered_by_equals
    {
        lines.extend(usage_lines(
            summary,
            setup.concurrency,
            args.prompt.dimensions,
        ));
    }
    if let Some(budget) = &setup.budget {
        let has_batches = queue.is_some_and(|queue| queue.in_batches > 0);
        lines.push(row("budget", &budget.line(has_batches)));
    }
    lines.extend(failure_lines(summary));
    lines.extend(what_remains(args, report, setup, queue));
    display::say(&lines.join("\n"));
}

/// Who answered, where the results are, and what to do about the rest.
fn what_remains(
    args: &RunArgs,
    report: &RunReport,
    setup: &Setup,
    queue: Option<&QueueFacts>,
) -> Vec<String> {
    let summary = &report.summary;
    let mut lines: Vec<String> = without_version(args, report).into_iter().collect();
    if let Some(text) = setup.answered_by(summary) {
        lines.push(row("answers by", &text));
    }
    if setup.steps.len() > 1
        && !args.provider.fallback_blocked
        && let Some(n) = summary.errors.get(ErrorKind::Blocked.as_str())
    {
        let n = count(*n);
        lines.push(format!("  {n} blocked: not passed on (--fallback-blocked)"));
    }
    if let Some(path) = &args.output {
        lines.push(row("results", &path.display().to_string()));
    }
    if summary.unusable_replies > 0 {
        let n = count(summary.unusable_replies);
        let text = format!(
            "{n} replies were paid for and cannot be read (in \"error\" of the results); only \
             --ask-again sends their items again"
        );
        lines.push(row("unusable", &text));
    }
    lines.extend(match (&setup.budget, &report.stop) {
        (Some(budget), Some(StopReason::BudgetExceeded(_))) => {
            let in_batches = queue.map_or(0, |queue| queue.in_batches);
            let waiting = summary.pending.saturating_sub(in_batches);
            let remaining = budget.remaining(summary, setup.bad_rows, waiting);
            remaining.and_then(|(cost, enough)| budget_line(args, waiting, cost, &enough))
        }
        _ => resume_line(args, summary, setup),
    });
    if summary.rate_limited > 0 && args.pace.rpm.is_none() && summary.failed > 0 {
        lines.push(
            "  the provider refused calls for their pace; --rpm or -j set a slower one".to_owned(),
        );
    }
    let remaining = queue.iter().flat_map(|queue| &queue.remaining);
    lines.extend(remaining.map(|line| format!("  {line}")));
    let unread = report.stop.is_some() && queue.is_none();
    if unread && stdout::is_named(args.output.as_deref()) {
        // Who closes the pipe wants no more results.
        if !matches!(report.stop, Some(StopReason::SinkClosed)) {
            lines.push("  this run cannot be resumed: the same command sends all items again. With -o FILE, a run can be \
                        resumed".to_owned());
        }
    } else if unread && args.input.is_stream() {
        lines.push("  standard input was not read to its end: pipe it again to go on".to_owned());
    }
    lines
}

/// The command that sends pending or failed items again, if they can be sent again.
fn resume_line(args: &RunArgs, summary: &Summary, setup: &Setup) -> Option<String> {
    let again = summary.failed > summary.unusable_replies && !args.keep_failed;
    if stdout::is_named(args.output.as_deref())
        || args.input.is_stream()
        || (summary.pending == 0 && !again)
    {
        return None;
    }
    let unknown_model = || {
        let errors = &summary.errors;
        errors.contains_key(ErrorKind::UnknownModel.as_str())
    };
    let why = match summary.pending {
        0 if summary.failed <= setup.bad_rows => {
            "once the rows that fail are corrected, to send them"
        }
        0 if unknown_model() => {
            "to try the failed ones again, with another --model than the unknown one"
        }
        0 => "to try the failed ones again",
        _ => "to go on",
    };
    Some(format!("  {why}:\n    {}", command_line()))
}

/// The cost of what a budget left undone, if it can be estimated, and the command that continues.
fn budget_line(args: &RunArgs, waiting: u64, cost: Option<String>, enough: &str) -> Option<String> {
    let items = number_of(waiting, "remaining item", "remaining items");
    let line = cost.map(|cost| format!("  the {items} would cost about {cost}"));
    if stdout::is_named(args.output.as_deref()) || args.input.is_stream() {
        return line;
    }
    let command = command_line_with_budget(enough);
    let why = line.map_or_else(
        || "  to go on, with a budget for the next call".to_owned(),
        |line| format!("{line}; to go on"),
    );
    Some(format!("{why}:\n    {command}"))
}

/// Each cause of failures with its number of items.
fn failure_lines(summary: &Summary) -> Vec<String> {
    let (shown, rest) = summary
        .causes
        .split_at(summary.causes.len().min(MOST_CAUSES));
    let mut lines: Vec<String> = shown
        .iter()
        .map(|cause| {
            let message = shortened(&cause.message, 160);
            format!("{} {}: {message}", count(cause.items), cause.kind)
        })
        .collect();
    if !rest.is_empty() {
        let items = rest.iter().map(|cause| cause.items).sum();
        let causes = rest.len();
        lines.push(format!(
            "{} other, for {causes} causes (all in \"error\" of the results)",
            count(items)
        ));
    }
    let now: u64 = summary.causes.iter().map(|cause| cause.items).sum();
    let before = summary.failed.saturating_sub(now);
    if before > 0 {
        lines.push(format!("{} in earlier runs, not sent again", count(before)));
    }
    lines.iter().map(|text| row("failures", text)).collect()
}

/// A line for an address of an OpenAI-compatible API that lacks `/v1`.
fn without_version(args: &RunArgs, report: &RunReport) -> Option<String> {
    let given = args.provider.base_url.clone();
    let address = given.or_else(|| std::env::var("OPENAI_BASE_URL").ok())?;
    let stop = report.stop.as_ref().map(ToString::to_string);
    let mut messages = report.summary.error_samples.values().chain(&stop);
    let refused = messages.any(|message| message.contains("Invalid URL"));
    (refused && !address.contains("/v1")).then(|| {
        let shown = redacted_url(&address);
        format!("  the address {shown} has no /v1, which such APIs want at its end")
    })
}

fn vectors(summary: &Summary, asked: Option<u32>) -> String {
    let (shortest, longest) = (summary.min_dimensions, summary.dimensions);
    let vectors = count(summary.vectors);
    if shortest < longest {
        let what = "they differ in length, so they cannot be compared";
        return format!("{vectors} of {shortest} to {longest} numbers: {what}");
    }
    match asked {
        Some(asked) if asked as usize != longest => {
            format!("{vectors} of {longest} numbers, although --dimensions {asked} was asked for")
        }
        _ => format!("{vectors} of {longest} numbers"),
    }
}

fn calls(summary: &Summary) -> String {
    let notes = counts([
        (summary.retries, "retries"),
        (summary.moved_on, "failed over"),
        (summary.divided, "to single out refused texts"),
        (summary.extracted, "to extract"),
        (summary.rate_limited, "rate limited"),
        (summary.possibly_paid_twice, "possibly paid twice"),
        (summary.cut_off, "cut off in flight"),
    ]);
    let calls = count(summary.calls);
    if notes.is_empty() {
        calls
    } else {
        format!("{calls} ({})", notes.join(", "))
    }
}

/// Items that were not sent because an equal prompt was, in this run or earlier.
fn equals_line(summary: &Summary) -> Option<String> {
    let equal = summary.answered_by_equals;
    let saved = match summary.calls_saved {
        0 => String::new(),
        n => format!(" ({} saved)", number_of(n, "call", "calls")),
    };
    let ends = counts([
        (equal, "answered by equal prompts"),
        (
            summary.calls_saved.saturating_sub(equal),
            "failed with equal prompts",
        ),
    ]);
    (!ends.is_empty()).then(|| row("equal", &format!("{}{saved}", ends.join(", "))))
}

/// What the provider's prompt cache saved.
fn cache_row(summary: &Summary) -> Option<String> {
    let usage = &summary.usage;
    let saved = summary.cache_saved_usd?;
    let amount = Usd::from_dollars(saved.abs()).unwrap_or_default();
    let what = if saved < 0.0 { "cost" } else { "saved" };
    let read = count(usage.cached_input_tokens);
    let text = match usage.cache_write_tokens {
        0 => format!("{what} {amount}: {read} tokens read"),
        written => format!(
            "{what} {amount}: {read} tokens read, {} written",
            count(written)
        ),
    };
    Some(row("cache", &text))
}

fn usage_lines(summary: &Summary, concurrency: Concurrency, asked: Option<u32>) -> Vec<String> {
    let usage = &summary.usage;
    let cached = match usage.cached_input_tokens {
        0 => String::new(),
        n => format!(" ({} cached)", count(n)),
    };
    let tokens = match (usage.input_tokens, usage.output_tokens) {
        // No call uses zero tokens: the provider did not report them.
        (0, 0) if summary.completed > 0 => "unknown".to_owned(),
        (read, written) => format!("{} in{cached}, {} out", count(read), count(written)),
    };
    let cost = match (summary.cost_usd, summary.unpriced) {
        (Some(usd), 0) => usd.to_string(),
        (Some(usd), unknown) => {
            let items = number_of(unknown, "item", "items");
            format!("{usd}, and {items} without a known price")
        }
        (None, _) => "unknown".to_owned(),
    };
    let mut lines = vec![row("tokens", &tokens), row("cost", &cost)];
    lines.extend(cache_row(summary));
    let [p50, p95, p99] = [
        summary.latency_p50,
        summary.latency_p95,
        summary.latency_p99,
    ];
    if let (Some(p50), Some(p95), Some(p99)) = (p50, p95, p99) {
        let text = format!("p50 {}, p95 {}, p99 {}", span(p50), span(p95), span(p99));
        lines.push(row("latency", &text));
    }
    let answers = |number, name, what: &str| {
        (number > 0).then(|| row(name, &format!("{} answers {what}", count(number))))
    };
    let extracts = "are the beginning of their text, by extract";
    lines.extend(answers(summary.extracted, "extracts", extracts));
    if summary.vectors > 0 {
        lines.push(row("vectors", &vectors(summary, asked)));
    }
    if summary.completed == summary.completed_before {
        return lines;
    }
    // Providers do not report what limits their batches.
    let limited = match summary.latency_p50 {
        Some(_) => format!(", limited by {}", limit(summary, concurrency)),
        None => String::new(),
    };
    let (rate, busy) = (summary.rate, span(summary.busy));
    lines.push(row(
        "rate",
        &format!("{rate:.1} items/s over {busy}{limited}"),
    ));
    let truncated = "were cut at the token limit";
    lines.extend(answers(summary.truncated, "truncated", truncated));
    let warnings = "have a warning (see \"warning\" in the results)";
    lines.extend(answers(summary.warnings, "warnings", warnings));
    lines
}

/// What limited a run, for people.
fn limit(summary: &Summary, concurrency: Concurrency) -> String {
    let most = summary.most_in_flight;
    match (summary.limited_by(), concurrency) {
        ("concurrency", Concurrency::Auto { start, .. }) if start < most => {
            format!("concurrency (found: {start} to {most} in flight)")
        }
        ("concurrency", Concurrency::Auto { .. }) => {
            format!("concurrency (found: {most} in flight)")
        }
        ("concurrency", fixed) => format!("concurrency ({} in flight)", fixed.most()),
        ("provider", _) => "the time that answers take".to_owned(),
        ("quota", _) => "requests or tokens per minute".to_owned(),
        ("cooldown", _) => "pauses after refusals".to_owned(),
        ("backoff", _) => "waiting for retries".to_owned(),
        ("source", _) => "the input".to_owned(),
        ("disk", _) => "the output".to_owned(),
        (other, _) => other.to_owned(),
    }
}

fn row(name: &str, text: &str) -> String {
    format!("  {name:<10} {text}")
}

pub const INTERRUPTED: &str = "interrupted; what finished is saved";

fn stop_line(stop: &StopReason) -> String {
    match stop {
        StopReason::Cancelled => INTERRUPTED.to_owned(),
        StopReason::SinkClosed => "the reader of the results went away".to_owned(),
        other => format!("stopped: {other}"),
    }
}

/// Prints the summary for programs. Returns `exit`, or an error where it could not be printed.
pub fn print_json(
    args: &RunArgs,
    report: &RunReport,
    setup: &Setup,
    exit: Exit,
    queue: Option<&QueueFacts>,
) -> Exit {
    let mut value = serde_json::json!({
        "summary": report.summary,
        "limited_by": report.summary.limited_by(),
        "stopped": report.stop.as_ref().map(ToString::to_string),
        "output": args.output.as_ref().map(|path| path.to_string_lossy()),
        "exit_code": exit.code(),
        "budget": setup.budget.as_ref().map(RunBudget::json),
        "strategy": setup.strategy.strategy.as_str(),
        "fallback_reason": setup.strategy.fallback_reason,
    });
    for (name, fact) in queue.iter().flat_map(|queue| &queue.json) {
        value[name] = fact.clone();
    }
    stdout::json(&value, exit)
}
