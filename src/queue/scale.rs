//! How many jobs a worker runs at once: more while all slots are busy, no more while the machine is, and fewer while that is
//! its own doing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use derive_setters::Setters;

/// Limits for the number of jobs that run at once.
#[derive(Debug, Clone, Copy, PartialEq, Setters)]
#[setters(generate = false)]
pub struct WorkerScale {
    least: usize,
    start: usize,
    most: usize,
    /// Grows by doubling instead of by 1.
    doubles: bool,
    /// Processor use above which the number does not grow: of the machine, or of the control group of this OS process
    /// relative to its limit. It shrinks only while this OS process uses at least a tenth. Linux only. Default: 70 %.
    #[setters(generate)]
    cpu_percent: f64,
    /// The same for memory. Default: 80 %.
    #[setters(generate)]
    memory_percent: f64,
}

impl Default for WorkerScale {
    fn default() -> Self {
        Self {
            least: 1,
            start: 5,
            most: 10,
            doubles: false,
            cpu_percent: 70.0,
            memory_percent: 80.0,
        }
    }
}

impl WorkerScale {
    /// A fixed number, regardless of the load of the machine.
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

    /// Minimum, initial and maximum number; corrected if they are not in order, and a higher initial number raises
    /// the maximum. Default: 1, 5, 10.
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

    /// The number doubles while all slots are busy, for calls whose number the provider limits.
    pub(crate) fn doubling(mut self) -> Self {
        self.doubles = true;
        self
    }

    pub(crate) fn start(&self) -> usize {
        self.start
    }

    pub(crate) fn is_fixed(&self) -> bool {
        self.least == self.most
    }

    /// What keeps `now` jobs from becoming more although all slots are busy: the load of the processor, or memory.
    pub(crate) fn held_by(&self, now: usize, all_busy: bool, load: Load) -> Option<&'static str> {
        if !all_busy || now >= self.most {
            None
        } else if load.cpu.by_all > self.cpu_percent {
            Some("load")
        } else {
            (load.memory.by_all > self.memory_percent).then_some("memory")
        }
    }

    /// The number of jobs after a second in which `now` were allowed. If this OS process has little part in the use of a
    /// resource, fewer jobs would not help.
    pub(crate) fn next(&self, now: usize, all_busy: bool, load: Load) -> usize {
        let is_full =
            load.cpu.by_all > self.cpu_percent || load.memory.by_all > self.memory_percent;
        let is_ours = load.cpu.by_all > self.cpu_percent && load.cpu.by_us >= A_PART
            || load.memory.by_all > self.memory_percent && load.memory.by_us >= A_PART;
        let wanted = match (is_full, all_busy) {
            (true, _) => now.saturating_sub(usize::from(is_ours)),
            (false, true) if self.doubles => 2 * now,
            (false, busy) => now + usize::from(busy),
        };
        wanted.clamp(self.least, self.most)
    }
}

/// Use of a resource in percent; unknown parts are not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Used {
    by_all: f64,
    by_us: f64,
}

/// Below this use in percent, this OS process need not reduce its load.
const A_PART: f64 = 10.0;

impl Used {
    /// All use of the group counts as this OS process's own.
    fn of_group(used: f64, most: f64) -> Self {
        let percent = used * 100.0 / most;
        Self {
            by_all: percent,
            by_us: percent,
        }
    }

    /// The one that is closer to its limit.
    fn or(self, other: Option<Used>) -> Used {
        other
            .filter(|other| other.by_all > self.by_all)
            .unwrap_or(self)
    }
}

/// Load of the machine; empty if it cannot be measured.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Load {
    pub cpu: Used,
    pub memory: Used,
}

/// Processor ticks: busy ones, those of this OS process, and all.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Ticks {
    busy: u64,
    own: u64,
    all: u64,
}

/// Measures the load of the machine; Linux only.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    ticks: Option<Ticks>,
    group: Option<(Instant, Duration)>,
}

impl Meter {
    /// The load since the previous call.
    pub(crate) fn look(&mut self) -> Load {
        let read = |name: &str| fs::read_to_string(format!("/proc/{name}")).ok();
        let now = read("stat").zip(read("self/stat"));
        let now = now.and_then(|(all, own)| ticks(&all, &own));
        let before = std::mem::replace(&mut self.ticks, now);
        let memory = read("meminfo").zip(read("self/status"));
        let memory = memory.and_then(|(all, own)| memory_used(&all, &own));
        let group = read("self/cgroup").and_then(|list| group_folder(&list));
        let group = |name: &str| fs::read_to_string(group.as_ref()?.join(name)).ok();
        Load {
            cpu: before
                .zip(now)
                .and_then(|(before, now)| cpu(before, now))
                .unwrap_or_default()
                .or(self.group_cpu(&group)),
            memory: memory.unwrap_or_default().or(group_memory(&group)),
        }
    }

    /// Processor use of this OS process's control group, relative to its limit if it has one.
    fn group_cpu(&mut self, read: &dyn Fn(&str) -> Option<String>) -> Option<Used> {
        let now = read("cpu.stat")
            .and_then(|stat| field(&stat, "usage_usec"))
            .map(|micros| (Instant::now(), Duration::from_micros(micros as u64)));
        let (before, now) = (std::mem::replace(&mut self.group, now)?, now?);
        let limit = read("cpu.max")?;
        let (quota, period) = limit.trim().split_once(' ')?;
        let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
        let had = now.0.duration_since(before.0).as_secs_f64() * quota / period;
        let used = now.1.saturating_sub(before.1).as_secs_f64();
        (had > 0.0).then(|| Used::of_group(used, had))
    }
}

/// The folder of this OS process's control group (cgroups(7), version 2).
fn group_folder(list: &str) -> Option<PathBuf> {
    let path = list.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new("/sys/fs/cgroup").join(path))
}

/// Memory use of the control group relative to its limit, without reclaimable file pages.
fn group_memory(read: &dyn Fn(&str) -> Option<String>) -> Option<Used> {
    let most: f64 = read("memory.max")?.trim().parse().ok()?;
    let used: f64 = read("memory.current")?.trim().parse().ok()?;
    let cached = read("memory.stat").and_then(|stat| field(&stat, "inactive_file"));
    (most > 0.0).then(|| Used::of_group(used - cached.unwrap_or(0.0), most))
}

fn field(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn cpu(before: Ticks, now: Ticks) -> Option<Used> {
    let all = now.all.checked_sub(before.all).filter(|all| *all > 0)?;
    let percent = |now: u64, before: u64| now.saturating_sub(before) as f64 * 100.0 / all as f64;
    Some(Used {
        by_all: percent(now.busy, before.busy),
        by_us: percent(now.own, before.own),
    })
}

/// From `/proc/stat` (proc_stat(5): user, nice, system, idle, iowait, …) and `/proc/self/stat`
/// (proc_pid_stat(5): behind the name in parentheses, utime and stime are fields 12 and 13).
fn ticks(all: &str, own: &str) -> Option<Ticks> {
    let line = all.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line
        .split_whitespace()
        .take(8)
        .map_while(|field| field.parse().ok())
        .collect();
    let all: u64 = fields.iter().sum();
    let idle = fields.get(3)? + fields.get(4).unwrap_or(&0);
    let mut own = own.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || own.next()?.parse::<u64>().ok();
    Some(Ticks {
        busy: all - idle,
        own: next()? + next()?,
        all,
    })
}

fn memory_used(all: &str, own: &str) -> Option<Used> {
    let total = field(all, "MemTotal:").filter(|total| *total > 0.0)?;
    Some(Used {
        by_all: (total - field(all, "MemAvailable:")?) * 100.0 / total,
        by_us: field(own, "VmRSS:")? * 100.0 / total,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn used(by_all: f64, by_us: f64) -> Used {
        Used { by_all, by_us }
    }

    const CALM: Used = used(10.0, 10.0);
    const FULL: Used = used(95.0, 60.0);
    const OTHERS: Used = used(95.0, 2.0);

    #[test]
    fn slots_grow_while_all_are_busy_and_shrink_only_while_the_load_is_their_own() {
        let scale = WorkerScale::default().slots(2, 4, 6);
        for (now, all_busy, cpu, memory, next, held) in [
            (4, true, CALM, CALM, 5, None),
            (6, true, CALM, CALM, 6, None),
            (4, false, CALM, CALM, 4, None),
            (4, true, FULL, CALM, 3, Some("load")),
            (2, true, FULL, CALM, 2, Some("load")),
            (4, true, CALM, FULL, 3, Some("memory")),
            (4, true, Used::default(), Used::default(), 5, None),
            (4, true, OTHERS, CALM, 4, Some("load")),
            // Nothing waits for a slot.
            (4, false, CALM, OTHERS, 4, None),
            (4, true, OTHERS, FULL, 3, Some("load")),
            // It would not grow anyway.
            (6, true, FULL, FULL, 5, None),
        ] {
            let load = Load { cpu, memory };
            let found = (
                scale.next(now, all_busy, load),
                scale.held_by(now, all_busy, load),
            );
            assert_eq!(found, (next, held), "{now} {all_busy} {load:?}");
        }
        let full = Load {
            cpu: FULL,
            memory: FULL,
        };
        assert_eq!(WorkerScale::fixed(4).next(4, true, full), 4);
        let doubling = WorkerScale::default().slots(1, 4, 20).doubling();
        assert_eq!(doubling.next(4, true, Load::default()), 8);
        let scale = WorkerScale::default().slots(1, 40, 10);
        assert_eq!((scale.start(), scale.most), (40, 40));
    }

    #[test]
    fn limits_of_the_control_group_count_as_the_machines() {
        let folder = group_folder("1:name=systemd:/x\n0::/user.slice/a\n").unwrap();
        assert_eq!(folder, Path::new("/sys/fs/cgroup/user.slice/a"));
        let file = |name: &str| {
            Some(match name {
                "memory.max" => "1000\n".to_owned(),
                "memory.current" => "950\n".to_owned(),
                "memory.stat" => "anon 900\ninactive_file 50\n".to_owned(),
                _ => return None,
            })
        };
        let group = group_memory(&file).unwrap();
        assert_eq!(group.by_all, 90.0);
        assert_eq!(CALM.or(Some(group)).by_all, 90.0);
        assert_eq!(FULL.or(Some(group)), FULL);
        let unlimited = |name: &str| file(name).map(|_| "max\n".to_owned());
        assert_eq!(group_memory(&unlimited), None);
    }

    #[test]
    fn the_systems_words_are_understood() {
        let counted = |busy, own, all| Ticks { busy, own, all };
        let stat = "cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 2 3\n";
        let own = "42 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 30 12 0 0 20";
        let now = ticks(stat, own).unwrap();
        assert_eq!(now, counted(150, 42, 1000));
        assert_eq!(ticks("intr 5", own), None);
        assert_eq!(ticks(stat, "42 (x) S"), None);
        assert_eq!(cpu(counted(50, 22, 800), now), Some(used(50.0, 10.0)));
        let meminfo = "MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    250 kB\n";
        let own = memory_used(meminfo, "Name: x\nVmRSS:\t  120 kB\n");
        assert_eq!(own, Some(used(75.0, 12.0)));
        assert_eq!(memory_used("", ""), None);
    }
}
