//! What is recorded is found, also by the next server of the folder.

use std::fs;

use super::files::{FileQuery, FileRecord};
use super::*;

#[test]
fn files_are_listed_in_pages() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Records::open(&folder.path().join("server.db"), Durability::Normal).unwrap();
    let (first, second) = (open(), open());
    let file = |id: &str, purpose: &str| FileRecord {
        id: id.to_owned(),
        purpose: purpose.to_owned(),
        filename: "ü.jsonl".to_owned(),
        bytes: 5_000_000_000,
        created_at: 1,
        expires_at: (id == "c").then_some(7),
        request: None,
    };
    for (id, purpose) in [("a", "batch"), ("b", "vision"), ("c", "batch")] {
        file(id, purpose).insert(&first.single()).unwrap();
    }
    let database = &second.single();
    let listed = |purpose, after, ascending| -> Vec<String> {
        let query = FileQuery {
            purpose,
            after,
            ascending,
        };
        let found = FileRecord::list(database, &query, 2).unwrap();
        found.into_iter().map(|file| file.id).collect()
    };
    assert_eq!(listed(None, None, false), ["c", "b"]);
    assert_eq!(listed(None, Some("b"), false), ["a"]);
    assert_eq!(listed(Some("batch"), None, true), ["a", "c"]);
    assert_eq!(listed(Some("batch"), Some("a"), true), ["c"]);
    let found = FileRecord::get(database, "b").unwrap().unwrap();
    assert_eq!(found, file("b", "vision"));
    assert_eq!(FileRecord::expired(database, 7).unwrap().len(), 1);
    FileRecord::delete(database, "b").unwrap();
    assert!(FileRecord::get(database, "b").unwrap().is_none());
    assert!(FileRecord::is_known(database, "b").unwrap());
}

#[test]
fn a_file_that_cannot_be_used_is_named_with_a_remedy() {
    let set_version = |path: &Path, version: i64| {
        let database = rusqlite::Connection::open(path).unwrap();
        database
            .pragma_update(None, "user_version", version)
            .unwrap();
    };
    let cut_off = |path: &Path| {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_len(5_000).unwrap();
    };
    let overwrite = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        bytes[..100].fill(b'x');
        fs::write(path, bytes).unwrap();
    };
    type Spoil<'s> = (&'s str, &'s dyn Fn(&Path));
    let spoils: [Spoil<'_>; 6] = [
        ("is damaged (", &overwrite),
        ("is damaged (", &cut_off),
        ("has version 99", &|path| set_version(path, 99)),
        ("has version 0", &|path| set_version(path, 0)),
        ("cannot be opened for writing (", &|path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
        ("cannot be opened for writing (", &|path| {
            fs::create_dir(path.with_extension("db-wal")).unwrap();
        }),
    ];
    for (why, spoil) in spoils {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.db");
        let open = || Records::open(&path, Durability::Full);
        drop(open().unwrap());
        spoil(&path);
        let text = open().err().unwrap().to_string();
        for part in [&*path.to_string_lossy(), why, "move", "Stop the server"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
