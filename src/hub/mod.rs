//! What processes on many machines tell each other through Redis or Valkey: that there is work, and what they use of
//! limits that all of them share.
//!
//! Nothing that must not be lost is in Redis. While it cannot be reached, processes look at the database at short
//! intervals instead, and nobody waits for it: two threads of their own talk to it, one that sends
//! ([`talker`]) and one that listens ([`listener`]).

mod inspect;
mod listener;
mod options;
pub(crate) mod shares;
pub(crate) mod talker;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex};
use redis::{Client, RedisError};

use crate::base::error::Error;
use crate::base::thread::spawn;

pub use options::RedisOptions;
use shares::ShareUser;

/// The channel on which all of us publish.
const CHANNEL: &str = "batchwright:news";
/// A server that does not answer for so long cannot be used.
const ANSWER: Duration = Duration::from_secs(2);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(1);
/// How soon a server that could not be used is tried again, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What happened in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum News {
    /// Something was written.
    Changed,
    /// Jobs have become claimable.
    Work,
}

/// Called, from a thread of the hub, for what others have published. Must return at once.
pub(crate) type Subscriber = dyn Fn(News) + Send + Sync;

/// A connection to Redis or Valkey, over which workers on many machines wake each other. Clones share it.
///
/// It is made even if the server cannot be reached: a warning is logged once, workers look at the database at short
/// intervals, and use Redis as soon as it is back.
#[derive(Clone, derive_more::Debug)]
#[debug("RedisHub({:?})", self.location())]
pub struct RedisHub(Arc<Owner>);

impl RedisHub {
    /// Prepares the connection, which is made when it is first needed.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for an address, a file or a password that cannot be used.
    pub fn new(options: RedisOptions) -> Result<Self, Error> {
        let (client, location) = options.client()?;
        let (stop, stopped) = bounded(0);
        let shared = Arc::new(Shared {
            client,
            location,
            me: uuid::Uuid::now_v7().simple().to_string(),
            outbox: Mutex::default(),
            filled: Condvar::new(),
            subscriptions: Mutex::default(),
            share_users: Mutex::default(),
            workers: AtomicUsize::new(0),
            hears: AtomicBool::new(false),
            is_away: AtomicBool::new(false),
        });
        Ok(Self(Arc::new(Owner {
            shared,
            threads: Mutex::default(),
            stop: Some(stop),
            stopped,
        })))
    }

    /// Where the server is, without any credential.
    pub fn location(&self) -> String {
        self.0.shared.location.clone()
    }

    /// Whether what others publish arrives here at once.
    pub(crate) fn hears(&self) -> bool {
        self.0.shared.hears.load(Ordering::SeqCst)
    }

    /// Tells the others of a topic. Returns at once; what cannot be sent now is sent when Redis is back.
    pub(crate) fn publish(&self, topic: &str, news: News) {
        {
            let mut outbox = self.0.shared.outbox.lock();
            match outbox.news.get_mut(topic) {
                Some(known) => *known = news.max(*known),
                None => {
                    outbox.news.insert(topic.to_owned(), news);
                }
            }
        }
        self.0.shared.filled.notify_one();
        self.0.talk();
    }

    /// Has `subscriber` called for what others publish about a topic, until it is dropped; and when Redis is reached
    /// again, since something may have been missed.
    pub(crate) fn subscribe(&self, topic: &str, subscriber: Weak<Subscriber>) {
        let subscription = (topic.to_owned(), subscriber);
        self.0.shared.subscriptions.lock().push(subscription);
        self.0.listen();
    }
}

impl RedisHub {
    /// Has a process take part in the limits that all share, until `user` is dropped.
    pub(crate) fn share(&self, user: Weak<dyn ShareUser>) {
        self.0.shared.share_users.lock().push(user);
        self.0.talk();
        self.nudge();
    }

    /// Somebody waits for a share, or has something to say that others must hear of at once.
    pub(crate) fn nudge(&self) {
        self.0.shared.outbox.lock().is_nudged = true;
        self.0.shared.filled.notify_one();
    }

    /// So many workers are alive, also while Redis is away.
    pub(crate) fn note_workers(&self, workers: usize) {
        self.0.shared.workers.store(workers, Ordering::SeqCst);
    }
}

#[cfg(test)]
impl RedisHub {
    /// A hub without threads and without a connection: a simulation exchanges shares for it.
    pub(crate) fn simulated() -> Self {
        let hub = Self::new(RedisOptions::new("redis://127.0.0.1:1")).unwrap();
        hub.0.threads.lock().are_simulated = true;
        hub
    }

    pub(crate) fn users(&self) -> Vec<Arc<dyn ShareUser>> {
        self.0.shared.share_users()
    }

    /// Whether a limiter has requested a share since the last call of this method.
    pub(crate) fn was_nudged(&self) -> bool {
        std::mem::take(&mut self.0.shared.outbox.lock().is_nudged)
    }
}

/// Ends the threads with the last clone of the hub.
struct Owner {
    shared: Arc<Shared>,
    threads: Mutex<Threads>,
    /// Dropped to stop the listener.
    stop: Option<Sender<()>>,
    stopped: Receiver<()>,
}

#[derive(Default)]
struct Threads {
    talker: Option<JoinHandle<()>>,
    listens: bool,
    /// A simulation does the work of the threads.
    #[cfg(test)]
    are_simulated: bool,
}

impl Owner {
    fn talk(&self) {
        let mut threads = self.threads.lock();
        #[cfg(test)]
        if threads.are_simulated {
            return;
        }
        if threads.talker.is_none() {
            let shared = self.shared.clone();
            threads.talker = started(spawn("bw-redis-talker", move || talker::run(&shared)));
        }
    }

    fn listen(&self) {
        let mut threads = self.threads.lock();
        if !threads.listens {
            let (shared, stopped) = (self.shared.clone(), self.stopped.clone());
            let listener = move || listener::run(&shared, &stopped);
            threads.listens = started(spawn("bw-redis-listener", listener)).is_some();
        }
    }
}

fn started<T>(thread: Result<T, Error>) -> Option<T> {
    thread
        .inspect_err(|error| log::warn!("Redis is not used: {error}"))
        .ok()
}

impl Drop for Owner {
    fn drop(&mut self) {
        // The listener blocks in a read, and notices within a moment; nobody has to wait for that.
        self.stop = None;
        self.shared.outbox.lock().ends = true;
        self.shared.filled.notify_one();
        // What was published last has yet to be sent.
        if let Some(talker) = self.threads.get_mut().talker.take()
            // It may itself have held the last clone.
            && talker.thread().id() != std::thread::current().id()
        {
            let _ = talker.join();
        }
    }
}

/// What the threads share.
struct Shared {
    client: Client,
    location: String,
    /// Who publishes, so that nobody hears what they said themselves.
    me: String,
    outbox: Mutex<Outbox>,
    filled: Condvar,
    subscriptions: Mutex<Vec<(String, Weak<Subscriber>)>>,
    share_users: Mutex<Vec<Weak<dyn ShareUser>>>,
    /// Workers that are alive, as far as anybody has counted them.
    workers: AtomicUsize,
    hears: AtomicBool,
    is_away: AtomicBool,
}

/// What is to be sent.
#[derive(Default)]
struct Outbox {
    /// By topic.
    news: BTreeMap<String, News>,
    /// A share is asked for before its time.
    is_nudged: bool,
    ends: bool,
}

impl Shared {
    /// Calls the subscribers of a topic, or all.
    fn deliver(&self, topic: Option<&str>, news: News) {
        let mut alive = Vec::new();
        self.subscriptions.lock().retain(|(of, subscriber)| {
            let subscriber = subscriber.upgrade();
            let keep = subscriber.is_some();
            alive.extend(subscriber.filter(|_| topic.is_none_or(|topic| topic == of)));
            keep
        });
        // Outside the lock: they may publish.
        for subscriber in alive {
            subscriber(news);
        }
    }

    fn has_share_users(&self) -> bool {
        let users = self.share_users.lock();
        users.iter().any(|user| user.strong_count() > 0)
    }

    /// The limiters that share their limits.
    fn share_users(&self) -> Vec<Arc<dyn ShareUser>> {
        let mut users = self.share_users.lock();
        users.retain(|user| user.strong_count() > 0);
        users.iter().filter_map(Weak::upgrade).collect()
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

/// Why it cannot be used. What the server says may quote what it was sent, so little of it is repeated.
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

/// Growing waits for a server that cannot be used.
struct Backoff(Duration);

impl Backoff {
    fn new() -> Self {
        Self(AGAIN.0)
    }

    fn next(&mut self) -> Duration {
        let wait = self.0;
        self.0 = (2 * wait).min(AGAIN.1);
        wait
    }
}

/// When something that was begun at `since` may be done again.
fn after(since: Option<Instant>, interval: Duration) -> Option<Instant> {
    since.map(|since| since + interval)
}
