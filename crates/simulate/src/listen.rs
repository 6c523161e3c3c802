//! Accepts and closes connections, one thread for each. Several threads only accept, because the kernel's
//! queue that the standard library requests is short, and overflows when hundreds of clients connect at once. Stopping
//! shuts every socket down and wakes every parked thread.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{io, mem};

use parking_lot::Mutex;

use super::serve::{self, Shared};

/// Enough for parsing nested JSON; hundreds of threads should not reserve eight megabytes each.
const STACK_SIZE: usize = 512 << 10;
/// With several threads, one is more likely to get a processor while clients keep all others busy.
const ACCEPTORS: usize = 8;
const RETRY: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct Listener {
    addr: SocketAddr,
    shared: Arc<Shared>,
    open: Arc<Mutex<Vec<Open>>>,
    accepting: Vec<JoinHandle<()>>,
}

/// A connection with its thread.
#[derive(Debug)]
struct Open {
    stream: Arc<TcpStream>,
    thread: JoinHandle<()>,
}

impl Listener {
    pub(super) fn start(listener: TcpListener, shared: Arc<Shared>) -> io::Result<Listener> {
        // From here on dropping `this` stops the started threads.
        let mut this = Listener {
            addr: listener.local_addr()?,
            shared,
            open: Arc::default(),
            accepting: Vec::new(),
        };
        for _ in 0..ACCEPTORS {
            let (listener, shared) = (listener.try_clone()?, Arc::clone(&this.shared));
            let open = Arc::clone(&this.open);
            let accept = move || accept(&listener, &shared, &open);
            this.accepting.push(spawn("sim-accept", accept)?);
        }
        Ok(this)
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn shut_down(&self) {
        for open in self.open.lock().iter() {
            // It may have been closed by the client, which is just as well.
            let _ = open.stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // In this order, or calls that are held would be answered at the last moment.
        self.shut_down();
        self.shared.gate.stop();
        // The standard library cannot interrupt an accept, but a connection ends one. It must be fast: with a full
        // queue it would be retried for minutes.
        while !self.accepting.iter().all(JoinHandle::is_finished) {
            if TcpStream::connect_timeout(&self.addr, RETRY).is_err() {
                thread::park_timeout(RETRY);
            }
        }
        self.accepting.drain(..).for_each(join);
        // Those that were accepted meanwhile.
        self.shut_down();
        let open = mem::take(&mut *self.open.lock());
        for open in &open {
            open.thread.thread().unpark();
        }
        open.into_iter().for_each(|open| join(open.thread));
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK_SIZE)
        .spawn(run)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, open: &Mutex<Vec<Open>>) {
    loop {
        let accepted = listener.accept();
        if shared.gate.is_stopped() {
            return;
        }
        match accepted.and_then(|(stream, _)| start(stream, shared)) {
            Ok(new) => {
                let mut open = open.lock();
                let ended = open.extract_if(.., |open| open.thread.is_finished());
                ended.for_each(|open| join(open.thread));
                open.push(new);
            }
            // Out of file descriptors or threads: some connection has to end first.
            Err(error) => {
                log::warn!("simulator: connection not accepted: {error}");
                shared.gate.wait_until(Instant::now() + RETRY);
            }
        }
    }
}

fn start(stream: TcpStream, shared: &Arc<Shared>) -> io::Result<Open> {
    let stream = Arc::new(stream);
    let (mine, shared) = (Arc::clone(&stream), Arc::clone(shared));
    let thread = spawn("sim-connection", move || {
        // Closes the connection also after a panic, and although the list still has it.
        let _closing = Closing(&mine);
        shared.ledger.lock().counts.connections += 1;
        serve::connection(&shared, &mine);
    })?;
    Ok(Open { stream, thread })
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        log::error!("simulator: a thread panicked");
    }
}

struct Closing<'a>(&'a TcpStream);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}
