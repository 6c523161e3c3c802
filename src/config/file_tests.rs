//! The settings file used by threads and other processes, and files that are not settings files.

use std::fs;
use std::sync::Arc;

use super::super::conformance;
use super::super::settings::{Settings, SettingsWatch};
use super::*;

fn store(folder: &tempfile::TempDir) -> FileConfig {
    FileConfig::new(folder.path().join("deep/settings.json"))
}

#[test]
fn a_file_passes_the_tests_of_every_settings_store() {
    let folder = tempfile::tempdir().unwrap();
    conformance::check(&|| Arc::new(store(&folder)));
}

#[test]
fn reading_and_deleting_create_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    assert!(store.all().unwrap().is_empty());
    assert_eq!(store.version().unwrap(), 0);
    store.unset("llm.model").unwrap();
    assert!(!store.path().parent().unwrap().exists());
}

#[test]
fn a_file_in_place_of_the_folder_is_answered_by_the_name_of_the_setting() {
    let home = tempfile::NamedTempFile::new().unwrap();
    let store = FileConfig::new(home.path().join("settings.json"));
    for error in [store.all().map(drop), store.unset("llm.model")] {
        let error = error.unwrap_err();
        assert!(error.message().contains("--data-dir"), "{error}");
    }
}

#[test]
fn the_version_differs_after_a_change_and_in_a_new_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let mut seen = vec![store.version().unwrap()];
    let mut changed = |by: &dyn Fn()| {
        by();
        let version = store.version().unwrap();
        assert!(!seen.contains(&version), "{version} among {seen:?}");
        seen.push(version);
        assert_eq!(store.version().unwrap(), version, "asking changes nothing");
    };
    changed(&|| store.set("llm.model", "a").unwrap());
    changed(&|| store.unset("llm.model").unwrap());
    changed(&|| {
        fs::remove_file(store.path()).unwrap();
        store.set("llm.model", "a").unwrap();
    });
}

#[test]
fn a_watch_follows_the_file_from_before_it_exists() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(store(&folder));
    let other = FileConfig::new(store.path());
    let mut watch = SettingsWatch::new(Settings::new(), store).unwrap();
    assert!(!watch.refresh().unwrap());
    other.set("queue.worker_count", "8").unwrap();
    assert!(watch.refresh().unwrap());
    assert_eq!(watch.settings().worker_count().unwrap(), 8);
    fs::write(other.path(), "garbage").unwrap();
    assert!(watch.refresh().is_err());
    assert_eq!(watch.settings().worker_count().unwrap(), 8, "as it was");
    fs::remove_file(other.path()).unwrap();
    assert!(watch.refresh().unwrap());
    assert_eq!(watch.settings().worker_count().unwrap(), 5);
}

#[test]
fn reading_does_not_wait_for_a_process_that_is_suspended_during_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    store.set("llm.model", "m").unwrap();
    let lock = store.lock().unwrap();
    assert_ne!(store.version().unwrap(), 0);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| store.set("llm.model", "n"));
        assert_eq!(store.get("llm.model").unwrap().as_deref(), Some("m"));
        drop(lock);
        waiting.join().unwrap().unwrap();
    });
    assert_eq!(store.get("llm.model").unwrap().as_deref(), Some("n"));
}

#[test]
fn a_file_that_is_something_else_is_rejected_and_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    for (name, expected) in [
        ("nonsense", "is damaged"),
        ("foreign", "is damaged (line 1 column 8 has"),
        ("cut", "is damaged"),
        ("folder", "cannot be read"),
        ("earlier", "are of an earlier version"),
    ] {
        let path = folder.path().join(name);
        match name {
            "nonsense" => fs::write(&path, "x").unwrap(),
            "foreign" => fs::write(&path, r#"{"theme": "dark"}"#).unwrap(),
            "cut" => fs::write(&path, r#"{"version": 1, "settings": {"#).unwrap(),
            "folder" => fs::create_dir(&path).unwrap(),
            _ => fs::write(folder.path().join("config.db"), "SQLite").unwrap(),
        }
        let before = fs::read(&path).ok();
        let store = FileConfig::new(&path);
        for result in [
            store.all().map(drop),
            store.version().map(drop),
            store.set("llm.model", "x"),
            store.unset("llm.model"),
        ] {
            let error = result.expect_err(name);
            let message = error.message();
            assert!(message.contains(expected), "{name}: {message}");
            assert!(message.contains(path.to_str().unwrap()), "{message}");
        }
        assert_eq!(fs::read(&path).ok(), before, "{name}");
    }
}
