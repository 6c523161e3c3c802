//! A store of an earlier version is taken over as a whole or not at all, whatever happens meanwhile.

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::*;

/// Rows whose numbers the step raises.
const ROWS: i64 = 100_000;

/// A step that takes a while, and more room than a small cache has.
const SLOW: Step = Step {
    sql: "CREATE TABLE news (x); INSERT INTO news SELECT randomblob(30) FROM t; UPDATE t SET x = x + 1, b = randomblob(20);
        INSERT INTO meta VALUES ('version 2', 0)",
    rewrites: true,
};

const TRIAL: Versions = Versions {
    application: 7,
    marked: 0,
    oldest: 1,
    readable: 1,
    steps: &[SLOW],
};

fn old_store(path: &Path) {
    let conn = Connection::open(path).unwrap();
    conn.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA application_id = 7; PRAGMA user_version = 1;
         CREATE TABLE meta (name PRIMARY KEY, value); CREATE TABLE t (x, b);
         INSERT INTO t WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS}) SELECT 1, i FROM n"
    ))
    .unwrap();
}

/// The version, and whether all of the store is in it; nothing of the step may be in an old one.
fn version(path: &Path) -> i64 {
    let conn = connect(path).unwrap();
    let all = "SELECT (SELECT user_version FROM pragma_user_version), SUM(x), COUNT(*),
               (SELECT COUNT(*) FROM sqlite_master WHERE name = 'news') FROM t";
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
    let (version, sum, rows, new): (i64, i64, i64, i64) = conn.query_row(all, [], row).unwrap();
    assert_eq!((sum, rows, new), (ROWS * version, ROWS, version - 1));
    version
}

/// Another OS process that runs one of the two tests below, which do nothing by themselves.
fn child(does: &str, path: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "--nocapture",
            &format!("base::migrations::tests::{does}"),
        ])
        .env("BATCHWRIGHT_TEST_STORE", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn of_a_child() -> Option<PathBuf> {
    env::var_os("BATCHWRIGHT_TEST_STORE").map(PathBuf::from)
}

#[test]
fn a_child_takes_it_over() {
    if let Some(path) = of_a_child() {
        TRIAL.take_over(&path, &Context::new()).unwrap();
    }
}

#[test]
fn a_child_has_it_open() {
    if let Some(path) = of_a_child() {
        let conn = connect(&path).unwrap();
        sqlite_header(&conn).unwrap();
        println!("\nopen");
        std::io::stdin().read_line(&mut String::new()).unwrap();
    }
}

/// Killed with -9 when the copy is there, or when its log has reached another size.
#[test]
fn twenty_kills_in_the_middle_of_a_step_leave_one_version_or_the_other() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a.db");
    old_store(&path);
    let size = |suffix| fs::metadata(beside(&path, suffix)).map_or(0, |found| found.len());
    let mut in_the_middle = 0;
    for kill in 0..20 {
        let mut taking = child("a_child_takes_it_over", &path);
        // Its log is emptied in the end.
        while size(".old") == 0 || size("-wal") < kill * 400_000 {
            if taking.try_wait().unwrap().is_some() {
                break;
            }
        }
        taking.kill().unwrap();
        taking.wait().unwrap();
        if version(&path) == 1 {
            in_the_middle += 1;
            assert_eq!(mode(&beside(&path, ".old")), 0o600);
        } else {
            fs::remove_file(&path).unwrap();
            old_store(&path);
        }
    }
    assert!(in_the_middle >= 10, "{in_the_middle} kills came in time");
    TRIAL.take_over(&path, &Context::new()).unwrap();
    assert_eq!(version(&path), 2);
    assert!(!beside(&path, ".old").exists());
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

#[test]
fn two_programs_at_once_take_it_over_once() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a.db");
    old_store(&path);
    let children = [(); 2].map(|()| child("a_child_takes_it_over", &path));
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(version(&path), 2);
}

#[test]
fn a_store_that_is_in_use_stays_as_it_is_and_its_user_is_named() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a.db");
    old_store(&path);
    let mut user = child("a_child_has_it_open", &path);
    let lines = BufReader::new(user.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "open"));
    // Nobody waits for it whose program is to end.
    let ctx = Context::new();
    ctx.cancel();
    let error = TRIAL.take_over(&path, &ctx).unwrap_err();
    if cfg!(target_os = "linux") {
        let named = format!("end process {} (", user.id());
        assert!(error.message().contains(&named), "{error}");
    }
    assert_eq!(version(&path), 1);
    drop(user.stdin.take());
    user.wait().unwrap();
    TRIAL.take_over(&path, &Context::new()).unwrap();
    assert_eq!(version(&path), 2);
}

/// A disk that is full in the middle, which SQLite reports as it does here.
#[test]
fn a_step_that_fails_leaves_the_old_store() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a.db");
    old_store(&path);
    const FULL: Versions = Versions {
        steps: &[Step {
            sql: "PRAGMA max_page_count = 100; CREATE TABLE news AS SELECT randomblob(30) FROM t",
            rewrites: true,
        }],
        ..TRIAL
    };
    let error = FULL.take_over(&path, &Context::new()).unwrap_err();
    assert!(error.message().contains("is full"), "{error}");
    assert_eq!(version(&path), 1);
    assert!(!beside(&path, ".old").exists());
    TRIAL.take_over(&path, &Context::new()).unwrap();
    assert_eq!(version(&path), 2);
}

/// Nothing is changed in a folder that a newer program has changed in part.
#[test]
fn a_newer_store_beside_it_keeps_an_old_one_as_it_is() {
    let place = tempfile::tempdir().unwrap();
    let [path, server] = ["llm_jobs.db", "server.db"].map(|name| place.path().join(name));
    old_store(&path);
    let other = Connection::open(&server).unwrap();
    let newer = "PRAGMA application_id = 0x62777376; PRAGMA user_version = 99; CREATE TABLE t (x)";
    other.execute_batch(newer).unwrap();
    let error = TRIAL.take_over(&path, &Context::new()).unwrap_err();
    let says = format!("{} was written by a newer version", server.display());
    assert!(error.message().contains(&says), "{error}");
    assert_eq!(version(&path), 1);
    // A file of another program is none of its folder.
    let theirs = "PRAGMA application_id = 0; PRAGMA user_version = 5";
    other.execute_batch(theirs).unwrap();
    TRIAL.take_over(&path, &Context::new()).unwrap();
    assert_eq!(version(&path), 2);
}
