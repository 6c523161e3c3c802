//! The SQLite store against the conformance suite, and what only SQLite can get wrong.

use std::fs;
use std::sync::atomic::Ordering;

use tempfile::TempDir;

use crate::base::error::ErrorKind;
use crate::queue::store::conformance::{Again, Opened, suite};

use super::*;

const T: Wall = Wall(1_763_000_000_000);

pub(crate) fn opened(durability: Durability) -> Opened {
    let dir = Arc::new(TempDir::new().unwrap());
    let open = move || {
        let options = SqliteOptions::default().durability(durability).chunk(2);
        let store = SqliteStore::open(&dir.path().join("llm_jobs.db"), options);
        Arc::new(store.unwrap())
    };
    let one = open();
    let abandoned = Arc::downgrade(&one);
    Opened {
        one: Some(one),
        two: open(),
        abandon_after: Box::new(move |chunks| {
            let store = abandoned.upgrade().unwrap();
            store.chunks_left.store(chunks, Ordering::Relaxed);
        }),
        _keep: Box::new(Again(Box::new(move || open()))),
    }
}

suite!(normal, || opened(Durability::Normal));
suite!(full, || opened(Durability::Full));
