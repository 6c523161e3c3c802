//! Notifications of new jobs, to workers of this OS process and, through Redis, of others.

#[cfg(feature = "redis")]
use std::sync::Arc;

#[cfg(feature = "redis")]
use crate::hub::{RedisHub, Subscriber};
#[cfg(feature = "redis")]
use crate::queue::store::Wakes;

/// Notifications to and from other OS processes. Without Redis there are none.
#[derive(Default)]
pub(in crate::queue::store) struct News {
    #[cfg(feature = "redis")]
    channel: Option<Channel>,
}

#[cfg(feature = "redis")]
struct Channel {
    hub: RedisHub,
    /// Identifies the store, which other programs may reach by another address.
    topic: String,
    /// Called for messages of others as long as it exists.
    subscriber: Arc<Subscriber>,
}

impl News {
    #[cfg(feature = "redis")]
    pub(in crate::queue::store) fn through(hub: RedisHub, id: &str, wakes: Arc<Wakes>) -> Self {
        let channel = Channel {
            hub,
            topic: id.to_owned(),
            subscriber: Arc::new(move || wakes.call()),
        };
        Self {
            channel: Some(channel),
        }
    }

    /// Tells others that jobs have become claimable.
    pub(in crate::queue::store) fn tell(&self) {
        #[cfg(feature = "redis")]
        if let Some(channel) = &self.channel {
            channel.hub.publish(&channel.topic);
        }
    }

    /// A worker of this store waits for messages of others from now on.
    pub(in crate::queue::store) fn listen(&self) {
        #[cfg(feature = "redis")]
        if let Some(channel) = &self.channel {
            let subscriber = Arc::downgrade(&channel.subscriber);
            channel.hub.subscribe(&channel.topic, subscriber);
        }
    }
}
