//! A provider on the loopback interface that speaks OpenAI's chat protocol, for trying out bulk runs
//! without paying: it has latency, limits and, on request, every kind of trouble a real provider
//! makes. It keeps exact [statistics](SimStats) of what a provider would have charged for. Which
//! prompt meets which [`Trouble`] is decided by a seed and the prompt's text alone, so that a run can
//! be predicted and repeated.
//!
//! ```
//! use std::time::Duration;
//! use batchwright::simulate::{SimConfig, Simulator, Trouble};
//!
//! # fn main() -> std::io::Result<()> {
//! let config = SimConfig::default()
//!     .latency(Duration::from_millis(50))
//!     .rpm(600)
//!     .trouble(Trouble::Error500, 0.05);
//! let sim = Simulator::start(config)?;
//! assert!(sim.base_url().starts_with("http://127.0.0.1:"));
//! assert_eq!(sim.stats().calls, 0);
//! # Ok(())
//! # }
//! ```

mod call;
mod chat;
mod config;
mod gate;
mod http;
mod ledger;
mod limits;
mod listen;
mod memory;
mod reply;
mod script;
mod serve;
mod stats;
mod trouble;

#[cfg(test)]
mod test_client;
#[cfg(test)]
mod test_limits;
#[cfg(test)]
mod test_server;
#[cfg(test)]
mod test_troubles;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use config::SimConfig;
pub use stats::SimStats;
pub use trouble::{Trouble, UnknownTrouble};

use gate::Gate;
use ledger::Ledger;
use listen::Listener;
use serve::Shared;

/// A running simulator; dropping it closes all connections and joins all of its threads.
///
/// It answers `POST /v1/chat/completions`, `GET /v1/models`, `GET /health` and, with its
/// [`SimStats`] as JSON, `GET /_sim/stats`.
#[derive(Debug)]
pub struct Simulator {
    shared: Arc<Shared>,
    listener: Listener,
}

impl Simulator {
    /// Starts listening. Fails with [`io::ErrorKind::InvalidInput`] on a setting that cannot be, and
    /// if the port is taken.
    pub fn start(config: SimConfig) -> io::Result<Simulator> {
        config.check()?;
        let port = config.port;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|error| {
            let message = format!("cannot listen on 127.0.0.1:{port}: {error}");
            io::Error::new(error.kind(), message)
        })?;
        let shared = Arc::new(Shared {
            ledger: Ledger::new(&config),
            gate: Gate::default(),
            started: Instant::now(),
            epoch: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            config,
        });
        let listener = Listener::start(listener, Arc::clone(&shared))?;
        Ok(Simulator { shared, listener })
    }

    /// The address it listens on, with the real port.
    pub fn addr(&self) -> SocketAddr {
        self.listener.addr()
    }

    /// What a client takes as the provider's base URL: `http://127.0.0.1:PORT/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.addr())
    }

    /// The settings it was started with; their [`plan`](SimConfig::plan) tells which prompts fail.
    pub fn config(&self) -> &SimConfig {
        &self.shared.config
    }

    /// The counts at this moment.
    pub fn stats(&self) -> SimStats {
        self.shared.ledger.stats()
    }

    /// Waits until `ready` is true of the counts, looking at them after every change; false if that
    /// does not happen before `timeout` is over.
    pub fn wait_until(&self, ready: impl FnMut(&SimStats) -> bool, timeout: Duration) -> bool {
        self.shared.ledger.wait_until(ready, timeout)
    }

    /// Holds back the outcome of every call from now on, also of calls that are being worked on:
    /// they are counted and stay in flight until [`release`](Simulator::release). Stalls are not held;
    /// they end by themselves.
    pub fn hold(&self) {
        self.shared.gate.hold();
    }

    /// Lets go of all calls held back.
    pub fn release(&self) {
        self.shared.gate.release();
    }
}
