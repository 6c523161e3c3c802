//! One connection: a socket, TLS on it, and what was received.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use rustls_platform_verifier::BuilderVerifierExt;

use super::fault::{Fault, Patience};
use super::head::Head;
use super::input::Input;

/// A connection to a server, or to a proxy that forwards all bytes to one.
pub(super) struct Connection {
    socket: Socket,
    /// In a box, because a connection is moved with each call and this is large.
    tls: Option<Box<ClientConnection>>,
    input: Input,
    /// A buffer for the beginning of a request.
    pub output: Vec<u8>,
    /// The proxy that gets requests and passes them on, and its login.
    pub proxy: Option<(String, String)>,
}

impl Connection {
    pub fn new(tcp: Arc<TcpStream>) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        Ok(Self {
            socket: Socket {
                tcp,
                read_limit: Cell::default(),
                write_limit: Cell::default(),
            },
            tls: None,
            input: Input::default(),
            output: Vec::new(),
            proxy: None,
        })
    }

    /// The socket, to be shut down by another thread.
    pub fn tcp(&self) -> &Arc<TcpStream> {
        &self.socket.tcp
    }

    /// Puts TLS on the connection.
    pub fn secure(&mut self, host: &str, patience: &Patience) -> Result<(), Fault> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let session = ClientConnection::new(tls_config()?, name).map_err(io::Error::other)?;
        self.tls = Some(Box::new(session));
        let (_, wire) = self.received(patience);
        if let Some(session) = wire.tls {
            session.complete_io(&mut Wire { tls: None, ..wire })?;
        }
        Ok(())
    }

    fn wire<'c>(&'c mut self, patience: &'c Patience) -> Wire<'c> {
        self.received(patience).1
    }

    /// The received bytes, and the source of further ones.
    pub fn received<'c>(&'c mut self, patience: &'c Patience) -> (&'c mut Input, Wire<'c>) {
        let wire = Wire {
            tls: self.tls.as_deref_mut(),
            socket: &self.socket,
            patience,
        };
        (&mut self.input, wire)
    }

    /// Sends all of these bytes.
    pub fn send(&mut self, bytes: &[u8], patience: &Patience) -> io::Result<()> {
        let mut wire = self.wire(patience);
        wire.write_all(bytes)?;
        wire.flush()
    }

    /// Reads the next head, whatever its status. `answered` learns that there were bytes.
    pub fn head(&mut self, patience: &Patience, answered: &mut bool) -> Result<Head, Fault> {
        let (input, mut wire) = self.received(patience);
        Head::read(input, &mut wire, answered)
    }

    /// Whether all received bytes have been read, including those that TLS has decrypted, and TLS has not been closed.
    pub fn has_no_rest(&mut self) -> bool {
        let is_read = |session: &mut ClientConnection| {
            let state = session.process_new_packets();
            state
                .is_ok_and(|state| state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed())
        };
        self.input.unread().is_empty() && self.tls.as_deref_mut().is_none_or(is_read)
    }

    /// Whether the server has neither closed the connection nor sent unrequested bytes.
    pub fn is_open(&mut self) -> bool {
        self.has_no_rest() && is_silent(&self.socket.tcp)
    }
}

fn is_silent(tcp: &TcpStream) -> bool {
    use rustix::net::{RecvFlags, recv};
    let look = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    recv(tcp, &mut [0_u8; 1], look).is_err_and(|error| error == rustix::io::Errno::AGAIN)
}

/// A socket that remembers its time limits, because setting one is a system call.
struct Socket {
    tcp: Arc<TcpStream>,
    /// Zero before the first call.
    read_limit: Cell<Duration>,
    write_limit: Cell<Duration>,
}

impl Socket {
    fn read(&self, buffer: &mut [u8], most: Duration) -> io::Result<usize> {
        if self.read_limit.replace(most) != most {
            self.tcp.set_read_timeout(Some(most))?;
        }
        (&*self.tcp).read(buffer)
    }

    fn write(&self, bytes: &[u8], most: Duration) -> io::Result<usize> {
        if self.write_limit.replace(most) != most {
            self.tcp.set_write_timeout(Some(most))?;
        }
        (&*self.tcp).write(bytes)
    }
}

/// The path of bytes to the server: through TLS, if there is any, to the socket, within the time limits of a call.
pub(super) struct Wire<'c> {
    tls: Option<&'c mut ClientConnection>,
    socket: &'c Socket,
    patience: &'c Patience,
}

impl Wire<'_> {
    /// TLS, and the path below it.
    fn beneath(&mut self) -> (Wire<'_>, Option<&mut ClientConnection>) {
        let wire = Wire {
            tls: None,
            socket: self.socket,
            patience: self.patience,
        };
        (wire, self.tls.as_deref_mut())
    }
}

/// Reads decrypted bytes. Unlike [`rustls::Stream`], it also reads when writing is impossible: a server that closes
/// the connection before it has received the complete request may have replied.
fn read_decrypted(
    session: &mut ClientConnection,
    wire: &mut Wire<'_>,
    buffer: &mut [u8],
) -> io::Result<usize> {
    loop {
        match session.reader().read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
        while session.wants_write() {
            if session.write_tls(wire).is_err() {
                break;
            }
        }
        let _ = wire.flush();
        session.read_tls(wire)?;
        let processed = session.process_new_packets();
        processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    }
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let (mut wire, Some(session)) = self.beneath() {
            return read_decrypted(session, &mut wire, buffer);
        }
        self.patience.wait(|most| self.socket.read(buffer, most))
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let (mut wire, Some(session)) = self.beneath() {
            return rustls::Stream::new(session, &mut wire).write(bytes);
        }
        self.patience.wait(|most| self.socket.write(bytes, most))
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.beneath() {
            (mut wire, Some(session)) => rustls::Stream::new(session, &mut wire).flush(),
            _ => Ok(()),
        }
    }
}

/// The settings. They are created at the first use, because that reads all certificates of the system.
fn tls_config() -> io::Result<Arc<ClientConfig>> {
    static CONFIG: Mutex<Option<Arc<ClientConfig>>> = Mutex::new(None);
    let mut known = CONFIG.lock();
    if let Some(config) = &*known {
        return Ok(config.clone());
    }
    let provider = CryptoProvider::get_default().cloned();
    let provider = provider.unwrap_or_else(|| Arc::new(ring::default_provider()));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_platform_verifier())
        .map_err(io::Error::other)?
        .with_no_client_auth();
    Ok(known.insert(Arc::new(config)).clone())
}
