//! What was spent in a day or a month, in a small file that several OS processes share.
//!
//! The file counts what was spent, with what is reserved for calls, and what is reserved for each batch. A process that
//! crashes returns nothing: what it had reserved for calls stays spent in this period, and the reservation of a batch stays
//! until a later process has settled this batch, or until the period ends.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::private;
use crate::base::{AtomicFile, Clock, Day, Error, LockedFile, Usd};

/// How often it is checked whether a call that did not fit fits again.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Attempts to lock. A holder needs milliseconds; one that needs longer is suspended.
const TRIES: u32 = 400;
const BETWEEN_TRIES: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 5 });

/// How long an account counts, in days of UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Period {
    #[cfg(feature = "queue")]
    Day,
    Month,
}

impl Period {
    /// The first day of the period of this day.
    fn first(self, day: Day) -> Day {
        match self {
            #[cfg(feature = "queue")]
            Self::Day => day,
            Self::Month => day.first_of_month(),
        }
    }
}

/// The content of the file. All amounts are in picodollars.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Counted {
    /// The first day of the period.
    pub since: Day,
    /// Spent, with what is reserved for calls.
    pub spent: u64,
    /// What is reserved for each batch, by its label.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub batches: BTreeMap<String, u64>,
}

impl Counted {
    /// What is spent or reserved.
    pub(crate) fn total(&self) -> u64 {
        let batches = self.batches.values();
        batches.fold(self.spent, |sum, batch| sum.saturating_add(*batch))
    }

    /// Reserves this amount for a batch, in place of what is reserved for it. Returns the most that could be reserved if
    /// that is less; then nothing changes.
    #[cfg(feature = "queue")]
    pub(crate) fn reserve_batch(&mut self, label: &str, amount: u64, limit: u64) -> Option<u64> {
        let own = self.batches.get(label).copied().unwrap_or(0);
        let others = self.total().saturating_sub(own);
        let most = limit.saturating_sub(others);
        if amount > most {
            return Some(most);
        }
        if amount == 0 {
            self.batches.remove(label);
        } else {
            self.batches.insert(label.to_owned(), amount);
        }
        None
    }

    /// Counts what requests of a batch have cost. The rest of its reservation stays until the batch has ended. Returns the
    /// part of the cost that was reserved.
    #[cfg(feature = "queue")]
    pub(crate) fn spend_batch(&mut self, label: &str, cost: u64) -> u64 {
        self.spent = self.spent.saturating_add(cost);
        let Some(reserved) = self.batches.get_mut(label) else {
            return 0;
        };
        let part = cost.min(*reserved);
        *reserved -= part;
        part
    }

    /// As it counts in the present period.
    fn at(self, today: Day, since: Day) -> Self {
        if self.since > today.next() {
            // The clock was ahead. What was counted then is not forgotten.
            return Self { since, ..self };
        }
        // Clocks may differ a little where a period begins.
        if self.since >= since {
            return self;
        }
        Self {
            since,
            ..Self::default()
        }
    }
}

/// The file.
pub(crate) struct Account {
    /// For messages, for example `the monthly budget`.
    pub name: String,
    path: PathBuf,
    period: Period,
    clock: Arc<dyn Clock>,
}

impl Account {
    /// An account in this file, which is created when something is counted.
    pub(crate) fn new(name: &str, path: PathBuf, period: Period, clock: Arc<dyn Clock>) -> Self {
        Self {
            name: name.to_owned(),
            path,
            period,
            clock,
        }
    }

    fn today(&self) -> Day {
        Day::of(self.clock.wall())
    }

    /// The first day of the present period.
    pub(crate) fn since(&self) -> Day {
        self.period.first(self.today())
    }

    /// The first day of the next period.
    #[cfg(feature = "queue")]
    pub(crate) fn renews(&self) -> Day {
        match self.period {
            Period::Day => self.since().next(),
            Period::Month => self.since().last_of_month().next(),
        }
    }

    /// Makes sure that it counts what was billed in the period that begins on this day, for example while no budget was
    /// set. Does nothing if that is not the present period.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub(crate) fn at_least(&self, since: Day, billed: Usd) -> Result<(), Error> {
        let is_less = |counted: &Counted| counted.since == since && counted.spent < billed.picos();
        if !is_less(&self.look()?) {
            return Ok(());
        }
        self.change(|counted| {
            if is_less(counted) {
                counted.spent = billed.picos();
            }
        })
    }

    /// What is counted in the present period. It changes nothing, and does not wait for other processes.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn look(&self) -> Result<Counted, Error> {
        let counted = self.read().map_err(|error| self.failed(error))?;
        Ok(counted.map_or_else(|| self.nothing(), |(counted, _)| counted))
    }

    fn nothing(&self) -> Counted {
        Counted {
            since: self.since(),
            ..Counted::default()
        }
    }

    /// Changes what is counted in the present period, while no other process does.
    ///
    /// # Errors
    /// If the file cannot be read or written, or if another process holds its lock for several seconds.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Counted) -> T) -> Result<T, Error> {
        self.locked(change).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: io::Error) -> Error {
        let why = format!("cannot count {} in {}", self.name, self.path.display());
        cannot_count(error).context(why)
    }

    fn locked<T>(&self, change: impl FnOnce(&mut Counted) -> T) -> io::Result<T> {
        if let Some(folder) = self.path.parent() {
            private::make_folder(folder)?;
        }
        let _lock = self.lock()?;
        self.update(change)
    }

    /// Locks a file beside the account, which is replaced at each change.
    fn lock(&self) -> io::Result<LockedFile> {
        let path = self.path.with_extension("lock");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        for _ in 0..TRIES {
            match LockedFile::try_lock(private::open(&mut options, &path)?)? {
                Some(lock) => return Ok(lock),
                None => thread::sleep(BETWEEN_TRIES),
            }
        }
        let why = format!(
            "another program has locked {} for seconds: continue that program if it is stopped, or end it",
            path.display()
        );
        Err(io::Error::new(io::ErrorKind::WouldBlock, why))
    }

    /// What the file counts in the present period, and whether it says so.
    fn read(&self) -> io::Result<Option<(Counted, bool)>> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let read: Counted = serde_json::from_slice(&text).map_err(|error| {
            let why = format!(
                "it is not such a file ({error}): repair it, or delete it to count from the ledger"
            );
            io::Error::new(io::ErrorKind::InvalidData, why)
        })?;
        let now = read.clone().at(self.today(), self.since());
        let is_same = now == read;
        Ok(Some((now, is_same)))
    }

    fn update<T>(&self, change: impl FnOnce(&mut Counted) -> T) -> io::Result<T> {
        let (before, is_same) = self.read()?.unwrap_or_else(|| (self.nothing(), false));
        let mut now = before.clone();
        let result = change(&mut now);
        if !is_same || before != now {
            let mut options = OpenOptions::new();
            let new = AtomicFile::create(&self.path, private::restrict(options.write(true)))?;
            serde_json::to_writer(new.file(), &now)?;
            new.file().write_all(b"\n")?;
            new.replace()?;
        }
        Ok(result)
    }
}

/// The error of a file that counts what is spent, with what to do.
pub(crate) fn cannot_count(error: io::Error) -> Error {
    let hint = match error.kind() {
        // These already say it.
        io::ErrorKind::InvalidData | io::ErrorKind::WouldBlock => "",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free disk space, and give the command again"
        }
        _ => {
            "; make the file and its folder readable and writable for this user, and give the command again"
        }
    };
    let error = Error::from(error);
    let message = format!("{}{hint}", error.message());
    Error::new(error.kind(), message).with_storage()
}

#[cfg(test)]
#[path = "account_tests.rs"]
mod tests;
