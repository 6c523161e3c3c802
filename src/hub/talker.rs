//! The thread that sends messages and requests for shares.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use redis::{Connection, RedisResult};

use super::{ANSWER, Backoff, CHANNEL, CONNECT, News, Shared, after, shares};

/// Minimum time between two messages about changes.
const BETWEEN_CHANGES: Duration = Duration::from_millis(100);
/// Interval of requests for shares, and the shorter interval while a caller waits for one.
pub(crate) const BETWEEN_SHARES: (Duration, Duration) =
    (Duration::from_millis(100), Duration::from_millis(10));

/// Sends the outbox until the hub ends, and then the rest once more.
pub(super) fn run(shared: &Shared) {
    let mut talker = Talker {
        shared,
        connection: None,
        backoff: Backoff::new(),
        again: None,
        changes_sent: None,
        shares_asked: None,
    };
    while let Some((news, asks)) = talker.next() {
        talker.send(news, asks);
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
    /// Time of the last request for shares.
    shares_asked: Option<Instant>,
}

impl Talker<'_> {
    /// Waits until there are messages to send. Returns them, and whether to request shares; `None` at the end.
    fn next(&self) -> Option<(BTreeMap<String, News>, bool)> {
        let mut outbox = self.shared.outbox.lock();
        loop {
            if outbox.ends && (outbox.news.is_empty() || self.again.is_some()) {
                return None;
            }
            let now = Instant::now();
            let newest = outbox.news.values().max();
            let news = newest.map(|news| match news {
                News::Work => now,
                News::Changed => after(self.changes_sent, BETWEEN_CHANGES).unwrap_or(now),
            });
            let (often, soon) = BETWEEN_SHARES;
            let between = if outbox.is_nudged { soon } else { often };
            let shares = if self.shared.has_share_users() {
                Some(after(self.shares_asked, between).unwrap_or(now))
            } else {
                None
            };
            let asks = shares.is_some_and(|due| due <= now);
            let due = [news, shares].into_iter().flatten().min();
            let due = due.map(|due| self.again.map_or(due, |again| due.max(again)));
            match due {
                Some(due) if due <= now || outbox.ends => {
                    if asks {
                        outbox.is_nudged = false;
                    }
                    let is_due = outbox.ends || news.is_some_and(|due| due <= now);
                    let news = if is_due {
                        std::mem::take(&mut outbox.news)
                    } else {
                        BTreeMap::new()
                    };
                    return Some((news, asks));
                }
                Some(due) => {
                    self.shared.filled.wait_until(&mut outbox, due);
                }
                None => self.shared.filled.wait(&mut outbox),
            }
        }
    }

    fn send(&mut self, news: BTreeMap<String, News>, asks: bool) {
        let published = if news.is_empty() {
            Ok(())
        } else {
            self.publish(&news)
                .map(|()| self.changes_sent = Some(Instant::now()))
        };
        if published.is_err() {
            let mut outbox = self.shared.outbox.lock();
            for (topic, news) in news {
                let known = outbox.news.entry(topic).or_insert(news);
                *known = news.max(*known);
            }
        }
        // A limiter that waits for a share is also notified if there is none.
        let shared = if asks { self.ask() } else { Ok(()) };
        match published.and(shared) {
            Ok(()) if self.connection.is_some() => {
                self.shared.note_back();
                (self.backoff, self.again) = (Backoff::new(), None);
            }
            Ok(()) => {}
            Err(error) => {
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
        pipeline.exec(self.connection()?)
    }

    fn ask(&mut self) -> RedisResult<()> {
        self.shares_asked = Some(Instant::now());
        let mut outcome = Ok(());
        for user in self.shared.share_users() {
            let requests = user.ask();
            if requests.is_empty() {
                continue;
            }
            let me = &self.shared.me;
            let given = self
                .connection()
                .and_then(|connection| shares::exchange(connection, me, &requests));
            match given {
                Ok(shares) => user.receive(&shares),
                Err(error) => {
                    user.lose(self.shared.workers.load(Ordering::SeqCst));
                    outcome = Err(error);
                }
            }
        }
        outcome
    }

    fn connection(&mut self) -> RedisResult<&mut Connection> {
        Ok(match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(connect(self.shared)?),
        })
    }
}

/// Opens a connection with time-outs for all operations.
pub(super) fn connect(shared: &Shared) -> RedisResult<Connection> {
    let connection = shared.client.get_connection_with_timeout(CONNECT)?;
    connection.set_read_timeout(Some(ANSWER))?;
    connection.set_write_timeout(Some(ANSWER))?;
    Ok(connection)
}
