//! One connection: a socket, TLS on it, and the bytes that were received and not read yet.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use super::fault::Fault;
use super::head::{ENDLESS, Head, end_of_head};
use super::timeouts::{Patience, WAIT_STEP};
use super::tls;

/// What is received at once, and sent at once of a request.
pub(super) const BUFFER: usize = 16 * 1024;

/// A connection to a server, or to a proxy that passes all on to one.
pub(super) struct Connection {
    socket: Socket,
    /// TLS with the proxy and TLS with the server, each if there is one.
    layers: Vec<ClientConnection>,
    pub input: Input,
    /// Room for the beginning of a request.
    pub output: Vec<u8>,
}

impl Connection {
    pub fn new(tcp: Arc<TcpStream>) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(WAIT_STEP))?;
        tcp.set_write_timeout(Some(WAIT_STEP))?;
        Ok(Self {
            socket: Socket {
                tcp,
                read_limit: Cell::new(WAIT_STEP),
                write_limit: Cell::new(WAIT_STEP),
            },
            layers: Vec::new(),
            input: Input::default(),
            output: Vec::new(),
        })
    }

    /// The socket, to be shut down by another thread.
    pub fn tcp(&self) -> &Arc<TcpStream> {
        &self.socket.tcp
    }

    /// Puts TLS on the connection.
    pub fn secure(&mut self, host: &str, patience: &Patience) -> Result<(), Fault> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let session = ClientConnection::new(tls::config()?, name).map_err(io::Error::other)?;
        self.layers.push(session);
        let (mut wire, last) = self.wire(patience).split();
        if let Some(last) = last {
            last.complete_io(&mut wire)?;
        }
        Ok(())
    }

    fn wire<'c>(&'c mut self, patience: &'c Patience) -> Wire<'c> {
        Wire {
            layers: &mut self.layers,
            socket: &self.socket,
            patience,
        }
    }

    /// Reads bytes that were received, or receives some; none at the end of the connection.
    pub fn read(&mut self, buffer: &mut [u8], patience: &Patience) -> io::Result<usize> {
        if self.input.unread().is_empty() && buffer.len() < BUFFER {
            self.receive(patience)?;
        }
        let unread = self.input.unread();
        if unread.is_empty() && buffer.len() >= BUFFER {
            return self.wire(patience).read(buffer);
        }
        let read = unread.len().min(buffer.len());
        buffer[..read].copy_from_slice(&unread[..read]);
        self.input.consume(read);
        Ok(read)
    }

    /// Receives more bytes; none at the end of the connection.
    pub fn receive(&mut self, patience: &Patience) -> io::Result<usize> {
        let mut wire = Wire {
            layers: &mut self.layers,
            socket: &self.socket,
            patience,
        };
        self.input.fill(&mut wire)
    }

    /// Sends all of these bytes.
    pub fn send(&mut self, bytes: &[u8], patience: &Patience) -> io::Result<()> {
        let mut wire = self.wire(patience);
        wire.write_all(bytes)?;
        wire.flush()
    }

    /// Reads the next head, whatever its status. `received` learns that there were bytes.
    pub fn head(&mut self, patience: &Patience, received: &mut bool) -> Result<Head, Fault> {
        let mut searched = 0;
        loop {
            self.input.skip_line_ends();
            let unread = self.input.unread();
            const PROTOCOL: &[u8] = b"HTTP/1.";
            if !unread.starts_with(&PROTOCOL[..unread.len().min(PROTOCOL.len())]) {
                return Err(Fault::BadReply("it is not HTTP/1.1"));
            }
            if let Some(end) = end_of_head(&unread[searched..]) {
                let end = searched + end;
                let head = Head::parse(&unread[..end])?;
                self.input.consume(end);
                return Ok(head);
            }
            if unread.len() > ENDLESS {
                return Err(Fault::EndlessHead);
            }
            searched = unread.len().saturating_sub(2);
            if self.receive(patience)? == 0 {
                return Err(match self.input.unread().is_empty() {
                    true => io::Error::new(io::ErrorKind::UnexpectedEof, NO_REPLY).into(),
                    false => Fault::cut(),
                });
            }
            *received = true;
        }
    }

    /// Whether the server has neither closed the connection nor sent anything that nobody asked for.
    pub fn is_open(&self) -> bool {
        self.input.unread().is_empty() && is_silent(&self.socket.tcp)
    }
}

const NO_REPLY: &str = "the server closed it without a reply";

#[cfg(unix)]
fn is_silent(tcp: &TcpStream) -> bool {
    use rustix::net::{RecvFlags, recv};
    let look = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    recv(tcp, &mut [0_u8; 1], look).is_err_and(|error| error == rustix::io::Errno::AGAIN)
}

#[cfg(not(unix))]
fn is_silent(tcp: &TcpStream) -> bool {
    let look = || {
        tcp.set_nonblocking(true)?;
        let seen = tcp.peek(&mut [0; 1]);
        tcp.set_nonblocking(false)?;
        seen
    };
    look().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// A socket that remembers its time limits, because setting one is a system call.
struct Socket {
    tcp: Arc<TcpStream>,
    read_limit: Cell<Duration>,
    write_limit: Cell<Duration>,
}

/// The way of bytes to the server: through the layers of TLS to the socket, as long as a call has patience.
struct Wire<'c> {
    layers: &'c mut [ClientConnection],
    socket: &'c Socket,
    patience: &'c Patience,
}

impl<'c> Wire<'c> {
    /// The last layer, and the way beneath it.
    fn split(self) -> (Self, Option<&'c mut ClientConnection>) {
        let (last, layers) = match self.layers.split_last_mut() {
            Some((last, layers)) => (Some(last), layers),
            None => (None, Default::default()),
        };
        (Self { layers, ..self }, last)
    }

    fn beneath(&mut self) -> (Wire<'_>, Option<&mut ClientConnection>) {
        let Self {
            layers,
            socket,
            patience,
        } = self;
        let wire = Wire {
            layers,
            socket,
            patience,
        };
        wire.split()
    }
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let (mut wire, Some(session)) = self.beneath() {
            return rustls::Stream::new(session, &mut wire).read(buffer);
        }
        let Socket {
            tcp, read_limit, ..
        } = self.socket;
        self.patience.wait(|most| {
            if read_limit.replace(most) != most {
                tcp.set_read_timeout(Some(most))?;
            }
            (&**tcp).read(buffer)
        })
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let (mut wire, Some(session)) = self.beneath() {
            return rustls::Stream::new(session, &mut wire).write(bytes);
        }
        let Socket {
            tcp, write_limit, ..
        } = self.socket;
        self.patience.wait(|most| {
            if write_limit.replace(most) != most {
                tcp.set_write_timeout(Some(most))?;
            }
            (&**tcp).write(bytes)
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.beneath() {
            (mut wire, Some(session)) => rustls::Stream::new(session, &mut wire).flush(),
            _ => Ok(()),
        }
    }
}

/// Bytes that were received and not read yet.
#[derive(Default)]
pub(super) struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    pub fn unread(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub fn consume(&mut self, bytes: usize) {
        self.start += bytes;
    }

    /// Old servers send the end of a line too many behind a body.
    fn skip_line_ends(&mut self) {
        let unread = self.unread();
        let rest = unread.iter().position(|byte| !b"\r\n".contains(byte));
        self.consume(rest.unwrap_or(unread.len()));
    }

    /// Receives into the buffer, which grows if it is full of unread bytes.
    pub fn fill(&mut self, from: &mut impl Read) -> io::Result<usize> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == 0 && self.buffer.len() > BUFFER {
            // It grew for one head.
            self.buffer = Vec::new();
        }
        if self.end == self.buffer.len() {
            let size = (2 * self.buffer.len()).max(BUFFER);
            self.buffer.resize(size, 0);
        }
        let read = from.read(&mut self.buffer[self.end..])?;
        self.end += read;
        Ok(read)
    }
}
