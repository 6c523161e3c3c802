//! One quota for several OS processes: a small file, locked for the moment of a decision.
//!
//! The file has levels and a pause, not reservations, so nothing must be returned when a process crashes. It has no limits
//! either: each process has those of its settings and of its own replies. It is open
//! only for that moment, because there may be more quotas than open files are allowed. If the lock is held for longer (its
//! holder may be suspended), or the file cannot be used, the process decides alone for a while.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::base::private;
use crate::base::{LockedFile, Time};

use super::super::bucket::Bucket;
use super::Quota;

/// Wall time in nanoseconds, the only clock that processes share.
pub(in crate::engine) type WallClock = fn(Time) -> u64;

pub(in crate::engine) fn system_wall(_: Time) -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |t| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX))
}

/// Size of a file in bytes, more than its contents need.
const LENGTH: usize = 512;
/// Interval of reading the state of a quota without a known rate: others may have paused it.
const REREAD_INTERVAL: Duration = Duration::from_millis(100);
/// Attempts to lock. A holder needs microseconds; one that needs longer is suspended.
const TRIES: u32 = 40;
const BETWEEN_TRIES: Duration = Duration::from_micros(50);
/// Longest pause of another process that is believed: by default no run waits longer, and clocks jump.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Level {
    level: f64,
    at: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::engine) struct Record {
    requests: Option<Level>,
    tokens: Option<Level>,
    paused_until: u64,
    /// Time of the last write.
    written: u64,
}

/// A quota's file, open and locked, with what it contained.
pub(in crate::engine) type Held = (LockedFile, Record);

/// A quota's file.
pub(in crate::engine) struct Share {
    path: PathBuf,
    wall: WallClock,
    next_look: Time,
    /// No attempt to lock before this time, because each attempt waits while the limiter is locked.
    alone_until: Time,
}

impl Share {
    pub(in crate::engine) fn open(folder: &Path, name: u64, wall: WallClock) -> io::Result<Self> {
        private::make_folder(folder)?;
        let path: PathBuf = folder.join(format!("quota-{name:016x}.json"));
        open(&path)?;
        Ok(Self {
            path,
            wall,
            next_look: Time::ZERO,
            alone_until: Time::ZERO,
        })
    }

    /// Reads the state of the others if that is due. [`end`](Self::end) must follow with the lock.
    pub(in crate::engine) fn begin(
        &mut self,
        quota: &mut Quota,
        has_new_limits: bool,
        now: Time,
    ) -> Option<Held> {
        let paced = quota.requests.is_some() || quota.tokens.is_some();
        let is_due = paced || has_new_limits || now >= self.next_look;
        if !is_due || now < self.alone_until {
            return None;
        }
        self.next_look = now.after(REREAD_INTERVAL);
        let file = match lock(&self.path) {
            Ok(Some(file)) => file,
            Ok(None) => {
                self.alone_until = self.next_look;
                return None;
            }
            Err(error) => {
                log::debug!("a quota file cannot be opened: {error}");
                return None;
            }
        };
        let record = read(&file).unwrap_or_else(|error| {
            log::debug!("a quota file cannot be read: {error}");
            Record::default()
        });
        record.apply(quota, now, (self.wall)(now));
        Some((file, record))
    }

    /// Writes the state for the others and releases the lock.
    pub(in crate::engine) fn end(&self, (file, before): Held, quota: &mut Quota, now: Time) {
        let wall = (self.wall)(now);
        let level = |bucket: &mut Option<Bucket>| {
            let bucket = bucket.as_mut()?;
            bucket.refill(now);
            Some(Level {
                level: bucket.level,
                at: wall,
            })
        };
        let pause = quota.paused_until.since(now);
        let record = Record {
            requests: level(&mut quota.requests).or(before.requests),
            tokens: level(&mut quota.tokens).or(before.tokens),
            written: wall,
            paused_until: match pause {
                Duration::ZERO => 0,
                pause => wall.saturating_add(pause.as_nanos() as u64),
            },
        };
        if let Err(error) = write(&file, &record) {
            log::debug!("a quota file cannot be written: {error}");
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = private::open(&mut options, path)?;
    // Reading a pipe would never end.
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other(
            "the path of a quota's file is already in use",
        ))
    }
}

/// The locked file; `None` if another process holds the lock.
fn lock(path: &Path) -> io::Result<Option<LockedFile>> {
    for _ in 0..TRIES {
        match LockedFile::try_lock(open(path)?)? {
            Some(file) => return Ok(Some(file)),
            None => thread::sleep(BETWEEN_TRIES),
        }
    }
    Ok(None)
}

fn read(file: &File) -> io::Result<Record> {
    let mut text = String::with_capacity(LENGTH);
    file.take(4096).read_to_string(&mut text)?;
    // A new file is empty, and a truncated one has nothing worth keeping.
    Ok(serde_json::from_str(&text).unwrap_or_default())
}

fn write(mut file: &File, record: &Record) -> io::Result<()> {
    let mut text = serde_json::to_vec(record)?;
    // Padding instead of truncation: one call less, and the file is never empty in between.
    text.resize(text.len().max(LENGTH), b' ');
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&text)
}

impl Record {
    fn apply(&self, quota: &mut Quota, now: Time, wall: u64) {
        // The file was written before the clock was set back, so its times cannot be compared with the present.
        if self.written > wall {
            return;
        }
        let adopt = |bucket: &mut Option<Bucket>, level: Option<Level>| {
            let is_plausible = |level: &Level| level.level.is_finite() && level.at <= wall;
            let (Some(bucket), Some(level)) = (bucket, level.filter(is_plausible)) else {
                return;
            };
            let passed = Duration::from_nanos(wall.saturating_sub(level.at));
            bucket.refill(now);
            let gained = passed.as_secs_f64() * bucket.per_second;
            // A damaged file must not block a quota for ever.
            let level = level.level.max(-bucket.minute());
            bucket.level = (level + gained).min(bucket.capacity);
        };
        adopt(&mut quota.requests, self.requests);
        adopt(&mut quota.tokens, self.tokens);
        let pause = Duration::from_nanos(self.paused_until.saturating_sub(wall));
        if pause <= LONGEST_PAUSE {
            quota.paused_until = quota.paused_until.max(now.after(pause));
        }
    }
}

#[cfg(test)]
#[path = "shared_tests.rs"]
mod tests;
