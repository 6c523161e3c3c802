//! Large batches: what is sent, the memory it needs, and waiting times. Continuous integration runs these tests as
//! optimized builds.

#![cfg(unix)]

use std::time::Duration;

use batchwright::{Job, ProcessId, Request};
use batchwright_simulate::{BatchConfig, BatchPoint, SimConfig};

use super::batch_site::{OPENAI, Site, prompt};
use super::common::{PATIENCE, eventually};

fn quick() -> BatchConfig {
    BatchConfig::default().duration(Duration::from_millis(500))
}

/// Works to the end without a time limit. Returns the exit code and the worker's peak memory in kB.
fn work(site: &Site) -> (Option<i32>, u64) {
    let (ended, most) = site.start().wait_with_peak();
    (ended.status.code(), most)
}

/// Adds a process of small prompts.
fn further(site: &Site, items: usize) -> ProcessId {
    let process = ProcessId::new();
    let job = |i: usize| Job::from(Request::new(format!("further {i}")));
    site.queue
        .enqueue_iter(process, (0..items).map(job))
        .unwrap();
    process
}

fn done(site: &Site, process: ProcessId) -> u64 {
    let process = site.queue.process(process).unwrap();
    process.unwrap().counts.completed
}

/// A small batch is created, ends and is stored while the results of another one are downloaded.
fn overtakes(site: &Site) {
    let small = further(site, 50);
    assert!(eventually(|| done(site, small) == 50));
    assert_eq!(done(site, site.process), 0, "the large one was not slow");
    assert_eq!(site.sim.batch_stats().downloads, 2);
}

#[test]
fn a_slow_download_delays_no_other_batch() {
    let site = Site::new(&OPENAI, quick(), 500);
    let slow = site.sim.pause_at(BatchPoint::DownloadHalf, 1);
    let worker = site.start();
    assert!(slow.wait(PATIENCE), "{}", worker.said());
    overtakes(&site);
    slow.release();
    worker.wait().expect(0);
    site.answers();
    site.paid_once();
    site.took(2);
}

#[test]
#[ignore = "takes a minute"]
fn long_batch_slow_download_of_300_megabytes() {
    let config = quick().download_rate(20_000_000);
    let text = "seven. ".repeat(850);
    let config = SimConfig::default().batches(config).answer(text);
    let site = Site::with(&OPENAI, config, 50_000, prompt);
    let worker = site.start();
    let downloads = || site.sim.batch_stats().downloads == 1;
    assert!((0..4).any(|_| eventually(downloads)), "{}", worker.said());
    overtakes(&site);
    let (_, most) = worker.wait_with_peak();
    println!("300 MB of results: {most} kB of memory at most");
    assert!(most < 250_000, "{most} kB");
    assert_eq!(done(&site, site.process), 50_000);
    site.paid_once();
    site.took(2);
}

#[test]
#[ignore = "takes minutes"]
fn long_batch_120_000_requests() {
    let run = |items, batches| {
        let site = Site::new(&OPENAI, quick(), items);
        let (code, memory) = work(&site);
        assert_eq!(code, Some(0));
        site.bought_once();
        site.took(batches);
        println!("{items} requests: {memory} kB of memory at most");
        memory
    };
    let few = run(12_000, 1);
    let many = run(120_000, 3);
    if cfg!(target_os = "linux") {
        assert!(many < few + 32_000, "{few} kB and {many} kB");
    }
}
