//! Batches of prompts that name files: how many go into one, and when the files are read.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::client::Part;
use crate::llm::batch::BatchLimits;
use crate::llm::request::{Message, Request, Role};

use super::harness::Harness;

/// What does not fit with its file is the next batch's, and its file is read then. No more jobs are moved into a batch
/// than their files have room.
#[test]
fn files_of_prompts_are_read_once_and_no_more_go_into_a_batch_than_have_room() {
    for (jobs, file_bytes, batch_bytes, batches, most_moved) in [
        (3, 1_500_000, 5_000_000, 2..=2, 3),
        (250, 9_000, 1_000_000, 4..=6, 100),
    ] {
        let harness = Harness::new();
        harness.fake.lock().limits = BatchLimits {
            requests: 1_000,
            bytes: batch_bytes,
        };
        // How often each was read, and the most jobs in a batch.
        let seen: Arc<Mutex<(BTreeMap<String, u32>, u64)>> = Arc::default();
        let (store, counted) = (harness.store.clone(), seen.clone());
        let client = harness.client();
        client.line.set(move |(key, request)| {
            let prompt = request.messages[0].text();
            let batches = store.batches(None).unwrap();
            let mut counted = counted.lock();
            *counted.0.entry(prompt.clone()).or_default() += 1;
            counted.1 = batches
                .iter()
                .map(|batch| batch.jobs)
                .fold(counted.1, u64::max);
            // A line as long as one with the file.
            let mut line = format!("{key} {prompt}").into_bytes();
            line.resize(line.len() + request.encoded_files() as usize, b' ');
            line.push(b'\n');
            Some(Ok(line))
        });
        let path = harness.folder.path().join("file.txt");
        std::fs::write(&path, "line\n".repeat(file_bytes / 5)).unwrap();
        let about = |n: u32| {
            let parts = [Part::text(format!("p{n}")), Part::file(&path).unwrap()];
            Request::chat(vec![Message::of_parts(Role::User, parts)])
        };
        let process = harness.enqueue_requests((0..jobs).map(about));
        harness.run(process);
        harness.ended(process, [u64::from(jobs), 0, 0, 0]);
        let fake = harness.fake.lock();
        assert!(batches.contains(&fake.batches.len()), "{jobs}");
        let each_once: BTreeMap<_, _> = (0..jobs).map(|n| (format!("p{n}"), 1)).collect();
        let bought: BTreeMap<_, _> = fake.bought.clone().into_iter().collect();
        assert_eq!(bought, each_once);
        let (read, moved) = &*seen.lock();
        assert!(jobs > 3 || *read == each_once, "{read:?}");
        assert_eq!(*moved, most_moved);
    }
}
