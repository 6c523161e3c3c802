//! Work on a separate thread, so that signals are handled while it blocks.

use std::iter;
use std::thread;
use std::time::Duration;

use batchwright::client::CancelHook;
use batchwright::{Context, Error, ErrorKind};
use crossbeam_channel::{Receiver, after, bounded, never, select};

use super::exit::Refusal;

/// Items that may be made before they are taken.
const AHEAD: usize = 16;

/// A channel that has a message once the context is cancelled.
pub struct Cancelled {
    pub receiver: Receiver<()>,
    _subscription: CancelHook,
}

impl Cancelled {
    pub fn of(ctx: &Context) -> Self {
        let (sender, receiver) = bounded(1);
        let subscription = ctx.on_cancel(move || {
            let _ = sender.try_send(());
        });
        Self {
            receiver,
            _subscription: subscription,
        }
    }
}

/// Items that another thread makes, up to a signal. A thread that panics ends them with the error `lost`: its input does
/// not pass for complete.
pub fn iter_in_background<T, I>(
    name: &str,
    items: I,
    ctx: &Context,
    lost: &'static str,
) -> Result<impl Iterator<Item = I::Item> + use<T, I>, Refusal>
where
    T: Send + 'static,
    I: Iterator<Item = Result<T, Error>> + Send + 'static,
{
    // `None` marks the end.
    let items = items.map(Some).chain(iter::once(None));
    let reader = Background::spawn(name, items, ctx)?;
    Ok(iter::from_fn(move || match reader.next(None) {
        Event::Item(item) => item,
        Event::Cancelled | Event::Silence => Some(Err(interrupted())),
        Event::Ended => Some(Err(Error::new(ErrorKind::Panic, lost))),
    }))
}

/// The error after a signal.
pub fn interrupted() -> Error {
    Error::new(ErrorKind::Cancelled, "interrupted")
}

/// Items that another thread makes.
pub struct Background<T> {
    items: Receiver<T>,
    cancelled: Cancelled,
}

/// The result of waiting for an item.
pub enum Event<T> {
    Item(T),
    /// Nothing arrived in time.
    Silence,
    Cancelled,
    /// There are no more, or the thread panicked.
    Ended,
}

impl<T: Send + 'static> Background<T> {
    /// Runs the iterator on a thread of this name until the receiver is dropped.
    pub fn spawn(
        name: &str,
        items: impl Iterator<Item = T> + Send + 'static,
        ctx: &Context,
    ) -> Result<Self, Refusal> {
        let (give, take) = bounded(AHEAD);
        let make = move || {
            for item in items {
                if give.send(item).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(make)
            .map_err(|e| Refusal::could_not_run(format!("cannot start a thread: {e}")))?;
        Ok(Self {
            items: take,
            cancelled: Cancelled::of(ctx),
        })
    }

    /// Waits for the next item, or until `patience` is over, if set.
    pub fn next(&self, patience: Option<Duration>) -> Event<T> {
        let silence = patience.map_or_else(never, after);
        select! {
            recv(self.cancelled.receiver) -> _ => Event::Cancelled,
            recv(self.items) -> item => item.map_or(Event::Ended, Event::Item),
            recv(silence) -> _ => Event::Silence,
        }
    }
}
