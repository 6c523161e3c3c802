//! Accepts and closes connections. Some threads only accept, because the kernel's queue that the standard library
//! requests is short, and overflows when hundreds of clients connect at once. Another one starts a thread for each
//! connection and joins them. Stopping shuts every socket down and wakes every parked thread.

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use super::serve::{self, Shared};

/// Enough for parsing nested JSON; hundreds of threads should not reserve eight megabytes each.
const STACK_SIZE: usize = 512 << 10;
/// Accepted connections that may wait for their thread.
const ACCEPTED: usize = 1_024;
/// With several threads, one is more likely to get a processor while clients keep all others busy.
const ACCEPTORS: usize = 8;
const RETRY: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct Listener {
    addr: SocketAddr,
    shared: Arc<Shared>,
    sockets: Arc<Sockets>,
    accepting: Vec<JoinHandle<()>>,
    starting: Option<JoinHandle<()>>,
}

impl Listener {
    pub(super) fn start(listener: TcpListener, shared: Arc<Shared>) -> io::Result<Listener> {
        let (sender, receiver) = bounded(ACCEPTED);
        // From here on dropping `this` stops the started threads.
        let mut this = Listener {
            addr: listener.local_addr()?,
            shared,
            sockets: Arc::default(),
            accepting: Vec::new(),
            starting: None,
        };
        for _ in 0..ACCEPTORS {
            let (listener, sender) = (listener.try_clone()?, sender.clone());
            let shared = Arc::clone(&this.shared);
            this.accepting.push(spawn("sim-accept", move || {
                accept(&listener, &shared, &sender);
            })?);
        }
        let (shared, sockets) = (Arc::clone(&this.shared), Arc::clone(&this.sockets));
        this.starting = Some(spawn("sim-start", move || {
            start_all(&receiver, &shared, &sockets);
        })?);
        Ok(this)
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // In this order, or calls that are held would be answered at the last moment.
        self.sockets.shut_down();
        self.shared.gate.stop();
        self.shared.batches.pauses.wake();
        // The standard library cannot interrupt an accept, but a connection ends one. It must be fast: with a full
        // queue it would be retried for minutes.
        while !self.accepting.iter().all(JoinHandle::is_finished) {
            if TcpStream::connect_timeout(&self.addr, RETRY).is_err() {
                thread::park_timeout(RETRY);
            }
        }
        self.accepting.drain(..).for_each(join);
        self.starting.take().into_iter().for_each(join);
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK_SIZE)
        .spawn(run)
}

fn accept(listener: &TcpListener, shared: &Shared, accepted: &Sender<TcpStream>) {
    loop {
        let stream = listener.accept();
        if shared.gate.is_stopped() {
            return;
        }
        match stream {
            Ok((stream, _)) => {
                if accepted.send(stream).is_err() {
                    return;
                }
            }
            // Out of file descriptors: some connection has to end first.
            Err(error) => {
                log::warn!("simulator: connection not accepted: {error}");
                shared.gate.wait_until(Instant::now() + RETRY);
            }
        }
    }
}

fn start_all(accepted: &Receiver<TcpStream>, shared: &Arc<Shared>, sockets: &Arc<Sockets>) {
    let mut threads = HashMap::new();
    for (id, stream) in (1u64..).zip(accepted) {
        for ended in sockets.take_ended() {
            if let Some(thread) = threads.remove(&ended) {
                join(thread);
            }
        }
        match start(id, stream, shared, sockets) {
            Ok(thread) => {
                threads.insert(id, thread);
            }
            Err(error) => log::warn!("simulator: no thread for a connection: {error}"),
        }
    }
    for thread in threads.values() {
        thread.thread().unpark();
    }
    threads.into_values().for_each(join);
}

fn start(
    id: u64,
    stream: TcpStream,
    shared: &Arc<Shared>,
    sockets: &Arc<Sockets>,
) -> io::Result<JoinHandle<()>> {
    let stream = Arc::new(stream);
    let registered = Registered {
        id,
        stream: Arc::clone(&stream),
        sockets: Arc::clone(sockets),
    };
    sockets.add(id, stream);
    let shared = Arc::clone(shared);
    spawn(&format!("sim-{id}"), move || {
        shared.ledger.connected();
        serve::connection(&shared, &registered.stream);
    })
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        log::error!("simulator: a thread panicked");
    }
}

/// The open connections, for shutting them down from outside their threads.
#[derive(Debug, Default)]
struct Sockets {
    inner: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    streams: HashMap<u64, Arc<TcpStream>>,
    ended: Vec<u64>,
    stopped: bool,
}

impl Sockets {
    fn add(&self, id: u64, stream: Arc<TcpStream>) {
        let mut open = self.inner.lock();
        if open.stopped {
            // The sweep is over already, so this one has to be shut down here.
            let _ = stream.shutdown(Shutdown::Both);
        }
        open.streams.insert(id, stream);
    }

    fn take_ended(&self) -> Vec<u64> {
        std::mem::take(&mut self.inner.lock().ended)
    }

    fn shut_down(&self) {
        let mut open = self.inner.lock();
        open.stopped = true;
        for stream in open.streams.values() {
            // It may have been closed by the client, which is just as well.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// A connection's entry in [`Sockets`]; dropping it closes the connection, also after a panic.
struct Registered {
    id: u64,
    stream: Arc<TcpStream>,
    sockets: Arc<Sockets>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        let mut open = self.sockets.inner.lock();
        open.streams.remove(&self.id);
        open.ended.push(self.id);
    }
}
