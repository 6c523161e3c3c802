//! Idempotency keys: the outcome of each key is stored for 1 day, so that a request is performed once, however often it
//! is sent and whatever crashes in between.
//!
//! The id of the process is chosen and recorded before anything is enqueued, so after a crash one lookup shows whether
//! the process exists.

use std::time::{Duration, Instant};

use batchwright::progress::Timestamp;
use batchwright::{Error, ErrorKind, ProcessId};
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
  answer TEXT,               -- what was answered, in JSON; NULL until then
  created_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS keys_by_age ON keys (created_at);
";

/// How long a key is known.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

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
    /// Another thread still performs the request; its hash, if known.
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
    /// An earlier request with the key has crashed, or failed, and may have enqueued the jobs.
    pub resumed: bool,
}

impl HeldKey<'_> {
    /// Records the hash of the request before its effect becomes permanent.
    pub fn note_request(&self, request: Hash) -> Result<(), Error> {
        let note = "UPDATE keys SET request = ? WHERE key = ?";
        self.records
            .single()
            .run(note, by![request, self.key])
            .map(drop)
    }

    /// Records the response.
    pub fn note_answer(&self, answer: &str) -> Result<(), Error> {
        let note = "UPDATE keys SET answer = ? WHERE key = ?";
        self.records
            .single()
            .run(note, by![answer, self.key])
            .map(drop)
    }

    /// The request had no effect: the next one with this key counts as the first.
    pub fn forget(&self) -> Result<(), Error> {
        let forget = "DELETE FROM keys WHERE key = ?";
        self.records.single().run(forget, by![self.key]).map(drop)
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

/// A request without an answer that nobody performs, to be completed or discarded.
pub(crate) struct Abandoned<'r> {
    pub held: HeldKey<'r>,
    pub makes: Makes,
}

impl Records {
    /// Claims a key for a request, or returns its earlier response. Waits up to `patience` while another thread performs
    /// it.
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
        let Some(mut held) = self.hold(key, Instant::now() + patience) else {
            let known = self.known(&key)?;
            return Ok(Claim::Busy(known.and_then(|known| known.request)));
        };
        self.forget_old_keys(now)?;
        if let Some(known) = self.known(&key)? {
            if let Some(answer) = known.answer {
                return Ok(Claim::Answered(known.request, answer));
            }
            held.process = known.process;
            held.since = known.since;
            held.request = known.request;
            held.resumed = true;
            return Ok(Claim::Mine(held));
        }
        if let Some(process) = asked.process {
            held.process = process;
        }
        held.since = now;
        held.request = asked.request;
        self.single().run(
            "INSERT INTO keys (key, request, process, chosen, many, created_at)
             VALUES (?, ?, ?, ?, ?, ?)",
            by![
                key,
                asked.request,
                held.process.bytes(),
                asked.process.is_none(),
                asked.makes as i64,
                now.0
            ],
        )?;
        Ok(Claim::Mine(held))
    }

    /// The requests for jobs that have no answer and that nobody performs, with a process of the server's choice.
    pub fn abandoned(&self) -> Result<Vec<Abandoned<'_>>, Error> {
        let rows = self.single().rows(
            "SELECT key, process, many FROM keys
             WHERE answer IS NULL AND chosen <> 0 AND many < 2",
            &[],
        )?;
        let mut abandoned = Vec::new();
        for mut row in rows {
            let key = row.bytes(0)?;
            // A request that ends meanwhile has an answer afterwards.
            if let Some(mut held) = self.hold(key, Instant::now())
                && self
                    .known(&key)?
                    .is_some_and(|known| known.answer.is_none())
            {
                held.process = ProcessId::from_bytes(row.bytes(1)?);
                let makes = match row.int(2)? {
                    0 => Makes::Job,
                    _ => Makes::Process,
                };
                abandoned.push(Abandoned { held, makes });
            }
        }
        Ok(abandoned)
    }

    /// Whether this is the answer to another key.
    pub fn is_answer(&self, answer: &str) -> Result<bool, Error> {
        let find = "SELECT 1 FROM keys WHERE answer = ? LIMIT 1";
        Ok(self.single().first(find, by![answer])?.is_some())
    }

    /// The keys of answers that are known no longer, with the processes that may be left of them.
    pub fn expired_answers(&self, now: Timestamp) -> Result<Vec<(Hash, ProcessId)>, Error> {
        let rows = self.single().rows(
            "SELECT key, process FROM keys WHERE created_at < ? AND many = 2
             ORDER BY created_at LIMIT 1000",
            by![oldest(now)],
        )?;
        let read = |mut row: Row| Ok((row.bytes(0)?, ProcessId::from_bytes(row.bytes(1)?)));
        rows.into_iter().map(read).collect()
    }

    /// Forgets such a key.
    pub fn forget_answer(&self, key: &Hash) -> Result<(), Error> {
        let forget = "DELETE FROM keys WHERE key = ?";
        self.single().run(forget, by![&key[..]]).map(drop)
    }

    /// Locks this key against other threads until it is released, for a new process. `None` if that was not possible by
    /// the deadline.
    fn hold(&self, key: Hash, deadline: Instant) -> Option<HeldKey<'_>> {
        let mut held = self.keys.held.lock();
        while !held.insert(key) {
            let waited = self.keys.released.wait_until(&mut held, deadline);
            if waited.timed_out() {
                return None;
            }
        }
        Some(HeldKey {
            records: self,
            key,
            process: ProcessId::new(),
            since: Timestamp::default(),
            request: None,
            resumed: false,
        })
    }

    fn known(&self, key: &Hash) -> Result<Option<Known>, Error> {
        let found = self.single().first(
            "SELECT request, process, answer, created_at FROM keys WHERE key = ?",
            by![&key[..]],
        )?;
        let read = |mut row: Row| {
            let request = row.optional_bytes(0)?;
            Ok(Known {
                request: request.and_then(|hash| hash.try_into().ok()),
                process: ProcessId::from_bytes(row.bytes(1)?),
                answer: row.optional_text(2)?,
                since: Timestamp(row.int(3)?),
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
        let forget = "DELETE FROM keys WHERE created_at < ? AND many <> 2";
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
    use batchwright::queue::Durability;

    use super::*;

    #[test]
    fn a_key_without_an_answer_goes_to_the_next_request_or_is_settled() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Records::open(&folder.path().join("server.db"), Durability::Normal).unwrap();
        let claim = |records: &Records, at| {
            let claimed =
                records.claim_key([7; 32], Asked::default(), Timestamp(at), Duration::ZERO);
            match claimed.unwrap() {
                Claim::Mine(held) => (Some((held.process, held.resumed)), None),
                Claim::Answered(request, answer) => (None, Some((request, answer))),
                Claim::Busy(_) => (None, None),
            }
        };
        let died = open();
        let (first, _) = claim(&died, 1_000);
        let (process, resumed) = first.unwrap();
        assert!(!resumed);
        drop(died);
        let records = open();
        let (again, _) = claim(&records, 2_000);
        assert_eq!(again, Some((process, true)));
        let abandoned = records.abandoned().unwrap();
        assert_eq!(abandoned.len(), 1);
        let held = &abandoned[0].held;
        assert_eq!(held.process, process);
        assert_eq!(claim(&records, 2_000), (None, None), "it is being settled");
        assert!(records.abandoned().unwrap().is_empty());
        held.note_request([1; 32]).unwrap();
        held.note_answer("{}").unwrap();
        assert!(records.is_answer("{}").unwrap());
        assert!(!records.is_answer("[]").unwrap());
        drop(abandoned);
        let (_, answered) = claim(&records, 3_000);
        assert_eq!(answered, Some((Some([1; 32]), "{}".to_owned())));
        assert!(records.abandoned().unwrap().is_empty());
    }
}
