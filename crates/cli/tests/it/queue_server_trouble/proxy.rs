//! A connection to the server that can be interrupted without an error at either end.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use parking_lot::{Condvar, Mutex};

/// The direction that is interrupted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Nothing,
    Both,
    /// Bytes from the server do not arrive.
    Replies,
}

struct Gate {
    cut: Mutex<Cut>,
    changed: Condvar,
}

impl Gate {
    /// Waits until bytes of this direction may pass.
    fn pass(&self, is_reply: bool) {
        let mut cut = self.cut.lock();
        while *cut == Cut::Both || is_reply && *cut == Cut::Replies {
            self.changed.wait(&mut cut);
        }
    }
}

/// Listens on loopback and forwards to one address.
pub struct Proxy {
    pub place: String,
    gate: Arc<Gate>,
}

impl Proxy {
    pub fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap().to_string();
        let gate = Arc::new(Gate {
            cut: Mutex::new(Cut::Nothing),
            changed: Condvar::new(),
        });
        let shared = gate.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (gate, server) = (shared.clone(), server.clone());
                thread::spawn(move || {
                    gate.pass(true);
                    let Ok(server) = TcpStream::connect(&server) else {
                        return;
                    };
                    let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                    let there = gate.clone();
                    thread::spawn(move || carry(from, to, &there, false));
                    carry(server, client, &gate, true);
                });
            }
        });
        Self { place, gate }
    }

    pub fn cut(&self, what: Cut) {
        *self.gate.cut.lock() = what;
        self.gate.changed.notify_all();
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, gate: &Gate, is_reply: bool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read) = from.read(&mut buffer) {
        gate.pass(is_reply);
        if read == 0 || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
