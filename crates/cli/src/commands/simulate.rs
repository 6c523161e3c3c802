//! `batchwright simulate`: runs a simulator until a signal stops it. The simulator itself is in a separate crate;
//! this module converts flags to its settings and its counts to a table.

use std::io::{self, Write};

use batchwright_simulate::{SimConfig, SimStats, Simulator};

use super::simulate_batches;
use crate::args::simulate::SimulateArgs;
use batchwright::unstable::Optional;

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
        .prompt_caches(args.prompt_caches)
        .stall(args.stall)
        .idle_timeout(args.idle_timeout)
        .seed(args.seed)
        .track(!args.no_track)
        .batches(simulate_batches::config(&args.batches))
        .set(args.vendor, SimConfig::vendor)
        .set(args.context, SimConfig::context)
        .set(args.slots, SimConfig::slots)
        .set(args.rpm, SimConfig::rpm)
        .set(args.tpm, SimConfig::tpm)
        .set(args.burst, SimConfig::burst)
        .set(args.token_burst, SimConfig::token_burst)
        .set(args.full_speed, SimConfig::full_speed)
        .set(args.max_parallel, SimConfig::max_parallel)
        .set(args.api_key.as_ref(), |config, key| config.api_key(key))
        .set(args.retry_after, SimConfig::retry_after)
        .set(
            args.max_requests_per_connection,
            SimConfig::max_requests_per_connection,
        )
        .set(args.loading, SimConfig::loading);
    for (model, rpm) in &args.model_rpm {
        config = config.model_rpm(model, *rpm);
    }
    for change in &args.change {
        config = config.change(change.clone());
    }
    if !args.model.is_empty() {
        config = config.models(&args.model);
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
        ("speech calls", stats.speech_calls),
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

#[cfg(test)]
mod tests {
    use batchwright_simulate::Trouble;

    use super::*;
    use crate::args::simulate::parse;

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
            error.contains("known ones: openai, xai, groq, mistral, "),
            "{error}"
        );
        let local = "simulate --port 0 --as local --context 9 --slots 2 --reasoning-tokens 3";
        assert!(Simulator::start(config(&parse(local).unwrap())).is_ok());
        let changing = "simulate --port 0 --tpm 9 --token-burst 1 --full-speed 2 --change 5:rpm=3 \
            --change 4:rpm=2";
        let error = Simulator::start(config(&parse(changing).unwrap())).unwrap_err();
        assert!(error.to_string().contains("order"), "{error}");
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
