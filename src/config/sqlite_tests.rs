//! The settings file used by threads and other processes, and files that are not settings files.

use std::sync::Arc;

use super::super::conformance;
use super::super::settings::Settings;
use super::super::watch::SettingsWatch;
use super::*;

fn store(folder: &tempfile::TempDir) -> SqliteConfig {
    SqliteConfig::new(folder.path().join("deep/config.db"))
}

#[test]
fn sqlite_passes_the_tests_of_every_settings_store() {
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
fn the_version_differs_after_a_change_by_a_shell_and_in_a_new_file() {
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
        let shell = Connection::open(store.path()).unwrap();
        let insert = "INSERT INTO settings VALUES ('llm.model', 'c')";
        shell.execute(insert, []).unwrap();
    });
    changed(&|| {
        std::fs::remove_file(store.path()).unwrap();
        store.set("llm.model", "a").unwrap();
    });
}

#[test]
fn a_watch_follows_the_file_from_before_it_exists() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(store(&folder));
    let other = SqliteConfig::new(store.path());
    let mut watch = SettingsWatch::new(Settings::new(), store).unwrap();
    assert!(!watch.refresh().unwrap());
    other.set("queue.worker_count", "8").unwrap();
    assert!(watch.refresh().unwrap());
    assert_eq!(watch.settings().worker_count().unwrap(), 8);
    std::fs::write(other.path(), "garbage, and more of it than a header").unwrap();
    assert!(watch.refresh().is_err());
    assert_eq!(watch.settings().worker_count().unwrap(), 8, "as it was");
    std::fs::remove_file(other.path()).unwrap();
    assert!(watch.refresh().unwrap());
    assert_eq!(watch.settings().worker_count().unwrap(), 5);
}

#[test]
fn a_refresh_does_not_wait_for_a_suspended_process() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    store.set("llm.model", "m").unwrap();
    let sleeper = Connection::open(store.path()).unwrap();
    sleeper.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let error = store.version().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    let said = "is locked by another program";
    assert!(error.message().contains(said), "{error}");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| store.get("llm.model"));
        sleeper.execute_batch("COMMIT").unwrap();
        assert_eq!(waiting.join().unwrap().unwrap().as_deref(), Some("m"));
    });
    assert_ne!(store.version().unwrap(), 0);
}

#[test]
fn a_file_of_another_program_is_rejected_and_unchanged() {
    let newer = "was made by a newer batchwright (its schema is 2, this one knows 1)";
    let folder = tempfile::tempdir().unwrap();
    for (name, expected) in [
        ("nonsense", "is damaged"),
        ("foreign", "is a database of another program"),
        ("newer", newer),
        ("torn", "is damaged"),
        ("folder", "cannot be "),
    ] {
        let path = folder.path().join(name);
        let ours = || SqliteConfig::new(&path).set("llm.model", "m").unwrap();
        let db = || Connection::open(&path).unwrap();
        match name {
            "nonsense" => std::fs::write(&path, "x".repeat(5000)).unwrap(),
            "foreign" => db().execute_batch("CREATE TABLE t (x)").unwrap(),
            "newer" => {
                ours();
                db().pragma_update(None, "user_version", 2).unwrap();
            }
            "torn" => {
                ours();
                let file = std::fs::File::options().write(true).open(&path);
                file.unwrap().set_len(5000).unwrap();
            }
            _ => std::fs::create_dir(&path).unwrap(),
        }
        let before = std::fs::read(&path).ok();
        let store = SqliteConfig::new(&path);
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
        assert_eq!(std::fs::read(&path).ok(), before, "{name}");
    }
}

#[test]
fn an_empty_file_holds_nothing_yet() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.db");
    std::fs::write(&path, "").unwrap();
    let store = SqliteConfig::new(&path);
    assert!(store.all().unwrap().is_empty());
    store.set("llm.model", "m").unwrap();
    assert_eq!(store.get("llm.model").unwrap().as_deref(), Some("m"));
}

/// A file with the first released schema.
#[test]
fn the_schema_is_what_readers_of_other_versions_expect() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    store.set("llm.model", "m").unwrap();
    let db = Connection::open(store.path()).unwrap();
    for (sql, expected) in [
        ("SELECT value FROM settings WHERE key = 'llm.model'", "m"),
        ("PRAGMA journal_mode", "delete"),
        ("PRAGMA integrity_check", "ok"),
        (
            "SELECT CAST(application_id AS TEXT) FROM pragma_application_id",
            "1651991398",
        ),
    ] {
        let text = db.query_row(sql, [], |row| row.get::<_, String>(0));
        assert_eq!(text.unwrap(), expected, "{sql}");
    }
}
