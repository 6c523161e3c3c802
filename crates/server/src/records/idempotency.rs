//! Idempotency keys: the outcome of each key is stored for 1 day, so that a request is performed once, however often it
//! is sent and whatever crashes in between.
//!
//! The id of the process is chosen and recorded before anything is enqueued, so after a crash one lookup shows whether
//! the process exists.

use std::time::{Duration, Instant};

use batchwright::progress::Timestamp;
use batchwright::unstable::SqlValue;
use batchwright::{Error, ErrorKind, JobQueue, ProcessId};
use sha2::{Digest, Sha256};

use super::Records;
use super::database::{Row, Statements, by};

pub(super) const TABLE: &str = "
CREATE TABLE IF NOT EXISTS keys (
  key BLOB PRIMARY KEY,      -- SHA-256 of what was asked for and of the client's key
  request BLOB,              -- SHA-256 of the request; NULL until all of it has come
  process BLOB NOT NULL,     -- chosen before anything is enqueued
  chosen INTEGER NOT NULL,   -- by the server; else the client named it
  many INTEGER NOT NULL,     -- 0: a job is asked for, 1: a process of many, 2: an answer of /v1, 3: an object of /v1
  owner TEXT NOT NULL,       -- the server that carries it out
  answer TEXT,               -- what was answered, in JSON; NULL until then
  created_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS keys_by_age ON keys (created_at);
";

/// How long a key is known.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// Maximum interval between two checks of a key.
const LONGEST_PAUSE: Duration = Duration::from_millis(160);

pub(crate) type Hash = [u8; 32];

/// The hash of these parts; different splits of the same bytes give different hashes.
pub(crate) fn hash(parts: &[&[u8]]) -> Hash {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// A request with a key.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked {
    /// The hash of the request, once it was received completely.
    pub request: Option<Hash>,
    /// The process that the client named.
    pub process: Option<ProcessId>,
    pub makes: Makes,
}

/// What a request with a key makes, as the table has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Makes {
    #[default]
    Job = 0,
    /// A process of many jobs.
    Process = 1,
    /// An answer of `/v1`. A server that dies leaves it to the next request with the key.
    Answer = 2,
    /// An object of `/v1`, for example a file; likewise. Unlike the process of an answer, it outlives its key.
    Object = 3,
}

/// The state of a key.
pub(crate) enum Claim<'r> {
    /// The caller performs the request; no one else does at the same time.
    Mine(HeldKey<'r>),
    /// The request was completed: its hash, and the response.
    Answered(Option<Hash>, String),
    /// Another thread or server still performs the request; its hash, if known.
    Busy(Option<Hash>),
}

/// A key whose request is being performed.
pub(crate) struct HeldKey<'r> {
    records: &'r Records,
    key: Hash,
    /// Where its jobs go.
    pub process: ProcessId,
    /// When the key was first received.
    pub since: Timestamp,
    /// The first request with this key, if known.
    pub request: Option<Hash>,
    /// The previous owner has crashed, or failed, and may have enqueued the jobs.
    pub resumed: bool,
}

impl HeldKey<'_> {
    /// Changes the row of the key.
    fn change(&self, change: &str, values: &[SqlValue]) -> Result<(), Error> {
        let own = by![&self.key[..], self.records.name()];
        let sql = format!("{change} WHERE `key` = ? AND owner = ?");
        self.records.update_own(&sql, &[values, own].concat())
    }

    /// Records the hash of the request before its effect becomes permanent.
    pub fn note_request(&self, request: Hash) -> Result<(), Error> {
        self.change("UPDATE #keys SET request = ?", by![&request[..]])
    }

    /// The queue for the jobs of the request: it rejects them if this server has lost the key.
    pub fn queue(&self, queue: &JobQueue) -> JobQueue {
        let guard = self.records.database.guard(
            "UPDATE #keys SET owner = owner WHERE `key` = ? AND owner = ? AND answer IS NULL",
            by![&self.key[..], self.records.name()],
        );
        match guard {
            Some(guard) => queue.guarded(guard),
            None => queue.clone(),
        }
    }

    /// # Errors
    /// When the key is another server's by now: what that has made is its own.
    pub fn still_mine(&self) -> Result<(), Error> {
        self.change("UPDATE #keys SET owner = owner", &[])
    }

    /// Records the response.
    pub fn note_answer(&self, answer: &str) -> Result<(), Error> {
        self.change("UPDATE #keys SET answer = ?", by![answer])
    }

    /// The request had no effect: the next one with this key counts as the first.
    pub fn forget(&self) -> Result<(), Error> {
        self.change("DELETE FROM #keys", &[])
    }

    /// Leaves an unanswered key to the next request with it, at any server.
    pub fn release(&self) -> Result<(), Error> {
        let release =
            "UPDATE #keys SET owner = '' WHERE `key` = ? AND owner = ? AND answer IS NULL";
        let by = by![&self.key[..], self.records.name()];
        self.records.single().run(release, by).map(drop)
    }

    /// A hash that identifies a job without a hash of its own as that of this key.
    pub fn mark(&self) -> String {
        self.key.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Drop for HeldKey<'_> {
    fn drop(&mut self) {
        let keys = &self.records.keys;
        keys.held.lock().remove(&self.key);
        keys.released.notify_all();
    }
}

/// A request of a crashed server, to be completed or discarded.
pub(crate) struct Abandoned {
    key: Hash,
    /// The server that has died.
    owner: String,
    pub process: ProcessId,
    pub makes: Makes,
}

impl Records {
    /// Claims a key for a request, or returns its earlier response. Waits up to `patience` while another thread or
    /// server performs it.
    ///
    /// # Errors
    /// When the records cannot be read or written.
    pub fn claim_key(
        &self,
        key: Hash,
        asked: Asked,
        now: Timestamp,
        patience: Duration,
    ) -> Result<Claim<'_>, Error> {
        let request = asked.request;
        let hash = request.as_ref().map(|hash| &hash[..]);
        let deadline = Instant::now() + patience;
        if !self.hold(key, deadline) {
            let known = self.known(&key)?;
            return Ok(Claim::Busy(known.and_then(|known| known.request)));
        }
        let process = asked.process.unwrap_or_else(ProcessId::new);
        let mut pause = Duration::from_millis(20);
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
            let added = self.single().run(
                "INSERT OR IGNORE INTO #keys (`key`, request, process, chosen, many, owner, created_at)
                 VALUES (?, ?, ?, ?, ?, ?, ?)",
                by![
                    &key[..],
                    hash,
                    &process.bytes()[..],
                    asked.process.is_none(),
                    asked.makes as i64,
                    self.name(),
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
            if known.owner == self.name() || self.database.is_dead(&known.owner)? {
                let one = Abandoned {
                    key,
                    owner: known.owner,
                    process: known.process,
                    makes: asked.makes,
                };
                if self.take_over(&one)? {
                    held.process = known.process;
                    held.since = known.since;
                    held.request = known.request;
                    held.resumed = true;
                    return Ok(Claim::Mine(held));
                }
            }
            if Instant::now() >= deadline {
                return Ok(Claim::Busy(known.request));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The requests for jobs that servers which have died had begun and not answered, with a process of the server's
    /// choice.
    pub fn abandoned(&self) -> Result<Vec<Abandoned>, Error> {
        let rows = self.single().rows(
            "SELECT `key`, process, many, owner FROM #keys
             WHERE answer IS NULL AND chosen <> 0 AND many < 2",
            &[],
        )?;
        let mut abandoned = Vec::new();
        for mut row in rows {
            let owner = row.text(3)?;
            if self.database.is_dead(&owner)? {
                abandoned.push(Abandoned {
                    key: row.bytes(0)?,
                    owner,
                    process: ProcessId::from_bytes(row.bytes(1)?),
                    makes: match row.int(2)? {
                        0 => Makes::Job,
                        _ => Makes::Process,
                    },
                });
            }
        }
        Ok(abandoned)
    }

    /// Makes this server the one to decide about it. False when another one was first.
    pub fn take_over(&self, one: &Abandoned) -> Result<bool, Error> {
        let taken = self.single().run(
            "UPDATE #keys SET owner = ? WHERE `key` = ? AND owner = ? AND answer IS NULL",
            by![self.name(), &one.key[..], &*one.owner],
        )?;
        Ok(taken == 1)
    }

    /// Stores the outcome of an abandoned request: its response, or none.
    pub fn settle_abandoned(&self, one: &Abandoned, answer: Option<&str>) -> Result<(), Error> {
        let key = &one.key[..];
        match answer {
            Some(answer) => self.update_own(
                "UPDATE #keys SET answer = ? WHERE `key` = ? AND owner = ? AND answer IS NULL",
                by![answer, key, self.name()],
            ),
            None => self.update_own(
                "DELETE FROM #keys WHERE `key` = ? AND owner = ? AND answer IS NULL",
                by![key, self.name()],
            ),
        }
    }

    /// Changes the row of a key of this server.
    ///
    /// # Errors
    /// Of kind [`ErrorKind::Transient`] when it is another server's by now.
    fn update_own(&self, sql: &str, by: &[SqlValue]) -> Result<(), Error> {
        match self.single().run(sql, by)? {
            0 => Err(busy()),
            _ => Ok(()),
        }
    }

    /// Whether this is the answer to another key.
    pub fn is_answer(&self, answer: &str) -> Result<bool, Error> {
        let find = "SELECT 1 FROM #keys WHERE answer = ? LIMIT 1";
        Ok(self.single().first(find, by![answer])?.is_some())
    }

    /// The keys of answers that are known no longer, with the processes that may be left of them.
    pub fn expired_answers(&self, now: Timestamp) -> Result<Vec<(Hash, ProcessId)>, Error> {
        let rows = self.single().rows(
            "SELECT `key`, process FROM #keys WHERE created_at < ? AND many = 2
             ORDER BY created_at LIMIT 1000",
            by![oldest(now)],
        )?;
        let read = |mut row: Row| Ok((row.bytes(0)?, ProcessId::from_bytes(row.bytes(1)?)));
        rows.into_iter().map(read).collect()
    }

    /// Forgets such a key.
    pub fn forget_answer(&self, key: &Hash) -> Result<(), Error> {
        let forget = "DELETE FROM #keys WHERE `key` = ?";
        self.single().run(forget, by![&key[..]]).map(drop)
    }

    /// Locks this key against other threads until it is released. False if that was not possible by the deadline.
    fn hold(&self, key: Hash, deadline: Instant) -> bool {
        let mut held = self.keys.held.lock();
        while !held.insert(key) {
            if self
                .keys
                .released
                .wait_until(&mut held, deadline)
                .timed_out()
            {
                return false;
            }
        }
        true
    }

    fn known(&self, key: &Hash) -> Result<Option<Known>, Error> {
        let found = self.single().first(
            "SELECT request, process, owner, answer, created_at FROM #keys WHERE `key` = ?",
            by![&key[..]],
        )?;
        let read = |mut row: Row| {
            let request = row.optional_bytes(0)?;
            Ok(Known {
                request: request.and_then(|hash| hash.try_into().ok()),
                process: ProcessId::from_bytes(row.bytes(1)?),
                owner: row.text(2)?,
                answer: row.optional_text(3)?,
                since: Timestamp(row.int(4)?),
            })
        };
        found.map(read).transpose()
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
        let forget = "DELETE FROM #keys WHERE created_at < ? AND many <> 2";
        self.single().run(forget, by![oldest(now)]).map(drop)
    }
}

/// Keys of before this time are forgotten.
fn oldest(now: Timestamp) -> i64 {
    now.0 - i64::try_from(KEPT.as_millis()).unwrap_or(i64::MAX)
}

struct Known {
    request: Option<Hash>,
    process: ProcessId,
    owner: String,
    answer: Option<String>,
    since: Timestamp,
}

pub(crate) fn busy() -> Error {
    let why =
        "a request with the same idempotency key is still being processed: send it again later";
    Error::new(ErrorKind::Transient, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::testing::in_each_place;

    #[test]
    fn a_key_that_another_server_has_taken_over_is_left_to_it() {
        in_each_place(|open| {
            let claim = |records: &Records| -> Option<ProcessId> {
                match records.claim_key([7; 32], Asked::default(), Timestamp(1_000), Duration::ZERO)
                {
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
            let asked = Asked::default();
            let Ok(Claim::Mine(held)) =
                lives.claim_key([7; 32], asked, Timestamp(2_000), Duration::ZERO)
            else {
                panic!("a dead server's key is free");
            };
            assert_eq!((Some(held.process), held.resumed), (process, true));
            assert!(starts.abandoned().unwrap().is_empty(), "its owner lives");
            assert!(!starts.take_over(&abandoned[0]).unwrap());
            assert!(starts.settle_abandoned(&abandoned[0], None).is_err());
            held.note_request([1; 32]).unwrap();
            held.note_answer("{}").unwrap();
            assert!(starts.is_answer("{}").unwrap());
            assert!(!starts.is_answer("[]").unwrap());
            let Ok(Claim::Answered(request, answer)) =
                starts.claim_key([7; 32], asked, Timestamp(3_000), Duration::ZERO)
            else {
                panic!("it was answered");
            };
            assert_eq!((request, &*answer), (Some([1; 32]), "{}"));
        });
    }

    #[test]
    fn a_server_that_lost_a_key_writes_nothing_of_it() {
        in_each_place(|open| {
            let records = open();
            let Ok(Claim::Mine(held)) =
                records.claim_key([7; 32], Asked::default(), Timestamp(1_000), Duration::ZERO)
            else {
                panic!("nobody has it");
            };
            held.still_mine().unwrap();
            let taken = records
                .single()
                .run("UPDATE #keys SET owner = 'other'", &[]);
            assert_eq!(taken.unwrap(), 1);
            assert!(held.note_request([1; 32]).is_err());
            assert!(held.note_answer("{}").is_err());
            assert!(held.still_mine().is_err());
            assert!(held.forget().is_err());
            assert!(records.known(&[7; 32]).unwrap().unwrap().answer.is_none());
        });
    }
}
