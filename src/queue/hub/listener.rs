//! The thread that receives messages.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use redis::{RedisResult, Value};

use super::talker::connect;
use super::{ANSWER, Backoff, CHANNEL, Shared};

/// Maximum time of one blocking read, and so of the wait for the end of this thread.
const TURN: Duration = Duration::from_millis(250);
/// After this time without a message, the thread checks whether the server is still available.
const SILENCE: Duration = Duration::from_secs(5);

/// Delivers messages of other processes until the sender of `stopped` is dropped.
pub(super) fn run(shared: &Shared, stopped: &Receiver<()>) {
    let mut backoff = Backoff::new();
    loop {
        match listen(shared, stopped, &mut backoff) {
            Ok(()) => return,
            Err(error) => shared.note_away(&error),
        }
        if stopped.recv_timeout(backoff.next()) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

fn listen(shared: &Shared, stopped: &Receiver<()>, backoff: &mut Backoff) -> RedisResult<()> {
    let mut connection = connect(shared)?;
    let mut channel = connection.as_pubsub();
    channel.subscribe(CHANNEL)?;
    shared.note_back();
    *backoff = Backoff::new();
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
