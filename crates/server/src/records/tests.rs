//! What is recorded is found, also by the next server of the folder.

use std::fs;

use batchwright::JobQueue;

use super::*;

#[test]
fn a_file_that_cannot_be_used_is_named_with_a_remedy() {
    let set_version = |path: &Path, version: i64| {
        let database = rusqlite::Connection::open(path).unwrap();
        let set = database.pragma_update(None, "user_version", version);
        set.unwrap();
    };
    type Spoil<'s> = (&'s str, &'s dyn Fn(&Path));
    let spoils: [Spoil<'_>; 8] = [
        ("is empty", &|path| fs::write(path, "").unwrap()),
        ("and its log", &|path| {
            fs::remove_file(path).unwrap();
            fs::write(path.with_extension("db-wal"), "x").unwrap();
        }),
        ("not a database", &|path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[..100].fill(b'x');
            fs::write(path, bytes).unwrap();
        }),
        ("malformed", &|path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..5_000]).unwrap();
        }),
        ("version 99", &|path| set_version(path, 99)),
        ("version 0", &|path| set_version(path, 0)),
        ("cannot be used: ", &|path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
        ("cannot be used: ", &|path| {
            fs::create_dir(path.with_extension("db-wal")).unwrap();
        }),
    ];
    for (why, spoil) in spoils {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.db");
        let open = || Records::open(&path, Durability::Full, &Context::new());
        drop(open().unwrap());
        spoil(&path);
        let text = open().err().unwrap().to_string();
        for part in [&*path.to_string_lossy(), why, "move", "Stop the server"] {
            assert!(text.contains(part), "{text}");
        }
    }
}

/// On a full disk, the file is opened as it is.
#[test]
fn opening_it_again_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.db");
    let open = || Records::open(&path, Durability::Full, &Context::new()).unwrap();
    let first = open();
    DirectCalls::insert(&first, ProcessId::new(), 0).unwrap();
    let written = || fs::read(path.with_extension("db-wal")).unwrap();
    let before = written();
    assert!(!before.is_empty());
    let _second = open();
    assert!(before == written());
}

/// Its SQL compares what is in the records, and would fail at one that is no JSON.
#[test]
fn a_damaged_record_hides_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.db");
    let records = Records::open(&path, Durability::Full, &Context::new()).unwrap();
    let file = |id: &str| FileRecord {
        id: id.to_owned(),
        purpose: "batch".to_owned(),
        filename: id.to_owned(),
        bytes: 1,
        created_at: 1,
        expires_at: Some(2),
        request: None,
    };
    for id in ["a", "b", "c", "d", "e"] {
        file(id).store(&records.single()).unwrap();
    }
    for (id, record) in [("b", "{\"id"), ("d", "{\"id\": 7}")] {
        let sql = "UPDATE files SET record = ? WHERE id = ?";
        run(&records.single(), sql, params![record, id]).unwrap();
    }
    drop(records);
    let records = Records::open(&path, Durability::Full, &Context::new()).unwrap();
    let database = records.single();
    for purpose in [None, Some("batch")] {
        let page = |most| FileRecord::list(&database, purpose, None, true, most).unwrap();
        let ids = |most| page(most).into_iter().map(|file| file.id);
        assert_eq!(ids(9).collect::<String>(), "ace");
        assert_eq!(ids(2).collect::<String>(), "ac");
    }
    assert_eq!(FileRecord::expired(&database, 9).unwrap().len(), 3);
    for id in ["b", "d"] {
        let error = FileRecord::get(&database, id).unwrap_err();
        assert!(error.message().contains("damaged"), "{error}");
        FileRecord::delete(&database, id).unwrap();
    }
}

#[test]
fn each_server_of_a_queue_counts_its_own_steps_and_a_copy_of_one_ends_them() {
    let folder = tempfile::tempdir().unwrap();
    let queue = JobQueue::open(folder.path().join("llm_jobs.db")).unwrap();
    let place = |name: &str| folder.path().join(name).join("server.db");
    let open = |name: &str| {
        fs::create_dir_all(folder.path().join(name)).unwrap();
        let records = Records::open(&place(name), Durability::Normal, &Context::new()).unwrap();
        records.begin(&place(name), &queue).unwrap();
        records
    };
    let (one, two) = (open("a"), open("b"));
    for records in [&one, &two, &one] {
        records.step(&queue).unwrap();
    }
    let mut steps: Vec<i64> = queue
        .servers()
        .unwrap()
        .iter()
        .map(|one| one.step)
        .collect();
    steps.sort_unstable();
    assert_eq!(steps, [2, 3]);
    assert_eq!(queue.apart(&place("a")).unwrap(), None);
    one.secure();
    fs::create_dir(folder.path().join("c")).unwrap();
    fs::copy(place("a"), place("c")).unwrap();
    open("c").step(&queue).unwrap();
    let error = one.step(&queue).unwrap_err();
    assert!(
        error.message().contains("a copy of this one's server.db"),
        "{error}"
    );
    two.step(&queue).unwrap();
}

#[test]
fn a_server_db_that_cannot_be_written_falls_no_further_behind() {
    let folder = tempfile::tempdir().unwrap();
    let queue = JobQueue::open(folder.path().join("llm_jobs.db")).unwrap();
    let path = folder.path().join("server.db");
    let begin = || {
        let records = Records::open(&path, Durability::Normal, &Context::new()).unwrap();
        records.begin(&path, &queue)
    };
    begin().unwrap();
    let other = Connection::open(&path).unwrap();
    let full = "CREATE TRIGGER full BEFORE INSERT ON meta BEGIN SELECT RAISE(ABORT, 'full'); END";
    other.execute_batch(full).unwrap();
    for _ in 0..3 {
        begin().unwrap_err();
    }
    other.execute_batch("DROP TRIGGER full").unwrap();
    assert_eq!(queue.apart(&path).unwrap(), None);
    begin().unwrap();
}
