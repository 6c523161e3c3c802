use std::fs;
use std::time::{Duration, UNIX_EPOCH};

use super::*;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("done.jsonl")
    }

    fn open(&self) -> ErrorRecovery {
        ErrorRecovery::resume_from_checkpoint(self.path()).unwrap()
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path()).unwrap()
    }
}

fn stamp(size: u64) -> Stamp {
    let modified = UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789);
    Stamp::new(size, Some(modified))
}

fn done(recovery: &ErrorRecovery, path: &Path, size: u64) {
    recovery.0.lock().end(path, Some(stamp(size)), None, 1);
}

/// Names that are difficult to store.
const NAMES: [&str; 5] = ["plain.py", "with space", "two\nlines", "\"quoted\\", "日本"];

#[test]
fn finished_files_are_known_to_the_next_run_in_their_version() {
    let place = Place::new();
    let first = place.open();
    for name in NAMES {
        done(&first, Path::new(name), 7);
    }
    drop(first);
    let second = place.open();
    for name in NAMES {
        let name = Path::new(name);
        assert!(second.knows(name, stamp(7)), "{name:?}");
        assert!(!second.knows(name, stamp(8)), "{name:?}");
        let touched = Stamp {
            modified: stamp(7).modified + 1,
            ..stamp(7)
        };
        assert!(!second.knows(name, touched), "{name:?}");
    }
    assert!(!second.knows(Path::new("other"), stamp(7)));
}

#[test]
fn failures_keep_path_kind_message_and_attempts_until_the_file_is_done() {
    let place = Place::new();
    let first = place.open();
    let denied = Error::new(ErrorKind::PermissionDenied, "cannot read it");
    for name in NAMES {
        assert!(!first.handle_error(name, &denied, 1));
    }
    let late = Error::new(ErrorKind::Transient, "stale");
    assert!(first.handle_error(Path::new("nfs"), &late, 3));
    assert!(!first.handle_error(Path::new("nfs"), &late, 4));
    let before = first.failed_files();
    assert_eq!(before.len(), NAMES.len() + 1);
    drop(first);
    let second = place.open();
    assert_eq!(second.failed_files(), before);
    let nfs = before.iter().find(|failed| failed.path == Path::new("nfs"));
    let expected = FailedFile {
        path: "nfs".into(),
        kind: ErrorKind::Transient,
        message: "stale".to_owned(),
        attempts: 4,
    };
    assert_eq!(nfs, Some(&expected));
    done(&second, Path::new("nfs"), 1);
    assert_eq!(second.retry_failed().len(), NAMES.len());
    assert!(second.failed_files().is_empty());
    drop(second);
    // Removed from the list but not done: after a crash now, the next process still finds them.
    assert_eq!(place.open().failed_files().len(), NAMES.len());
}

#[test]
fn a_truncated_last_line_is_removed_and_others_are_kept() {
    let place = Place::new();
    let first = place.open();
    done(&first, Path::new("one"), 1);
    done(&first, Path::new("two"), 2);
    first.save_checkpoint().unwrap();
    drop(first);
    let whole = place.text();
    for cut in 1..whole.lines().last().unwrap().len() {
        fs::write(place.path(), &whole[..whole.len() - 1 - cut]).unwrap();
        let again = place.open();
        assert!(again.knows(Path::new("one"), stamp(1)), "cut by {cut}");
        assert!(!again.knows(Path::new("two"), stamp(2)), "cut by {cut}");
        done(&again, Path::new("two"), 2);
        drop(again);
        assert_eq!(place.text(), whole, "cut by {cut}");
    }
}

#[test]
fn replaced_lines_are_removed() {
    let place = Place::new();
    let first = place.open();
    for run in 0..10 {
        done(&first, Path::new("one"), run);
        done(&first, Path::new("two"), run);
    }
    drop(first);
    assert_eq!(place.text().lines().count(), 20);
    let second = place.open();
    assert_eq!(place.text().lines().count(), 2);
    assert!(second.knows(Path::new("two"), stamp(9)));
    // This process can still append to it, and no other process can.
    done(&second, Path::new("three"), 3);
    let error = ErrorRecovery::resume_from_checkpoint(place.path()).unwrap_err();
    assert!(error.message().contains("another run"), "{error}");
    drop(second);
    assert!(place.open().knows(Path::new("three"), stamp(3)));
}

#[test]
fn other_files_are_rejected_as_checkpoints_and_unchanged() {
    let result = r#"{"id":"1","success":true,"request_hash":"00112233445566778899aabbccddeeff","response":{}}"#;
    for text in ["my notes\nof today\n", &format!("{result}\n")] {
        let place = Place::new();
        fs::write(place.path(), text).unwrap();
        let error = ErrorRecovery::resume_from_checkpoint(place.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(place.text(), text);
    }
}
