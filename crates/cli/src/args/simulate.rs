//! The arguments of `batchwright simulate`.

use std::str::FromStr;
use std::time::Duration;

use batchwright_simulate::{Trouble, Vendor};
use clap::Args;

use super::values::{millis, seconds};

/// Run a simulated provider with configurable errors
///
/// It implements the APIs of OpenAI, Anthropic and Google on this machine, with the latency, limits and
/// errors that you set, and counts the tokens and calls that a real provider would charge for.
///
/// One port serves all APIs. The path selects the API: http://HOST/v1 for OpenAI and compatible
/// providers, http://HOST/openai/v1 for Groq, http://HOST for Anthropic, http://HOST/v1beta for Gemini,
/// each with files and batches. Most requests that the real API would reject are rejected; the values
/// of rare fields are not checked.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct SimulateArgs {
    /// Port; 0 for a free one
    #[arg(long, default_value_t = 8080)]
    pub port: u16,

    /// Provider to simulate below /v1
    ///
    /// openai, xai, groq, mistral, openrouter, deepseek, together, fireworks, deepinfra, cerebras,
    /// nvidia, azure or local [default: accept the requests of all of them]
    #[arg(long = "as", value_name = "NAME", value_parser = Vendor::from_str)]
    pub vendor: Option<Vendor>,

    /// Latency of every call
    ///
    /// A bare number is in milliseconds.
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = millis)]
    pub latency: Duration,

    /// Limit on requests per minute [default: unlimited]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub rpm: Option<u64>,

    /// Limit on tokens per minute [default: unlimited]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub tpm: Option<u64>,

    /// Requests accepted at once [default: --rpm]
    #[arg(long, value_name = "N", requires = "rpm", value_parser = clap::value_parser!(u64).range(1..))]
    pub burst: Option<u64>,

    /// Limit on concurrent calls [default: unlimited]
    ///
    /// Further calls are rejected with status 429.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_parallel: Option<u64>,

    /// Share of prompts that fail
    ///
    /// For example error_500=0.05. Repeatable. To list the kinds, give an unknown one.
    #[arg(long, value_name = "KIND=RATE", value_parser = trouble)]
    pub trouble: Vec<(Trouble, f64)>,

    /// Seed for the prompts that fail
    ///
    /// The seed and the text of a prompt decide.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// Duration of a batch
    ///
    /// A bare number is in seconds.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = seconds)]
    pub batch_duration: Duration,
}

const HELP: &str = "\
For example:
  batchwright simulate --port 8080 --rpm 600
  batchwright run prompts.jsonl --base-url http://127.0.0.1:8080/v1 --model m";

fn trouble(text: &str) -> Result<(Trouble, f64), String> {
    let bad = "write it as KIND=RATE with a rate from 0 to 1, for example error_500=0.05";
    let (kind, rate) = text.split_once('=').ok_or(bad)?;
    let kind = kind.parse::<Trouble>()?;
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
    fn times_and_troubles_are_read_and_bad_ones_explained() {
        let words =
            "simulate --latency 1.5ms --batch-duration 1m --trouble drop=0.1 --trouble quota=1";
        let args = parse(words).unwrap();
        assert_eq!(args.latency, Duration::from_micros(1_500));
        assert_eq!(args.batch_duration, Duration::from_secs(60));
        assert_eq!(args.trouble, [(Trouble::Drop, 0.1), (Trouble::Quota, 1.0)]);
        let forms = "50ms, 2s or 1m";
        for (bad, words) in [
            ("--latency=soon", forms),
            ("--latency=5h", forms),
            ("--latency=-1s", forms),
            ("--latency=1e300", forms),
            ("--latency=nan", forms),
            ("--trouble=drop", "KIND=RATE"),
            ("--trouble=drop=2", "from 0 to 1"),
            ("--trouble=explode=0.1", "broken_json"),
            ("--as=acme", "known ones: openai, xai, groq, mistral, "),
        ] {
            let error = parse(&format!("simulate {bad}")).unwrap_err();
            assert!(error.contains(words), "{bad}: {error}");
        }
    }
}
