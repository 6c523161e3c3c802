//! Connections that are over for the server and not yet for their clients.
//!
//! A client that was answered before it had sent everything continues to send. If the socket were closed then, the
//! system would send a reset, and most clients would lose the response. So further input is read and discarded until
//! the client has read the response and closes the connection, within limits. One thread does this for all connections,
//! so a rejected client occupies no thread of its own.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use super::threads::thread;

/// Maximum number of connections in this state; above it, the oldest one is closed.
const MOST: usize = 128;
/// Maximum number of new connections that wait for the thread.
const ARRIVING: usize = 64;
/// How long a client may take in all,
const LONGEST: Duration = Duration::from_secs(30);
/// and how long without sending anything.
const SILENCE: Duration = Duration::from_secs(10);
/// Bytes of a client that are thrown away,
const MOST_BYTES: u64 = 512 << 20;
/// and of these at a time, so that each has its turn.
const TURN_BYTES: u64 = 1 << 20;
/// The time between two checks.
const ROUND: Duration = Duration::from_millis(5);
/// How long clients have when the server stops.
const LAST: Duration = Duration::from_millis(500);

/// Where connections go when the server is done with them.
pub(super) struct Farewells(Mutex<Option<Sender<TcpStream>>>);

impl Farewells {
    /// With the thread that sees clients off.
    pub fn start() -> io::Result<(Self, JoinHandle<()>)> {
        let (sender, arrivals) = bounded(ARRIVING);
        let thread = thread("http-farewell", move || see_all_off(&arrivals))?;
        Ok((Self(Mutex::new(Some(sender))), thread))
    }

    /// Closes a connection gracefully after the whole response was sent.
    pub fn see_off(&self, stream: &TcpStream) {
        let _ = stream.shutdown(Shutdown::Write);
        let own = stream
            .set_nonblocking(true)
            .and_then(|()| stream.try_clone());
        if let (Ok(stream), Some(sender)) = (own, &*self.0.lock()) {
            // If too many arrive at once, some are closed immediately.
            let _ = sender.try_send(stream);
        }
    }

    /// Completes the present connections and accepts no new ones.
    pub fn close(&self) {
        *self.0.lock() = None;
    }
}

struct Leaving {
    stream: TcpStream,
    until: Instant,
    heard: Instant,
    left: u64,
}

impl Leaving {
    fn new(stream: TcpStream) -> Self {
        let now = Instant::now();
        Self {
            stream,
            until: now + LONGEST,
            heard: now,
            left: MOST_BYTES,
        }
    }

    /// Discards received bytes. Returns false if the connection is to be closed.
    fn goes_on(&mut self, buffer: &mut [u8]) -> bool {
        let mut turn = TURN_BYTES;
        while turn > 0 {
            match self.stream.read(buffer) {
                Ok(0) => return false,
                Ok(n) => {
                    turn = turn.saturating_sub(n as u64);
                    self.left = self.left.saturating_sub(n as u64);
                    self.heard = Instant::now();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.left > 0 && Instant::now() < self.until && self.heard.elapsed() < SILENCE
    }
}

fn see_all_off(arrivals: &Receiver<TcpStream>) {
    let mut leaving: VecDeque<Leaving> = VecDeque::new();
    let mut buffer = vec![0; 64 << 10];
    let mut end = None;
    let mut round = Instant::now();
    loop {
        let arrived = if leaving.is_empty() {
            arrivals.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            arrivals.recv_deadline(round)
        };
        match arrived {
            Ok(stream) => {
                // Those that were there before have their turn in the next round.
                let newcomers = std::iter::once(stream).chain(arrivals.try_iter());
                leaving.extend(newcomers.map(Leaving::new).filter_map(|mut one| {
                    let goes_on = one.goes_on(&mut buffer);
                    goes_on.then_some(one)
                }));
                leaving.drain(..leaving.len().saturating_sub(MOST));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let end = *end.get_or_insert_with(|| Instant::now() + LAST);
                if leaving.is_empty() || Instant::now() > end {
                    return;
                }
                std::thread::sleep(ROUND);
            }
        }
        if Instant::now() >= round {
            leaving.retain_mut(|one| one.goes_on(&mut buffer));
            round = Instant::now() + ROUND;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[test]
    fn a_client_that_never_ends_is_cut_off() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut leaving = Leaving::new(stream);
        let mut buffer = [0; 16];
        leaving.left = 100;
        client.write_all(&[b'x'; 99]).unwrap();
        while leaving.left > 1 {
            assert!(
                leaving.goes_on(&mut buffer),
                "{} bytes are left",
                leaving.left
            );
        }
        client.write_all(b"x").unwrap();
        while leaving.left > 0 {
            leaving.goes_on(&mut buffer);
        }
        assert!(!leaving.goes_on(&mut buffer), "too much");
        leaving.left = 100;
        leaving.until = Instant::now();
        assert!(!leaving.goes_on(&mut buffer), "too long");
        leaving.until += LONGEST;
        assert!(leaving.goes_on(&mut buffer));
        drop(client);
        while leaving.goes_on(&mut buffer) {
            std::thread::yield_now();
        }
    }
}
