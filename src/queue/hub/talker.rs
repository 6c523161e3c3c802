//! The thread that sends messages.

use std::collections::BTreeSet;
use std::iter::once;
use std::time::Instant;

use crossbeam_channel::Receiver;
use redis::{Connection, RedisResult};

use super::{ANSWER, Backoff, CHANNEL, CONNECT, Shared};

/// Sends a message for each topic until the hub ends. Those that cannot be sent are dropped: other processes look at the
/// database every second.
pub(super) fn run(shared: &Shared, topics: &Receiver<String>) {
    let (mut connection, mut backoff) = (None, Backoff::new());
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
                backoff = Backoff::new();
            }
            Err(error) => {
                shared.note_away(&error);
                connection = None;
                again = Instant::now() + backoff.next();
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
pub(super) fn connect(shared: &Shared) -> RedisResult<Connection> {
    let connection = shared.client.get_connection_with_timeout(CONNECT)?;
    connection.set_read_timeout(Some(ANSWER))?;
    connection.set_write_timeout(Some(ANSWER))?;
    Ok(connection)
}
