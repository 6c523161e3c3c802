//! One quota for several processes: a small file each, under a kernel lock for the moment of a
//! decision.
//!
//! What was found of how many calls at once help stays in it for later runs.
//!
//! The file holds levels and a pause, not claims: nothing has to be given back when a process
//! dies. It is open for that moment only, since there may be more quotas than files may be open, and
//! it goes when nobody has used it for a week. Whoever finds the lock held for longer than a moment (its holder may be suspended), or
//! the file unusable, decides alone.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::base::clock::Time;
use crate::base::private;

use super::bucket::Bucket;
use super::learned::adopt_limit;

/// Nanoseconds of the calendar: the one clock that processes share.
pub(super) type WallClock = fn(Time) -> u64;

pub(super) fn system_wall(_: Time) -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |t| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX))
}

/// Bytes of a file, more than it says.
const LENGTH: usize = 512;
const PREFIX: &str = "quota-";
const SUFFIX: &str = ".json";
/// A file that was not written for this long says nothing any more.
const UNUSED_FOR: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often a quota without a known rate is looked up: others may have paused it.
const REREAD_INTERVAL: Duration = Duration::from_millis(100);
/// Interval at which the proven concurrency is saved, if nothing else is saved.
#[cfg(feature = "redis")]
const KEEP_INTERVAL: Duration = Duration::from_secs(1);
/// A holder needs microseconds; whoever holds it longer is asleep.
const TRIES: u32 = 40;
const BETWEEN_TRIES: Duration = Duration::from_micros(50);
/// How many calls at once helped is taken over for so long; later only as a hint.
const FRESH: Duration = Duration::from_secs(3600);
/// A pause of another process is believed for an hour at most: clocks jump.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Level {
    per_second: f64,
    level: f64,
    at: u64,
    /// Told by the provider, not set by the user of one process.
    learned: bool,
    /// When a reply last reported it; earlier versions have none.
    #[serde(default)]
    reported: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Record {
    requests: Option<Level>,
    tokens: Option<Level>,
    paused_until: u64,
    /// Earlier versions have none.
    #[serde(default)]
    found: Option<Found>,
}

/// How many calls at once helped, and when that was.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Found {
    calls: u32,
    at: u64,
}

/// What an earlier run found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remembered {
    /// A short while ago.
    Fresh(u32),
    /// Long ago.
    Old(u32),
}

/// What of a quota is shared.
pub(super) struct Shared<'q> {
    pub requests: &'q mut Option<Bucket>,
    pub tokens: &'q mut Option<Bucket>,
    /// When learned limits were last dropped: they are not taken over again.
    pub dropped: [Option<Time>; 2],
    pub paused_until: &'q mut Time,
    /// How many calls at once have proven to help.
    pub found: Option<u32>,
}

/// A quota's file.
pub(super) struct Share {
    path: PathBuf,
    /// Open and locked.
    held: Option<File>,
    wall: WallClock,
    next_look: Time,
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
            found: None,
        })
    }

    /// What an earlier run found, if it left word.
    pub(super) fn remembered(&self, now: Time) -> Option<Remembered> {
        let file = lock(&self.path).ok().flatten()?;
        let Found { calls, at } = read(&file).ok()?.found.filter(|found| found.calls > 0)?;
        let age = (self.wall)(now).checked_sub(at).map(Duration::from_nanos);
        Some(match age.is_some_and(|age| age < FRESH) {
            true => Remembered::Fresh(calls),
            false => Remembered::Old(calls),
        })
    }

    /// Takes over what the others left, if there is reason to look. True when the lock is held
    /// now and [`end`](Self::end) must follow.
    pub(super) fn begin(&mut self, quota: Shared<'_>, has_new_limits: bool, now: Time) -> bool {
        let paced = quota.requests.is_some() || quota.tokens.is_some();
        if !paced && !has_new_limits && now < self.next_look {
            return false;
        }
        self.next_look = now.after(REREAD_INTERVAL);
        let file = match lock(&self.path) {
            Ok(Some(file)) => file,
            Ok(None) => return false,
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

    /// Leaves the quota for the others and lets go of the lock.
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
            paused_until: match pause {
                Duration::ZERO => 0,
                pause => wall.saturating_add(pause.as_nanos() as u64),
            },
        };
        if let Err(error) = write(&file, &record) {
            log::debug!("a quota file cannot be written: {error}");
        }
    }

    /// Saves only the proven concurrency, for later runs on this machine. Other machines learn the use of the limits
    /// through Redis.
    #[cfg(feature = "redis")]
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
    // A pipe in its place would be read for ever.
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("the place of a quota's file is taken")),
    }
}

/// The file, locked until it is closed; `None` when somebody else holds the lock.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let mut file = open(path)?;
    for _ in 0..TRIES {
        match file.try_lock() {
            Ok(()) if is_there(&file.metadata()?) => return Ok(Some(file)),
            // It was removed between its opening and its lock.
            Ok(()) => file = open(path)?,
            Err(fs::TryLockError::WouldBlock) => thread::sleep(BETWEEN_TRIES),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(None)
}

#[cfg(unix)]
fn is_there(file: &Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(file) > 0
}

/// Elsewhere what is open keeps its name.
#[cfg(not(unix))]
fn is_there(_: &Metadata) -> bool {
    true
}

fn read(file: &File) -> io::Result<Record> {
    let mut text = String::with_capacity(LENGTH);
    file.take(4096).read_to_string(&mut text)?;
    // A new file is empty, and a torn one says nothing worth keeping.
    Ok(serde_json::from_str(&text).unwrap_or_default())
}

fn write(mut file: &File, record: &Record) -> io::Result<()> {
    let mut text = serde_json::to_vec(record)?;
    // Blanks instead of a truncation: one call less, and never an empty file in between.
    text.resize(text.len().max(LENGTH), b' ');
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&text)
}

/// Removes the files of quotas that nobody has used for a week.
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

/// Under its lock: who opened it before sees that it is gone once the lock is theirs.
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
        let adopt = |bucket: &mut Option<Bucket>, level: Option<Level>, dropped: Option<Time>| {
            let Some(level) = level.filter(|l| l.per_second > 0.0 && l.level.is_finite()) else {
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
            // Debts of years were written by earlier versions, to replies that stated any number.
            let level = level.level.max(-bucket.minute());
            bucket.level = (level + gained).min(bucket.capacity);
        };
        let [requests, tokens] = quota.dropped;
        adopt(quota.requests, self.requests, requests);
        adopt(quota.tokens, self.tokens, tokens);
        let pause = Duration::from_nanos(self.paused_until.saturating_sub(wall));
        if !pause.is_zero() {
            let until = now.after(pause.min(LONGEST_PAUSE));
            *quota.paused_until = (*quota.paused_until).max(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::hints::RateHints;
    use crate::engine::limiter::{CallEnd, Gate, Limiter, Limits, QuotaId, QuotaKey};

    fn virtual_wall(now: Time) -> u64 {
        1_000_000_000_000_000_000 + now.as_nanos()
    }

    fn at(ms: u64) -> Time {
        Time::from_nanos(ms * 1_000_000)
    }

    fn process(folder: &Path, limits: Limits) -> (Limiter, QuotaId) {
        let limiter = Limiter::shared_with(folder, virtual_wall);
        let quota = limiter.quota(QuotaKey::new(&["p", "key", "m"]), limits, 0, at(0));
        (limiter, quota)
    }

    #[test]
    fn processes_together_stay_within_one_rate() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits::default().requests_per_minute(600.0).burst(10);
        let processes: Vec<_> = (0..4).map(|_| process(folder.path(), limits)).collect();
        let mut started = [0_u32; 4];
        for ms in 0..60_000 {
            for (i, (limiter, quota)) in processes.iter().enumerate() {
                if let Gate::Go(permit) = limiter.try_acquire(*quota, 1, Some(0), at(ms)) {
                    started[i] += 1;
                    let ended = CallEnd::Replied(None);
                    limiter.settle(permit, ended, &RateHints::default(), at(ms));
                }
            }
            let total: u32 = started.iter().sum();
            assert!(
                f64::from(total) <= 10.0 + ms as f64 / 100.0 + 0.01,
                "{ms} ms"
            );
        }
        let total: u32 = started.iter().sum();
        assert!(total >= 605, "only {total} of 610 used");
    }

    #[test]
    fn a_pause_of_one_process_is_everybodys() {
        let folder = tempfile::tempdir().unwrap();
        let (a, in_a) = process(folder.path(), Limits::default());
        let (b, in_b) = process(folder.path(), Limits::default());
        let go = |limiter: &Limiter, quota, now| limiter.try_acquire(quota, 1, Some(0), now);
        let Gate::Go(permit) = go(&a, in_a, at(1)) else {
            panic!("a is free to go");
        };
        assert!(matches!(go(&b, in_b, at(1)), Gate::Go(_)));
        let refused = CallEnd::RateLimited(Some(Duration::from_secs(5)));
        a.settle(permit, refused, &RateHints::default(), at(10));
        assert_eq!(go(&b, in_b, at(200)), Gate::NotUntil(at(5010)));
        assert!(matches!(go(&b, in_b, at(5010)), Gate::Go(_)));
    }

    #[test]
    fn a_learned_rate_is_passed_on_and_a_given_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let given = Limits::default().requests_per_minute(60.0).burst(1);
        let (a, in_a) = process(folder.path(), given);
        let (b, in_b) = process(folder.path(), Limits::default());
        let go = |limiter: &Limiter, quota, now| limiter.try_acquire(quota, 1, Some(0), now);
        assert!(matches!(go(&a, in_a, at(1)), Gate::Go(_)));
        assert!((0..5).all(|_| matches!(go(&b, in_b, at(1)), Gate::Go(_))));

        let (c, in_c) = process(folder.path(), Limits::default());
        let Gate::Go(permit) = go(&c, in_c, at(200)) else {
            panic!("c is free to go");
        };
        let hints = RateHints {
            requests: Some(crate::base::hints::RateWindow {
                header: None,
                limit: 60,
                period: Duration::from_secs(60),
                remaining: Some(0),
                reset: None,
            }),
            tokens: None,
        };
        c.settle(permit, CallEnd::Replied(None), &hints, at(300));
        assert!(matches!(go(&c, in_c, at(301)), Gate::NotUntil(_)));
        let (d, in_d) = process(folder.path(), Limits::default());
        assert!(matches!(go(&d, in_d, at(302)), Gate::NotUntil(_)));
    }

    #[test]
    fn a_file_of_nonsense_and_a_held_lock_stop_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits::default().requests_per_minute(600.0).burst(10);
        let (limiter, quota) = process(folder.path(), limits);
        let file = std::fs::read_dir(folder.path()).unwrap().next().unwrap();
        let path = file.unwrap().path();
        for nonsense in [
            "",
            "{",
            "[1,2]",
            r#"{"requests":{"per_second":-1,"level":1e999,"at":1}}"#,
        ] {
            std::fs::write(&path, nonsense).unwrap();
            let gate = limiter.try_acquire(quota, 1, Some(0), at(1));
            assert!(matches!(gate, Gate::Go(_)), "{nonsense}");
        }
        let holder = File::open(&path).unwrap();
        holder.lock().unwrap();
        let gate = limiter.try_acquire(quota, 1, Some(0), at(2));
        assert!(matches!(gate, Gate::Go(_)));
    }

    #[test]
    fn how_many_calls_at_once_helped_is_remembered_and_with_its_age_only_half_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits::default().self_tuned(5, 256);
        // A server that answers all at once, in 100 ms.
        let grow = |limiter: &Limiter, quota: QuotaId, from: u64, rounds: u64| {
            let mut most = 0;
            for round in 0..rounds {
                let now = at(from + 100 * round);
                let started: Vec<_> =
                    std::iter::from_fn(|| match limiter.try_acquire(quota, 1, Some(0), now) {
                        Gate::Go(permit) => Some(permit),
                        Gate::NotUntil(_) => None,
                    })
                    .collect();
                most = started.len();
                for permit in started {
                    let ended = CallEnd::Replied(None);
                    limiter.settle(permit, ended, &RateHints::default(), now.after(MS_100));
                }
            }
            most
        };
        const MS_100: Duration = Duration::from_millis(100);
        let first = |from: u64| {
            let limiter = Limiter::shared_with(folder.path(), virtual_wall);
            let quota = limiter.quota(QuotaKey::new(&["p", "key", "m"]), limits, 0, at(from));
            grow(&limiter, quota, from, 1);
            grow(&limiter, quota, from + 100, 1)
        };
        assert_eq!(first(0), 5, "nothing is known yet");
        let (limiter, quota) = process(folder.path(), limits);
        let found = grow(&limiter, quota, 1000, 40);
        assert!(found >= 80, "{found}");
        let again = first(10_000);
        assert!(again * 2 > found, "{again} of {found} a few seconds later");
        let hours = 3 * 3600 * 1000;
        let later = first(hours);
        assert!(
            (6..=again / 2).contains(&later),
            "{later} three hours later"
        );
        let file = fs::read_dir(folder.path()).unwrap().next().unwrap();
        fs::write(file.unwrap().path(), r#"{"found":{"calls":-7}}"#).unwrap();
        assert_eq!(first(hours), 5, "nonsense is forgotten");
    }

    #[test]
    fn what_nobody_has_used_for_a_week_is_removed_and_missed_by_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits::default().requests_per_minute(60.0).burst(3);
        let (a, in_a) = process(folder.path(), limits);
        let (b, in_b) = process(folder.path(), limits);
        let go = |limiter: &Limiter, quota| {
            let gate = limiter.try_acquire(quota, 1, Some(0), at(1));
            matches!(gate, Gate::Go(_))
        };
        assert!(go(&b, in_b) && go(&a, in_a));
        let files = || fs::read_dir(folder.path()).unwrap();
        let path = files().next().unwrap().unwrap().path();
        fs::write(folder.path().join("quota-of-mine"), "").unwrap();
        let now = SystemTime::now();
        remove_unused(folder.path(), now);
        assert_eq!(files().count(), 2);
        let opened = open(&path).unwrap();
        opened.lock().unwrap();
        remove_unused(folder.path(), now + 2 * UNUSED_FOR);
        assert!(path.exists(), "somebody uses it");
        opened.unlock().unwrap();
        remove_unused(folder.path(), now + 2 * UNUSED_FOR);
        assert!(!path.exists());
        assert_eq!(files().count(), 1);
        if cfg!(unix) {
            assert!(!is_there(&opened.metadata().unwrap()));
        }
        assert!(go(&a, in_a), "what it knew it still knows");
        assert!(!go(&a, in_a) && !go(&b, in_b), "and tells the others");
        assert!(path.exists());
    }
}
