//! What was spent in a day or a month, in a small file that several OS processes share.
//!
//! The file counts what was spent and what is reserved. A process that crashes returns nothing, so what it had reserved
//! stays spent in this period.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::clock::Clock;
use crate::base::day::Day;
use crate::base::error::Error;
use crate::base::private;
use crate::base::usd::Usd;

/// How often it is checked whether a call that did not fit fits again.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Bytes of the file: its JSON, filled up with blanks. It is written in place, and within a page, so a killed process
/// leaves the old or the new text.
const LENGTH: usize = 128;

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

/// The content of the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Counted {
    /// The first day of the period.
    pub since: Day,
    /// Picodollars, spent and reserved.
    pub spent: u64,
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

    /// The first day of the present period.
    pub(crate) fn since(&self) -> Day {
        self.period.first(Day::of(self.clock.wall()))
    }

    /// The first day of the next period.
    #[cfg(feature = "queue")]
    pub(crate) fn renews(&self) -> Day {
        match self.period {
            Period::Day => self.since().next(),
            Period::Month => self.since().last_of_month().next(),
        }
    }

    /// Makes sure that it counts what was billed in the present period, for example while no budget was set.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub(crate) fn at_least(&self, billed: Usd) -> Result<(), Error> {
        self.change(|counted| counted.spent = counted.spent.max(billed.picos()))
    }

    /// The first day of the period of this day.
    pub(crate) fn period_of(&self, day: Day) -> Day {
        self.period.first(day)
    }

    /// The present period, and what is counted in it.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn look(&self) -> Result<(Day, u64), Error> {
        self.change(|counted| (counted.since, counted.spent))
    }

    /// Changes what is counted in the present period, while no other process does.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Counted) -> T) -> Result<T, Error> {
        self.locked(change).map_err(|error| {
            let why = format!("cannot count {} in {}", self.name, self.path.display());
            Error::from(error).context(why).with_storage()
        })
    }

    fn locked<T>(&self, change: impl FnOnce(&mut Counted) -> T) -> io::Result<T> {
        if let Some(folder) = self.path.parent() {
            private::make_folder(folder)?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = private::open(&mut options, &self.path)?;
        file.lock()?;
        let result = self.update(&file, change);
        // A child process that is being started may have the file open too.
        file.unlock()?;
        result
    }

    fn update<T>(&self, mut file: &File, change: impl FnOnce(&mut Counted) -> T) -> io::Result<T> {
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let before = match &text[..] {
            [] => None,
            text => Some(serde_json::from_slice::<Counted>(text)?),
        };
        let since = self.since();
        // Clocks may differ a little where a period begins.
        let known = before.filter(|before| before.since >= since);
        let mut now = known.unwrap_or(Counted { since, spent: 0 });
        let result = change(&mut now);
        if before != Some(now) {
            let text = serde_json::to_string(&now)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(format!("{text:<LENGTH$}").as_bytes())?;
        }
        Ok(result)
    }
}
