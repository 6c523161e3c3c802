//! Batches that an earlier version has left in the store: this one goes on with them, and buys nothing again.

use crate::queue::store::{BatchStore, ClaimStore};
use serde_json::{Value, json};

use crate::base::clock::Clock;

use super::harness::Harness;

/// How far an earlier version had come with what is at the provider.
type Phase = fn(&Value) -> Value;

/// The row of a batch that was just created, as an earlier version would have written it in this phase.
fn legacy(present: &str, phase: Phase, was_tried: bool) -> String {
    let present: Value = serde_json::from_str(present).unwrap();
    let remote = &present["state"]["remote"];
    json!({
        "account": present["account"],
        "intent": present["intent"],
        "phase": phase(remote),
        "tried": was_tried,
        "cancelled": false,
        "provisional": false,
        "failures": 0,
        "uploads": 0,
        "fetches": 0,
        "due": present["due"],
    })
    .to_string()
}

#[test]
fn batches_of_an_earlier_version_are_found_and_collected() {
    let running: Phase =
        |remote| json!({"is": "running", "id": remote["id"], "file": remote["file"]});
    // It died before the reply to the creation came.
    let sent: Phase = |remote| {
        let stage = json!({"at": "uploaded", "file": remote["file"], "time": null});
        json!({"is": "handing", "stage": stage})
    };
    for (phase, was_tried) in [(running, false), (sent, true)] {
        let harness = Harness::new();
        let _client = harness.client();
        let process = harness.enqueue(&["a", "b"]);
        let worker = harness.worker();
        let mut poller = harness.poller(worker, &[]);
        let created = || !harness.fake.lock().batches.is_empty();
        assert!(harness.until(&mut poller, created));
        drop(poller);
        let batch = harness.store.batches(None).unwrap().remove(0);
        let text = legacy(&batch.record, phase, was_tried);
        let wall = harness.clock.wall();
        let saved = harness.store.save_batch(worker, batch.no, &text, wall);
        saved.unwrap();
        harness.store.unregister_worker(worker, wall).unwrap();

        let mut poller = harness.poller(harness.worker(), &[]);
        let over = harness.until(&mut poller, || harness.is_over(process));
        assert!(over, "{text}: {:?}", harness.store.batches(None).unwrap());
        assert_eq!(harness.counts(process).completed, 2);
        assert_eq!(harness.fake.lock().creates, 1);
        assert_eq!((harness.bought("a"), harness.bought("b")), (1, 1));
    }
}
