//! Messages between OS processes on many machines through Redis or Valkey: that there is work.
//!
//! Redis stores nothing. While it is unavailable, processes notice work when they next look at the database, which they
//! do every second anyway. No other thread waits for Redis: two threads talk to it, one that sends
//! ([`talk`]) and one that receives ([`receive`]).

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeSet;
use std::iter::once;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use derive_setters::Setters;
use parking_lot::Mutex;
use redis::{
    Client, Connection, IntoConnectionInfo, RedisError, RedisResult, TlsCertificates, Value,
};

use crate::base::thread::spawn;
use crate::base::{Error, ErrorKind, Secret, named_file, secret_file};

/// The channel on which all processes publish.
const CHANNEL: &str = "batchwright:work";
/// Time-out of a reply of the server.
const ANSWER: Duration = Duration::from_secs(2);
/// Time-out of a connection attempt.
const CONNECT: Duration = Duration::from_secs(1);
/// Wait before a reconnect.
const AGAIN: Duration = Duration::from_secs(1);

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
        let subscriber = (topic.to_owned(), subscriber);
        self.0.shared.subscriptions.lock().push(subscriber);
        self.0.listener.get_or_init(|| {
            let (shared, owner) = (self.0.shared.clone(), Arc::downgrade(&self.0));
            let listener = move || receive(&shared, &owner);
            if let Err(error) = spawn("bw-redis-listener", listener) {
                log::warn!("Redis wakes no worker here: {error}");
            }
        });
    }
}

/// Ends the threads when the last clone of the hub is dropped. The listener starts when it is first needed.
struct Owner {
    shared: Arc<Shared>,
    /// Where to send topics, and the thread that passes them on.
    talker: Option<(Sender<String>, JoinHandle<()>)>,
    listener: OnceLock<()>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        // The listener notices this after its read; nothing has to wait for it. The last messages must still be sent.
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

// The thread that sends messages.

/// Sends a message for each topic until the hub ends. Those that cannot be sent are dropped: other processes look at the
/// database every second.
fn talk(shared: &Shared, topics: &Receiver<String>) {
    let (mut connection, mut again) = (None, Instant::now());
    while let Ok(topic) = topics.recv() {
        // Messages that queued up meanwhile are one.
        let topics: BTreeSet<String> = once(topic).chain(topics.try_iter()).collect();
        if Instant::now() < again {
            continue;
        }
        match publish(shared, &mut connection, &topics) {
            Ok(()) => shared.note_back(),
            Err(error) => {
                shared.note_away(&error);
                connection = None;
                again = Instant::now() + AGAIN;
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

/// Maximum time of one blocking read, and so of the wait for the end of this thread. After it, the thread checks whether
/// the server is still available.
const TURN: Duration = Duration::from_secs(1);

/// Delivers messages of other processes until the hub ends.
fn receive(shared: &Shared, owner: &Weak<Owner>) {
    while owner.strong_count() > 0 {
        if let Err(error) = listen(shared, owner) {
            shared.note_away(&error);
            thread::sleep(AGAIN);
        }
    }
}

fn listen(shared: &Shared, owner: &Weak<Owner>) -> RedisResult<()> {
    let mut connection = connect(shared)?;
    let mut channel = connection.as_pubsub();
    channel.subscribe(CHANNEL)?;
    shared.note_back();
    // Messages from before the connection are unknown, so there may be work.
    shared.deliver(None);
    channel.set_read_timeout(Some(TURN))?;
    while owner.strong_count() > 0 {
        match channel.get_message() {
            Ok(message) => {
                let text = std::str::from_utf8(message.get_payload_bytes());
                let sent = text.ok().and_then(|text| text.split_once(' '));
                if let Some((_, topic)) = sent.filter(|(from, _)| *from != shared.me) {
                    shared.deliver(Some(topic));
                }
            }
            Err(error) if error.is_timeout() => drop(channel.ping::<Value>()?),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

// The address of Redis and the credentials for it.

/// The variable with the password, and the variable with the name of a file that contains it.
const PASSWORD: &str = "BATCHWRIGHT_REDIS_PASSWORD";
const PASSWORD_FILE: &str = "BATCHWRIGHT_REDIS_PASSWORD_FILE";

/// The connection settings of Redis or Valkey. `Debug` shows no password.
#[derive(Clone, derive_more::Debug, Setters)]
#[setters(generate = false, strip_option)]
#[debug("RedisOptions")]
pub struct RedisOptions {
    address: Secret,
    /// The password, unless the address has one.
    #[setters(generate)]
    password: Option<Secret>,
    /// A file whose first line is the password, unless the address has one.
    #[setters(generate, into)]
    password_file: Option<PathBuf>,
}

impl RedisOptions {
    /// A server by its address: `redis://USER:PASSWORD@HOST:PORT/NUMBER`, or `rediss://…` for an encrypted connection.
    /// User, password, port and number of the database are optional. `?ca=FILE` names the certificate authority for the
    /// server's certificate, in PEM; default: the system's authorities.
    ///
    /// If the address has no password, it comes from [`password`](Self::password), else from
    /// [`password_file`](Self::password_file), else from the variable `BATCHWRIGHT_REDIS_PASSWORD`, else from the file
    /// that `BATCHWRIGHT_REDIS_PASSWORD_FILE` names.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: Secret::new(address),
            password: None,
            password_file: None,
        }
    }

    /// The client, not connected yet, and the address for messages.
    fn client(&self) -> Result<(Client, String), Error> {
        let address = self.address.expose();
        let (plain, parameters) = address.split_once('?').unwrap_or((address, ""));
        let scheme = plain.split("://").next().unwrap_or_default();
        let shape = || {
            invalid(
                "the address of Redis is expected to look like redis://HOST:6379 or rediss://USER@HOST:6379/0, with % and \
                 two digits for special characters in USER",
            )
        };
        if !["redis", "rediss", "valkey", "valkeys"].contains(&scheme) || plain.contains('#') {
            return Err(shape());
        }
        let authority = match parameters.split_once('=') {
            None if parameters.is_empty() => None,
            Some(("ca", file)) if !file.contains('&') => Some(PathBuf::from(file)),
            _ => {
                return Err(invalid(
                    "the address of Redis has a parameter that is not known; ca is",
                ));
            }
        };
        // The client's own message would repeat the address.
        let info = plain.into_connection_info().map_err(|_| shape())?;
        let location = format!("{scheme}://{}", info.addr());
        let mut login = info.redis_settings().clone();
        if login.password().is_none() {
            let (password, file) = (self.password.as_ref(), self.password_file.as_deref());
            if let Some(found) =
                secret_file::password("Redis", password, file, [PASSWORD, PASSWORD_FILE])?
            {
                login = login.set_password(found);
            }
        }
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let info = info.set_redis_settings(login).set_tcp_settings(tcp);
        let client = match authority {
            None => Client::open(info),
            Some(file) => {
                let pem = named_file::read(&file, 1 << 20).map_err(|error| {
                    let file = file.display();
                    invalid(format!(
                        "the authority of Redis, {file}, cannot be read: {error}"
                    ))
                })?;
                let certificates = TlsCertificates {
                    client_tls: None,
                    root_cert: Some(pem),
                };
                Client::build_with_tls(info, certificates)
            }
        };
        let client = client
            .map_err(|_| invalid("the authority of Redis is not usable: ca names a file in PEM"))?;
        Ok((client, location))
    }
}

fn invalid(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, why)
}
