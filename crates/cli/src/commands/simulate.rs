//! `batchwright simulate`: the arguments, and running a simulator until told to stop. What the
//! simulator does is the library's business; here its knobs become flags and its counts a table.

use std::io::{self, Write};
use std::time::Duration;

use batchwright_simulate::{SimConfig, SimStats, Simulator, Trouble, UnknownVendor, Vendor};
use clap::{ArgGroup, Args};

use crate::args::MORE;
use crate::args::simulate_batches::{self, BatchArgs};
use crate::args::values::{millis, seconds};

/// Run a simulated provider on this machine, with trouble as wanted
///
/// It speaks the protocols of OpenAI, Anthropic and Google, with latency, limits and trouble as
/// wanted, and counts what a real one would have charged for.
///
/// One port serves them all, told apart by the path: http://HOST/v1 for OpenAI and those like it,
/// http://HOST/openai/v1 for Groq, http://HOST for Anthropic, http://HOST/v1beta for Gemini; files and
/// batches with them. What the real API would refuse is refused here too.
#[derive(Debug, Args)]
#[command(after_help = MORE, after_long_help = HELP, group = ArgGroup::new("limited").args(["rpm", "model_rpm"]).multiple(true))]
pub struct SimulateArgs {
    /// Port on 127.0.0.1; 0 takes any
    #[arg(long, default_value_t = 8080)]
    port: u16,

    /// Whose dialect to speak below /v1
    ///
    /// openai, xai, groq, mistral or local [default: take what any of them takes]
    #[arg(long = "as", value_name = "NAME", value_parser = vendor)]
    vendor: Option<Vendor>,

    /// Time that every call takes
    ///
    /// A bare number is in milliseconds.
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = millis)]
    latency: Duration,

    /// Extra latency, uniform from zero up to this; a bare number is in milliseconds
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = millis, hide_short_help = true)]
    jitter: Duration,

    /// Requests let in per minute [default: unlimited]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rpm: Option<u64>,

    /// Tokens let in per minute [default: unlimited]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    tpm: Option<u64>,

    /// Requests per minute of one model, which then has a limit of its own, such as gpt-x=60;
    /// repeatable
    #[arg(long, value_name = "NAME=N", value_parser = model_rpm, hide_short_help = true)]
    model_rpm: Vec<(String, u64)>,

    /// Requests let in at once after a pause [default: one minute's worth]
    #[arg(long, value_name = "N", requires = "limited", value_parser = clap::value_parser!(u64).range(1..), hide_short_help = true)]
    burst: Option<u64>,

    /// Calls answered at once [default: unlimited]
    ///
    /// One more gets status 429.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_parallel: Option<u64>,

    /// Send no x-ratelimit headers and no Retry-After with status 429
    #[arg(long, hide_short_help = true)]
    no_limit_headers: bool,

    /// Share of prompts in trouble, as error_500=0.05
    ///
    /// Repeatable; an unknown kind lists the known ones.
    #[arg(long, value_name = "KIND=RATE", value_parser = trouble)]
    trouble: Vec<(Trouble, f64)>,

    /// Completion tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 16)]
    output_tokens: u64,

    /// Tokens of reasoning before each answer, told the way each API tells it
    #[arg(long, value_name = "N", default_value_t = 0, hide_short_help = true)]
    reasoning_tokens: u64,

    /// Tokens of each prompt, if it has that many, that are told to have come from a cache
    #[arg(long, value_name = "N", default_value_t = 0, hide_short_help = true)]
    cached_tokens: u64,

    /// Cut prompts without a word after this many tokens, as Ollama does; with --as local
    /// [default: unlimited]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), hide_short_help = true)]
    context: Option<u64>,

    /// Slots that GET /props tells, as llama.cpp does [default: no such path]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), hide_short_help = true)]
    slots: Option<u64>,

    /// Key to ask for [default: none]
    ///
    /// In the header that each API has for it.
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,

    /// Model that exists, repeatable [default: all]
    #[arg(long, value_name = "NAME")]
    model: Vec<String>,

    /// How long a stalled call hangs; a bare number is in seconds
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = seconds, hide_short_help = true)]
    stall: Duration,

    /// What rate_limit and error_503 ask the client to wait; a bare number is in seconds
    /// [default: 1s and 2s]
    #[arg(long, value_name = "TIME", value_parser = seconds, hide_short_help = true)]
    retry_after: Option<Duration>,

    /// Close connections on which nothing arrives for this long; a bare number is in seconds
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = seconds, hide_short_help = true)]
    idle_timeout: Duration,

    /// Close a connection, unannounced, after this many replies [default: unlimited]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), hide_short_help = true)]
    max_requests_per_connection: Option<u64>,

    /// Answer 503 "Loading model" for this long; a bare number is in seconds [default: none]
    #[arg(long, value_name = "TIME", value_parser = seconds, hide_short_help = true)]
    loading: Option<Duration>,

    /// Which prompts meet trouble
    ///
    /// It decides that with the text of the prompt.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Do not remember prompts: trouble never ends, and nothing is known of repetitions
    #[arg(long, hide_short_help = true)]
    no_track: bool,

    /// Print the counts, or the error, as JSON
    ///
    /// On standard output, instead of as a table on standard error.
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    batches: BatchArgs,
}

/// Runs a simulator until `wait_for_stop` returns, then prints its counts.
pub fn run(args: &SimulateArgs, wait_for_stop: impl FnOnce()) -> io::Result<()> {
    let sim = Simulator::start(config(args))?;
    let url = sim.base_url();
    writeln!(io::stdout(), "ready {url}")?;
    let model = args.model.first().map_or("sim-1", String::as_str);
    eprintln!(
        "try: batchwright run prompts.txt -o results.jsonl --base-url {url} --provider local \
         --model {model}"
    );
    wait_for_stop();
    let (stats, batches) = (sim.stats(), sim.batch_stats());
    drop(sim);
    if args.json {
        let mut all = serde_json::to_value(&stats)?;
        all["batches"] = serde_json::to_value(&batches)?;
        writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&all)?)
    } else {
        let tables = table(&stats) + &simulate_batches::table(&batches);
        write!(io::stderr(), "{tables}")
    }
}

fn config(args: &SimulateArgs) -> SimConfig {
    let mut config = SimConfig::default()
        .port(args.port)
        .latency(args.latency)
        .jitter(args.jitter)
        .tell_limits(!args.no_limit_headers)
        .retry_after_header(!args.no_limit_headers)
        .output_tokens(args.output_tokens)
        .reasoning_tokens(args.reasoning_tokens)
        .cached_tokens(args.cached_tokens)
        .stall(args.stall)
        .idle_timeout(args.idle_timeout)
        .seed(args.seed)
        .track(!args.no_track)
        .batches(args.batches.config());
    if let Some(vendor) = args.vendor {
        config = config.vendor(vendor);
    }
    if let Some(context) = args.context {
        config = config.context(context);
    }
    if let Some(slots) = args.slots {
        config = config.slots(slots);
    }
    if let Some(rpm) = args.rpm {
        config = config.rpm(rpm);
    }
    for (model, rpm) in &args.model_rpm {
        config = config.model_rpm(model, *rpm);
    }
    if let Some(tpm) = args.tpm {
        config = config.tpm(tpm);
    }
    if let Some(burst) = args.burst {
        config = config.burst(burst);
    }
    if let Some(calls) = args.max_parallel {
        config = config.max_parallel(calls);
    }
    if let Some(key) = &args.api_key {
        config = config.api_key(key);
    }
    if !args.model.is_empty() {
        config = config.models(&args.model);
    }
    if let Some(wait) = args.retry_after {
        config = config.retry_after(wait);
    }
    if let Some(most) = args.max_requests_per_connection {
        config = config.max_requests_per_connection(most);
    }
    if let Some(loading) = args.loading {
        config = config.loading(loading);
    }
    for (kind, rate) in &args.trouble {
        config = config.trouble(*kind, *rate);
    }
    config
}

fn table(stats: &SimStats) -> String {
    let rows = [
        ("connections", stats.connections),
        ("calls", stats.calls),
        ("accepted", stats.accepted),
        ("refused (429)", stats.refused),
        ("malformed", stats.malformed),
        ("answered", stats.answered),
        ("embedding calls", stats.embedding_calls),
        ("inputs embedded", stats.embedded),
        ("prompts", stats.prompts),
        ("paid", stats.paid),
        ("paid twice", stats.paid_twice),
        ("maybe paid, sent again", stats.maybe_paid_resent),
        ("most at once", stats.max_in_flight),
    ];
    let troubles = stats.by_trouble.iter();
    rows.into_iter()
        .map(|(name, count)| format!("{name:<24}{count:>12}\n"))
        .chain(troubles.map(|(name, count)| format!("  {name:<22}{count:>12}\n")))
        .collect()
}

fn vendor(text: &str) -> Result<Vendor, String> {
    text.parse()
        .map_err(|error: UnknownVendor| error.to_string())
}

fn model_rpm(text: &str) -> Result<(String, u64), String> {
    let bad = "write it as NAME=N with requests per minute of at least 1, such as gpt-x=60";
    let (model, rpm) = text.rsplit_once('=').ok_or(bad)?;
    match rpm.parse() {
        Ok(rpm @ 1..) if !model.is_empty() => Ok((model.to_owned(), rpm)),
        _ => Err(bad.to_owned()),
    }
}

fn trouble(text: &str) -> Result<(Trouble, f64), String> {
    let bad = "write a trouble as KIND=RATE with a rate from 0 to 1, such as error_500=0.05";
    let (kind, rate) = text.split_once('=').ok_or(bad)?;
    let kind = kind.parse::<Trouble>().map_err(|error| error.to_string())?;
    match rate.parse::<f64>() {
        Ok(rate) if (0.0..=1.0).contains(&rate) => Ok((kind, rate)),
        _ => Err(bad.to_owned()),
    }
}

const HELP: &str = "\
For example:
  batchwright simulate --port 8080 --rpm 600
  batchwright run prompts.jsonl --base-url http://127.0.0.1:8080/v1 --model m";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: SimulateArgs,
    }

    fn parse(line: &str) -> Result<SimulateArgs, String> {
        Line::try_parse_from(line.split_whitespace())
            .map(|line| line.args)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn times_are_read_with_and_without_a_unit() {
        let args = parse("simulate --latency 50 --jitter 1.5ms --stall 2 --loading 1m").unwrap();
        assert_eq!(args.latency, Duration::from_millis(50));
        assert_eq!(args.jitter, Duration::from_micros(1_500));
        assert_eq!(args.stall, Duration::from_secs(2));
        assert_eq!(args.loading, Some(Duration::from_secs(60)));
    }

    #[test]
    fn a_bad_time_names_the_forms_that_are_accepted() {
        for bad in ["soon", "5h", "-1s", "ms", "1e300", "nan"] {
            let error = parse(&format!("simulate --latency={bad}")).unwrap_err();
            assert!(error.contains("50ms, 2s or 1m"), "{bad}: {error}");
        }
    }

    #[test]
    fn trouble_is_read_and_bad_trouble_explained() {
        let args = parse("simulate --trouble drop=0.1 --trouble quota=1").unwrap();
        assert_eq!(args.trouble, [(Trouble::Drop, 0.1), (Trouble::Quota, 1.0)]);
        for (bad, words) in [
            ("drop", "KIND=RATE"),
            ("drop=2", "from 0 to 1"),
            ("explode=0.1", "broken_json"),
        ] {
            let error = parse(&format!("simulate --trouble {bad}")).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn flags_reach_the_simulator() {
        let line = "simulate --port 0 --rpm 60 --burst 2 --trouble bad_request=1 --model a --json";
        let sim = Simulator::start(config(&parse(line).unwrap())).unwrap();
        assert_eq!(sim.config().plan("x"), Some(Trouble::BadRequest));
        assert!(parse("simulate --burst 2").is_err());
        let own = parse("simulate --port 0 --burst 2 --model-rpm a=b=3").unwrap();
        assert_eq!(own.model_rpm, [("a=b".to_owned(), 3)]);
        assert!(parse("simulate --model-rpm a=0").is_err());
        let error = parse("simulate --as acme").unwrap_err();
        assert!(
            error.contains("openai, xai, groq, mistral, local"),
            "{error}"
        );
        let local = "simulate --port 0 --as local --context 9 --slots 2 --reasoning-tokens 3";
        assert!(Simulator::start(config(&parse(local).unwrap())).is_ok());
        let bare = parse("simulate --port 0 --context 9").unwrap();
        assert!(Simulator::start(config(&bare)).is_err());
    }

    #[test]
    fn the_table_shows_counts_and_troubles() {
        let mut stats = SimStats::default();
        stats.paid_twice = 7;
        stats.malformed = 2;
        stats.by_trouble.insert("drop".to_owned(), 3);
        let text = table(&stats);
        assert!(
            text.contains("paid twice                         7\n"),
            "{text}"
        );
        assert!(
            text.contains("malformed                          2\n"),
            "{text}"
        );
        assert!(
            text.contains("  drop                             3\n"),
            "{text}"
        );
    }
}
