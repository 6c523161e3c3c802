//! Limits and speed that change while the simulator runs, as those of a real provider do.

use std::str::FromStr;
use std::time::Duration;

/// Settings that change at a time; all others stay.
///
/// ```
/// use batchwright_simulate::Change;
/// let change: Change = "90s:rpm=600,tpm=60000,max-parallel=8,full-speed=4,latency=2s".parse().unwrap();
/// assert!("rpm=600".parse::<Change>().is_err());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Since the simulator's start.
    pub(super) at: Duration,
    pub(super) rpm: Option<u64>,
    pub(super) tpm: Option<u64>,
    pub(super) max_parallel: Option<u64>,
    pub(super) full_speed: Option<u64>,
    pub(super) latency: Option<Duration>,
}

const FORM: &str = "write a change as TIME:NAME=N,… with rpm, tpm, max-parallel, full-speed or latency, such as \
                    90s:rpm=600,latency=2s";

impl FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Change, String> {
        let (at, knobs) = text.split_once(':').ok_or(FORM)?;
        let mut change = Change {
            at: time(at)?,
            ..Change::default()
        };
        for knob in knobs.split(',') {
            let (name, value) = knob.split_once('=').ok_or(FORM)?;
            let number = || match value.parse() {
                Ok(number @ 1..) => Ok(Some(number)),
                _ => Err(FORM.to_owned()),
            };
            match name.trim() {
                "rpm" => change.rpm = number()?,
                "tpm" => change.tpm = number()?,
                "max-parallel" => change.max_parallel = number()?,
                "full-speed" => change.full_speed = number()?,
                "latency" => change.latency = Some(time(value)?),
                _ => return Err(FORM.to_owned()),
            }
        }
        Ok(change)
    }
}

/// In seconds, unless it ends with `ms`.
fn time(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let (number, scale) = match text.strip_suffix("ms") {
        Some(number) => (number, 0.001),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    let seconds: f64 = number.parse().map_err(|_| FORM)?;
    Duration::try_from_secs_f64(seconds * scale).map_err(|_| FORM.to_owned())
}

/// The current values of the settings that can change.
#[derive(Debug, Clone)]
pub(super) struct Present {
    pub(super) max_parallel: Option<u64>,
    pub(super) full_speed: Option<u64>,
    pub(super) latency: Duration,
    /// Number of applied changes.
    pub(super) changed: usize,
}

impl Present {
    pub(super) fn take(&mut self, change: &Change) {
        self.max_parallel = change.max_parallel.or(self.max_parallel);
        self.full_speed = change.full_speed.or(self.full_speed);
        self.latency = change.latency.unwrap_or(self.latency);
        self.changed += 1;
    }

    /// The duration of a call with this many other calls.
    pub(super) fn latency(&self, others: u64) -> Duration {
        let load = match self.full_speed {
            Some(calls) => (others + 1) as f64 / calls as f64,
            None => 1.0,
        };
        self.latency.mul_f64(load.max(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_read_and_a_bad_one_explained() {
        let change: Change = "1.5:rpm=6,latency=250ms".parse().unwrap();
        assert_eq!(change.at, Duration::from_millis(1500));
        assert_eq!(change.rpm, Some(6));
        assert_eq!(change.latency, Some(Duration::from_millis(250)));
        for bad in [
            "",
            "5s",
            "5s:",
            "x:rpm=1",
            "5s:rpm=0",
            "5s:speed=3",
            "5s:rpm",
        ] {
            let error = bad.parse::<Change>().unwrap_err();
            assert!(error.contains("TIME:NAME=N"), "{bad}: {error}");
        }
    }

    #[test]
    fn calls_beyond_full_speed_take_longer_in_proportion() {
        let present = Present {
            max_parallel: None,
            full_speed: Some(4),
            latency: Duration::from_secs(1),
            changed: 0,
        };
        assert_eq!(present.latency(3), Duration::from_secs(1));
        assert_eq!(present.latency(7), Duration::from_secs(2));
    }
}
