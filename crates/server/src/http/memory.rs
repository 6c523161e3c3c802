//! The memory that the bodies of requests take together.
//!
//! A limit for each body does not limit the memory of 256 bodies. So a request reserves memory for its body, and for
//! what is parsed from it, from one shared account before it reads more than a little. Small bodies, nearly all in
//! practice, are exempt: large waiting ones do not delay them.
//!
//! Reservations are computed, not measured as by the library's `MemoryManager`: memory of a worker or an allocator must
//! not cause rejections, and equal requests must be treated equally.
//!
//! No request waits for ever. A request without memory is asked to retry after a while. If all requests that hold
//! memory wait for more, the last one is asked to retry. A request that receives data too slowly while others wait
//! loses its reservation ([`Room::pace`]).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::problem::Problem;

/// Memory that any request may use without a reservation.
pub(crate) const FREE: u64 = 512 << 10;
/// A body, the parsed values and the written job are in memory together for a moment.
pub(crate) const COPIES: u64 = 6;
/// How long a request waits for memory.
const PATIENCE: Duration = Duration::from_secs(30);
/// Interval at which a waiting request checks whether its client is still connected.
const LOOK: Duration = Duration::from_millis(250);
/// While others wait, maximum time in seconds to receive a body as long as its reservation.
const LEASE: u64 = 300;
/// Shortest `Retry-After` of requests that got no memory.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The account of all bodies.
pub(super) struct BodyMemory {
    most: u64,
    /// Requests that may wait at once: each has a connection.
    waiters: usize,
    patience: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

/// A request that holds memory and waits for more is stuck. If all are stuck and the rest of the memory is too
/// small for each of them, they would wait for ever: the request that detects this fails.
#[derive(Default)]
struct State {
    held: u64,
    #[cfg(test)]
    peak: u64,
    /// Requests that wait and hold nothing yet, in order of arrival.
    line: VecDeque<u64>,
    tickets: u64,
    /// Number of requests that hold memory.
    holders: usize,
    /// The stuck requests, each with the missing amount.
    stuck: Vec<(u64, u64)>,
    closed: bool,
}

impl State {
    fn is_crowded(&self) -> bool {
        !self.line.is_empty() || !self.stuck.is_empty()
    }

    fn is_deadlocked(&self, most: u64) -> bool {
        self.stuck.len() == self.holders
            && self.stuck.iter().all(|(_, bytes)| !self.fits(*bytes, most))
    }

    fn fits(&self, bytes: u64, most: u64) -> bool {
        self.held + bytes <= most
    }

    fn take(&mut self, bytes: u64, most: u64) -> bool {
        let fits = self.fits(bytes, most);
        if fits {
            self.held += bytes;
            #[cfg(test)]
            {
                self.peak = self.peak.max(self.held);
            }
        }
        fits
    }
}

impl BodyMemory {
    /// An account of this number of bytes, for this number of waiting requests.
    pub fn new(most: u64, waiters: usize) -> Self {
        Self {
            most,
            waiters,
            patience: PATIENCE,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// The reservation of a request, empty at first.
    pub fn room(&self) -> Room<'_> {
        Room {
            memory: self,
            bytes: 0,
        }
    }

    /// Ends all waits.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    /// The highest total reservation so far, and the present one.
    #[cfg(test)]
    pub fn used(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.peak, state.held)
    }

    /// How many wait.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        let state = self.state.lock();
        state.line.len() + state.stuck.len()
    }

    /// Reserves memory for a request that holds some, or none.
    fn take(&self, bytes: u64, has_some: bool, is_gone: &IsGone<'_>) -> Result<(), Problem> {
        let mut state = self.state.lock();
        // Requests that hold memory come first, because they release it.
        let goes_first = has_some || !state.is_crowded();
        if !goes_first || !state.take(bytes, self.most) {
            self.wait(&mut state, bytes, has_some, is_gone)?;
        }
        state.holders += usize::from(!has_some);
        Ok(())
    }

    fn wait(
        &self,
        state: &mut MutexGuard<'_, State>,
        bytes: u64,
        has_some: bool,
        is_gone: &IsGone<'_>,
    ) -> Result<(), Problem> {
        if !has_some && state.line.len() >= self.waiters {
            return Err(no_room(self.patience));
        }
        let deadline = Instant::now() + self.patience;
        let ticket = state.tickets;
        state.tickets += 1;
        if has_some {
            state.stuck.push((ticket, bytes))
        } else {
            state.line.push_back(ticket)
        }
        let found = loop {
            let is_next =
                has_some || (state.stuck.is_empty() && state.line.front() == Some(&ticket));
            if is_next && state.take(bytes, self.most) {
                break Ok(());
            }
            let is_vain = state.closed || (has_some && state.is_deadlocked(self.most));
            let now = Instant::now();
            if is_vain {
                break Err(no_room(RETRY_AFTER));
            }
            if now >= deadline {
                break Err(no_room(self.patience));
            }
            let look = deadline.min(now + LOOK);
            if self.changed.wait_until(state, look).timed_out()
                && MutexGuard::unlocked(state, is_gone)
            {
                break Err(Problem::new(499, "client_closed_request", "nobody waits"));
            }
        };
        state.stuck.retain(|(other, _)| *other != ticket);
        state.line.retain(|other| *other != ticket);
        // The memory may suffice for the next request as well.
        self.changed.notify_all();
        found
    }

    fn give_back(&self, bytes: u64, all: bool) {
        let mut state = self.state.lock();
        state.held -= bytes;
        state.holders -= usize::from(all);
        if state.is_crowded() {
            self.changed.notify_all();
        }
    }
}

/// Whether the client of a request that waits has hung up.
type IsGone<'g> = dyn Fn() -> bool + 'g;

/// `wait` is the time in which others that came before may get memory.
fn no_room(wait: Duration) -> Problem {
    let why = "other large requests use all memory for request bodies, the limit of --max-body-memory: send this one again \
               later, or raise the limit";
    let wait = wait.max(RETRY_AFTER).as_secs();
    Problem::new(503, "busy", why).header("retry-after", wait.to_string())
}

/// The reservation of one request; released when it is dropped.
pub(super) struct Room<'m> {
    memory: &'m BodyMemory,
    bytes: u64,
}

impl Room<'_> {
    /// Changes the reservation to this size; waits for missing memory.
    ///
    /// # Errors
    /// 503 when there is no room in time, 413 when there never is, 499 when the client is gone before there is.
    pub fn set(&mut self, bytes: u64, is_gone: &IsGone<'_>) -> Result<(), Problem> {
        let bytes = if bytes <= FREE { 0 } else { bytes };
        let most = self.memory.most;
        if bytes > most {
            let why = format!(
                "the request would take {bytes} bytes of memory, and all requests together may have {most}, the limit \
                 of --max-body-memory: send it in smaller parts, or raise the limit"
            );
            return Err(Problem::too_large(most).says(why));
        }
        if bytes > self.bytes {
            self.memory
                .take(bytes - self.bytes, self.bytes > 0, is_gone)?;
        } else if bytes < self.bytes {
            self.memory.give_back(self.bytes - bytes, bytes == 0);
        }
        self.bytes = bytes;
        Ok(())
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes per second that a client must send to keep its reservation: more than 0 while others wait.
    pub fn pace(&self) -> u64 {
        if self.bytes > 0 && self.memory.state.lock().is_crowded() {
            self.bytes / COPIES / LEASE
        } else {
            0
        }
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.memory.give_back(self.bytes, true);
        }
    }
}

/// Memory of a small map in addition to its texts, and of each further value.
const MAP: u64 = 1 << 10;
const VALUE: u64 = 320;
/// Shorter texts need little memory, even if they consist of maps.
const SHORT: usize = 4 << 10;

/// Memory of a JSON body with all values that are parsed from it: many small empty maps take a hundred times their
/// length.
pub(crate) fn weight(json: &[u8]) -> u64 {
    if json.len() <= SHORT {
        json.len() as u64 * COPIES
    } else {
        weight_of_each(json)
    }
}

/// The same for JSON that occurs many times, however short it is.
pub(crate) fn weight_of_each(json: &[u8]) -> u64 {
    let mut bytes = json.len() as u64 * COPIES;
    let mut rest = json.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b'{' => bytes += MAP,
            b',' | b'[' => bytes += VALUE,
            b'"' => {
                while let Some(byte) = rest.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => {
                            rest.next();
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn stays() -> bool {
        false
    }

    fn waits_for(memory: &BodyMemory, waiting: usize) {
        while memory.waiting() < waiting {
            std::thread::yield_now();
        }
    }

    #[test]
    fn nobody_is_passed_over_and_nothing_is_given_twice() {
        let memory = BodyMemory::new(10 * MIB, 8);
        let mut first = memory.room();
        first.set(6 * MIB, &stays).unwrap();
        let mut free = memory.room();
        free.set(FREE, &stays).unwrap();
        assert_eq!(memory.used(), (6 * MIB, 6 * MIB), "a little is free");
        std::thread::scope(|scope| {
            let large = scope.spawn(|| {
                let mut room = memory.room();
                room.set(8 * MIB, &stays).map(|()| room)
            });
            waits_for(&memory, 1);
            // It would fit next to the first one, but arrived later.
            let small = scope.spawn(|| {
                let mut room = memory.room();
                room.set(2 * MIB, &stays).map(|()| room)
            });
            waits_for(&memory, 2);
            free.set(FREE, &stays).unwrap();
            first.set(0, &stays).unwrap();
            let large = large.join().unwrap().unwrap();
            let small = small.join().unwrap().unwrap();
            assert_eq!(memory.used(), (10 * MIB, 10 * MIB));
            drop((large, small));
        });
        assert_eq!(memory.used(), (10 * MIB, 0));
    }

    #[test]
    fn who_finds_no_room_is_told_when_to_come_again() {
        let mut memory = BodyMemory::new(4 * MIB, 1);
        memory.patience = Duration::from_millis(20);
        let mut held = memory.room();
        let too_large = held.set(5 * MIB, &stays).unwrap_err();
        assert_eq!(too_large.status, 413);
        held.set(4 * MIB, &stays).unwrap();
        let refused = memory.room().set(MIB, &stays).unwrap_err();
        assert_eq!(refused.status, 503);
        for problem in [too_large, refused] {
            assert!(
                problem.to_string().contains("--max-body-memory"),
                "{problem}"
            );
        }
        let wait = no_room(PATIENCE).response("/");
        assert!(
            wait.headers
                .iter()
                .any(|(name, value)| *name == "retry-after" && value == "30")
        );
        assert_eq!(memory.used(), (4 * MIB, 4 * MIB));
        assert_eq!(memory.waiting(), 0);
    }

    #[test]
    fn those_who_wait_for_each_other_do_not_wait() {
        let memory = BodyMemory::new(4 * MIB, 8);
        let (mut one, mut other) = (memory.room(), memory.room());
        one.set(2 * MIB, &stays).unwrap();
        other.set(2 * MIB, &stays).unwrap();
        std::thread::scope(|scope| {
            let grows = scope.spawn(move || {
                one.set(3 * MIB, &stays).unwrap();
                one
            });
            waits_for(&memory, 1);
            assert_eq!(other.set(3 * MIB, &stays).unwrap_err().status, 503);
            other.set(MIB, &stays).unwrap();
            let mut one = grows.join().unwrap();
            let waits = scope.spawn(|| memory.room().set(MIB, &stays));
            waits_for(&memory, 1);
            // Not after a request that holds nothing yet.
            one.set(2 * MIB, &stays).unwrap();
            waits.join().unwrap().unwrap();
            one.set(3 * MIB, &stays).unwrap();
            let waits = scope.spawn(|| memory.room().set(2 * MIB, &stays));
            waits_for(&memory, 1);
            drop(other);
            one.set(4 * MIB, &stays).unwrap();
            drop(one);
            waits.join().unwrap().unwrap();
        });
    }

    #[test]
    fn those_that_lack_little_go_before_those_that_lack_much() {
        let memory = BodyMemory::new(4 * MIB, 1);
        let (mut much, mut little, mut gone) = (memory.room(), memory.room(), memory.room());
        much.set(MIB, &stays).unwrap();
        little.set(MIB, &stays).unwrap();
        gone.set(2 * MIB, &stays).unwrap();
        std::thread::scope(|scope| {
            // The queue is full, but requests that hold memory do not need it.
            let waits = scope.spawn(|| memory.room().set(MIB, &stays));
            waits_for(&memory, 1);
            let much = scope.spawn(move || much.set(4 * MIB, &stays));
            waits_for(&memory, 2);
            let little = scope.spawn(move || little.set(2 * MIB, &stays));
            waits_for(&memory, 3);
            assert_eq!(memory.room().set(MIB, &stays).unwrap_err().status, 503);
            drop(gone);
            little.join().unwrap().unwrap();
            much.join().unwrap().unwrap();
            waits.join().unwrap().unwrap();
        });
    }

    #[test]
    fn nobody_waits_for_a_client_that_is_gone() {
        let memory = BodyMemory::new(4 * MIB, 1);
        let mut held = memory.room();
        held.set(4 * MIB, &stays).unwrap();
        let refused = memory.room().set(MIB, &|| true).unwrap_err();
        assert_eq!(refused.status, 499);
        assert_eq!(memory.waiting(), 0);
    }

    #[test]
    fn room_that_nobody_waits_for_may_be_kept() {
        let memory = BodyMemory::new(4 * MIB, 1);
        let mut held = memory.room();
        held.set(4 * MIB, &stays).unwrap();
        assert_eq!(held.pace(), 0);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| memory.room().set(MIB, &stays));
            waits_for(&memory, 1);
            // However often it requests that.
            held.set(4 * MIB, &stays).unwrap();
            assert_eq!(held.pace(), 4 * MIB / COPIES / LEASE);
            drop(held);
            waits.join().unwrap().unwrap();
        });
    }

    #[test]
    fn maps_and_values_weigh_more_than_texts() {
        let text = format!("[\"{}\\\"{{,\"]", ",{[".repeat(4000));
        let length = text.len() as u64;
        assert_eq!(weight(text.as_bytes()), COPIES * length + VALUE);
        let maps = format!("[{}{{}}]", "{},".repeat(4000));
        assert!(weight(maps.as_bytes()) > 4000 * (MAP + VALUE));
        assert_eq!(weight(b"{}"), 2 * COPIES);
    }
}
