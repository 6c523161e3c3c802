//! The flags of `batchwright simulate` for batches.

use std::time::Duration;

use clap::Args;

use super::values::seconds;

#[derive(Debug, Args)]
#[command(next_help_heading = "Batches")]
pub struct BatchArgs {
    /// Duration of a batch
    ///
    /// A bare number is in seconds.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = seconds)]
    pub batch_duration: Duration,

    /// Part of this duration in which the batch is validated; a bare number is in seconds
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = seconds, hide_short_help = true)]
    pub batch_validation: Duration,

    /// Share of prompts that fail with status 400 in a batch
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = rate, hide_short_help = true)]
    pub batch_failures: f64,

    /// Share of prompts that have no result in their first batch
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = rate, hide_short_help = true)]
    pub batch_missing: f64,

    /// Number of first batches that expire, and the share of their requests that finish, for example 1=0.5
    /// [default: none]
    #[arg(long, value_name = "N=RATE", value_parser = expiry, hide_short_help = true)]
    pub batch_expire_first: Option<(u64, f64)>,

    /// Number of first batches that are created without a reply
    #[arg(long, value_name = "N", default_value_t = 0, hide_short_help = true)]
    pub batch_lost_creates: u64,

    /// Delay of the creation of batches without a reply; a bare number is in seconds
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = seconds, hide_short_help = true)]
    pub batch_late_creates: Duration,

    /// Time for which lists omit a new batch; a bare number is in seconds
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = seconds, hide_short_help = true)]
    pub batch_listing_lag: Duration,

    /// Text in a prompt that makes the validation of its batch fail [default: none]
    #[arg(long, value_name = "TEXT", hide_short_help = true)]
    pub batch_poison: Option<String>,

    /// Do not report the line that fails validation
    #[arg(long, hide_short_help = true)]
    pub batch_no_lines: bool,

    /// Limit on prompt tokens in unfinished batches of one model [default: unlimited]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), hide_short_help = true)]
    pub batch_enqueued_tokens: Option<u64>,

    /// Write results in the order of the requests
    #[arg(long, hide_short_help = true)]
    pub batch_in_order: bool,

    /// Number of repeated lines in each result file
    #[arg(long, value_name = "N", default_value_t = 0, hide_short_help = true)]
    pub batch_duplicates: u64,

    /// Number of lines with unknown ids in each result file
    #[arg(long, value_name = "N", default_value_t = 0, hide_short_help = true)]
    pub batch_strangers: u64,

    /// Number of first downloads of results that stop in the middle
    #[arg(long, value_name = "N", default_value_t = 0, hide_short_help = true)]
    pub batch_cut_downloads: u64,

    /// Number of next downloads that succeed but lack 1/3 of their lines
    #[arg(long, value_name = "N", default_value_t = 0, hide_short_help = true)]
    pub batch_short_downloads: u64,

    /// Limit on bytes per second of a download of results [default: unlimited]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), hide_short_help = true)]
    pub batch_download_rate: Option<u64>,

    /// Time after the end at which results are deleted; a bare number is in seconds [default: never]
    #[arg(long, value_name = "TIME", value_parser = seconds, hide_short_help = true)]
    pub batch_retention: Option<Duration>,

    /// Limit on the requests of a batch [default: that of the API]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), hide_short_help = true)]
    pub batch_max_requests: Option<u64>,

    /// Limit on the bytes of a batch [default: that of the API]
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
    let bad = "write it as N=RATE with a rate from 0 to 1, for example 1=0.5";
    let (batches, share) = text.split_once('=').ok_or(bad)?;
    let batches = batches.parse().map_err(|_| bad)?;
    Ok((batches, rate(share).map_err(|_| bad)?))
}
