//! Answers in an SQLite file that all runs with one data folder share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Sender, bounded};
use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior, params};

use crate::base::private;
use crate::base::sqlite_header::sqlite_header;
use crate::base::thread::spawn;
use crate::base::{Error, ErrorKind};

use super::reuse::{AnswerKey, AnswerStore};

/// "bwra": distinguishes the file from other databases.
const APPLICATION_ID: i64 = 0x6277_7261;
const SCHEMA_VERSION: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE answers (
  request BLOB NOT NULL,
  answerer BLOB NOT NULL,
  line TEXT NOT NULL,
  bytes INTEGER NOT NULL,
  used INTEGER NOT NULL
);
CREATE UNIQUE INDEX by_request ON answers (request, answerer);
CREATE INDEX by_use ON answers (used, bytes);
";

const INSERT: &str = "INSERT OR REPLACE INTO answers (request, answerer, line, bytes, used)
  VALUES (?1, ?2, ?3, ?4, ?5)";

/// Size of a row in addition to its line.
const ROW_BYTES: u64 = 160;
/// Number of answers that are written together.
const TOGETHER: usize = 64;
/// Bytes of answers that may wait to be written; further ones are dropped.
const MOST_WAITING: u64 = 32 << 20;
/// The time of an answer's last use is accurate to the hour.
const USED_AGAIN: i64 = 3600;
/// A process measures the size each time it has written this share of the limit, and deletes answers once `FULL_AT`
/// shares are in use: sixteen OS processes at once stay below the limit.
const SHARE: u64 = 256;
const FULL_AT: u64 = SHARE - 16;
/// How long to wait for another process.
const PATIENCE: Duration = Duration::from_secs(5);

/// An [`AnswerStore`] in an SQLite file: `reuse.db` in the data folder of the `batchwright` program. It contains
/// answers and request hashes, no prompts. Several OS processes can use it at once.
pub struct SqliteAnswers {
    file: Arc<AnswerFile>,
    /// Wakes the writing thread: a run does not wait for this disk before it writes its own results.
    wake: Option<Sender<()>>,
    writer: Option<JoinHandle<()>>,
}

struct AnswerFile {
    path: PathBuf,
    max_bytes: u64,
    waiting: Mutex<Waiting>,
    inner: Mutex<Inner>,
}

/// Answers to be written.
#[derive(Default)]
struct Waiting {
    kept: Vec<(AnswerKey, String)>,
    bytes: u64,
    used: Vec<i64>,
}

struct Inner {
    /// `None` once it is unusable.
    db: Option<Connection>,
    /// Bytes written since the size was last measured.
    written: u64,
}

impl SqliteAnswers {
    /// Opens the file, or creates it with its folder. Its answers take at most this number of bytes: the least recently
    /// used ones are deleted first. A damaged file is moved aside, and a new one is created.
    ///
    /// # Errors
    /// If it cannot be used: it is not writable, or belongs to another program or version.
    pub fn open(path: impl Into<PathBuf>, max_bytes: u64) -> Result<Self, Error> {
        let path = path.into();
        let fail = |why: &str| {
            let why = format!("{}: cannot be used: {why}", path.display());
            Error::new(ErrorKind::Invalid, why)
        };
        if let Some(folder) = path.parent() {
            private::make_folder(folder).map_err(|error| fail(&error.to_string()))?;
        }
        let mut opened = connect(&path);
        if let Err(error) = &opened
            && is_damaged(error)
        {
            set_aside(&path);
            opened = connect(&path);
        }
        let db = opened.map_err(|error| fail(&error.to_string()))?;
        let db = db.map_err(fail)?;
        let file = Arc::new(AnswerFile {
            max_bytes,
            waiting: Mutex::default(),
            inner: Mutex::new(Inner {
                db: Some(db),
                written: u64::MAX,
            }),
            path,
        });
        let (wake, woken) = bounded(1);
        let written = file.clone();
        let writer = spawn("batchwright-answers", move || {
            woken.iter().for_each(|()| written.write());
        });
        Ok(Self {
            writer: Some(writer?),
            file,
            wake: Some(wake),
        })
    }

    /// Bytes of the answers, and their number.
    pub fn size(&self) -> (u64, u64) {
        let found = self.file.attempt(|db| size_of(db));
        found.unwrap_or_default()
    }

    /// The same for a file that is only read; `None` if it does not exist.
    ///
    /// # Errors
    /// If it cannot be read: it is damaged, or belongs to another program or version.
    pub fn look_at(path: impl AsRef<Path>) -> Result<Option<(u64, u64)>, Error> {
        let path = path.as_ref();
        if !path.exists() {
            return Ok(None);
        }
        let look = || {
            let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            db.busy_timeout(PATIENCE)?;
            Ok(match State::of(&db)? {
                State::Ours => Ok(size_of(&db)?),
                State::Empty => Ok((0, 0)),
                State::Foreign(why) => Err(why.to_owned()),
            })
        };
        let found = look().unwrap_or_else(|error: rusqlite::Error| Err(error.to_string()));
        found.map(Some).map_err(|why| {
            let why = format!("{}: cannot be used: {why}", path.display());
            Error::new(ErrorKind::Invalid, why)
        })
    }
}

impl AnswerFile {
    /// A problem with the file costs only the savings, so it is logged once and the file is not used any more.
    fn attempt<T>(&self, ask: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Option<T> {
        self.attempt_in(&mut self.inner.lock(), ask)
    }

    fn attempt_in<T>(
        &self,
        inner: &mut Inner,
        ask: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Option<T> {
        match ask(inner.db.as_mut()?) {
            Ok(found) => Some(found),
            Err(error) => {
                inner.db = None;
                let path = self.path.display();
                log::warn!("{path}: {error}; no more answers are reused in this run");
                if is_damaged(&error) {
                    set_aside(&self.path);
                }
                None
            }
        }
    }

    /// Adds an answer to the waiting ones. Returns true if there are enough for a write.
    fn take_in(&self, key: &AnswerKey, line: String) -> bool {
        let bytes = row_bytes(&line);
        let mut waiting = self.waiting.lock();
        // A large answer must not displace many others, and waiting answers must not fill the memory if the disk is
        // slow.
        if bytes > self.max_bytes / 16 || waiting.bytes + bytes > MOST_WAITING.max(bytes) {
            return false;
        }
        waiting.bytes += bytes;
        waiting.kept.push((*key, line));
        waiting.kept.len() >= TOGETHER
    }

    /// Writes the waiting answers.
    fn write(&self) {
        let mut inner = self.inner.lock();
        let Waiting { kept, bytes, used } = std::mem::take(&mut *self.waiting.lock());
        if kept.is_empty() && used.is_empty() {
            return;
        }
        inner.written = inner.written.saturating_add(bytes);
        let look = inner.written >= self.max_bytes / SHARE;
        if look {
            inner.written = 0;
        }
        self.attempt_in(&mut inner, |db| {
            let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            {
                let mut insert = change.prepare_cached(INSERT)?;
                for (key, line) in &kept {
                    let bytes = row_bytes(line) as i64;
                    insert.execute(params![key.request, key.answerer, line, bytes, now()])?;
                }
                let mut again =
                    change.prepare_cached("UPDATE answers SET used = ?2 WHERE rowid = ?1")?;
                for row in &used {
                    again.execute(params![row, now()])?;
                }
            }
            let trimmed = look && trim(&change, self.max_bytes)?;
            change.commit()?;
            if trimmed {
                db.execute_batch("PRAGMA incremental_vacuum")?;
            }
            Ok(())
        });
    }
}

/// Bytes of the answers, and their number.
fn size_of(db: &Connection) -> rusqlite::Result<(u64, u64)> {
    let ask = "SELECT coalesce(sum(bytes), 0), count(*) FROM answers";
    let (bytes, answers): (i64, i64) =
        db.query_row(ask, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok((bytes.unsigned_abs(), answers.unsigned_abs()))
}

/// Deletes the least recently used answers until there is enough space.
fn trim(db: &Connection, max_bytes: u64) -> rusqlite::Result<bool> {
    let sum = "SELECT coalesce(sum(bytes), 0) FROM answers";
    let all: i64 = db.query_row(sum, [], |row| row.get(0))?;
    if all.unsigned_abs() <= max_bytes / SHARE * FULL_AT {
        return Ok(false);
    }
    let mut over = all.unsigned_abs() - max_bytes / 10 * 9;
    let mut oldest = db.prepare("SELECT rowid, bytes FROM answers ORDER BY used, rowid")?;
    let mut rows = oldest.query([])?;
    let mut gone = Vec::new();
    while let Some(row) = rows.next()?
        && over > 0
    {
        gone.push(row.get::<_, i64>(0)?);
        over = over.saturating_sub(row.get::<_, i64>(1)?.unsigned_abs());
    }
    drop(rows);
    let mut delete = db.prepare("DELETE FROM answers WHERE rowid = ?1")?;
    for row in gone {
        delete.execute([row])?;
    }
    Ok(true)
}

fn row_bytes(line: &str) -> u64 {
    line.len() as u64 + ROW_BYTES
}

/// Seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |time| time.as_secs() as i64)
}

/// The kind of a file.
enum State {
    Empty,
    Ours,
    /// Not a file of this program; with the reason.
    Foreign(&'static str),
}

impl State {
    fn of(db: &Connection) -> rusqlite::Result<Self> {
        Ok(match sqlite_header(db)? {
            (0, 0, 0) => Self::Empty,
            (APPLICATION_ID, SCHEMA_VERSION, _) => Self::Ours,
            (APPLICATION_ID, ..) => Self::Foreign("it was made by another version of batchwright"),
            _ => Self::Foreign("it is a database of another program"),
        })
    }
}

/// Opens or creates the file; the inner error says why this program cannot use it.
fn connect(path: &Path) -> rusqlite::Result<Result<Connection, &'static str>> {
    private::before_sqlite(path);
    let mut db = Connection::open(path)?;
    db.busy_timeout(PATIENCE)?;
    match State::of(&db)? {
        State::Foreign(why) => return Ok(Err(why)),
        // Must be set before the first table.
        State::Empty => db.pragma_update(None, "auto_vacuum", "INCREMENTAL")?,
        State::Ours => {}
    }
    db.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    db.pragma_update(None, "synchronous", "NORMAL")?;
    let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if matches!(State::of(&change)?, State::Empty) {
        change.execute_batch(SCHEMA)?;
        change.pragma_update(None, "application_id", APPLICATION_ID)?;
        change.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    }
    change.commit()?;
    Ok(Ok(db))
}

fn is_damaged(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

/// Moves a damaged file and its companion files aside.
fn set_aside(path: &Path) {
    let named = |end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    let aside = format!(".damaged-{}", now());
    log::warn!(
        "{}: damaged; it is set aside as {}",
        path.display(),
        named(&aside).display()
    );
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::rename(named(end), named(&format!("{aside}{end}")));
    }
}

impl AnswerStore for SqliteAnswers {
    fn may_have(&self, request: [u8; 8]) -> bool {
        let mut most = [0xff; 32];
        most[..8].copy_from_slice(&request);
        let found = self.file.attempt(|db| {
            let mut ask = db.prepare_cached(
                "SELECT 1 FROM answers WHERE request >= ?1 AND request <= ?2 LIMIT 1",
            )?;
            ask.exists(params![request, most])
        });
        found.unwrap_or(false)
    }

    fn answer(&self, key: &AnswerKey) -> Option<String> {
        let found = self.file.attempt(|db| {
            let mut ask = db.prepare_cached(
                "SELECT rowid, line, used FROM answers WHERE request = ?1 AND answerer = ?2",
            )?;
            let row = |row: &rusqlite::Row<'_>| {
                Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get::<_, i64>(2)?))
            };
            ask.query_row(params![key.request, key.answerer], row)
                .optional()
        });
        let (row, line, used) = found.flatten()?;
        if used < now() - USED_AGAIN {
            self.file.waiting.lock().used.push(row);
        }
        Some(line)
    }

    fn keep(&self, key: &AnswerKey, line: String) {
        if self.file.take_in(key, line)
            && let Some(wake) = &self.wake
        {
            let _ = wake.try_send(());
        }
    }

    fn flush(&self) {
        self.file.write();
    }
}

impl Drop for SqliteAnswers {
    fn drop(&mut self) {
        self.wake = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> AnswerKey {
        AnswerKey {
            request: [n; 32],
            answerer: [1; 16],
        }
    }

    #[test]
    fn answers_are_found_by_all_of_their_key_and_by_others_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data/reuse.db");
        let store = SqliteAnswers::open(&path, 1 << 20).unwrap();
        let other = SqliteAnswers::open(&path, 1 << 20).unwrap();
        store.keep(&key(7), "seven".to_owned());
        assert!(!other.may_have([7; 8]));
        store.flush();
        assert!(other.may_have([7; 8]) && !other.may_have([8; 8]));
        assert_eq!(other.answer(&key(7)).as_deref(), Some("seven"));
        let elsewhere = AnswerKey {
            answerer: [2; 16],
            ..key(7)
        };
        assert_eq!(other.answer(&elsewhere), None);
        other.keep(&key(7), "again".to_owned());
        drop(other);
        assert_eq!(store.answer(&key(7)).as_deref(), Some("again"));
        assert_eq!(store.size().1, 1);
    }

    #[test]
    fn writing_answers_does_not_wait_for_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reuse.db");
        let store = SqliteAnswers::open(&path, 1 << 20).unwrap();
        let other = Connection::open(&path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        for n in 0..TOGETHER as u8 {
            store.keep(&key(n), "line".to_owned());
        }
        other.execute_batch("COMMIT").unwrap();
        store.flush();
        assert_eq!(store.size().1, TOGETHER as u64);
    }

    #[test]
    fn the_least_recently_used_answer_is_removed_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reuse.db");
        let store = SqliteAnswers::open(&path, 100 * 1024).unwrap();
        let line = "x".repeat(1024);
        for n in 0..200 {
            store.keep(&key(n), line.clone());
            store.flush();
            let age =
                |db: &mut Connection| db.execute("UPDATE answers SET used = used - 10000", []);
            store.file.attempt(age).unwrap();
            // An answer in regular use is kept.
            assert!(store.answer(&key(0)).is_some());
        }
        let (bytes, answers) = store.size();
        assert!(bytes <= 110 * 1024 && answers > 70, "{answers}: {bytes}");
        assert!(store.answer(&key(199)).is_some() && store.answer(&key(1)).is_none());
        store.keep(&key(201), "x".repeat(50 * 1024));
        store.flush();
        assert_eq!(store.answer(&key(201)), None);
    }

    #[test]
    fn many_concurrent_processes_stay_below_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reuse.db");
        assert_eq!(SqliteAnswers::look_at(&path).unwrap(), None);
        let bound = 1 << 20;
        let stores: Vec<_> = (0..8)
            .map(|_| SqliteAnswers::open(&path, bound).unwrap())
            .collect();
        let mut n = 0_u32;
        for round in 0..60 {
            for store in &stores {
                for _ in 0..4 {
                    let mut request = [0; 32];
                    request[..4].copy_from_slice(&n.to_be_bytes());
                    n += 1;
                    let key = AnswerKey {
                        request,
                        answerer: [1; 16],
                    };
                    store.keep(&key, "x".repeat(700));
                }
                store.flush();
                let (bytes, _) = SqliteAnswers::look_at(&path).unwrap().unwrap();
                assert!(bytes <= bound, "{round}: {bytes}");
            }
        }
        let (bytes, answers) = stores[0].size();
        assert!(bytes > bound / 2 && answers > 500, "{answers}: {bytes}");
    }

    #[test]
    fn a_damaged_file_is_moved_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reuse.db");
        std::fs::write(&path, "no database at all".repeat(1000)).unwrap();
        let store = SqliteAnswers::open(&path, 1 << 20).unwrap();
        store.keep(&key(1), "one".to_owned());
        drop(store);
        let names = std::fs::read_dir(folder.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert_eq!(names.filter(|name| name.contains("damaged")).count(), 1);
        // Damaged while it is in use.
        let store = SqliteAnswers::open(&path, 1 << 20).unwrap();
        assert_eq!(store.answer(&key(1)).as_deref(), Some("one"));
        let drop_table = |db: &mut Connection| db.execute("DROP TABLE answers", []);
        store.file.attempt(drop_table).unwrap();
        assert!(!store.may_have([1; 8]));
        store.keep(&key(2), "two".to_owned());
        store.flush();
        assert_eq!(store.answer(&key(2)), None);
    }

    #[test]
    fn a_file_of_another_program_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reuse.db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch("CREATE TABLE mine (n)").unwrap();
        let error = SqliteAnswers::open(&path, 1 << 20).err().unwrap();
        assert!(error.message().contains("another program"), "{error}");
        let error = SqliteAnswers::look_at(&path).unwrap_err();
        assert!(error.message().contains("another program"), "{error}");
        db.execute("INSERT INTO mine VALUES (1)", []).unwrap();
    }
}
