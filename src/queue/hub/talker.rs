//! The thread that sends messages.

use std::collections::BTreeSet;
use std::time::Instant;

use redis::{Connection, RedisResult};

use super::{ANSWER, Backoff, CHANNEL, CONNECT, Shared};

/// Sends the outbox until the hub ends, and then the rest once more.
pub(super) fn run(shared: &Shared) {
    let mut talker = Talker {
        shared,
        connection: None,
        backoff: Backoff::new(),
        again: None,
    };
    while let Some(topics) = talker.next() {
        talker.send(topics);
    }
}

struct Talker<'s> {
    shared: &'s Shared,
    connection: Option<Connection>,
    backoff: Backoff,
    /// Redis was unavailable, and is not called before this time.
    again: Option<Instant>,
}

impl Talker<'_> {
    /// Waits until there are messages to send, and returns their topics; `None` at the end.
    fn next(&self) -> Option<BTreeSet<String>> {
        let mut outbox = self.shared.outbox.lock();
        loop {
            let again = self.again.filter(|again| *again > Instant::now());
            match again {
                _ if outbox.ends && (outbox.topics.is_empty() || self.again.is_some()) => {
                    return None;
                }
                _ if outbox.topics.is_empty() => self.shared.filled.wait(&mut outbox),
                Some(again) => {
                    self.shared.filled.wait_until(&mut outbox, again);
                }
                None => return Some(std::mem::take(&mut outbox.topics)),
            }
        }
    }

    fn send(&mut self, topics: BTreeSet<String>) {
        match self.publish(&topics) {
            Ok(()) => {
                self.shared.note_back();
                (self.backoff, self.again) = (Backoff::new(), None);
            }
            Err(error) => {
                self.shared.outbox.lock().topics.extend(topics);
                self.shared.note_away(&error);
                self.connection = None;
                self.again = Some(Instant::now() + self.backoff.next());
            }
        }
    }

    fn publish(&mut self, topics: &BTreeSet<String>) -> RedisResult<()> {
        let mut pipeline = redis::pipe();
        for topic in topics {
            let text = format!("{} {topic}", self.shared.me);
            pipeline.cmd("PUBLISH").arg(CHANNEL).arg(text).ignore();
        }
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(connect(self.shared)?),
        };
        pipeline.exec(connection)
    }
}

/// Opens a connection with time-outs for all operations.
pub(super) fn connect(shared: &Shared) -> RedisResult<Connection> {
    let connection = shared.client.get_connection_with_timeout(CONNECT)?;
    connection.set_read_timeout(Some(ANSWER))?;
    connection.set_write_timeout(Some(ANSWER))?;
    Ok(connection)
}
