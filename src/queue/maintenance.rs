//! A worker's second pair of eyes: notices what other processes enqueue, takes over from dead ones,
//! does the store's chores, and adapts the number of slots.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::base::error::Error;

use super::controls::Controls;
use super::due_times::DueTimes;
use super::scale::Meter;
use super::store::JobStore;

/// How often it looks whether anybody has written.
const LOOK: Duration = Duration::from_millis(50);
/// Every so many looks the slower duties are due: peers are tried twice a second.
const DUTIES: u32 = 10;
/// Pieces of maintenance in a row.
const CHORES: usize = 4;

/// Works until the other end of `stop` is gone.
pub(super) fn mind(
    store: &Arc<dyn JobStore>,
    controls: &Controls,
    mut due_times: DueTimes,
    stop: &Receiver<()>,
) {
    let mut troubles = Troubles::default();
    let mut version = store.version().unwrap_or(0);
    let mut meter = Meter::default();
    for look in 0_u32.. {
        if let Err(RecvTimeoutError::Disconnected) | Ok(()) = stop.recv_timeout(LOOK) {
            return;
        }
        if let Some(now) = troubles.note("look at", store.version())
            && now != version
        {
            version = now;
            controls.wake();
        }
        let due = due_times.look(&*controls.clock, &**store);
        if troubles.note("set due times right in", due) > Some(0) {
            controls.wake();
        }
        let wall = controls.clock.wall();
        for _ in 0..CHORES {
            match troubles.note("tidy up", store.chore(wall)) {
                Some(true) => {}
                Some(false) | None => break,
            }
        }
        if !look.is_multiple_of(DUTIES) {
            continue;
        }
        if let Some(taken) = troubles.note("take over jobs in", store.reclaim(wall))
            && taken > 0
        {
            controls.wake();
        }
        if look.is_multiple_of(2 * DUTIES) {
            scale(controls, &mut meter);
        }
    }
}

fn scale(controls: &Controls, meter: &mut Meter) {
    let scale = *controls.scale.lock();
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

/// Says each trouble once, and not twice a second.
#[derive(Default)]
struct Troubles(Option<String>);

impl Troubles {
    fn note<T>(&mut self, doing: &str, result: Result<T, Error>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                let text = format!("cannot {doing} the queue: {error}");
                if self.0.as_ref() != Some(&text) {
                    log::warn!("{text}");
                    self.0 = Some(text);
                }
                None
            }
        }
    }
}
