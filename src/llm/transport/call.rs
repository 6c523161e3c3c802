//! One exchange on a connection: a request is sent, and its reply is read.

use std::borrow::Cow;
use std::io::{self, Read};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::base::secret::redacted_url;
use crate::base::{CancelHook, Context, Sent};

use super::body_length::BodyLength;
use super::connect::{AbortHandle, Connector};
use super::connection::Connection;
use super::fault::{Fault, Patience};
use super::head::{Head, write_request};
use super::input::{BUFFER, CHUNK_BYTES};
use super::pool::Pool;
use super::target::Target;

/// Time between two attempts to connect while this machine has too little of something.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);

/// Says once what this machine lacks.
fn tell_shortage(fault: &Fault) {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !TOLD.swap(true, Ordering::Relaxed) {
        log::warn!(
            "{fault}: this machine allows fewer calls at once than were asked for, so calls wait for each other; raise the \
             limit (ulimit -n), or allow fewer calls at once"
        );
    }
}

/// The body of a request: its bytes, and their number.
pub(super) type Outgoing<'b> = Option<(&'b mut dyn Read, u64)>;

/// An exchange with a server. Reading it reads the body of the reply.
pub(super) struct Call<'p> {
    pool: &'p Pool,
    target: Arc<Target>,
    connection: Connection,
    pub patience: Rc<Patience>,
    abort: Arc<AbortHandle>,
    /// Aborts the exchange with its context.
    _hook: CancelHook,
    /// The connection was used for an earlier call.
    reused: bool,
    /// The complete request was sent.
    sent: bool,
    /// A part of the reply has arrived.
    answered: bool,
    /// The connection can be used again after the reply.
    keeps: bool,
    body: BodyLength,
}

impl<'p> Call<'p> {
    /// Takes a connection that is open, or opens one within a time limit.
    pub fn open(
        pool: &'p Pool,
        connector: &Connector,
        target: &Arc<Target>,
        patience: Patience,
        connect_timeout: Duration,
        ctx: &Context,
    ) -> Result<Self, Fault> {
        let abort = Arc::new(AbortHandle::default());
        let hook = ctx.on_abort({
            let abort = abort.clone();
            move || abort.abort()
        });
        let (connection, reused) = loop {
            if let Some(connection) = pool.take(target) {
                abort.attach(connection.tcp());
                break (connection, true);
            }
            let connecting = Patience::new(Some(connect_timeout));
            match connector.connect(target, &connecting, &abort) {
                // The server is not to blame, and other calls of this process give back what they use.
                Err(fault) if fault.is_shortage() && !abort.is_aborted() => {
                    if patience.left(Instant::now(), Duration::ZERO).0 < SHORTAGE_PAUSE {
                        return Err(fault);
                    }
                    tell_shortage(&fault);
                    thread::sleep(SHORTAGE_PAUSE);
                }
                connected => break (connected?, false),
            }
        };
        Ok(Self {
            pool,
            target: target.clone(),
            connection,
            patience: Rc::new(patience),
            abort,
            _hook: hook,
            reused,
            sent: false,
            answered: false,
            keeps: false,
            body: BodyLength::Known(0),
        })
    }

    /// Sends a request.
    ///
    /// If the server closes the connection before it has received everything, its reply may have arrived already and is
    /// read then.
    pub fn send(
        &mut self,
        method: &str,
        headers: &[(Cow<'static, str>, String)],
        body: Outgoing<'_>,
    ) -> Result<Option<Head>, Fault> {
        let mut output = std::mem::take(&mut self.connection.output);
        output.clear();
        let proxy = self.connection.proxy.as_ref();
        let login = proxy.map(|(_, login)| &**login);
        let length = body.as_ref().map(|(_, length)| *length);
        write_request(&mut output, method, &self.target, login, headers, length)?;
        log::trace!(
            "{method} {}, {} bytes and its head, on a {} connection",
            redacted_url(&self.target.url),
            length.unwrap_or_default(),
            if self.reused { "kept" } else { "new" },
        );
        let (mut body, mut left) = body.map_or((None, 0), |(body, length)| (Some(body), length));
        let written = loop {
            if let Some(body) = &mut body {
                // One system call sends the head and the beginning of the body.
                let head = output.len();
                output.resize(head + (CHUNK_BYTES as u64).min(left) as usize, 0);
                let read = body.read(&mut output[head..])?;
                output.truncate(head + read);
                left = if read == 0 { 0 } else { left - read as u64 };
            }
            let written = self.write(&output);
            if left == 0 || written.is_err() {
                break written;
            }
            output.clear();
        };
        output.shrink_to(BUFFER);
        self.connection.output = output;
        match written {
            Ok(()) => {
                self.sent = true;
                Ok(None)
            }
            Err(Fault::Io(error)) => match self.head() {
                Ok(head) => {
                    // The server may have processed a part of the request.
                    (self.sent, self.keeps) = (true, false);
                    Ok(Some(head))
                }
                Err(_) => {
                    self.sent = self.answered;
                    Err(Fault::Io(error))
                }
            },
            Err(fault) => Err(fault),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        Ok(self.connection.send(bytes, &self.patience)?)
    }

    /// Waits for the reply, and reads its head.
    pub fn head(&mut self) -> Result<Head, Fault> {
        loop {
            let head = self.connection.head(&self.patience, &mut self.answered)?;
            log::trace!("status {}, {:?}", head.status, head.body);
            if head.status == 407
                && let Some((proxy, _)) = &self.connection.proxy
            {
                return Err(Fault::Refused(proxy.clone(), head.status));
            }
            if !head.is_interim() {
                self.keeps = head.keeps;
                self.body = head.body;
                return Ok(head);
            }
        }
    }

    /// The length of the body by the head, if nothing of it has been read.
    pub fn announced(&self) -> Option<u64> {
        self.body.announced()
    }

    /// Whether the server may have processed the request.
    pub fn sent(&self) -> Sent {
        if self.sent { Sent::Maybe } else { Sent::No }
    }

    /// The call has failed. If the server had closed a kept connection instead of replying, it may close others too.
    pub fn fail(self, fault: &Fault) {
        let is_closed = matches!(fault, Fault::Io(_));
        if self.reused && !self.answered && is_closed && !self.abort.is_aborted() {
            self.pool.distrust();
        }
    }

    /// Ends the call: the reply was read, or its rest is not needed.
    pub fn finish(mut self) {
        self.abort.detach();
        let is_clean = self.body.is_complete() && self.connection.has_no_rest();
        if self.keeps && is_clean && !self.abort.is_aborted() {
            self.pool.give(self.target, self.connection);
        }
    }
}

impl Read for Call<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (input, mut wire) = self.connection.received(&self.patience);
        let read = self.body.read(input, &mut wire, buffer)?;
        // A socket that was shut down looks like the end of a body that ends with its connection.
        if read == 0 && self.body == BodyLength::UntilClose && self.abort.is_aborted() {
            return Err(Fault::cut().into());
        }
        Ok(read)
    }
}
