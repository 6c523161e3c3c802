//! Keys by which clients say that a request is one that they have sent before: what each led to is kept for a day, so
//! that a request is carried out once, however often it is sent and whatever dies in between.
//!
//! The id of the process is chosen and written down before anything is enqueued. So after a death there is one place
//! to look whether it had come to that.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use batchwright::progress::Timestamp;
use batchwright::{Error, ErrorKind, ProcessId};
use rusqlite::{OptionalExtension, Params, params};
use sha2::{Digest, Sha256};

use super::{Records, failed};

pub(super) const TABLE: &str = "
CREATE TABLE IF NOT EXISTS keys (
  key BLOB PRIMARY KEY,      -- SHA-256 of what was asked for and of the client's key
  request BLOB,              -- SHA-256 of the request; NULL until all of it has come
  process BLOB NOT NULL,     -- chosen before anything is enqueued
  chosen INTEGER NOT NULL,   -- by the server; else the client named it
  many INTEGER NOT NULL,     -- jobs are asked for, and not one
  owner TEXT NOT NULL,       -- the server that carries it out
  answer TEXT,               -- what was answered, in JSON; NULL until then
  created_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS keys_by_age ON keys (created_at);
";

/// How long a key is known.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// How long another request with the same key is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) type Hash = [u8; 32];

/// The hash of these parts, none of which runs into the next.
pub(crate) fn hash(parts: &[&[u8]]) -> Hash {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// What a request with a key asks for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked {
    /// The hash of the request, where all of it has come.
    pub request: Option<Hash>,
    /// The process that the client named.
    pub process: Option<ProcessId>,
    /// A process of many jobs is to be made.
    pub many: bool,
}

/// What is known of a key.
pub(crate) enum Claim<'r> {
    /// The caller carries the request out; nobody else does so meanwhile.
    Mine(HeldKey<'r>),
    /// It was carried out: the hash of the request, and what was answered.
    Answered(Option<Hash>, String),
}

/// A key whose request is being carried out.
pub(crate) struct HeldKey<'r> {
    records: &'r Records,
    key: Hash,
    /// Where its jobs go.
    pub process: ProcessId,
    /// When it was first heard of.
    pub since: Timestamp,
    /// The request that it was first sent with, as far as that is known.
    pub request: Option<Hash>,
    /// Whoever had it before has died, or failed, and may have enqueued what it was to.
    pub resumed: bool,
}

impl HeldKey<'_> {
    /// Notes what the request was, before what it asks for is done for good.
    pub fn note_request(&self, request: Hash) -> Result<(), Error> {
        self.update(
            "UPDATE keys SET request = ?2 WHERE key = ?1 AND owner = ?3",
            params![&self.key[..], &request[..], self.records.owner.name],
        )
    }

    /// Notes what is answered.
    pub fn note_answer(&self, answer: &str) -> Result<(), Error> {
        self.update(
            "UPDATE keys SET answer = ?2 WHERE key = ?1 AND owner = ?3",
            params![&self.key[..], answer, self.records.owner.name],
        )
    }

    /// Nothing came of it: the next request with this key is a first one.
    pub fn forget(&self) -> Result<(), Error> {
        self.update(
            "DELETE FROM keys WHERE key = ?1 AND owner = ?2",
            params![&self.key[..], self.records.owner.name],
        )
    }

    /// A hash for a job that has none of its own, by which it is known as that of this key.
    pub fn mark(&self) -> String {
        self.key.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// # Errors
    /// When the key is another server's by now.
    fn update(&self, sql: &str, params: impl Params) -> Result<(), Error> {
        self.records.update_own(sql, params)
    }
}

impl Drop for HeldKey<'_> {
    fn drop(&mut self) {
        let keys = &self.records.keys;
        keys.held.lock().remove(&self.key);
        keys.released.notify_all();
    }
}

/// A request that was begun by a server that has died: what becomes of it is to be decided.
pub(crate) struct Abandoned {
    key: Hash,
    /// The server that has died.
    owner: String,
    pub process: ProcessId,
    /// A process of many jobs was to be made.
    pub many: bool,
}

impl Records {
    /// Takes a key for a request, or tells what came of it before. Waits while somebody carries it out.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Transient`] when that takes long.
    pub fn claim_key(&self, key: Hash, asked: Asked, now: Timestamp) -> Result<Claim<'_>, Error> {
        let request = asked.request;
        let hash = request.as_ref().map(|hash| &hash[..]);
        let deadline = Instant::now() + PATIENCE;
        self.hold(key, deadline)?;
        let process = asked.process.unwrap_or_else(ProcessId::new);
        let mut held = HeldKey {
            records: self,
            key,
            process,
            since: now,
            request,
            resumed: false,
        };
        loop {
            self.forget_old_keys(now)?;
            let added = self.changed(
                "INSERT INTO keys (key, request, process, chosen, many, owner, created_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
                params![
                    &key[..],
                    hash,
                    &process.bytes()[..],
                    asked.process.is_none(),
                    asked.many,
                    self.owner.name,
                    now.0
                ],
            )?;
            if added == 1 {
                return Ok(Claim::Mine(held));
            }
            let Some(known) = self.known(&key)? else {
                continue;
            };
            if let Some(answer) = known.answer {
                return Ok(Claim::Answered(known.request, answer));
            }
            if known.owner == self.owner.name || self.owner.is_dead(&known.owner) {
                let one = Abandoned {
                    key,
                    owner: known.owner,
                    process: known.process,
                    many: asked.many,
                };
                if self.take_over(&one)? {
                    held.process = known.process;
                    held.since = known.since;
                    held.request = known.request;
                    held.resumed = true;
                    return Ok(Claim::Mine(held));
                }
            }
            if Instant::now() > deadline {
                return Err(busy());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The requests that servers which have died had begun and not answered, with a process of the server's choice.
    pub fn abandoned(&self) -> Result<Vec<Abandoned>, Error> {
        let rows: Vec<(Vec<u8>, Vec<u8>, bool, String)> = {
            let database = self.lock();
            let mut read = database
                .prepare(
                    "SELECT key, process, many, owner FROM keys WHERE answer IS NULL AND chosen",
                )
                .map_err(|error| failed("server.db", &error))?;
            let rows = read.query_map([], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            });
            rows.and_then(Iterator::collect)
                .map_err(|error| failed("server.db", &error))?
        };
        let dead = rows
            .into_iter()
            .filter(|(_, _, _, owner)| self.owner.is_dead(owner));
        Ok(dead
            .filter_map(|(key, process, many, owner)| {
                Some(Abandoned {
                    key: key.try_into().ok()?,
                    owner,
                    process: ProcessId::from_bytes(process.try_into().ok()?),
                    many,
                })
            })
            .collect())
    }

    /// Makes this server the one to decide about it. False when another one was first.
    pub fn take_over(&self, one: &Abandoned) -> Result<bool, Error> {
        let taken = self.changed(
            "UPDATE keys SET owner = ?3 WHERE key = ?1 AND owner = ?2 AND answer IS NULL",
            params![&one.key[..], one.owner, self.owner.name],
        )?;
        Ok(taken == 1)
    }

    /// What became of an abandoned request that was taken over: its answer, or nothing.
    pub fn settle_abandoned(&self, one: &Abandoned, answer: Option<&str>) -> Result<(), Error> {
        let key = &one.key[..];
        match answer {
            Some(answer) => self.update_own(
                "UPDATE keys SET answer = ?2 WHERE key = ?1 AND owner = ?3 AND answer IS NULL",
                params![key, answer, self.owner.name],
            ),
            None => self.update_own(
                "DELETE FROM keys WHERE key = ?1 AND owner = ?2 AND answer IS NULL",
                params![key, self.owner.name],
            ),
        }
    }

    /// Changes the row of a key of this server.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Transient`] when it is another server's by now.
    fn update_own(&self, sql: &str, params: impl Params) -> Result<(), Error> {
        match self.changed(sql, params)? {
            0 => Err(busy()),
            _ => Ok(()),
        }
    }

    /// Whether this is the answer to another key.
    pub fn is_answer(&self, answer: &str) -> Result<bool, Error> {
        let database = self.lock();
        let found = database
            .prepare_cached("SELECT 1 FROM keys WHERE answer = ?1")
            .and_then(|mut find| find.exists([answer]));
        found.map_err(|error| failed("server.db", &error))
    }

    /// Keeps other threads from this key until it is released.
    fn hold(&self, key: Hash, deadline: Instant) -> Result<(), Error> {
        let mut held = self.keys.held.lock();
        while !held.insert(key) {
            if self
                .keys
                .released
                .wait_until(&mut held, deadline)
                .timed_out()
            {
                return Err(busy());
            }
        }
        Ok(())
    }

    fn known(&self, key: &Hash) -> Result<Option<Known>, Error> {
        let database = self.lock();
        let known = database
            .prepare_cached(
                "SELECT request, process, owner, answer, created_at FROM keys WHERE key = ?1",
            )
            .and_then(|mut find| {
                let read = find.query_row([&key[..]], |row| {
                    let (request, process): (Option<Vec<u8>>, Vec<u8>) = (row.get(0)?, row.get(1)?);
                    Ok(Known {
                        request: request.and_then(|hash| hash.try_into().ok()),
                        process: ProcessId::from_bytes(process.try_into().unwrap_or_default()),
                        owner: row.get(2)?,
                        answer: row.get(3)?,
                        since: Timestamp(row.get(4)?),
                    })
                });
                read.optional()
            });
        known.map_err(|error| failed("server.db", &error))
    }

    /// At most once a minute.
    fn forget_old_keys(&self, now: Timestamp) -> Result<(), Error> {
        {
            let mut looked = self.keys.looked.lock();
            if now.since(*looked) < Duration::from_secs(60) && looked.0 != 0 {
                return Ok(());
            }
            *looked = now;
        }
        let oldest = now.0 - i64::try_from(KEPT.as_millis()).unwrap_or(i64::MAX);
        self.execute("DELETE FROM keys WHERE created_at < ?1", [oldest])
    }
}

struct Known {
    request: Option<Hash>,
    process: ProcessId,
    owner: String,
    answer: Option<String>,
    since: Timestamp,
}

fn busy() -> Error {
    let why =
        "a request with the same idempotency key is still being carried out: send it again later";
    Error::new(ErrorKind::Transient, why)
}

/// This server, as others see it: a kernel lock on a file, which ends with its process.
pub(super) struct Owner {
    pub name: String,
    folder: PathBuf,
    path: PathBuf,
    _file: File,
}

impl Owner {
    pub fn new(folder: &Path) -> io::Result<Self> {
        forget_the_dead(folder)?;
        let name = ProcessId::new().to_string();
        let path = lock_of(folder, &name);
        // By its own name only once it is locked: until then nobody must take it for that of a dead one.
        let early = path.with_extension("starting");
        let file = crate::private::options()
            .create_new(true)
            .write(true)
            .open(&early)?;
        file.lock()?;
        std::fs::rename(&early, &path)?;
        Ok(Self {
            name,
            folder: folder.to_owned(),
            path,
            _file: file,
        })
    }

    pub fn is_dead(&self, name: &str) -> bool {
        if name == self.name {
            return false;
        }
        let path = lock_of(&self.folder, name);
        let Ok(file) = File::options().write(true).open(&path) else {
            return !path.exists();
        };
        match file.try_lock() {
            Ok(()) => {
                let _ = std::fs::remove_file(&path);
                true
            }
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => false,
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Removes what servers have left that were killed.
fn forget_the_dead(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if name.starts_with("server.") && name.ends_with(".lock") {
            let is_dead = File::options()
                .write(true)
                .open(&path)
                .is_ok_and(|file| file.try_lock().is_ok());
            if is_dead {
                // Another one that starts may have been first.
                let _ = std::fs::remove_file(&path);
            }
        }
    }
    Ok(())
}

fn lock_of(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("server.{name}.lock"))
}

#[cfg(test)]
mod tests {
    use batchwright::queue::Durability;

    use super::*;

    #[test]
    fn a_key_that_another_server_has_taken_over_is_left_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Records::open(&folder.path().join("server.db"), Durability::Normal).unwrap();
        let claim = |records: &Records| -> Option<ProcessId> {
            match records.claim_key([7; 32], Asked::default(), Timestamp(1_000)) {
                Ok(Claim::Mine(held)) => Some(held.process),
                _ => None,
            }
        };
        let died = open();
        let process = claim(&died);
        drop(died);
        let starts = open();
        let abandoned = starts.abandoned().unwrap();
        assert_eq!(abandoned.len(), 1);
        let lives = open();
        let Ok(Claim::Mine(held)) = lives.claim_key([7; 32], Asked::default(), Timestamp(2_000))
        else {
            panic!("a dead server's key is free");
        };
        assert_eq!((Some(held.process), held.resumed), (process, true));
        assert!(!starts.take_over(&abandoned[0]).unwrap());
        assert!(starts.settle_abandoned(&abandoned[0], None).is_err());
        held.note_request([1; 32]).unwrap();
        held.note_answer("{}").unwrap();
    }

    #[test]
    fn a_server_that_lost_a_key_writes_nothing_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(&folder.path().join("server.db"), Durability::Normal).unwrap();
        let Ok(Claim::Mine(held)) = records.claim_key([7; 32], Asked::default(), Timestamp(1_000))
        else {
            panic!("nobody has it");
        };
        let taken = records.changed("UPDATE keys SET owner = 'other'", []);
        assert_eq!(taken.unwrap(), 1);
        assert!(held.note_request([1; 32]).is_err());
        assert!(held.note_answer("{}").is_err());
        assert!(held.forget().is_err());
        assert!(records.known(&[7; 32]).unwrap().unwrap().answer.is_none());
    }
}
