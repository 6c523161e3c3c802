//! Notifications of new jobs, to workers of this OS process and, through Redis, of others.

#[cfg(feature = "redis")]
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
#[cfg(feature = "redis")]
use std::time::{Duration, Instant};

#[cfg(feature = "redis")]
use parking_lot::Mutex;

use crate::base::Error;
#[cfg(feature = "redis")]
use crate::hub::{News as Heard, RedisHub, Subscriber};
#[cfg(feature = "redis")]
use crate::queue::store::Wakes;

/// Notifications to and from other OS processes. Without Redis there are none.
#[derive(Default)]
pub(super) struct News {
    #[cfg(feature = "redis")]
    channel: Option<Channel>,
}

#[cfg(not(feature = "redis"))]
impl News {
    pub(super) fn tell_work(&self) {}

    pub(super) fn tell_change(&self) {}

    pub(super) fn arrive(&self) -> bool {
        false
    }

    pub(super) fn version(&self, read: impl FnOnce() -> Result<u64, Error>) -> Result<u64, Error> {
        read()
    }
}

/// A version that was read is used for this long without a notification, because some programs may have no Redis.
#[cfg(feature = "redis")]
const BELIEVED: Duration = Duration::from_secs(2);

#[cfg(feature = "redis")]
struct Channel {
    hub: RedisHub,
    /// Identifies the store, which other programs may reach by another address.
    topic: String,
    wakes: Arc<Wakes>,
    /// Number of received notifications.
    heard: Arc<AtomicU64>,
    /// The subscription; created on first use.
    subscriber: Mutex<Option<Arc<Subscriber>>>,
    last: Mutex<Option<Known>>,
}

/// A version that was read.
#[cfg(feature = "redis")]
struct Known {
    version: u64,
    at: Instant,
    /// Number of notifications received before it was read.
    heard: u64,
}

#[cfg(feature = "redis")]
impl News {
    pub(super) fn through(hub: RedisHub, id: &str, wakes: Arc<Wakes>) -> Self {
        let channel = Channel {
            hub,
            topic: id.to_owned(),
            wakes,
            heard: Arc::default(),
            subscriber: Mutex::default(),
            last: Mutex::default(),
        };
        Self {
            channel: Some(channel),
        }
    }

    pub(super) fn tell_work(&self) {
        self.tell(Heard::Work);
    }

    pub(super) fn tell_change(&self) {
        self.tell(Heard::Changed);
    }

    fn tell(&self, news: Heard) {
        if let Some(channel) = &self.channel {
            channel.hub.publish(&channel.topic, news);
        }
    }

    /// Whether writes by others are notified immediately.
    pub(super) fn arrive(&self) -> bool {
        let channel = self.channel.as_ref();
        channel.is_some_and(|channel| channel.hub.hears())
    }

    /// The version; read only if it may have changed.
    pub(super) fn version(&self, read: impl FnOnce() -> Result<u64, Error>) -> Result<u64, Error> {
        match &self.channel {
            Some(channel) => channel.version(read),
            None => read(),
        }
    }
}

#[cfg(feature = "redis")]
impl Channel {
    fn version(&self, read: impl FnOnce() -> Result<u64, Error>) -> Result<u64, Error> {
        self.subscribe();
        let (heard, at) = (self.heard.load(Ordering::SeqCst), Instant::now());
        let mut last = self.last.lock();
        if let Some(known) = last.as_ref()
            && self.hub.hears()
            && known.heard == heard
            && at.duration_since(known.at) < BELIEVED
        {
            return Ok(known.version);
        }
        let version = read()?;
        *last = Some(Known { version, at, heard });
        Ok(version)
    }

    fn subscribe(&self) {
        let mut subscriber = self.subscriber.lock();
        if subscriber.is_some() {
            return;
        }
        let (wakes, heard) = (self.wakes.clone(), self.heard.clone());
        let hear: Arc<Subscriber> = Arc::new(move |news| {
            heard.fetch_add(1, Ordering::SeqCst);
            if news == Heard::Work {
                wakes.call();
            }
        });
        self.hub.subscribe(&self.topic, Arc::downgrade(&hear));
        *subscriber = Some(hear);
    }
}
