//! The maintenance thread of a worker: notices jobs that other programs enqueue, takes over jobs of crashed workers,
//! does the store's chores, counts the workers that divide the limits, and adapts the number of slots.
//!
//! A file is looked at 20 times per second. A database server is looked at once per second, with one statement as long as
//! nothing has changed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::base::{Error, Time, Timestamp, WarnOnce};

use super::controls::Controls;
use super::scale::Meter;
use super::store::{Store, Workers};

/// Interval of looks at a file.
const TICK: Duration = Duration::from_millis(50);
/// A database server is looked at every this many ticks: 1 s.
const TICKS_PER_LOOK: u32 = 20;
/// Jobs of crashed workers on this machine are taken over every this many ticks: twice a second.
const TICKS_PER_RECLAIM: u32 = 10;
/// A count of the workers that took longer is too old.
const TOO_OLD: Duration = Duration::from_secs(1);
/// Maximum number of consecutive chores of the store.
const MOST_CHORES: usize = 4;

/// Works until the sender of `stop` is dropped. Both clocks were read before.
pub(super) fn maintain(
    controls: &Controls,
    mut last_read: (Time, Timestamp),
    each_tick: &dyn Fn(),
    stop: &Receiver<()>,
) {
    let (clock, store) = (&controls.clock, &controls.store);
    let mut upkeep = Upkeep {
        store,
        controls,
        trouble: WarnOnce::default(),
        version: store.version().unwrap_or(0),
        listed: Vec::new(),
        limited_by: None,
    };
    let mut meter = Meter::default();
    for tick in 0_u32.. {
        if let Err(RecvTimeoutError::Disconnected) | Ok(()) = stop.recv_timeout(TICK) {
            return controls.kinds.limiter.undivide();
        }
        each_tick();
        let read = (clock.now(), clock.wall());
        let is_one_moment = clock.now().since(read.0) <= ONE_MOMENT;
        if is_one_moment && is_set_back(std::mem::replace(&mut last_read, read), read) {
            log::warn!("the clock was set back; all waiting jobs are due now");
            let due = store.make_due(Duration::ZERO, controls.clock.wall());
            if upkeep.done("set due times right in", due) > Some(0) {
                controls.wake();
            }
        }
        if tick.is_multiple_of(TICKS_PER_LOOK) {
            scale(controls, &mut meter);
            upkeep.note_limit();
        }
        if store.is_shared() {
            upkeep.look_at_server(tick);
        } else {
            upkeep.look_at_file(tick);
        }
        if let Some(newer) = store.newer() {
            let mut critical = controls.batch_overview.critical.lock();
            critical.get_or_insert_with(|| newer.clone());
            drop(critical);
            controls.wake();
        }
    }
}

struct Upkeep<'u> {
    store: &'u Store,
    controls: &'u Controls,
    trouble: WarnOnce,
    version: u64,
    /// The quotas of this worker at the last count.
    listed: Vec<u64>,
    /// What limited this worker at the last look.
    limited_by: Option<&'static str>,
}

impl Upkeep<'_> {
    /// Logs a problem once.
    fn done<T>(&mut self, doing: &str, result: Result<T, Error>) -> Option<T> {
        let failed = |error| {
            self.trouble
                .warn(format!("cannot {doing} the queue: {error}"))
        };
        result.map_err(failed).ok()
    }

    fn look_at_file(&mut self, tick: u32) {
        if let Some(version) = self.done("look at", self.store.version()) {
            self.note_version(version);
        }
        self.do_chores();
        if tick.is_multiple_of(TICKS_PER_RECLAIM) {
            self.reclaim();
        }
    }

    fn look_at_server(&mut self, tick: u32) {
        let keys = self.controls.kinds.limiter.keys();
        let is_new = keys != self.listed;
        if !is_new && !tick.is_multiple_of(TICKS_PER_LOOK) {
            return;
        }
        self.listed.clone_from(&keys);
        let began = self.controls.clock.now();
        let Some(mut workers) = self.done("look at", self.store.workers()) else {
            return;
        };
        self.list(&keys, &mut workers);
        let now = self.controls.clock.now();
        if now.since(began) <= TOO_OLD {
            let lists: Vec<&[u64]> = workers.live.iter().map(|(_, keys)| &keys[..]).collect();
            let own = workers
                .live
                .iter()
                .find(|(no, _)| *no == self.controls.worker());
            let own = own.map_or(&[][..], |(_, keys)| keys);
            self.controls.kinds.limiter.divide(own, &lists, now);
        }
        self.note_version(workers.version);
        if !workers.dead.is_empty() {
            self.reclaim();
        }
        if workers.has_chores {
            self.do_chores();
        }
    }

    /// Lists the quotas of this worker for the others, if its row does not.
    fn list(&mut self, keys: &[u64], workers: &mut Workers) {
        let own = workers
            .live
            .iter_mut()
            .find(|(no, _)| *no == self.controls.worker());
        let Some((_, listed)) = own.filter(|(_, listed)| listed != keys) else {
            return;
        };
        let written = self.store.list_quotas(self.controls.worker(), keys);
        if self.done("list limits in", written).is_some() {
            *listed = keys.to_vec();
        }
    }

    /// Notes what limits this worker, for `status`.
    fn note_limit(&mut self) {
        let now = *self.controls.limited_by.lock();
        if now != self.limited_by {
            let noted = self.store.note_limit(self.controls.worker(), now);
            if self.done("note a limit in", noted).is_some() {
                self.limited_by = now;
            }
        }
    }

    /// Any program may have written since the last look.
    fn note_version(&mut self, version: u64) {
        if std::mem::replace(&mut self.version, version) != version {
            self.controls.hint();
        }
    }

    fn do_chores(&mut self) {
        let wall = self.controls.clock.wall();
        for _ in 0..MOST_CHORES {
            let more = self.done("tidy up", self.store.maintain(wall));
            if more != Some(true) {
                break;
            }
        }
    }

    /// Takes over the jobs of crashed workers.
    fn reclaim(&mut self) {
        let taken = self.store.reclaim(self.controls.clock.wall());
        if self.done("take over jobs in", taken) > Some(0) {
            self.controls.wake();
        }
    }
}

fn scale(controls: &Controls, meter: &mut Meter) {
    let scale = controls.kinds.setup.now().settings.scale;
    if scale.is_fixed() {
        *controls.held_by.lock() = None;
        return;
    }
    let now = controls.permits.load(Ordering::SeqCst);
    let (all_busy, load) = (controls.all_busy.load(Ordering::SeqCst), meter.look());
    let next = scale.next(now, all_busy, load);
    *controls.held_by.lock() = scale.held_by(now, all_busy, load);
    if next != now {
        log::debug!("{next} slots instead of {now}");
        controls.permits.store(next, Ordering::SeqCst);
        controls.wake();
    }
}

// Due times are times of day, which all OS processes share, and the time of day can be corrected at any moment. If
// it is set back by three hours, a job due in a second would wait for three hours.

/// Smaller differences are drift, not corrections.
const SET_BACK: Duration = Duration::from_secs(1);
/// Both clocks must be read within this time, otherwise the readings cannot be compared.
const ONE_MOMENT: Duration = Duration::from_millis(100);

/// Whether the time of day was set back between two readings.
fn is_set_back(from: (Time, Timestamp), to: (Time, Timestamp)) -> bool {
    let passed = to.0.since(from.0);
    from.1.after(passed).since(to.1) >= SET_BACK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_step_back_is_a_correction() {
        let at = |mono, wall| {
            (
                Time::ZERO.after(Duration::from_millis(mono)),
                Timestamp(wall),
            )
        };
        let is_back = |to| is_set_back(at(1_000, 500_000), to);
        assert!(!is_back(at(1_050, 500_050)));
        assert!(!is_back(at(1_050, 499_900)), "kept in step");
        assert!(!is_back(at(1_050, 900_000)), "asleep, or set forward");
        assert!(is_back(at(61_000, 500_000)));
        assert!(is_back(at(1_050, 400_000)));
    }
}
