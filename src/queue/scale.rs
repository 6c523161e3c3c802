//! How many jobs a worker runs at once: more while all slots are busy, fewer while the machine is.

use std::fs;

/// Bounds for the number of jobs that run at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    least: usize,
    start: usize,
    most: usize,
    cpu_percent: f64,
    memory_percent: f64,
}

impl Default for Scale {
    fn default() -> Self {
        Self {
            least: 1,
            start: 5,
            most: 10,
            cpu_percent: 70.0,
            memory_percent: 80.0,
        }
    }
}

impl Scale {
    /// Exactly this many, whatever the machine does.
    ///
    /// # Panics
    /// If it is 0.
    pub fn fixed(slots: usize) -> Self {
        assert!(slots > 0, "a worker needs at least one slot");
        Self {
            least: slots,
            start: slots,
            most: slots,
            ..Self::default()
        }
    }

    /// The fewest, how many at first, and the most; put in order where they are not. A start above the
    /// most raises that. Default: 1, 5, 10.
    ///
    /// # Panics
    /// If one of them is 0.
    pub fn slots(mut self, least: usize, start: usize, most: usize) -> Self {
        assert!(
            least > 0 && start > 0 && most > 0,
            "a worker needs at least one slot"
        );
        self.most = most.max(start);
        self.least = least.min(self.most);
        self.start = start.max(self.least);
        self
    }

    /// Fewer run while the machine uses more than this of its processors. Default: 70 %.
    pub fn cpu_percent(mut self, percent: f64) -> Self {
        self.cpu_percent = percent;
        self
    }

    /// Fewer run while the machine uses more than this of its memory. Default: 80 %.
    pub fn memory_percent(mut self, percent: f64) -> Self {
        self.memory_percent = percent;
        self
    }

    pub(crate) fn start(&self) -> usize {
        self.start
    }

    pub(crate) fn is_fixed(&self) -> bool {
        self.least == self.most
    }

    /// How many are to run after a second in which `now` were allowed.
    pub(crate) fn next(&self, now: usize, all_busy: bool, load: Load) -> usize {
        let over = load.cpu.is_some_and(|percent| percent > self.cpu_percent)
            || load
                .memory
                .is_some_and(|percent| percent > self.memory_percent);
        let wanted = match (over, all_busy) {
            (true, _) => now.saturating_sub(1),
            (false, true) => now + 1,
            (false, false) => now,
        };
        wanted.clamp(self.least, self.most)
    }
}

/// What the machine is doing, in percent, as far as it can be told.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Load {
    pub cpu: Option<f64>,
    pub memory: Option<f64>,
}

/// Measures the machine's load; on Linux alone, elsewhere nothing is known.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// Busy and all ticks, as of the last look.
    ticks: Option<(u64, u64)>,
}

impl Meter {
    /// The load since the last look.
    pub(crate) fn look(&mut self) -> Load {
        let now = fs::read_to_string("/proc/stat")
            .ok()
            .and_then(|text| ticks(&text));
        let before = std::mem::replace(&mut self.ticks, now);
        let memory = fs::read_to_string("/proc/meminfo").ok();
        Load {
            cpu: before.zip(now).and_then(|(before, now)| {
                let all = now.1.checked_sub(before.1).filter(|all| *all > 0)?;
                Some(now.0.saturating_sub(before.0) as f64 * 100.0 / all as f64)
            }),
            memory: memory.and_then(|text| memory_percent(&text)),
        }
    }
}

/// Busy and all ticks of the first line of `/proc/stat` (proc_stat(5)): user, nice, system, idle,
/// iowait, …
fn ticks(text: &str) -> Option<(u64, u64)> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line
        .split_whitespace()
        .take(8)
        .map_while(|field| field.parse().ok())
        .collect();
    let all: u64 = fields.iter().sum();
    let idle = fields.get(3)? + fields.get(4).unwrap_or(&0);
    Some((all - idle, all))
}

fn memory_percent(text: &str) -> Option<f64> {
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    let (total, available) = (of("MemTotal:")?, of("MemAvailable:")?);
    (total > 0.0).then(|| (total - available) * 100.0 / total)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Load = Load {
        cpu: Some(10.0),
        memory: Some(10.0),
    };

    #[test]
    fn slots_grow_while_all_are_busy_and_shrink_while_the_machine_is() {
        let scale = Scale::default().slots(2, 4, 6);
        assert_eq!(scale.next(4, true, CALM), 5);
        assert_eq!(scale.next(6, true, CALM), 6);
        assert_eq!(scale.next(4, false, CALM), 4);
        let hot = Load {
            cpu: Some(90.0),
            ..CALM
        };
        assert_eq!(scale.next(4, true, hot), 3);
        assert_eq!(scale.next(2, true, hot), 2);
        let full = Load {
            memory: Some(81.0),
            ..CALM
        };
        assert_eq!(scale.next(4, true, full), 3);
        assert_eq!(scale.next(4, true, Load::default()), 5);
    }

    #[test]
    fn a_larger_start_raises_the_most() {
        let scale = Scale::default().slots(1, 40, 10);
        assert_eq!((scale.start(), scale.most), (40, 40));
    }

    #[test]
    fn the_systems_words_are_understood() {
        let stat = "cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 2 3\n";
        assert_eq!(ticks(stat), Some((150, 1000)));
        assert_eq!(ticks("intr 5"), None);
        let meminfo = "MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    250 kB\n";
        assert_eq!(memory_percent(meminfo), Some(75.0));
        assert_eq!(memory_percent(""), None);
    }
}
