//! `batchwright simulate`: runs a simulator until a signal stops it. The simulator itself is in a separate crate;
//! this module converts flags to its settings and its counts to a table.

use std::io::{self, Write};

use batchwright_simulate::{BatchConfig, SimConfig, Simulator};
use serde_json::Value;

use crate::args::simulate::SimulateArgs;
use crate::exit::Exit;
use crate::stderr::is_json;
use batchwright::unstable::Optional;

/// Runs a simulator until `wait_for_stop` returns, then prints its counts.
pub fn execute(args: &SimulateArgs, wait_for_stop: impl FnOnce()) -> io::Result<Exit> {
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
    let mut all = serde_json::to_value(&stats)?;
    if is_json() {
        all["batches"] = serde_json::to_value(&batches)?;
        writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&all)?)?;
        return Ok(Exit::Success);
    }
    let mut lines = lines(&all);
    if batches.creates > 0 || batches.files_uploaded > 0 {
        lines.push_str("batches:\n");
        lines.push_str(&self::lines(&serde_json::to_value(&batches)?));
    }
    write!(io::stderr(), "{lines}")?;
    Ok(Exit::Success)
}

/// The counts for people, those of troubles too.
fn lines(counts: &Value) -> String {
    let mut out = String::new();
    for (name, count) in counts.as_object().into_iter().flatten() {
        match count {
            Value::Number(count) => {
                let name = name.replace('_', " ");
                let count = count.to_string();
                out.push_str(&format!("{name:<28}{count:>12}\n"));
            }
            Value::Object(_) => out.push_str(&lines(count)),
            _ => {}
        }
    }
    out
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use batchwright_simulate::{SimStats, Trouble, Vendor};

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
    }

    #[test]
    fn the_counts_are_shown_with_troubles() {
        let mut stats = SimStats::default();
        stats.paid_twice = 7;
        stats.by_trouble.insert("drop".to_owned(), 3);
        let text = lines(&serde_json::to_value(&stats).unwrap());
        for (name, count) in [("paid twice", 7), ("drop", 3)] {
            assert!(text.contains(&format!("{name:<28}{count:>12}\n")), "{text}");
        }
    }
}
