//! Numbered events, as they happen. The last ones are kept, so that a client can continue after a lost connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use batchwright::ProcessId;
use parking_lot::{Condvar, Mutex};
use serde::Serialize;

/// Something that happened.
#[derive(Debug)]
pub(crate) struct Event {
    /// Counted from the microsecond of the server's start, so that numbers of an earlier start are older.
    pub number: u64,
    /// The event's name.
    pub name: &'static str,
    /// The process that it reports on.
    about: Option<ProcessId>,
    /// Its data, in JSON.
    pub data: String,
}

/// The events of this server since it began.
#[derive(Default)]
pub(crate) struct Events {
    kept: Mutex<Kept>,
    came: Condvar,
    /// One reference for each listener, and one more.
    listeners: Arc<()>,
}

#[derive(Default)]
struct Kept {
    events: VecDeque<Arc<Event>>,
    last: u64,
    closed: bool,
}

/// Maximum number of stored events.
const MOST: usize = 1_000;

/// The result of reading events.
#[derive(Debug)]
pub(crate) enum Next {
    /// New events, in order.
    Events(Vec<Arc<Event>>),
    /// No event arrived in time.
    Nothing,
    /// The events after the requested number are not stored any more, or never existed.
    Lost,
    /// There will be no more.
    Closed,
}

impl Events {
    pub fn new() -> Self {
        let events = Self::default();
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        events.kept.lock().last = since.map_or(0, |since| since.as_micros() as u64);
        events
    }

    /// Sends an event to all listeners; it may be about a process.
    pub fn publish(&self, name: &'static str, about: Option<ProcessId>, data: &impl Serialize) {
        let data = serde_json::to_string(data).expect("an event has a form in JSON");
        let mut kept = self.kept.lock();
        kept.last += 1;
        let number = kept.last;
        kept.events.push_back(Arc::new(Event {
            number,
            name,
            about,
            data,
        }));
        if kept.events.len() > MOST {
            kept.events.pop_front();
        }
        self.came.notify_all();
    }

    /// Registers a listener, until the result is dropped.
    pub fn listen(&self) -> Arc<()> {
        Arc::clone(&self.listeners)
    }

    /// How many clients listen.
    pub fn listeners(&self) -> usize {
        Arc::strong_count(&self.listeners) - 1
    }

    /// The number of the last event.
    pub fn last(&self) -> u64 {
        self.kept.lock().last
    }

    /// The events after the number `at`, of all or of a process; waits this long for one. `at` becomes the number to continue from.
    pub fn after(&self, at: &mut u64, process: Option<ProcessId>, wait: Duration) -> Next {
        let deadline = Instant::now() + wait;
        let mut kept = self.kept.lock();
        loop {
            let first = kept.last + 1 - kept.events.len() as u64;
            if *at > kept.last || *at + 1 < first {
                *at = kept.last;
                return Next::Lost;
            }
            let skipped = (*at + 1 - first) as usize;
            let new = kept.events.iter().skip(skipped);
            let some: Vec<_> = new
                .filter(|event| process.is_none() || event.about == process)
                .cloned()
                .collect();
            *at = kept.last;
            if !some.is_empty() {
                return Next::Events(some);
            }
            if kept.closed {
                return Next::Closed;
            }
            if self.came.wait_until(&mut kept, deadline).timed_out() {
                return Next::Nothing;
            }
        }
    }

    /// True once the server stops.
    pub fn is_closed(&self) -> bool {
        self.kept.lock().closed
    }

    /// Ends all waits.
    pub fn close(&self) {
        self.kept.lock().closed = true;
        self.came.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_comes_once_and_a_gap_is_told() {
        let events = Events::new();
        for n in 0..MOST as u64 + 10 {
            events.publish("n", None, &n);
        }
        let last = events.last();
        let after = |at: &mut u64| events.after(at, None, Duration::ZERO);
        for mut lost in [3, last + 1] {
            assert!(matches!(after(&mut lost), Next::Lost));
            assert_eq!(lost, last);
        }
        let mut at = last - 3;
        let Next::Events(some) = after(&mut at) else {
            panic!("three are kept");
        };
        assert!(some.iter().map(|event| event.number).eq(last - 2..=last));
        assert!(matches!(after(&mut at), Next::Nothing));
        let (mut at, mut seen) = (last - 300, 0);
        while let Next::Events(some) = after(&mut at) {
            seen += some.len();
        }
        assert_eq!((seen, at), (300, last));
        events.close();
        assert!(matches!(after(&mut at), Next::Closed));
    }
}
