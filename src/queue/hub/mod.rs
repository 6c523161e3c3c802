//! Messages between OS processes on many machines through Redis or Valkey: that there is work.
//!
//! Redis stores nothing. While it is unavailable, processes notice work when they next look at the database, which they
//! do every second anyway. No other thread waits for Redis: two threads talk to it, one that sends
//! ([`talk`]) and one that receives ([`receive`]).

mod options;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeSet;
use std::iter::once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded, unbounded};
use parking_lot::Mutex;
use redis::{Client, Connection, RedisError, RedisResult, Value};

use crate::base::Error;
use crate::base::thread::spawn;

pub use options::RedisOptions;

/// The channel on which all processes publish.
const CHANNEL: &str = "batchwright:work";
/// Time-out of a reply of the server.
const ANSWER: Duration = Duration::from_secs(2);
/// Time-out of a connection attempt.
const CONNECT: Duration = Duration::from_secs(1);
/// Wait before a reconnect, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Called by a thread of the hub when another process has made jobs claimable. Must return immediately.
pub(crate) type Subscriber = dyn Fn() + Send + Sync;

/// A connection to Redis or Valkey, over which workers on many machines wake each other. Clones share it.
///
/// Creating it succeeds even if the server is unavailable: a warning is logged once, workers look at the database every
/// second, and use Redis as soon as it is available.
#[derive(Clone, derive_more::Debug)]
#[debug("RedisHub({:?})", self.location())]
pub struct RedisHub(Arc<Owner>);

impl RedisHub {
    /// Prepares the connection; it is opened when it is first needed.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for an invalid address, file or password.
    pub fn new(options: RedisOptions) -> Result<Self, Error> {
        let (client, location) = options.client()?;
        let (stop, stopped) = bounded(0);
        let shared = Arc::new(Shared {
            client,
            location,
            me: uuid::Uuid::now_v7().simple().to_string(),
            subscriptions: Mutex::default(),
            is_away: AtomicBool::new(false),
        });
        let ((topics, sent), talker) = (unbounded(), shared.clone());
        let talker = spawn("bw-redis-talker", move || talk(&talker, &sent))?;
        Ok(Self(Arc::new(Owner {
            shared,
            talker: Some((topics, talker)),
            listener: OnceLock::new(),
            stop: Some(stop),
            stopped,
        })))
    }

    /// The address of the server, without credentials.
    pub fn location(&self) -> String {
        self.0.shared.location.clone()
    }

    /// Tells other processes of work in a store. Returns immediately. While Redis is unavailable, messages are dropped.
    pub(crate) fn publish(&self, topic: &str) {
        if let Some((topics, _)) = &self.0.talker {
            let _ = topics.send(topic.to_owned());
        }
    }

    /// Calls `subscriber` for messages of other processes about a topic, until it is dropped, and also after each
    /// reconnect, because messages may have been missed.
    pub(crate) fn subscribe(&self, topic: &str, subscriber: Weak<Subscriber>) {
        let mut subscriptions = self.0.shared.subscriptions.lock();
        if !subscriptions
            .iter()
            .any(|(_, known)| known.ptr_eq(&subscriber))
        {
            subscriptions.push((topic.to_owned(), subscriber));
        }
        drop(subscriptions);
        self.0.listen();
    }
}

/// Ends the threads when the last clone of the hub is dropped. The listener starts when it is first needed.
struct Owner {
    shared: Arc<Shared>,
    /// Where to send topics, and the thread that passes them on.
    talker: Option<(Sender<String>, JoinHandle<()>)>,
    listener: OnceLock<()>,
    /// Dropped to stop the listener.
    stop: Option<Sender<()>>,
    stopped: Receiver<()>,
}

impl Owner {
    fn listen(&self) {
        self.listener.get_or_init(|| {
            let (shared, stopped) = (self.shared.clone(), self.stopped.clone());
            let listener = move || receive(&shared, &stopped);
            if let Err(error) = spawn("bw-redis-listener", listener) {
                log::warn!("Redis wakes no worker here: {error}");
            }
        });
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // The listener is blocked in a read and notices this within a moment; nothing has to wait for it.
        self.stop = None;
        // The last messages must still be sent.
        if let Some((topics, thread)) = self.talker.take() {
            drop(topics);
            let _ = thread.join();
        }
    }
}

/// State that the threads share.
struct Shared {
    client: Client,
    location: String,
    /// The id of this process, to ignore its own messages.
    me: String,
    subscriptions: Mutex<Vec<(String, Weak<Subscriber>)>>,
    is_away: AtomicBool,
}

impl Shared {
    /// Calls the subscribers of a topic, or all.
    fn deliver(&self, topic: Option<&str>) {
        let mut alive = Vec::new();
        self.subscriptions.lock().retain(|(of, subscriber)| {
            let subscriber = subscriber.upgrade();
            let keep = subscriber.is_some();
            alive.extend(subscriber.filter(|_| topic.is_none_or(|topic| topic == of)));
            keep
        });
        // Without the lock, because subscribers may publish.
        for subscriber in alive {
            subscriber();
        }
    }

    fn note_away(&self, error: &RedisError) {
        if !self.is_away.swap(true, Ordering::SeqCst) {
            log::warn!(
                "Redis at {} cannot be used ({}). Work continues without it, and the connection is retried",
                self.location,
                explain(error)
            );
        }
    }

    fn note_back(&self) {
        if self.is_away.swap(false, Ordering::SeqCst) {
            log::info!("Redis at {} is back", self.location);
        }
    }
}

/// The reason why Redis cannot be used. The server's message may quote the request, so only its beginning is shown.
fn explain(error: &RedisError) -> String {
    if error.kind() == redis::ErrorKind::AuthenticationFailed || error.code() == Some("NOAUTH") {
        return "it rejects the user or the password: check BATCHWRIGHT_REDIS_PASSWORD".to_owned();
    }
    let why = match error.code() {
        Some(code) => return format!("it answers {code}"),
        None if error.is_connection_refusal() => "connection refused",
        None if error.is_timeout() => "it does not answer in time",
        None if error.is_connection_dropped() => "it closed the connection",
        None => error.category(),
    };
    why.to_owned()
}

/// The wait before the next attempt; each is longer than the one before.
fn next_wait(backoff: &mut Duration) -> Duration {
    let wait = *backoff;
    *backoff = (2 * wait).min(AGAIN.1);
    wait
}

// The thread that sends messages.

/// Sends a message for each topic until the hub ends. Those that cannot be sent are dropped: other processes look at the
/// database every second.
fn talk(shared: &Shared, topics: &Receiver<String>) {
    let (mut connection, mut backoff) = (None, AGAIN.0);
    let mut again = Instant::now();
    while let Ok(topic) = topics.recv() {
        // Messages that queued up meanwhile are one.
        let topics: BTreeSet<String> = once(topic).chain(topics.try_iter()).collect();
        if Instant::now() < again {
            continue;
        }
        match publish(shared, &mut connection, &topics) {
            Ok(()) => {
                shared.note_back();
                backoff = AGAIN.0;
            }
            Err(error) => {
                shared.note_away(&error);
                connection = None;
                again = Instant::now() + next_wait(&mut backoff);
            }
        }
    }
}

fn publish(
    shared: &Shared,
    connection: &mut Option<Connection>,
    topics: &BTreeSet<String>,
) -> RedisResult<()> {
    let mut pipeline = redis::pipe();
    for topic in topics {
        let text = format!("{} {topic}", shared.me);
        pipeline.cmd("PUBLISH").arg(CHANNEL).arg(text).ignore();
    }
    let connection = match connection {
        Some(connection) => connection,
        none => none.insert(connect(shared)?),
    };
    pipeline.exec(connection)
}

/// Opens a connection with time-outs for all operations.
fn connect(shared: &Shared) -> RedisResult<Connection> {
    let connection = shared.client.get_connection_with_timeout(CONNECT)?;
    connection.set_read_timeout(Some(ANSWER))?;
    connection.set_write_timeout(Some(ANSWER))?;
    Ok(connection)
}

// The thread that receives messages.

/// Maximum time of one blocking read, and so of the wait for the end of this thread.
const TURN: Duration = Duration::from_millis(250);
/// After this time without a message, the thread checks whether the server is still available.
const SILENCE: Duration = Duration::from_secs(5);

/// Delivers messages of other processes until the sender of `stopped` is dropped.
fn receive(shared: &Shared, stopped: &Receiver<()>) {
    let mut backoff = AGAIN.0;
    loop {
        match listen(shared, stopped, &mut backoff) {
            Ok(()) => return,
            Err(error) => shared.note_away(&error),
        }
        if stopped.recv_timeout(next_wait(&mut backoff)) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

fn listen(shared: &Shared, stopped: &Receiver<()>, backoff: &mut Duration) -> RedisResult<()> {
    let mut connection = connect(shared)?;
    let mut channel = connection.as_pubsub();
    channel.subscribe(CHANNEL)?;
    shared.note_back();
    *backoff = AGAIN.0;
    // Messages from before the connection are unknown, so there may be work.
    shared.deliver(None);
    channel.set_read_timeout(Some(TURN))?;
    let mut heard = Instant::now();
    while stopped.try_recv() == Err(TryRecvError::Empty) {
        match channel.get_message() {
            Ok(message) => {
                heard = Instant::now();
                let text = std::str::from_utf8(message.get_payload_bytes());
                let sent = text.ok().and_then(|text| text.split_once(' '));
                if let Some((_, topic)) = sent.filter(|(from, _)| *from != shared.me) {
                    shared.deliver(Some(topic));
                }
            }
            Err(error) if error.is_timeout() => {
                if heard.elapsed() >= SILENCE {
                    channel.set_read_timeout(Some(ANSWER))?;
                    let _: Value = channel.ping()?;
                    channel.set_read_timeout(Some(TURN))?;
                    heard = Instant::now();
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
