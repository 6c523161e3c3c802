//! The maintenance thread of a worker: notices jobs that other programs enqueue, takes over jobs of crashed workers,
//! does the store's chores, counts the workers that divide the limits, and adapts the number of slots.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::base::{Error, WarnOnce};

use super::controls::Controls;
use super::scale::Meter;
use super::set_back::ClockWatch;
use super::store::JobStore;

/// Interval of checks whether another program has written.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// A store with notifications is checked after this many intervals without one: 2 s.
const CHECKS_PER_QUIET_LOOK: u32 = 40;
/// Jobs of crashed workers are taken over every this many checks: twice a second.
const CHECKS_PER_RECLAIM: u32 = 10;
/// Processes that a budget has paused are resumed every this many checks: 2 s.
const CHECKS_PER_BUDGETS: u32 = 40;
/// Interval of counts of the workers that divide the limits: 1 s.
const CHECKS_PER_COUNT: u32 = 20;
/// Maximum number of consecutive chores of the store.
const MOST_CHORES: usize = 4;

/// Works until the sender of `stop` is dropped.
pub(super) fn maintain(
    store: &Arc<dyn JobStore>,
    controls: &Controls,
    mut clock_watch: ClockWatch,
    stop: &Receiver<()>,
) {
    let mut troubles = Troubles::default();
    let mut version = store.version().unwrap_or(0);
    let mut meter = Meter::default();
    let mut has_chores = true;
    // Jobs that wait longer were written while the clock was ahead.
    let longest = controls.kinds.setup.now().settings.retry.longest_wait();
    make_due(store, controls, longest, &mut troubles);
    for check in 0_u32.. {
        if let Err(RecvTimeoutError::Disconnected) | Ok(()) = stop.recv_timeout(CHECK_INTERVAL) {
            return controls.kinds.limiter.undivide();
        }
        if check.is_multiple_of(CHECKS_PER_COUNT)
            && store.is_shared()
            && let Some(workers) = troubles.note("count workers of", store.live_workers())
        {
            let now = controls.clock.now();
            controls.kinds.limiter.divide(workers, now);
        }
        let seen = troubles.note("look at", store.version());
        let is_new = seen.is_some_and(|seen| seen != version);
        if let Some(seen) = seen.filter(|_| is_new) {
            version = seen;
            controls.wake();
        }
        if clock_watch.is_set_back(&*controls.clock) {
            log::warn!("the clock was set back; all waiting jobs are due now");
            make_due(store, controls, Duration::ZERO, &mut troubles);
        }
        if check.is_multiple_of(CHECKS_PER_RECLAIM) {
            controls.purses.return_unused();
        }
        if check.is_multiple_of(CHECKS_PER_BUDGETS) {
            // A program that returned an amount may have crashed before it resumed the process.
            troubles.note(
                "resume processes of",
                store.resume_budgets(controls.clock.wall()),
            );
        }
        let is_quiet = store.hears_others() && !is_new && !has_chores;
        if is_quiet && !check.is_multiple_of(CHECKS_PER_QUIET_LOOK) {
            if check.is_multiple_of(2 * CHECKS_PER_RECLAIM) {
                scale(controls, &mut meter);
            }
            continue;
        }
        let wall = controls.clock.wall();
        for _ in 0..MOST_CHORES {
            has_chores = troubles.note("tidy up", store.maintain(wall)) == Some(true);
            if !has_chores {
                break;
            }
        }
        if !check.is_multiple_of(CHECKS_PER_RECLAIM) {
            continue;
        }
        if let Some(taken) = troubles.note("take over jobs in", store.reclaim(wall))
            && taken > 0
        {
            controls.wake();
        }
        if check.is_multiple_of(2 * CHECKS_PER_RECLAIM) {
            scale(controls, &mut meter);
        }
    }
}

/// Makes jobs due that wait longer than this.
fn make_due(
    store: &Arc<dyn JobStore>,
    controls: &Controls,
    longest: Duration,
    troubles: &mut Troubles,
) {
    let due = store.make_due(longest, controls.clock.wall());
    if troubles.note("set due times right in", due) > Some(0) {
        controls.wake();
    }
}

fn scale(controls: &Controls, meter: &mut Meter) {
    let scale = controls.kinds.setup.now().settings.scale;
    if scale.is_fixed() {
        return;
    }
    let now = controls.permits.load(Ordering::SeqCst);
    let next = scale.next(now, controls.all_busy.load(Ordering::SeqCst), meter.look());
    if next != now {
        log::debug!("{next} slots instead of {now}");
        controls.permits.store(next, Ordering::SeqCst);
        controls.wake();
    }
}

/// Logs each problem once.
#[derive(Default)]
struct Troubles(WarnOnce);

impl Troubles {
    fn note<T>(&mut self, doing: &str, result: Result<T, Error>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.0.warn(format!("cannot {doing} the queue: {error}"));
                None
            }
        }
    }
}
