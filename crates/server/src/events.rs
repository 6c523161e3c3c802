//! Numbered events. The last ones are kept, so that a client can continue after a lost connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use batchwright::ProcessId;
use parking_lot::{Condvar, Mutex};
use serde::Serialize;

/// Something that happened.
#[derive(Debug)]
pub(crate) struct Event {
    /// Counted from 1 for each start of the server.
    pub number: u64,
    /// The event's name.
    pub name: &'static str,
    /// Its data, in JSON.
    pub data: String,
}

/// The events of this server since it began.
#[derive(Default)]
pub(crate) struct Events {
    boot: Boot,
    kept: Mutex<Kept>,
    came: Condvar,
    listeners: AtomicUsize,
}

/// Distinguishes the events of this start of the server from those of earlier starts.
struct Boot(String);

impl Default for Boot {
    fn default() -> Self {
        Self(ProcessId::new().to_string().replace('-', ""))
    }
}

/// A registered listener; dropping it unregisters the client.
pub(crate) struct Listening(Arc<Events>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.listeners.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Default)]
struct Kept {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    last: u64,
    closed: bool,
}

/// Maximum number of stored events, and of the bytes of their data.
const MOST: usize = 8_192;
const MOST_BYTES: usize = 4 << 20;
/// Maximum number of listening clients.
pub(crate) const MOST_LISTENERS: usize = 64;

/// The result of reading events.
#[derive(Debug)]
pub(crate) enum Next {
    /// New events, in order.
    Events(Vec<Arc<Event>>),
    /// No event arrived in time.
    Nothing,
    /// The events after the requested number are not stored any more, or never existed; continue from this number.
    Lost(u64),
    /// There will be no more.
    Closed,
}

impl Events {
    /// Sends an event to all listeners.
    pub fn publish(&self, name: &'static str, data: &impl Serialize) {
        let data = serde_json::to_string(data).expect("an event has a form in JSON");
        let mut kept = self.kept.lock();
        kept.last += 1;
        kept.bytes += data.len();
        let number = kept.last;
        kept.events
            .push_back(Arc::new(Event { number, name, data }));
        while kept.events.len() > MOST || kept.bytes > MOST_BYTES {
            let Some(oldest) = kept.events.pop_front() else {
                break;
            };
            kept.bytes -= oldest.data.len();
        }
        self.came.notify_all();
    }

    /// The id of this start of the server.
    pub fn boot(&self) -> &str {
        &self.boot.0
    }

    /// Registers a listener, unless there are too many.
    pub fn listen(self: &Arc<Self>) -> Option<Listening> {
        let listening = Listening(Arc::clone(self));
        let others = self.listeners.fetch_add(1, Ordering::SeqCst);
        (others < MOST_LISTENERS).then_some(listening)
    }

    /// How many clients listen.
    pub fn listeners(&self) -> usize {
        self.listeners.load(Ordering::SeqCst)
    }

    /// The number of the last event.
    pub fn last(&self) -> u64 {
        self.kept.lock().last
    }

    /// The events after this number; waits this long for one.
    pub fn after(&self, number: u64, wait: Duration) -> Next {
        let deadline = Instant::now() + wait;
        let mut kept = self.kept.lock();
        loop {
            let first = kept.last + 1 - kept.events.len() as u64;
            if number > kept.last || number + 1 < first {
                return Next::Lost(kept.last);
            }
            if number < kept.last {
                let skipped = (number + 1 - first) as usize;
                return Next::Events(kept.events.iter().skip(skipped).cloned().collect());
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
        let events = Events::default();
        for n in 0..MOST as u64 + 10 {
            events.publish("n", &n);
        }
        let last = events.last();
        assert!(matches!(events.after(3, Duration::ZERO), Next::Lost(at) if at == last));
        assert!(matches!(
            events.after(last + 1, Duration::ZERO),
            Next::Lost(_)
        ));
        let Next::Events(some) = events.after(last - 3, Duration::ZERO) else {
            panic!("three are kept");
        };
        let numbers: Vec<u64> = some.iter().map(|event| event.number).collect();
        assert_eq!(numbers, [last - 2, last - 1, last]);
        assert!(matches!(events.after(last, Duration::ZERO), Next::Nothing));
        events.close();
        assert!(matches!(events.after(last, Duration::ZERO), Next::Closed));
    }
}
