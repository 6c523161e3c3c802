//! Which receivers are sent to at the same time: receivers that do not reply must not delay the messages of others.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Maximum number of receivers that are sent to at once and may still reply quickly.
const QUICK: usize = 32;
/// Maximum number of receivers whose last attempt failed, or that have been silent for [`SILENT`].
const SLOW: usize = QUICK / 2;
/// Maximum number of all receivers, and of those that have not accepted their last message.
const MOST: usize = 96;
const MOST_UNPROVEN: usize = 64;
/// An attempt that takes this long no longer counts as quick.
const SILENT: Duration = Duration::from_secs(2);
/// Maximum number of receivers whose last outcome is known.
const MOST_KNOWN: usize = 10_000;

/// The receivers that are being sent to, and the outcome of the last attempt of each receiver.
#[derive(Default)]
pub(super) struct Senders {
    busy: HashMap<String, Attempt>,
    accepted: HashMap<String, bool>,
}

struct Attempt {
    since: Instant,
    /// The attempt before it failed.
    has_failed: bool,
}

impl Attempt {
    fn is_slow(&self, now: Instant) -> bool {
        self.has_failed || now.duration_since(self.since) >= SILENT
    }
}

impl Senders {
    /// Whether a message may be sent to this receiver now. Then the receiver is busy until [`end`](Self::end).
    pub fn start(&mut self, receiver: &str, now: Instant) -> bool {
        if self.busy.contains_key(receiver) {
            return false;
        }
        let accepted = self.accepted.get(receiver).copied();
        let has_failed = accepted == Some(false);
        let total = self.busy.len();
        let slow = self.busy.values().filter(|one| one.is_slow(now)).count();
        let has_room = if has_failed {
            slow < SLOW
        } else {
            total - slow < QUICK
        };
        let most = if accepted == Some(true) {
            MOST
        } else {
            MOST_UNPROVEN
        };
        if !has_room || total >= most {
            return false;
        }
        let attempt = Attempt {
            since: now,
            has_failed,
        };
        self.busy.insert(receiver.to_owned(), attempt);
        true
    }

    /// The attempt has ended; `accepted` is `None` if no message was sent.
    pub fn end(&mut self, receiver: &str, accepted: Option<bool>) {
        self.busy.remove(receiver);
        let Some(accepted) = accepted else { return };
        if self.accepted.len() >= MOST_KNOWN {
            self.accepted.clear();
        }
        self.accepted.insert(receiver.to_owned(), accepted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receivers_that_do_not_reply_leave_room_for_others() {
        let mut senders = Senders::default();
        let mut now = Instant::now();
        assert!(senders.start("good", now));
        assert!(!senders.start("good", now), "one message at a time");
        senders.end("good", Some(true));
        // The new ones do not reply.
        let hanging: Vec<String> = (0..200).map(|n| format!("hangs{n}")).collect();
        let start = |senders: &mut Senders, now| {
            let started = hanging.iter().filter(|one| senders.start(one, now));
            started.count()
        };
        assert_eq!(start(&mut senders, now), QUICK);
        assert!(!senders.start("good", now));
        now += SILENT;
        assert!(senders.start("good", now) && senders.start("new", now));
        senders.end("good", Some(true));
        senders.end("new", Some(true));
        assert_eq!(start(&mut senders, now), MOST_UNPROVEN - QUICK);
        now += SILENT;
        assert!(senders.start("good", now));
        senders.end("good", Some(true));
        // Each has failed, and is tried again.
        for one in &hanging {
            senders.end(one, Some(false));
        }
        assert_eq!(start(&mut senders, now), SLOW);
        for one in ["good", "new", "another"] {
            assert!(senders.start(one, now));
        }
    }
}
