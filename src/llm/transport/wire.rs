//! ureq's transports wrapped: what it does not tell of a call is found out here.

use std::cell::RefCell;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use ureq::Timeout;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, DefaultConnector, NextTimeout, ShutdownHandle,
    Transport as Wire,
};

/// The sockets under a connection, to be shut down from another thread.
type Sockets = Arc<[Weak<dyn ShutdownHandle>]>;

/// What is found out about one call while ureq makes it.
#[derive(Default)]
pub(super) struct Call {
    /// A connection was there to send on.
    pub connected: AtomicBool,
    /// The request had gone out whole: the call had begun to wait for the reply.
    pub awaited: AtomicBool,
    pub aborted: AtomicBool,
    sockets: Mutex<Sockets>,
}

impl Call {
    fn attach(&self, sockets: &Sockets) {
        let mut own = self.sockets.lock();
        own.clone_from(sockets);
        if self.aborted.load(Ordering::SeqCst) {
            shut_down(&own);
        }
    }

    /// Shuts the sockets down under their lock: once the call has let go of them, the pool may
    /// have lent them to somebody else.
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
    /// ureq makes a call on the thread that asked for it, so its transports find their call here.
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

/// ureq's own connector, with its transports wrapped.
#[derive(Debug, Default)]
pub(super) struct Tracking(DefaultConnector);

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
                    // A handshake may hang too, so the call learns of its socket at once.
                    with_current(|call| call.attach(&Arc::from([socket.clone()])));
                    register(socket)
                })
            },
        };
        let inner = self.0.connect(&details, chained);
        // Talking to a proxy or shaking hands is not yet sending, nor waiting for the answer.
        with_current(|call| {
            call.connected.store(false, Ordering::SeqCst);
            call.awaited.store(false, Ordering::SeqCst);
        });
        let sockets = sockets.lock().drain(..).collect();
        Ok(inner?.map(|inner| Tracked { inner, sockets }))
    }
}

pub(super) struct Tracked {
    inner: Box<dyn Wire>,
    sockets: Sockets,
}

impl fmt::Debug for Tracked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Wire for Tracked {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        with_current(|call| {
            call.connected.store(true, Ordering::SeqCst);
            call.attach(&self.sockets);
        });
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, mut timeout: NextTimeout) -> Result<bool, ureq::Error> {
        with_current(|call| call.awaited.store(true, Ordering::SeqCst));
        // While the reply is made up nothing moves, so that wait has a limit of its own.
        if timeout.reason == Timeout::RecvResponse {
            timeout.per_read = None;
        }
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}
