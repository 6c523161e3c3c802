//! `batchwright simulate`: runs a simulator until a signal stops it. The simulator itself is in a separate crate;
//! this module converts flags to its settings and its counts to a table.

use std::io::{self, Write};

use batchwright_simulate::{BatchConfig, BatchStats, SimConfig, SimStats, Simulator};

use crate::args::simulate::SimulateArgs;
use batchwright::unstable::Optional;

/// Runs a simulator until `wait_for_stop` returns, then prints its counts.
pub fn run(args: &SimulateArgs, wait_for_stop: impl FnOnce()) -> io::Result<()> {
    let sim = Simulator::start(config(args))?;
    let url = sim.base_url();
    writeln!(io::stdout(), "ready {url}")?;
    eprintln!(
        "try: batchwright run prompts.txt -o results.jsonl --base-url {url} --provider local \
         --model sim-1"
    );
    wait_for_stop();
    let (stats, batches) = (sim.stats(), sim.batch_stats());
    drop(sim);
    if args.json {
        let mut all = serde_json::to_value(&stats)?;
        all["batches"] = serde_json::to_value(&batches)?;
        writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&all)?)
    } else {
        let tables = table(&stats) + &batch_table(&batches);
        write!(io::stderr(), "{tables}")
    }
}

fn config(args: &SimulateArgs) -> SimConfig {
    let batches = BatchConfig::default().duration(args.batch_duration);
    let mut config = SimConfig::default()
        .port(args.port)
        .latency(args.latency)
        .seed(args.seed)
        .batches(batches)
        .set(args.vendor, SimConfig::vendor)
        .set(args.rpm, SimConfig::rpm)
        .set(args.tpm, SimConfig::tpm)
        .set(args.burst, SimConfig::burst)
        .set(args.max_parallel, SimConfig::max_parallel);
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
        ("speech calls", stats.speech_calls),
        ("prompts", stats.prompts),
        ("paid", stats.paid),
        ("paid twice", stats.paid_twice),
        ("maybe paid, sent again", stats.maybe_paid_resent),
        ("most at once", stats.max_in_flight),
    ];
    let troubles = stats.by_trouble.iter();
    let troubles = troubles.map(|(name, count)| format!("  {name:<22}{count:>12}\n"));
    lines(&rows) + &troubles.collect::<String>()
}

/// The counts of batches for people; empty if no batch was requested.
fn batch_table(stats: &BatchStats) -> String {
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
    lines(&rows)
}

fn lines(rows: &[(&str, u64)]) -> String {
    let line = |(name, count): &(&str, u64)| format!("{name:<24}{count:>12}\n");
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use batchwright_simulate::{Trouble, Vendor};

    use super::*;
    use crate::args::simulate::parse;

    #[test]
    fn flags_reach_the_simulator() {
        let line = "simulate --port 0 --as groq --latency 5 --rpm 60 --burst 2 --tpm 70 --max-parallel 8 \
            --seed 3 --trouble bad_request=1 --batch-duration 5";
        let wanted = SimConfig::default()
            .vendor(Vendor::Groq)
            .latency(Duration::from_millis(5))
            .rpm(60)
            .burst(2)
            .tpm(70)
            .max_parallel(8)
            .seed(3)
            .trouble(Trouble::BadRequest, 1.0)
            .batches(BatchConfig::default().duration(Duration::from_secs(5)));
        let config = config(&parse(line).unwrap());
        assert_eq!(format!("{config:?}"), format!("{wanted:?}"));
        let error = parse("simulate --as acme").unwrap_err();
        assert!(
            error.contains("known ones: openai, xai, groq, mistral, "),
            "{error}"
        );
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

    #[test]
    fn the_table_of_batches_is_printed_only_with_batches() {
        let mut stats = BatchStats::default();
        assert_eq!(batch_table(&stats), "");
        (stats.creates, stats.bought_twice) = (1, 7);
        let text = batch_table(&stats);
        assert!(
            text.contains("bought twice                       7\n"),
            "{text}"
        );
    }
}
