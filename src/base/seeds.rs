//! Number of random cases that the tests try.

use std::panic::RefUnwindSafe;

use rayon::iter::{IntoParallelIterator, ParallelIterator};

/// The number in `SIMULATION_SEEDS`, if it is set. CI sets it to try more cases than a plain `cargo test`.
pub(crate) fn seeds() -> Option<u64> {
    number("SIMULATION_SEEDS")
}

/// The only case to try, if `SIMULATION_SEED` is set: the case that failed.
fn replayed_seed() -> Option<u64> {
    number("SIMULATION_SEED")
}

/// `few` random cases, or `many` if `SIMULATION_SEEDS` is set.
pub(crate) fn random_cases(few: usize, many: usize) -> usize {
    seeds().map_or(few, |_| many)
}

/// Runs a test for each seed below `count` on all cores, or only for the one to replay. Prints the seed that failed; a replay also logs
/// what `RUST_LOG` selects.
pub(crate) fn each_seed(count: u64, run: impl Fn(u64) + RefUnwindSafe + Sync) {
    let replayed = replayed_seed();
    if replayed.is_some() {
        let _ = env_logger::try_init();
    }
    let seeds = replayed.map_or(0..count, |seed| seed..seed + 1);
    seeds.into_par_iter().for_each(|seed| {
        let outcome = std::panic::catch_unwind(|| run(seed));
        if let Err(panic) = outcome {
            eprintln!("replay with SIMULATION_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    });
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
