//! The memory that the bodies of requests take together.
//!
//! A bound for each body does not bound what 256 of them take at once. So a request takes room for its body, and for
//! what is made of it, from one account, before it reads more than a little. Small ones, nearly all there are, take
//! no part: they are quick however many large ones wait.
//!
//! What is taken is reckoned and not measured as the library's `MemoryManager` does: what a worker or an allocator
//! keeps is not to turn clients away, and of two equal requests not one is to be refused that the other was not.
//!
//! Nobody waits for ever: who finds no room in time is told to come again, so is the last of those that have room and
//! all wait for more, and who has room and brings nothing while others wait loses it ([`Room::is_overdue`]).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::problem::Problem;

/// What any request may have beside the account.
pub(crate) const FREE: u64 = 512 << 10;
/// A body, what is read from it, and the job that is written of it are in memory together for a moment.
pub(crate) const COPIES: u64 = 6;
/// How long a request waits for room.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a client may leave room unused that others wait for.
const LEASE: Duration = Duration::from_secs(30);
/// When those that found no room may come again, in seconds.
const RETRY_AFTER: &str = "2";

/// The account of all bodies.
pub(super) struct BodyMemory {
    most: u64,
    /// Requests that may wait at once: each has a connection.
    waiters: usize,
    patience: Duration,
    lease: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    held: u64,
    #[cfg(test)]
    peak: u64,
    /// Those who wait, first come first served among those that have nothing yet.
    line: VecDeque<u64>,
    tickets: u64,
    /// Requests that have room, and those of them that wait for more.
    holders: usize,
    stuck: usize,
    closed: bool,
}

impl State {
    fn take(&mut self, bytes: u64, most: u64) -> bool {
        let fits = self.held + bytes <= most;
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
    /// For so many bytes, and so many requests that wait.
    pub fn new(most: u64, waiters: usize) -> Self {
        Self {
            most,
            waiters,
            patience: PATIENCE,
            lease: LEASE,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// The room of a request, of which it has none yet.
    pub fn room(&self) -> Room<'_> {
        Room {
            memory: self,
            bytes: 0,
            since: Instant::now(),
        }
    }

    /// Lets nobody wait any more.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    /// The most that was ever held, and what is now.
    #[cfg(test)]
    pub fn used(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.peak, state.held)
    }

    /// How many wait.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.state.lock().line.len()
    }

    /// Takes room for one that has some, or none.
    fn take(&self, bytes: u64, has_some: bool) -> Result<(), Problem> {
        let mut state = self.state.lock();
        // Those who have some go first: they are the ones that give back.
        let goes_first = has_some || state.line.is_empty();
        if !goes_first || !state.take(bytes, self.most) {
            self.wait(&mut state, bytes, has_some)?;
        }
        state.holders += usize::from(!has_some);
        Ok(())
    }

    fn wait(
        &self,
        state: &mut MutexGuard<'_, State>,
        bytes: u64,
        has_some: bool,
    ) -> Result<(), Problem> {
        if state.line.len() >= self.waiters {
            return Err(no_room());
        }
        let deadline = Instant::now() + self.patience;
        let ticket = state.tickets;
        state.tickets += 1;
        state.line.push_back(ticket);
        state.stuck += usize::from(has_some);
        let found = loop {
            let is_next = has_some || state.line.front() == Some(&ticket);
            if is_next && state.take(bytes, self.most) {
                break Ok(());
            }
            // If all who have room wait for more, nobody gives any back.
            let is_vain = state.closed || (has_some && state.stuck == state.holders);
            if is_vain || self.changed.wait_until(state, deadline).timed_out() {
                break Err(no_room());
            }
        };
        state.stuck -= usize::from(has_some);
        state.line.retain(|other| *other != ticket);
        // The next one may find what it needs as well.
        self.changed.notify_all();
        found
    }

    fn give_back(&self, bytes: u64, all: bool) {
        let mut state = self.state.lock();
        state.held -= bytes;
        state.holders -= usize::from(all);
        if !state.line.is_empty() {
            self.changed.notify_all();
        }
    }
}

fn no_room() -> Problem {
    let why = "large requests take up all the memory that the server has for them: send this again in a moment";
    Problem::new(503, "busy", why).header("retry-after", RETRY_AFTER)
}

/// What one request has of the account; given back when it is dropped.
pub(super) struct Room<'m> {
    memory: &'m BodyMemory,
    bytes: u64,
    since: Instant,
}

impl Room<'_> {
    /// Has so much from now on, less than before or more; waits for what it lacks.
    ///
    /// # Errors
    /// 503 when there is no room in time, 413 when there never is.
    pub fn set(&mut self, bytes: u64) -> Result<(), Problem> {
        let bytes = if bytes <= FREE { 0 } else { bytes };
        let most = self.memory.most;
        if bytes > most {
            let why = format!(
                "the request would take {bytes} bytes of memory, and all requests together may have {most}: send it in \
                 smaller parts, or start the server with more for bodies"
            );
            return Err(Problem::too_large(most).says(why));
        }
        if bytes > self.bytes {
            self.memory.take(bytes - self.bytes, self.bytes > 0)?;
        } else if bytes < self.bytes {
            self.memory.give_back(self.bytes - bytes, bytes == 0);
        }
        self.bytes = bytes;
        self.since = Instant::now();
        Ok(())
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// True when others wait for this room, and nothing has been said of it for long.
    pub fn is_overdue(&self) -> bool {
        self.bytes > 0
            && self.since.elapsed() > self.memory.lease
            && !self.memory.state.lock().line.is_empty()
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.memory.give_back(self.bytes, true);
        }
    }
}

/// What a map with few entries takes beside the texts in it, and what each further value does.
const MAP: u64 = 1 << 10;
const VALUE: u64 = 320;
/// Of shorter texts not even maps alone make much.
const SHORT: usize = 4 << 10;

/// What a body of JSON takes with all that is made of it: little ones of many empty maps take a hundred times their
/// length.
pub(crate) fn weight(json: &[u8]) -> u64 {
    let mut bytes = json.len() as u64 * COPIES;
    if json.len() <= SHORT {
        return bytes;
    }
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

    #[test]
    fn nobody_is_passed_over_and_nothing_is_given_twice() {
        let memory = BodyMemory::new(10 * MIB, 8);
        let mut first = memory.room();
        first.set(6 * MIB).unwrap();
        let mut free = memory.room();
        free.set(FREE).unwrap();
        assert_eq!(memory.used(), (6 * MIB, 6 * MIB), "a little is free");
        std::thread::scope(|scope| {
            let large = scope.spawn(|| {
                let mut room = memory.room();
                room.set(8 * MIB).map(|()| room)
            });
            while memory.waiting() < 1 {
                std::thread::yield_now();
            }
            // It would fit beside the first, but came later.
            let small = scope.spawn(|| {
                let mut room = memory.room();
                room.set(2 * MIB).map(|()| room)
            });
            while memory.waiting() < 2 {
                std::thread::yield_now();
            }
            free.set(FREE).unwrap();
            first.set(0).unwrap();
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
        assert_eq!(held.set(5 * MIB).unwrap_err().status, 413);
        held.set(4 * MIB).unwrap();
        let refused = memory.room().set(MIB).unwrap_err();
        assert_eq!(refused.status, 503);
        assert_eq!(memory.used(), (4 * MIB, 4 * MIB));
        assert_eq!(memory.waiting(), 0);
    }

    #[test]
    fn those_who_wait_for_each_other_do_not_wait() {
        let memory = BodyMemory::new(4 * MIB, 8);
        let (mut one, mut other) = (memory.room(), memory.room());
        one.set(2 * MIB).unwrap();
        other.set(2 * MIB).unwrap();
        std::thread::scope(|scope| {
            let grows = scope.spawn(move || {
                one.set(3 * MIB).unwrap();
                one
            });
            while memory.waiting() < 1 {
                std::thread::yield_now();
            }
            assert_eq!(other.set(3 * MIB).unwrap_err().status, 503);
            other.set(MIB).unwrap();
            let mut one = grows.join().unwrap();
            let waits = scope.spawn(|| memory.room().set(MIB));
            while memory.waiting() < 1 {
                std::thread::yield_now();
            }
            // Not behind one that has nothing yet.
            one.set(2 * MIB).unwrap();
            waits.join().unwrap().unwrap();
            one.set(3 * MIB).unwrap();
            let waits = scope.spawn(|| memory.room().set(2 * MIB));
            while memory.waiting() < 1 {
                std::thread::yield_now();
            }
            drop(other);
            one.set(4 * MIB).unwrap();
            drop(one);
            waits.join().unwrap().unwrap();
        });
    }

    #[test]
    fn room_that_nobody_waits_for_may_be_kept() {
        let mut memory = BodyMemory::new(4 * MIB, 1);
        memory.lease = Duration::ZERO;
        let mut held = memory.room();
        held.set(4 * MIB).unwrap();
        std::thread::sleep(Duration::from_millis(1));
        assert!(!held.is_overdue());
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| memory.room().set(MIB));
            while memory.waiting() < 1 {
                std::thread::yield_now();
            }
            assert!(held.is_overdue());
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
