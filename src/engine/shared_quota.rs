//! One quota for several OS processes: a small file, locked for the moment of a decision.
//!
//! For later runs it also keeps the concurrency that was found.
//!
//! The file has levels and a pause, not reservations, so nothing must be returned when a process crashes. It is open
//! only for that moment, because there may be more quotas than open files are allowed. It is removed after a week
//! without use. If the lock is held for longer (its holder may be suspended), or the file cannot be used, the process
//! decides alone for a while.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::base::private;
use crate::base::{LockedFile, Time};

use super::bucket::{Bucket, adopt_limit};

/// Wall time in nanoseconds, the only clock that processes share.
pub(super) type WallClock = fn(Time) -> u64;

pub(super) fn system_wall(_: Time) -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |t| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX))
}

/// Size of a file in bytes, more than its contents need.
const LENGTH: usize = 512;
const PREFIX: &str = "quota-";
const SUFFIX: &str = ".json";
/// A file that was not written for this long is outdated.
const UNUSED_FOR: Duration = Duration::from_secs(7 * 24 * 3600);
/// Interval of reading the state of a quota without a known rate: others may have paused it.
const REREAD_INTERVAL: Duration = Duration::from_millis(100);
/// Interval at which the proven concurrency is saved, if nothing else is saved.
const KEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Attempts to lock. A holder needs microseconds; one that needs longer is suspended.
const TRIES: u32 = 40;
const BETWEEN_TRIES: Duration = Duration::from_micros(50);
/// The found concurrency is adopted for this time; later it is only a hint.
const FRESH: Duration = Duration::from_secs(3600);
/// Longest pause of another process that is believed: by default no run waits longer, and clocks jump.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Level {
    per_second: f64,
    level: f64,
    at: u64,
    /// Reported by the provider, not configured by the user of one process.
    learned: bool,
    /// Time of the last report.
    reported: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Record {
    requests: Option<Level>,
    tokens: Option<Level>,
    paused_until: u64,
    /// Time of the last write.
    written: u64,
    found: Option<Found>,
}

/// The concurrency that was found, and when.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Found {
    calls: u32,
    at: u64,
}

/// The concurrency that an earlier run found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remembered {
    /// Recently.
    Fresh(u32),
    /// Long ago.
    Old(u32),
}

/// The shared part of a quota.
pub(super) struct Shared<'q> {
    pub requests: &'q mut Option<Bucket>,
    pub tokens: &'q mut Option<Bucket>,
    /// When learned limits were last dropped: they are not adopted again.
    pub dropped: [Option<Time>; 2],
    pub paused_until: &'q mut Time,
    /// The concurrency that has proven useful.
    pub found: Option<u32>,
}

/// A quota's file.
pub(super) struct Share {
    path: PathBuf,
    /// Open and locked.
    held: Option<LockedFile>,
    wall: WallClock,
    next_look: Time,
    /// No attempt to lock before this time, because each attempt waits while the limiter is locked.
    alone_until: Time,
    found: Option<Found>,
}

impl Share {
    pub(super) fn open(folder: &Path, name: u64, wall: WallClock) -> io::Result<Self> {
        private::make_folder(folder)?;
        let path: PathBuf = folder.join(format!("{PREFIX}{name:016x}{SUFFIX}"));
        open(&path)?;
        Ok(Self {
            path,
            held: None,
            wall,
            next_look: Time::ZERO,
            alone_until: Time::ZERO,
            found: None,
        })
    }

    /// The concurrency that an earlier run found.
    pub(super) fn remembered(&self, now: Time) -> Option<Remembered> {
        let file = lock(&self.path).ok().flatten()?;
        let Found { calls, at } = read(&file).ok()?.found.filter(|found| found.calls > 0)?;
        let age = (self.wall)(now).checked_sub(at).map(Duration::from_nanos);
        Some(if age.is_some_and(|age| age < FRESH) {
            Remembered::Fresh(calls)
        } else {
            Remembered::Old(calls)
        })
    }

    /// Reads the state of the others if that is due. Returns true if the lock is held now, and [`end`](Self::end)
    /// must follow.
    pub(super) fn begin(&mut self, quota: Shared<'_>, has_new_limits: bool, now: Time) -> bool {
        let paced = quota.requests.is_some() || quota.tokens.is_some();
        let is_due = paced || has_new_limits || now >= self.next_look;
        if !is_due || now < self.alone_until {
            return false;
        }
        self.next_look = now.after(REREAD_INTERVAL);
        let file = match lock(&self.path) {
            Ok(Some(file)) => file,
            Ok(None) => {
                self.alone_until = self.next_look;
                return false;
            }
            Err(error) => {
                log::debug!("a quota file cannot be opened: {error}");
                return false;
            }
        };
        match read(&file) {
            Ok(record) => {
                self.found = record.found;
                record.apply(quota, now, (self.wall)(now));
            }
            Err(error) => log::debug!("a quota file cannot be read: {error}"),
        }
        self.held = Some(file);
        true
    }

    /// Writes the state for the others and releases the lock.
    pub(super) fn end(&mut self, quota: Shared<'_>, now: Time) {
        let Some(file) = self.held.take() else { return };
        let wall = (self.wall)(now);
        let level = |bucket: &mut Option<Bucket>| {
            let bucket = bucket.as_mut()?;
            bucket.refill(now);
            Some(Level {
                per_second: bucket.per_second,
                level: bucket.level,
                at: wall,
                learned: bucket.learned.is_some(),
                reported: bucket
                    .learned
                    .map(|learned| wall.saturating_sub(learned.age(now).as_nanos() as u64)),
            })
        };
        let pause = quota.paused_until.since(now);
        let found = quota.found.map(|calls| Found { calls, at: wall });
        let record = Record {
            found: found.or(self.found),
            requests: level(quota.requests),
            tokens: level(quota.tokens),
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

    /// Saves only the proven concurrency, for later runs on this machine.
    pub(super) fn keep_found(&mut self, calls: Option<u32>, now: Time) {
        let Some(calls) = calls.filter(|_| now >= self.next_look) else {
            return;
        };
        self.next_look = now.after(KEEP_INTERVAL);
        let at = (self.wall)(now);
        let kept = lock(&self.path).and_then(|file| {
            let Some(file) = file else { return Ok(()) };
            let found = Some(Found { calls, at });
            write(
                &file,
                &Record {
                    found,
                    ..read(&file)?
                },
            )
        });
        if let Err(error) = kept {
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
            // It may have been removed between opening and locking.
            Some(file) if is_there(&file.metadata()?) => return Ok(Some(file)),
            Some(_) => {}
            None => thread::sleep(BETWEEN_TRIES),
        }
    }
    Ok(None)
}

#[cfg(unix)]
fn is_there(file: &Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(file) > 0
}

/// Non-Unix systems do not unlink open files.
#[cfg(not(unix))]
fn is_there(_: &Metadata) -> bool {
    true
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

/// Removes the files of quotas that were not used for a week.
pub(super) fn remove_unused(folder: &Path, now: SystemTime) {
    let Ok(files) = fs::read_dir(folder) else {
        return;
    };
    for file in files.flatten() {
        let name = file.file_name();
        let name = name.to_string_lossy();
        let is_quota = name.starts_with(PREFIX) && name.ends_with(SUFFIX);
        if is_quota && file.metadata().is_ok_and(|file| is_unused(&file, now)) {
            let path = file.path();
            if let Err(error) = remove_if_unused(&path, now) {
                log::debug!("{} cannot be removed: {error}", path.display());
            }
        }
    }
}

/// Removes the file under its lock: a process that opened it before notices that after locking it.
fn remove_if_unused(path: &Path, now: SystemTime) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    if file.try_lock().is_ok() && is_unused(&file.metadata()?, now) {
        fs::remove_file(path)?;
    }
    Ok(())
}

fn is_unused(file: &Metadata, now: SystemTime) -> bool {
    let written = file.modified().ok();
    written.is_some_and(|at| now.duration_since(at).is_ok_and(|since| since > UNUSED_FOR))
}

impl Record {
    fn apply(&self, quota: Shared<'_>, now: Time, wall: u64) {
        // The file was written before the clock was set back, so its times cannot be compared with the present.
        if self.written > wall {
            return;
        }
        let adopt = |bucket: &mut Option<Bucket>, level: Option<Level>, dropped: Option<Time>| {
            let is_plausible =
                |l: &Level| l.per_second > 0.0 && l.level.is_finite() && l.at <= wall;
            let Some(level) = level.filter(is_plausible) else {
                return;
            };
            let passed = Duration::from_nanos(wall.saturating_sub(level.at));
            let age = level.reported.and_then(|at| wall.checked_sub(at));
            if let Some(age) = age.map(Duration::from_nanos) {
                adopt_limit(bucket, level.per_second, age, dropped, now);
            }
            let Some(bucket) = bucket else { return };
            bucket.refill(now);
            let gained = passed.as_secs_f64() * bucket.per_second;
            // A damaged file must not block a quota for ever.
            let level = level.level.max(-bucket.minute());
            bucket.level = (level + gained).min(bucket.capacity);
        };
        let [requests, tokens] = quota.dropped;
        adopt(quota.requests, self.requests, requests);
        adopt(quota.tokens, self.tokens, tokens);
        let pause = Duration::from_nanos(self.paused_until.saturating_sub(wall));
        if pause <= LONGEST_PAUSE {
            *quota.paused_until = (*quota.paused_until).max(now.after(pause));
        }
    }
}

#[cfg(test)]
#[path = "shared_quota_tests.rs"]
mod tests;
