//! The flags of `batchwright simulate` that are about batches.

use std::time::Duration;

use clap::Args;

use super::values::seconds;

#[derive(Debug, Args)]
#[command(next_help_heading = "Batches")]
pub struct BatchArgs {
    /// Time that a batch takes
    ///
    /// A bare number is in seconds.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = seconds)]
    pub batch_duration: Duration,

    /// How long of that a batch is validated; a bare number is in seconds
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = seconds, hide_short_help = true)]
    pub batch_validation: Duration,

    /// Share of prompts whose request in a batch fails with status 400
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = rate, hide_short_help = true)]
    pub batch_failures: f64,

    /// Share of prompts whose request in its first batch is in no result
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = rate, hide_short_help = true)]
    pub batch_missing: f64,

    /// The first N batches expire with this share of their requests finished, such as 1=0.5
    /// [default: none]
    #[arg(long, value_name = "N=RATE", value_parser = expiry, hide_short_help = true)]
    pub batch_expire_first: Option<(u64, f64)>,

    /// The first N batches are created, but the replies that tell of it are lost
    #[arg(long, value_name = "N", default_value_t = 0, hide_short_help = true)]
    pub batch_lost_creates: u64,

    /// Batches whose replies are lost are created only this much later; a bare number is in seconds
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = seconds, hide_short_help = true)]
    pub batch_late_creates: Duration,

    /// A new batch is missing from lists for this long; a bare number is in seconds
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = seconds, hide_short_help = true)]
    pub batch_listing_lag: Duration,

    /// A request with this text in its prompt fails the validation of its batch [default: none]
    #[arg(long, value_name = "TEXT", hide_short_help = true)]
    pub batch_poison: Option<String>,

    /// Do not name the line that fails validation
    #[arg(long, hide_short_help = true)]
    pub batch_no_lines: bool,

    /// Prompt tokens in unfinished batches of one model [default: unlimited]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), hide_short_help = true)]
    pub batch_enqueued_tokens: Option<u64>,

    /// Give results in the order of the requests
    #[arg(long, hide_short_help = true)]
    pub batch_in_order: bool,

    /// Lines that each result file has twice
    #[arg(long, value_name = "N", default_value_t = 0, hide_short_help = true)]
    pub batch_duplicates: u64,

    /// Lines with unknown ids in each result file
    #[arg(long, value_name = "N", default_value_t = 0, hide_short_help = true)]
    pub batch_strangers: u64,

    /// The first N downloads of results break off in the middle
    #[arg(long, value_name = "N", default_value_t = 0, hide_short_help = true)]
    pub batch_cut_downloads: u64,

    /// The first N downloads of results, after those cut, end well but lack a third of their lines
    #[arg(long, value_name = "N", default_value_t = 0, hide_short_help = true)]
    pub batch_short_downloads: u64,

    /// Bytes per second of a download of results [default: unlimited]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), hide_short_help = true)]
    pub batch_download_rate: Option<u64>,

    /// Results are gone this long after the end; a bare number is in seconds [default: never]
    #[arg(long, value_name = "TIME", value_parser = seconds, hide_short_help = true)]
    pub batch_retention: Option<Duration>,

    /// Requests that a batch may have [default: what the API allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), hide_short_help = true)]
    pub batch_max_requests: Option<u64>,

    /// Bytes that a batch may have [default: what the API allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), hide_short_help = true)]
    pub batch_max_bytes: Option<u64>,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.0..=1.0).contains(&rate) => Ok(rate),
        _ => Err("write a number from 0 to 1".to_owned()),
    }
}

fn expiry(text: &str) -> Result<(u64, f64), String> {
    let bad = "write it as N=RATE with a rate from 0 to 1, such as 1=0.5";
    let (batches, share) = text.split_once('=').ok_or(bad)?;
    let batches = batches.parse().map_err(|_| bad)?;
    Ok((batches, rate(share).map_err(|_| bad)?))
}
