//! A wrapper of ureq's transports that finds out facts about a call that ureq does not report.

use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ureq::Timeout;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, DefaultConnector, NextTimeout, ShutdownHandle,
    Transport as Wire,
};

use super::head::{HeadWatch, LargeHead};
use super::timeouts::Patience;

/// The sockets under a connection, to be shut down from another thread.
type Sockets = Arc<[Weak<dyn ShutdownHandle>]>;

/// After a kept connection was found closed, no connection is reused for this long.
const DISTRUST: Duration = Duration::from_secs(60);

/// The facts about one call while ureq makes it.
pub(super) struct Call {
    no: u64,
    /// The connection was used for an earlier call.
    pub reused: AtomicBool,
    /// A part of the reply has arrived.
    pub answered: AtomicBool,
    /// A connection was established.
    pub connected: AtomicBool,
    /// The complete request was sent, and the call began to wait for the reply.
    pub awaited: AtomicBool,
    pub aborted: AtomicBool,
    /// Milliseconds in which the call did not read; the limits of the server do not include them.
    paused: AtomicU64,
    /// The head of its reply, if it is too large for ureq.
    large_head: Mutex<Option<LargeHead>>,
    sockets: Mutex<Sockets>,
}

impl Default for Call {
    fn default() -> Self {
        static CALLS: AtomicU64 = AtomicU64::new(1);
        Self {
            no: CALLS.fetch_add(1, Ordering::Relaxed),
            reused: AtomicBool::default(),
            answered: AtomicBool::default(),
            connected: AtomicBool::default(),
            awaited: AtomicBool::default(),
            aborted: AtomicBool::default(),
            paused: AtomicU64::default(),
            large_head: Mutex::default(),
            sockets: Mutex::default(),
        }
    }
}

impl Call {
    /// Whether the server closed a kept connection instead of replying.
    pub fn was_forsaken(&self) -> bool {
        let is = |fact: &AtomicBool| fact.load(Ordering::SeqCst);
        is(&self.reused) && is(&self.awaited) && !is(&self.answered) && !is(&self.aborted)
    }

    fn attach(&self, sockets: &Sockets) {
        let mut own = self.sockets.lock();
        own.clone_from(sockets);
        if self.aborted.load(Ordering::SeqCst) {
            shut_down(&own);
        }
    }

    /// Shuts the sockets down while holding their lock, because the pool may give them to another call as soon as this
    /// call has released them.
    pub fn abort(&self) {
        self.aborted.store(true, Ordering::SeqCst);
        shut_down(&self.sockets.lock());
    }

    fn let_go(&self) {
        *self.sockets.lock() = Sockets::default();
    }
}

fn shut_down(sockets: &[Weak<dyn ShutdownHandle>]) {
    for socket in sockets.iter().filter_map(Weak::upgrade) {
        socket.shutdown();
    }
}

thread_local! {
    /// ureq makes a call on the thread of the caller, so its transports find their call here.
    static CURRENT: RefCell<Option<Arc<Call>>> = const { RefCell::new(None) };
}

pub(super) struct Current;

impl Current {
    pub fn set(call: Arc<Call>) -> Self {
        CURRENT.set(Some(call));
        Self
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        if let Some(call) = CURRENT.take() {
            call.let_go();
        }
    }
}

fn with_current(f: impl FnOnce(&Call)) {
    CURRENT.with_borrow(|call| call.as_deref().map(f));
}

/// Excludes time in which the call of this thread did not read from its limits.
pub(super) fn not_the_servers_time(time: Duration) {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    with_current(|call| {
        call.paused.fetch_add(millis, Ordering::SeqCst);
    });
}

/// The head of the reply to the call of this thread, if it was too large for ureq.
pub(super) fn take_large_head() -> Option<LargeHead> {
    CURRENT.with_borrow(|call| call.as_ref()?.large_head.lock().take())
}

/// The time until which no connection is reused.
#[derive(Debug, Clone, Default)]
pub(super) struct Trust(Arc<Mutex<Option<Instant>>>);

impl Trust {
    pub fn lose(&self) {
        *self.0.lock() = Some(Instant::now() + DISTRUST);
    }

    fn is_given(&self) -> bool {
        self.0.lock().is_none_or(|until| until <= Instant::now())
    }
}

/// ureq's own connector, with its transports wrapped.
#[derive(Debug, Default)]
pub(super) struct Tracking {
    inner: DefaultConnector,
    trust: Trust,
}

impl Tracking {
    pub fn new(trust: Trust) -> Self {
        let inner = DefaultConnector::default();
        Self { inner, trust }
    }
}

impl Connector<()> for Tracking {
    type Out = Tracked;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<()>,
    ) -> Result<Option<Tracked>, ureq::Error> {
        let sockets = Arc::new(Mutex::new(Vec::new()));
        let details = ConnectionDetails {
            uri: details.uri,
            addrs: details.addrs.clone(),
            config: details.config,
            request_level: details.request_level,
            resolver: details.resolver,
            now: details.now,
            timeout: details.timeout,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: {
                let (sockets, register) = (sockets.clone(), details.register_shutdown.clone());
                Arc::new(move |socket: Weak<dyn ShutdownHandle>| {
                    sockets.lock().push(socket.clone());
                    // A handshake may hang too, so the call gets its socket at once.
                    with_current(|call| call.attach(&Arc::from([socket.clone()])));
                    register(socket)
                })
            },
        };
        let inner = self.inner.connect(&details, chained);
        // A handshake, also with a proxy, neither sends the request nor waits for the reply.
        with_current(|call| {
            call.connected.store(false, Ordering::SeqCst);
            call.awaited.store(false, Ordering::SeqCst);
        });
        let sockets = sockets.lock().drain(..).collect();
        let trust = self.trust.clone();
        Ok(inner?.map(|inner| Tracked {
            inner,
            sockets,
            trust,
            call: 0,
            writes: 0,
            patience: Patience::default(),
            head: HeadWatch::default(),
        }))
    }
}

#[derive(derive_more::Debug)]
#[debug("{inner:?}")]
pub(super) struct Tracked {
    inner: Box<dyn Wire>,
    sockets: Sockets,
    trust: Trust,
    /// The number of its current or last call; 0 before the first.
    call: u64,
    /// The number of pieces of that call's request that were sent.
    writes: u32,
    /// The time limits of that call.
    patience: Patience,
    /// Reads the head of the reply to that call.
    head: HeadWatch,
}

impl Wire for Tracked {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let mut reused = false;
        with_current(|call| {
            call.connected.store(true, Ordering::SeqCst);
            call.attach(&self.sockets);
            if self.call != call.no {
                call.reused.store(self.call != 0, Ordering::SeqCst);
                (self.call, self.writes) = (call.no, 0);
                self.patience = Patience::default();
                self.head = HeadWatch::default();
            }
            reused = call.reused.load(Ordering::SeqCst);
        });
        // The head was sent. Without the body the server cannot process the request yet, so this is the last moment
        // to detect that it has closed the connection.
        if reused && self.writes == 1 && !self.inner.is_open() {
            self.trust.lose();
            let closed = io::Error::new(io::ErrorKind::ConnectionReset, "closed while it was kept");
            return Err(ureq::Error::Io(closed));
        }
        self.writes = self.writes.saturating_add(1);
        self.inner
            .transmit_output(amount, self.patience.what_is_left(timeout))
    }

    fn await_input(&mut self, mut timeout: NextTimeout) -> Result<bool, ureq::Error> {
        if self.head.refill(self.inner.buffers()) {
            return Ok(true);
        }
        with_current(|call| {
            call.awaited.store(true, Ordering::SeqCst);
            let paused = call.paused.swap(0, Ordering::SeqCst);
            self.patience.extend(Duration::from_millis(paused));
        });
        // No bytes arrive while the model generates the reply, so this wait has a separate limit.
        if timeout.reason == Timeout::RecvResponse {
            timeout.per_read = None;
        }
        let inner = &mut self.inner;
        let more = self
            .patience
            .wait(timeout, |piece| inner.await_input(piece))?;
        if more {
            with_current(|call| call.answered.store(true, Ordering::SeqCst));
            if let Some(large) = self.head.look(self.inner.buffers())? {
                with_current(|call| *call.large_head.lock() = Some(large));
            }
        }
        Ok(more)
    }

    /// The pool asks this before it keeps a connection and before it reuses it.
    fn is_open(&mut self) -> bool {
        !self.head.is_pending() && self.trust.is_given() && self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}
