//! The thread that sends messages.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use redis::{Connection, RedisResult};

use super::{ANSWER, Backoff, CHANNEL, CONNECT, News, Shared};

/// Minimum time between two messages about changes.
const BETWEEN_CHANGES: Duration = Duration::from_millis(100);

/// Sends the outbox until the hub ends, and then the rest once more.
pub(super) fn run(shared: &Shared) {
    let mut talker = Talker {
        shared,
        connection: None,
        backoff: Backoff::new(),
        again: None,
        changes_sent: None,
    };
    while let Some(news) = talker.next() {
        talker.send(news);
    }
}

struct Talker<'s> {
    shared: &'s Shared,
    connection: Option<Connection>,
    backoff: Backoff,
    /// Redis was unavailable, and is not called before this time.
    again: Option<Instant>,
    /// Time of the last message about changes.
    changes_sent: Option<Instant>,
}

impl Talker<'_> {
    /// Waits until there are messages to send, and returns them; `None` at the end.
    fn next(&self) -> Option<BTreeMap<String, News>> {
        let mut outbox = self.shared.outbox.lock();
        loop {
            if outbox.ends && (outbox.news.is_empty() || self.again.is_some()) {
                return None;
            }
            let now = Instant::now();
            let due = outbox.news.values().max().map(|newest| {
                let due = match (newest, self.changes_sent) {
                    (News::Changed, Some(sent)) => sent + BETWEEN_CHANGES,
                    _ => now,
                };
                self.again.map_or(due, |again| due.max(again))
            });
            match due {
                Some(due) if due <= now || outbox.ends => {
                    return Some(std::mem::take(&mut outbox.news));
                }
                Some(due) => {
                    self.shared.filled.wait_until(&mut outbox, due);
                }
                None => self.shared.filled.wait(&mut outbox),
            }
        }
    }

    fn send(&mut self, news: BTreeMap<String, News>) {
        match self.publish(&news) {
            Ok(()) => {
                self.changes_sent = Some(Instant::now());
                self.shared.note_back();
                (self.backoff, self.again) = (Backoff::new(), None);
            }
            Err(error) => {
                let mut outbox = self.shared.outbox.lock();
                for (topic, news) in news {
                    let known = outbox.news.entry(topic).or_insert(news);
                    *known = news.max(*known);
                }
                drop(outbox);
                self.shared.note_away(&error);
                self.connection = None;
                self.again = Some(Instant::now() + self.backoff.next());
            }
        }
    }

    fn publish(&mut self, news: &BTreeMap<String, News>) -> RedisResult<()> {
        let mut pipeline = redis::pipe();
        for (topic, news) in news {
            let word = match news {
                News::Changed => "changed",
                News::Work => "work",
            };
            let text = format!("{} {word} {topic}", self.shared.me);
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
