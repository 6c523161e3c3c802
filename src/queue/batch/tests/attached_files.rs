//! Batches of prompts that name files: how many go into one, and when the files are read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::client::Part;
use crate::llm::batch::BatchLimits;
use crate::llm::request::{Message, Request, Role};

use super::harness::{Harness, ScriptedClient};

/// A provider that takes so many bytes at once.
fn taking(harness: &Harness, bytes: u64) -> Arc<ScriptedClient> {
    harness.fake.lock().limits = BatchLimits {
        requests: 1_000,
        bytes,
    };
    harness.client()
}

fn about(harness: &Harness, prompt: &str, file: &str, bytes: usize) -> Request {
    let path = harness.folder.path().join(file);
    if !path.exists() {
        let text = "line\n".repeat(bytes.div_ceil(5));
        std::fs::write(&path, text).unwrap();
    }
    let parts = [Part::text(prompt), Part::file(path).unwrap()];
    Request::chat(vec![Message::of_parts(Role::User, parts)]).with_id(prompt)
}

/// A line as long as one with the file.
fn line(key: &str, request: &Request) -> Vec<u8> {
    let prompt = request.messages[0].text();
    let mut line = format!("{key} {prompt}").into_bytes();
    line.resize(line.len() + request.encoded_files() as usize, b' ');
    line.push(b'\n');
    line
}

#[test]
fn what_does_not_fit_with_its_file_is_the_next_batchs_and_its_file_is_read_then() {
    let harness = Harness::new();
    let client = taking(&harness, 5_000_000);
    let read: Arc<Mutex<BTreeMap<String, u32>>> = Arc::default();
    let counted = read.clone();
    *client.line.lock() = Box::new(move |(key, request)| {
        let prompt = request.messages[0].text();
        *counted.lock().entry(prompt).or_default() += 1;
        Some(Ok(line(key, request)))
    });
    let names = ["a", "b", "c"];
    let requests = names.map(|name| about(&harness, name, &format!("{name}.txt"), 1_500_000));
    let process = harness.enqueue_requests(requests);
    harness.run(process);
    assert_eq!(harness.counts(process).completed, 3);
    let fake = harness.fake.lock();
    let sizes: Vec<usize> = fake.batches.iter().map(|batch| batch.items.len()).collect();
    assert_eq!(sizes, [2, 1]);
    let each_once = BTreeMap::from(names.map(|name| (name.to_owned(), 1)));
    assert_eq!(*read.lock(), each_once);
    let bought: BTreeMap<String, u32> = fake.bought.clone().into_iter().collect();
    assert_eq!(bought, each_once);
}

#[test]
fn no_more_jobs_are_moved_into_a_batch_than_their_files_have_room() {
    let harness = Harness::new();
    let client = taking(&harness, 1_000_000);
    let most = Arc::new(AtomicU64::new(0));
    let (store, seen) = (harness.store.clone(), most.clone());
    *client.line.lock() = Box::new(move |(key, request)| {
        let batches = store.batches(None).unwrap();
        let jobs = batches.iter().map(|batch| batch.jobs).max();
        seen.fetch_max(jobs.unwrap_or(0), Ordering::SeqCst);
        Some(Ok(line(key, request)))
    });
    let requests = (0..250).map(|i| about(&harness, &format!("p{i}"), "same.txt", 9_000));
    let process = harness.enqueue_requests(requests);
    harness.run(process);
    assert_eq!(harness.counts(process).completed, 250);
    let fake = harness.fake.lock();
    assert_eq!(fake.bought.len(), 250);
    assert!(fake.bought.values().all(|times| *times == 1));
    assert!(
        (4..=6).contains(&fake.batches.len()),
        "{}",
        fake.batches.len()
    );
    assert_eq!(most.load(Ordering::SeqCst), 100);
}
