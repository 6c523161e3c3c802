//! Resolves names of hosts to addresses.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long a resolved address is used.
const ADDRESS_LIFE: Duration = Duration::from_secs(60);

/// Addresses, and until when they are used.
type Known = (Instant, Vec<SocketAddr>);

/// Resolves a host once a minute instead of before every connection.
#[derive(Default)]
pub(super) struct Resolver {
    known: Mutex<HashMap<(String, u16), Known>>,
}

impl Resolver {
    pub fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let now = Instant::now();
        let key = (host.to_owned(), port);
        if let Some((until, addresses)) = self.known.lock().get(&key)
            && now < *until
        {
            return Ok(addresses.clone());
        }
        let addresses: Vec<_> = (host, port).to_socket_addrs()?.collect();
        let entry = (now + ADDRESS_LIFE, addresses.clone());
        self.known.lock().insert(key, entry);
        Ok(addresses)
    }
}
