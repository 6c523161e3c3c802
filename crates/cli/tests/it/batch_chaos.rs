//! Workers that are killed repeatedly at moments that a seed determines, with faults that it also determines.
//! `BATCH_SEED=n cargo test --test it batch_chaos` replays one run, unless timing differs.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use batchwright_simulate::{BatchConfig, BatchPoint, SimConfig};

use super::batch_site::{ALL, Dialect, Site};
use super::common::{Random, Running, each};

const POINTS: [BatchPoint; 9] = [
    BatchPoint::UploadArrived,
    BatchPoint::UploadDone,
    BatchPoint::CreateArrived,
    BatchPoint::CreateDone,
    BatchPoint::StatusArrived,
    BatchPoint::ListArrived,
    BatchPoint::DownloadHalf,
    BatchPoint::DeleteArrived,
    BatchPoint::DeleteDone,
];

fn troubles(at: &Dialect, random: &mut Random) -> BatchConfig {
    let millis = |n| Duration::from_millis(n);
    let duration = 100 + random.below(400);
    let mut config = BatchConfig::default()
        .duration(millis(duration))
        .validation(millis(random.below(duration)))
        .listing_lag(millis(random.below(800)))
        .in_order(random.below(2) == 0);
    if random.below(2) == 0 {
        let late = [0, random.below(900), 1500 + random.below(3000)];
        config = config
            .lost_creates(1 + random.below(2))
            .late_creates(millis(late[random.below(3) as usize]));
    }
    // An account without room requires minutes of waiting: batch::tests::simulation has it.
    match random.below(4) {
        // Anthropic's batches are distinguished by their counts, so no prompt of them may be missing.
        0 if at.files => config = config.missing(0.2),
        1 => config = config.expire_first(1, [0.0, 0.5][random.below(2) as usize]),
        _ => {}
    }
    match random.below(4) {
        0 => config.cut_downloads(1 + random.below(2)),
        1 => config.short_downloads(1),
        2 if at.files => config.duplicates(3).strangers(3),
        3 => config.duplicates(3),
        _ => config,
    }
}

fn chaos(seed: u64) {
    let mut random = Random(seed);
    let at = ALL[random.below(ALL.len() as u64) as usize];
    let config = SimConfig::default().batches(troubles(at, &mut random));
    let items = 1 + random.below(40) as usize;
    let site = Site::with(at, config.seed(seed), items);
    for _ in 0..3 + random.below(6) {
        let worker = site.start();
        let moment = Duration::from_millis(random.below(1500));
        // At one point of a batch's life, if the worker reaches it, or at a random time.
        let pause = (random.below(3) > 0).then(|| {
            let point = POINTS[random.below(POINTS.len() as u64) as usize];
            site.sim.pause_at(point, 1 + random.below(2))
        });
        match &pause {
            Some(pause) => drop(pause.wait(moment.max(Duration::from_millis(700)))),
            None => std::thread::sleep(moment),
        }
        drop(worker);
        // Some requests take effect only while the next worker runs.
        if let Some(pause) = pause
            && random.below(3) == 0
        {
            let next = site.start();
            let lists = site.sim.batch_stats().lists;
            let looks = 1 + random.below(6);
            let later = || site.sim.batch_stats().lists >= lists + looks || !is_alive(&next);
            site.sim
                .wait_for_batches(|_| later(), Duration::from_secs(4));
            drop(pause);
        }
    }
    site.finish();
    site.bought_once();
    let left = site.sim.batch_stats().files_left;
    let uploads = site.sim.batch_stats().files_uploaded;
    assert!(left < uploads.max(1), "{left} of {uploads} files are left");
}

fn is_alive(worker: &Running) -> bool {
    // A worker that has ended has printed its report.
    !worker.said().contains(" done")
}

/// Runs this number of seeds, some at once; a failure reports how to replay its seed.
fn seeds(from: u64, many: u64, at_once: usize) {
    let all: Vec<u64> = match std::env::var("BATCH_SEED").ok() {
        Some(seed) => vec![seed.parse().unwrap()],
        None => (from..from + many).collect(),
    };
    for some in all.chunks(at_once) {
        each(some, |seed| {
            catch_unwind(AssertUnwindSafe(|| chaos(*seed))).unwrap_or_else(|cause| {
                eprintln!("BATCH_SEED={seed} cargo test --test it batch_chaos");
                resume_unwind(cause);
            });
        });
    }
}

#[test]
fn workers_killed_at_any_moment_buy_nothing_twice() {
    seeds(1, 5, 5);
}

#[test]
#[ignore = "takes minutes"]
fn long_batch_many_seeds() {
    seeds(1000, 120, 12);
}
