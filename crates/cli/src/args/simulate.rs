//! The arguments of `batchwright simulate`.

use std::time::Duration;

use batchwright_simulate::{Change, Trouble, UnknownVendor, Vendor};
use clap::{ArgGroup, Args};

use super::shared::MORE;
use super::simulate_batches::BatchArgs;
use super::values::{millis, seconds};

/// Run a simulated provider with configurable errors
///
/// It implements the APIs of OpenAI, Anthropic and Google on this machine, with the latency, limits and
/// errors that you set, and counts the tokens and calls that a real provider would charge for.
///
/// One port serves all APIs. The path selects the API: http://HOST/v1 for OpenAI and compatible
/// providers, http://HOST/openai/v1 for Groq, http://HOST for Anthropic, http://HOST/v1beta for Gemini,
/// each with files and batches. Requests that the real API would reject are rejected.
#[derive(Debug, Args)]
#[command(after_help = MORE, after_long_help = HELP, group = ArgGroup::new("limited").args(["rpm", "model_rpm"]).multiple(true))]
pub struct SimulateArgs {
    /// Port on 127.0.0.1; 0 for a free one
    #[arg(long, default_value_t = 8080)]
    pub port: u16,

    /// Provider to simulate below /v1
    ///
    /// openai, xai, groq, mistral, openrouter, deepseek, together, fireworks, deepinfra, cerebras,
    /// nvidia, azure or local [default: accept the requests of all of them]
    #[arg(long = "as", value_name = "NAME", value_parser = vendor)]
    pub vendor: Option<Vendor>,

    /// Latency of every call
    ///
    /// A bare number is in milliseconds.
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = millis)]
    pub latency: Duration,

    /// Maximum of an additional random latency, uniform from 0; a bare number is in milliseconds
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = millis, hide_short_help = true)]
    pub jitter: Duration,

    /// Limit on requests per minute [default: unlimited]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub rpm: Option<u64>,

    /// Limit on tokens per minute [default: unlimited]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub tpm: Option<u64>,

    /// Separate limit on requests per minute for one model, for example gpt-x=60; repeatable
    #[arg(long, value_name = "NAME=N", value_parser = model_rpm, hide_short_help = true)]
    pub model_rpm: Vec<(String, u64)>,

    /// Number of requests accepted at once after a pause [default: those of 1 minute]
    #[arg(long, value_name = "N", requires = "limited", value_parser = clap::value_parser!(u64).range(1..), hide_short_help = true)]
    pub burst: Option<u64>,

    /// Limit on concurrent calls [default: unlimited]
    ///
    /// Further calls are rejected with status 429.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_parallel: Option<u64>,

    /// Number of tokens accepted at once after a pause [default: those of 1 minute]
    #[arg(long, value_name = "N", requires = "tpm", value_parser = clap::value_parser!(u64).range(1..), hide_short_help = true)]
    pub token_burst: Option<u64>,

    /// Number of concurrent calls processed at full speed [default: all]
    ///
    /// With more calls each takes proportionally longer, so the throughput stays constant.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), hide_short_help = true)]
    pub full_speed: Option<u64>,

    /// Values to change at a time after the start, for example 90s:rpm=600,latency=2s; repeatable, in order
    ///
    /// NAME is rpm, tpm, max-parallel, full-speed or latency.
    #[arg(long, value_name = "TIME:NAME=N,…", hide_short_help = true)]
    pub change: Vec<Change>,

    /// Omit x-ratelimit headers, and Retry-After with status 429
    #[arg(long, hide_short_help = true)]
    pub no_limit_headers: bool,

    /// Share of prompts that fail, such as error_500=0.05
    ///
    /// Repeatable. To list the kinds, give an unknown one.
    #[arg(long, value_name = "KIND=RATE", value_parser = trouble)]
    pub trouble: Vec<(Trouble, f64)>,

    /// Number of tokens of each answer
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub output_tokens: u64,

    /// Number of reasoning tokens of each answer, reported in the format of each API
    #[arg(long, value_name = "N", default_value_t = 0, hide_short_help = true)]
    pub reasoning_tokens: u64,

    /// Number of tokens of each prompt that are reported as cached
    #[arg(long, value_name = "N", default_value_t = 0, hide_short_help = true)]
    pub cached_tokens: u64,

    /// Cache the beginnings of prompts as OpenAI and Anthropic do
    #[arg(long, conflicts_with = "cached_tokens", hide_short_help = true)]
    pub prompt_caches: bool,

    /// Truncate prompts to N tokens without an error, as Ollama does; requires --as local
    /// [default: unlimited]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), hide_short_help = true)]
    pub context: Option<u64>,

    /// Number of slots that GET /props reports, as with llama.cpp [default: the path does not exist]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), hide_short_help = true)]
    pub slots: Option<u64>,

    /// API key to require [default: none]
    ///
    /// Clients send it in the header of their API.
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<String>,

    /// Name of a model; repeatable [default: all]
    #[arg(long, value_name = "NAME")]
    pub model: Vec<String>,

    /// Time for which a stalled call hangs; a bare number is in seconds
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = seconds, hide_short_help = true)]
    pub stall: Duration,

    /// Retry-After of rate_limit and error_503; a bare number is in seconds
    /// [default: 1s and 2s]
    #[arg(long, value_name = "TIME", value_parser = seconds, hide_short_help = true)]
    pub retry_after: Option<Duration>,

    /// Close connections after this time without data; a bare number is in seconds
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = seconds, hide_short_help = true)]
    pub idle_timeout: Duration,

    /// Close a connection without notice after N replies [default: unlimited]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), hide_short_help = true)]
    pub max_requests_per_connection: Option<u64>,

    /// Time after the start with replies 503 "Loading model"; a bare number is in seconds [default: none]
    #[arg(long, value_name = "TIME", value_parser = seconds, hide_short_help = true)]
    pub loading: Option<Duration>,

    /// Seed for the prompts that fail
    ///
    /// The seed and the text of a prompt decide.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// Do not remember prompts: errors never end, and repetitions are not counted
    #[arg(long, hide_short_help = true)]
    pub no_track: bool,

    /// Print the counts, or the error, as JSON
    ///
    /// Without it, a table is printed on standard error.
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub batches: BatchArgs,
}

const HELP: &str = "\
For example:
  batchwright simulate --port 8080 --rpm 600
  batchwright run prompts.jsonl --base-url http://127.0.0.1:8080/v1 --model m";

fn vendor(text: &str) -> Result<Vendor, String> {
    text.parse()
        .map_err(|error: UnknownVendor| error.to_string())
}

fn model_rpm(text: &str) -> Result<(String, u64), String> {
    let bad = "write it as NAME=N with at least 1 request per minute, for example gpt-x=60";
    let (model, rpm) = text.rsplit_once('=').ok_or(bad)?;
    match rpm.parse() {
        Ok(rpm @ 1..) if !model.is_empty() => Ok((model.to_owned(), rpm)),
        _ => Err(bad.to_owned()),
    }
}

fn trouble(text: &str) -> Result<(Trouble, f64), String> {
    let bad = "write it as KIND=RATE with a rate from 0 to 1, for example error_500=0.05";
    let (kind, rate) = text.split_once('=').ok_or(bad)?;
    let kind = kind.parse::<Trouble>().map_err(|error| error.to_string())?;
    match rate.parse::<f64>() {
        Ok(rate) if (0.0..=1.0).contains(&rate) => Ok((kind, rate)),
        _ => Err(bad.to_owned()),
    }
}

/// The arguments of a command line, for tests of their effect.
#[cfg(test)]
pub fn parse(line: &str) -> Result<SimulateArgs, String> {
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: SimulateArgs,
    }

    Line::try_parse_from(line.split_whitespace())
        .map(|line| line.args)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
