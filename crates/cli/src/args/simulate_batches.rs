//! The flags of `batchwright simulate` that are about batches.

use std::time::Duration;

use batchwright_simulate::{BatchConfig, BatchStats};
use clap::Args;

use crate::args::values::seconds;

#[derive(Debug, Args)]
#[command(next_help_heading = "Batches")]
pub struct BatchArgs {
    /// Time that a batch takes
    ///
    /// A bare number is in seconds.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = seconds)]
    batch_duration: Duration,

    /// How long of that a batch is validated; a bare number is in seconds
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = seconds, hide_short_help = true)]
    batch_validation: Duration,

    /// Share of prompts whose request in a batch fails with status 400
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = rate, hide_short_help = true)]
    batch_failures: f64,

    /// Share of prompts whose request in its first batch is in no result
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = rate, hide_short_help = true)]
    batch_missing: f64,

    /// The first N batches expire with this share of their requests finished, such as 1=0.5
    /// [default: none]
    #[arg(long, value_name = "N=RATE", value_parser = expiry, hide_short_help = true)]
    batch_expire_first: Option<(u64, f64)>,

    /// The first N batches are created, but the replies that tell of it are lost
    #[arg(long, value_name = "N", default_value_t = 0, hide_short_help = true)]
    batch_lost_creates: u64,

    /// Batches whose replies are lost are created only this much later; a bare number is in seconds
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = seconds, hide_short_help = true)]
    batch_late_creates: Duration,

    /// A new batch is missing from lists for this long; a bare number is in seconds
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = seconds, hide_short_help = true)]
    batch_listing_lag: Duration,

    /// A request with this text in its prompt fails the validation of its batch [default: none]
    #[arg(long, value_name = "TEXT", hide_short_help = true)]
    batch_poison: Option<String>,

    /// Do not name the line that fails validation
    #[arg(long, hide_short_help = true)]
    batch_no_lines: bool,

    /// Prompt tokens in unfinished batches of one model [default: unlimited]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), hide_short_help = true)]
    batch_enqueued_tokens: Option<u64>,

    /// Give results in the order of the requests
    #[arg(long, hide_short_help = true)]
    batch_in_order: bool,

    /// Lines that each result file has twice
    #[arg(long, value_name = "N", default_value_t = 0, hide_short_help = true)]
    batch_duplicates: u64,

    /// Lines with unknown ids in each result file
    #[arg(long, value_name = "N", default_value_t = 0, hide_short_help = true)]
    batch_strangers: u64,

    /// The first N downloads of results break off in the middle
    #[arg(long, value_name = "N", default_value_t = 0, hide_short_help = true)]
    batch_cut_downloads: u64,

    /// The first N downloads of results, after those cut, end well but lack a third of their lines
    #[arg(long, value_name = "N", default_value_t = 0, hide_short_help = true)]
    batch_short_downloads: u64,

    /// Bytes per second of a download of results [default: unlimited]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), hide_short_help = true)]
    batch_download_rate: Option<u64>,

    /// Results are gone this long after the end; a bare number is in seconds [default: never]
    #[arg(long, value_name = "TIME", value_parser = seconds, hide_short_help = true)]
    batch_retention: Option<Duration>,

    /// Requests that a batch may have [default: what the API allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), hide_short_help = true)]
    batch_max_requests: Option<u64>,

    /// Bytes that a batch may have [default: what the API allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), hide_short_help = true)]
    batch_max_bytes: Option<u64>,
}

impl BatchArgs {
    pub fn config(&self) -> BatchConfig {
        let (expiring, share) = self.batch_expire_first.unwrap_or_default();
        let mut config = BatchConfig::default()
            .duration(self.batch_duration)
            .validation(self.batch_validation)
            .item_failures(self.batch_failures)
            .missing(self.batch_missing)
            .expire_first(expiring, share)
            .lost_creates(self.batch_lost_creates)
            .late_creates(self.batch_late_creates)
            .listing_lag(self.batch_listing_lag)
            .name_lines(!self.batch_no_lines)
            .reorder(!self.batch_in_order)
            .duplicates(self.batch_duplicates)
            .strangers(self.batch_strangers)
            .cut_downloads(self.batch_cut_downloads)
            .short_downloads(self.batch_short_downloads);
        if let Some(text) = &self.batch_poison {
            config = config.poison(text);
        }
        if let Some(tokens) = self.batch_enqueued_tokens {
            config = config.enqueued_tokens(tokens);
        }
        if let Some(bytes) = self.batch_download_rate {
            config = config.download_rate(bytes);
        }
        if let Some(retention) = self.batch_retention {
            config = config.retention(retention);
        }
        if let Some(requests) = self.batch_max_requests {
            config = config.max_requests(requests);
        }
        if let Some(bytes) = self.batch_max_bytes {
            config = config.max_bytes(bytes);
        }
        config
    }
}

/// The counts for people; nothing if nobody came for a batch.
pub fn table(stats: &BatchStats) -> String {
    if stats.creates == 0 && stats.files_uploaded == 0 {
        return String::new();
    }
    let rows = [
        ("files uploaded", stats.files_uploaded),
        ("files left", stats.files_left),
        ("batches created", stats.created),
        ("batches started", stats.started),
        ("batches failed", stats.failed),
        ("batches expired", stats.expired),
        ("batches cancelled", stats.cancelled),
        ("batches ended", stats.ended),
        ("requests in batches", stats.items_accepted),
        ("requests finished", stats.items_finished),
        ("bought twice", stats.bought_twice),
        ("downloads of results", stats.downloads),
    ];
    let line = |(name, count)| format!("{name:<24}{count:>12}\n");
    rows.into_iter().map(line).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: BatchArgs,
    }

    fn parse(line: &str) -> Result<BatchArgs, String> {
        Line::try_parse_from(line.split_whitespace())
            .map(|line| line.args)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn without_flags_batches_are_as_by_default() {
        let config = parse("simulate").unwrap().config();
        assert_eq!(
            format!("{config:?}"),
            format!("{:?}", BatchConfig::default())
        );
    }

    #[test]
    fn every_flag_reaches_the_settings() {
        let line = "simulate --batch-duration 5 --batch-validation 1 --batch-failures 0.1 \
            --batch-missing 0.2 --batch-expire-first 2=0.5 --batch-lost-creates 1 \
            --batch-late-creates 3 --batch-listing-lag 4 --batch-poison bad --batch-no-lines \
            --batch-enqueued-tokens 9 --batch-in-order --batch-duplicates 2 --batch-strangers 3 \
            --batch-cut-downloads 4 --batch-short-downloads 5 --batch-download-rate 6 \
            --batch-retention 7 --batch-max-requests 8 --batch-max-bytes 10";
        let wanted = BatchConfig::default()
            .duration(Duration::from_secs(5))
            .validation(Duration::from_secs(1))
            .item_failures(0.1)
            .missing(0.2)
            .expire_first(2, 0.5)
            .lost_creates(1)
            .late_creates(Duration::from_secs(3))
            .listing_lag(Duration::from_secs(4))
            .poison("bad")
            .name_lines(false)
            .enqueued_tokens(9)
            .reorder(false)
            .duplicates(2)
            .strangers(3)
            .cut_downloads(4)
            .short_downloads(5)
            .download_rate(6)
            .retention(Duration::from_secs(7))
            .max_requests(8)
            .max_bytes(10);
        let config = parse(line).unwrap().config();
        assert_eq!(format!("{config:?}"), format!("{wanted:?}"));
    }

    #[test]
    fn bad_rates_are_explained() {
        for bad in [
            "--batch-failures 2",
            "--batch-expire-first 1",
            "--batch-missing x",
        ] {
            let error = parse(&format!("simulate {bad}")).unwrap_err();
            assert!(error.contains("from 0 to 1"), "{bad}: {error}");
        }
    }

    #[test]
    fn the_table_is_for_those_who_had_batches() {
        let mut stats = BatchStats::default();
        assert_eq!(table(&stats), "");
        (stats.creates, stats.bought_twice) = (1, 7);
        let text = table(&stats);
        assert!(
            text.contains("bought twice                       7\n"),
            "{text}"
        );
    }
}
