//! Batches of `batchwright simulate`: converts flags to the simulator's settings, and its counts to a table.

use batchwright_simulate::{BatchConfig, BatchStats};

use crate::args::simulate_batches::BatchArgs;
use batchwright::unstable::Optional;

/// The configuration of simulated batches according to the flags.
pub fn config(args: &BatchArgs) -> BatchConfig {
    let (expiring, share) = args.batch_expire_first.unwrap_or_default();
    BatchConfig::default()
        .duration(args.batch_duration)
        .validation(args.batch_validation)
        .item_failures(args.batch_failures)
        .missing(args.batch_missing)
        .expire_first(expiring, share)
        .lost_creates(args.batch_lost_creates)
        .late_creates(args.batch_late_creates)
        .listing_lag(args.batch_listing_lag)
        .name_lines(!args.batch_no_lines)
        .reorder(!args.batch_in_order)
        .duplicates(args.batch_duplicates)
        .strangers(args.batch_strangers)
        .cut_downloads(args.batch_cut_downloads)
        .short_downloads(args.batch_short_downloads)
        .set(args.batch_poison.as_ref(), BatchConfig::poison)
        .set(args.batch_enqueued_tokens, BatchConfig::enqueued_tokens)
        .set(args.batch_download_rate, BatchConfig::download_rate)
        .set(args.batch_retention, BatchConfig::retention)
        .set(args.batch_max_requests, BatchConfig::max_requests)
        .set(args.batch_max_bytes, BatchConfig::max_bytes)
}

/// The counts for people; empty if no batch was requested.
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        let config = config(&parse("simulate").unwrap());
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
        let config = config(&parse(line).unwrap());
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
    fn the_table_of_batches_is_printed_only_with_batches() {
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
