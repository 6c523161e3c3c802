//! Tests that every store of settings must pass.

use std::sync::Arc;

use super::store::ConfigStore;

/// Runs all checks. `open` returns another handle on the same settings, which must be empty at first.
pub(crate) fn check(open: &dyn Fn() -> Arc<dyn ConfigStore>) {
    begins_empty(open);
    keeps_changes_and_forgets(open);
    tells_changes_by_anybody(open);
    takes_many_writers(open);
}

fn begins_empty(open: &dyn Fn() -> Arc<dyn ConfigStore>) {
    let store = open();
    assert!(store.all().unwrap().is_empty());
    let version = store.version().unwrap();
    assert_eq!(store.version().unwrap(), version, "asking changes nothing");
    store.unset("llm.model").unwrap();
    assert!(store.all().unwrap().is_empty());
}

fn keeps_changes_and_forgets(open: &dyn Fn() -> Arc<dyn ConfigStore>) {
    let store = open();
    store.set("llm.model", "m 'quoted' ü 🙂").unwrap();
    store.set("queue.batch_size", "7").unwrap();
    store.set("queue.batch_size", "8").unwrap();
    // Keys of another version of the program; the store must keep keys apart that differ only in case or blanks.
    let long = "x".repeat(100_000);
    for (key, value) in [
        ("of.tomorrow", ""),
        ("Of.tomorrow", &*long),
        ("of.tomorrow ", " b "),
    ] {
        store.write(key, Some(value)).unwrap();
    }
    let kept = open().all().unwrap();
    let expected = [
        ("Of.tomorrow", &*long),
        ("llm.model", "m 'quoted' ü 🙂"),
        ("of.tomorrow", ""),
        ("of.tomorrow ", " b "),
        ("queue.batch_size", "8"),
    ];
    assert!(
        kept.iter()
            .map(|(key, value)| (&**key, &**value))
            .eq(expected)
    );
    for (key, _) in expected {
        store.unset(key).unwrap();
        assert_eq!(open().get(key).unwrap(), None);
    }
    store.unset("llm.model").unwrap();
    assert!(store.set("llm.model", "sk-0123456789ab").is_err());
    assert!(store.all().unwrap().is_empty());
}

fn tells_changes_by_anybody(open: &dyn Fn() -> Arc<dyn ConfigStore>) {
    let (store, other) = (open(), open());
    let mut seen = vec![store.version().unwrap()];
    let mut changed = |by: &dyn Fn()| {
        by();
        let version = store.version().unwrap();
        assert!(!seen.contains(&version), "{version} among {seen:?}");
        seen.push(version);
        assert_eq!(store.version().unwrap(), version, "asking changes nothing");
    };
    changed(&|| store.set("llm.model", "a").unwrap());
    changed(&|| store.set("llm.model", "b").unwrap());
    changed(&|| other.set("llm.model", "a").unwrap());
    changed(&|| store.unset("llm.model").unwrap());
    changed(&|| other.set("llm.model", "a").unwrap());
    changed(&|| other.unset("llm.model").unwrap());
}

fn takes_many_writers(open: &dyn Fn() -> Arc<dyn ConfigStore>) {
    let keys = [
        "queue.worker_count",
        "llm.sync_concurrency",
        "llm.burst_size",
        "queue.batch_size",
    ];
    let stores = keys.map(|key| (key, open()));
    std::thread::scope(|scope| {
        for (key, store) in &stores {
            scope.spawn(move || {
                for n in 1..=20 {
                    store.set(key, &n.to_string()).unwrap();
                    assert_eq!(store.get(key).unwrap(), Some(n.to_string()));
                }
            });
        }
    });
    let all = open().all().unwrap();
    assert_eq!(all.len(), keys.len());
    assert!(all.values().all(|value| value == "20"));
}
