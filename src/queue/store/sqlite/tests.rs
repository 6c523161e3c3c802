//! The SQLite store against the rules of stores, and what only SQLite can get wrong.

use std::fs;
use std::path::Path;
use std::sync::Barrier;
use std::time::Duration;

use tempfile::TempDir;

use crate::base::seeds::random_cases;
use crate::base::{ErrorKind, ProcessId, Timestamp};

use super::*;
use crate::queue::job::Job;
use crate::queue::store::Store;
use crate::queue::store::budgets::CLOSED;
use crate::queue::store::tests::{TestDatabase, random_operations, suite};
use crate::queue::store::{claim, results};

const T: Timestamp = Timestamp(1_763_000_000_000);

fn database(durability: Durability) -> TestDatabase {
    let dir = TempDir::new().unwrap();
    TestDatabase::new(move || {
        let options = SqliteOptions::default().durability(durability);
        Store::open(path(&dir), options).unwrap()
    })
}

suite!(normal, || database(Durability::Normal));
suite!(full, || database(Durability::Full));

#[test]
fn it_behaves_like_its_model() {
    let last = random_cases(4, 16) as u64;
    random_operations(last, 1_500, || database(Durability::Normal));
}

fn path(dir: &TempDir) -> PathBuf {
    dir.path().join("llm_jobs.db")
}

fn open(path: &Path) -> Result<Store, Error> {
    Store::open(path, SqliteOptions::default())
}

fn refused(path: &Path, part: &str) {
    let error = open(path).expect_err("it is refused");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.message().contains(part), "{error}");
}

fn jobs(count: usize) -> Vec<Job> {
    let payload = serde_json::value::RawValue::from_string("[1]".to_owned()).unwrap();
    vec![Job::raw("k", payload); count]
}

#[test]
fn a_missing_folder_is_made_and_the_file_is_ours() {
    let dir = TempDir::new().unwrap();
    let deep = dir.path().join("a/b/llm_jobs.db");
    drop(open(&deep).unwrap());
    drop(open(&deep).unwrap());
    // Also where a link leads to a file that is not there yet.
    let link = dir.path().join("link.db");
    std::os::unix::fs::symlink("later.db", &link).unwrap();
    drop(open(&link).unwrap());
    drop(open(&dir.path().join("later.db")).unwrap());
    assert!(link.is_symlink());
    let conn = Connection::open(&deep).unwrap();
    for (pragma, value) in [
        ("application_id", 0x6277_6a71),
        ("page_size", 4_096),
        ("auto_vacuum", 2),
    ] {
        let found = conn.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
        assert_eq!(found, Ok(value), "{pragma}");
    }
}

#[test]
fn free_space_is_given_back_unless_the_file_was_rebuilt_without_that() {
    for is_rebuilt in [false, true] {
        let dir = TempDir::new().unwrap();
        let path = path(&dir);
        let store = open(&path).unwrap();
        let conn = Connection::open(&path).unwrap();
        if is_rebuilt {
            conn.execute_batch("PRAGMA auto_vacuum = NONE; VACUUM")
                .unwrap();
        }
        let junk = "CREATE TABLE junk AS SELECT zeroblob(8000000) b; DROP TABLE junk";
        conn.execute_batch(junk).unwrap();
        let steps = (0..20).take_while(|_| store.maintain(T).unwrap()).count();
        let free = conn.pragma_query_value(None, "freelist_count", |row| row.get::<_, i64>(0));
        let free = free.unwrap();
        assert_eq!(
            (steps, free > 1_000),
            if is_rebuilt { (0, true) } else { (2, false) },
            "{free} pages are free"
        );
    }
}

#[test]
fn files_of_others_are_refused_untouched() {
    let dir = TempDir::new().unwrap();
    let text = path(&dir);
    fs::write(&text, "not a database, ".repeat(100)).unwrap();
    refused(&text, "is not an SQLite database");
    let kept = fs::read_to_string(&text).unwrap();
    assert!(kept.starts_with("not a database"));

    let foreign = dir.path().join("foreign.db");
    let conn = Connection::open(&foreign).unwrap();
    conn.execute_batch("CREATE TABLE t (x)").unwrap();
    drop(conn);
    let before = fs::read(&foreign).unwrap();
    refused(&foreign, "another program");
    assert_eq!(fs::read(&foreign).unwrap(), before);
    refused(dir.path(), "is not a file");
    refused(Path::new("/proc/none/llm_jobs.db"), "Name a folder");
}

#[test]
fn another_schema_is_refused() {
    for (version, why) in [(99, "newer version"), (5, "before the first release")] {
        let dir = TempDir::new().unwrap();
        drop(open(&path(&dir)).unwrap());
        let conn = Connection::open(path(&dir)).unwrap();
        conn.pragma_update(None, "user_version", version).unwrap();
        drop(conn);
        refused(&path(&dir), why);
    }
}

/// A new file has its tables from the beginning.
#[test]
fn an_empty_file_and_a_log_without_its_file_are_damage() {
    let dir = TempDir::new().unwrap();
    for file in [path(&dir), dir.path().join("out.jsonl.batchwright")] {
        fs::write(&file, "").unwrap();
        // SQLite removes the log of an empty file.
        let log = PathBuf::from(format!("{}-wal", file.display()));
        fs::write(&log, "x").unwrap();
        refused(&file, "so it is damaged");
        assert_eq!(fs::read(&log).unwrap(), b"x");
        fs::remove_file(&log).unwrap();
        fs::remove_file(&file).unwrap();
        drop(open(&file).unwrap());
        fs::remove_file(&file).unwrap();
        fs::write(&log, "x").unwrap();
        refused(&file, &log.display().to_string());
        assert!(!file.exists());
    }
}

/// New stores are what taken over ones are.
#[test]
fn the_tables_of_a_new_file_are_those_of_one_that_was_taken_over() {
    let dir = TempDir::new().unwrap();
    let tables = |path: &Path| -> Vec<String> {
        let conn = Connection::open(path).unwrap();
        let all = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL
                   UNION ALL SELECT name FROM meta, pragma_user_version WHERE name = 'version ' || user_version ORDER BY 1";
        let mut all = conn.prepare(all).unwrap();
        let rows = all.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    };
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/stores/queue-17.tar.gz");
    let mut tar = std::process::Command::new("tar");
    let unpack = tar.arg("-xzf").arg(old).arg("-C").arg(dir.path());
    assert!(unpack.status().unwrap().success());
    let old = dir.path().join("data/llm_jobs.db");
    let as_it_is = Store::open(&old, SqliteOptions::default().as_it_is(true)).unwrap();
    assert_eq!(as_it_is.open_processes().unwrap().len(), 3);
    assert!(tables(&old).iter().all(|name| !name.starts_with("version")));
    drop(as_it_is);
    drop(open(&old).unwrap());
    drop(open(&path(&dir)).unwrap());
    assert_eq!(tables(&path(&dir)), tables(&old));
}

/// It may be a copy that another program has put in its place.
#[test]
fn a_worker_whose_file_gets_a_newer_version_takes_nothing_more_and_says_so() {
    let dir = TempDir::new().unwrap();
    let queue = crate::JobQueue::open(path(&dir)).unwrap();
    let worker = crate::Worker::new(&queue);
    let handle = worker.start().unwrap();
    let conn = Connection::open(path(&dir)).unwrap();
    conn.pragma_update(None, "user_version", 99).unwrap();
    queue.enqueue(ProcessId::new(), jobs(1)).unwrap();
    let ended = handle.join();
    assert!(
        format!("{ended:?}").contains("newer version of batchwright"),
        "{ended:?}"
    );
    let begun: i64 = conn
        .query_row("SELECT SUM(claim) FROM jobs", [], |row| row.get(0))
        .unwrap();
    assert_eq!(begun, 0);
}

#[test]
fn a_damaged_file_says_how_it_is_rescued() {
    let dir = TempDir::new().unwrap();
    let store = open(&path(&dir)).unwrap();
    store
        .insert(ProcessId::new(), jobs(2_000), true, T)
        .unwrap();
    drop(store);
    let mut bytes = fs::read(path(&dir)).unwrap();
    bytes[4_096..].fill(0x5a);
    fs::write(path(&dir), bytes).unwrap();
    refused(&path(&dir), ".recover");
}

#[test]
fn a_database_that_vanished_or_was_replaced_is_noticed() {
    let dir = TempDir::new().unwrap();
    let store = open(&path(&dir)).unwrap();
    let process = ProcessId::new();
    store.insert(process, jobs(1), true, T).unwrap();
    fs::rename(path(&dir), dir.path().join("away")).unwrap();
    let gone = store.insert(process, jobs(1), true, T).unwrap_err();
    assert!(gone.message().contains("was removed"), "{gone}");
    fs::write(path(&dir), "").unwrap();
    let replaced = store.insert(process, jobs(1), true, T).unwrap_err();
    assert!(replaced.message().contains("replaced"), "{replaced}");
    fs::rename(dir.path().join("away"), path(&dir)).unwrap();
    store.insert(process, jobs(1), true, T).unwrap();
    assert_eq!(store.process(process).unwrap().unwrap().counts.total, 2);
}

#[test]
fn a_file_that_must_be_there_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let options = SqliteOptions::default().existing();
    let missing = Store::open(&path(&dir), options.clone()).unwrap_err();
    assert!(missing.message().contains("this queue does not exist"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    drop(open(&path(&dir)));
    Store::open(&path(&dir), options).unwrap();
}

#[test]
fn the_store_of_a_run_has_it_on_record_while_it_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("out.jsonl.batchwright");
    let log = dir.path().join("out.jsonl.batchwright-wal");
    let moved = dir.path().join("moved.jsonl.batchwright");
    drop(open(&store).unwrap());
    assert!(!log.exists());
    // A command that writes without a worker, another one that looks at it meanwhile, and a copy without the log.
    let used = open(&store).unwrap();
    let looks = SqliteOptions::default().only_look();
    let looked = Store::open(&store, looks).unwrap();
    // The first of two that write ends only its own use.
    let other = open(&store).unwrap();
    for ends in [used, other] {
        std::fs::copy(&store, &moved).unwrap();
        refused(&moved, "one of them is missing");
        drop(ends);
    }
    drop(looked);
    assert!(!log.exists());
    std::fs::copy(&store, &moved).unwrap();
    open(&moved).unwrap();
}

/// One that ends copies the log at the moment at which two others begin: both wait until they are on record.
#[test]
fn the_store_of_a_run_opens_once_it_is_on_record_while_another_process_copies_its_log() {
    static GATE: Barrier = Barrier::new(2);
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("out.jsonl.batchwright");
    drop(open(&store).unwrap());
    let conn = || {
        let mut conn = Connection::open(&store).unwrap();
        writer::be_patient(&mut conn, true).unwrap();
        conn
    };
    let (writes, mut copies) = (conn(), conn());
    writes.execute_batch("BEGIN IMMEDIATE").unwrap();
    std::thread::scope(|scope| {
        let copied = scope.spawn(move || {
            // It has begun, and waits for the end of the transaction, then for both others.
            let wait = |tries| {
                if tries == 0 {
                    GATE.wait();
                    GATE.wait();
                }
                true
            };
            copies.busy_handler(Some(wait)).unwrap();
            checkpoint(&copies, "TRUNCATE").unwrap()
        });
        GATE.wait();
        writes.execute_batch("COMMIT").unwrap();
        let begins = || {
            let opened = open(&store).unwrap();
            assert!(movable::is_in_use_without_log(&store));
            opened
        };
        let begun = [scope.spawn(begins), scope.spawn(begins)];
        let users = "SELECT count(*) FROM meta WHERE name = 'users' AND value = 2";
        while writes.query_row(users, [], |row| row.get(0)) != Ok(1) {
            std::thread::yield_now();
        }
        // One that does not wait is through by then.
        std::thread::sleep(Duration::from_millis(50));
        GATE.wait();
        assert!(copied.join().unwrap());
        let _opened = begun.map(|one| one.join().unwrap());
    });
}

#[test]
fn many_may_open_a_new_file_at_once() {
    let dir = TempDir::new().unwrap();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| open(&path(&dir)))).collect();
        for thread in threads {
            let store = thread.join().unwrap().unwrap();
            store.insert(ProcessId::new(), jobs(1), true, T).unwrap();
        }
    });
    assert_eq!(
        open(&path(&dir)).unwrap().open_processes().unwrap().len(),
        8
    );
}

#[test]
fn a_lock_file_that_somebody_removed_kills_no_worker() {
    let dir = TempDir::new().unwrap();
    let (one, two) = (open(&path(&dir)).unwrap(), open(&path(&dir)).unwrap());
    let worker = one.register_worker().unwrap();
    fs::remove_dir_all(dir.path().join("llm_jobs.db.workers")).unwrap();
    assert_eq!(two.reclaim(T).unwrap(), 0);
    assert_eq!(two.workers().unwrap().live.len(), 1);
    one.unregister_worker(worker, T).unwrap();
    assert!(two.workers().unwrap().live.is_empty());
}

#[test]
fn lock_files_do_not_pile_up() {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("llm_jobs.db.workers");
    for _ in 0..4 {
        let store = open(&path(&dir)).unwrap();
        store.reclaim(T).unwrap();
        store.register_worker().unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }
}

#[cfg(unix)]
#[test]
fn who_takes_results_leaves_no_traces_for_others_to_read() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    let store = open(&path(&dir)).unwrap();
    let process = ProcessId::new();
    let _alone = store.lock_results(process).unwrap();
    let folder = dir.path().join("llm_jobs.db.workers");
    for path in [folder.join(format!("{process}.results")), folder] {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}", path.display());
    }
}

/// With numbers in place of the parameters.
fn bound(sql: &str) -> String {
    let sql = (1..9).fold(sql.to_owned(), |sql, n| {
        sql.replace(&format!("?{n}"), &n.to_string())
    });
    sql.replace('?', "1")
}

#[test]
fn hot_statements_use_their_indexes() {
    let dir = TempDir::new().unwrap();
    let store = open(&path(&dir)).unwrap();
    let cases = [
        (
            translate::kept(&claim::groups("")).to_string(),
            "USING COVERING INDEX jobs_to_claim (lane=? AND priority=?)",
        ),
        (
            bound(&translate::kept(&claim::heads(""))),
            "USING INDEX jobs_to_claim (lane=? AND priority=? AND visible_at>?)",
        ),
        (
            translate::kept(CLOSED).to_string(),
            "processes_closed (closed=?)",
        ),
        (translate::kept(CLOSED).to_string(), "processes_with_chore"),
        (
            bound(results::ENDED),
            "INDEX jobs_with_outcome (id>? AND id<?)",
        ),
        (
            "SELECT id, crashes FROM jobs WHERE worker = 1".to_owned(),
            "jobs_by_worker (worker=?)",
        ),
    ];
    for (sql, part) in cases {
        let explain = format!("EXPLAIN QUERY PLAN {sql}");
        let plan = store.read(|tx| tx.many::<(i64, i64, i64, String)>(&explain, Vec::new()));
        let mut plan: Vec<String> = plan.unwrap().into_iter().map(|line| line.3).collect();
        // It has one row at most.
        plan.retain(|line| line != "SCAN pauses");
        let has = |part: &str| plan.iter().any(|line| line.contains(part));
        assert!(
            has(part) && !has("SCAN p") && !has("TEMP B-TREE"),
            "{plan:?}"
        );
    }
}
