//! A provider on the loopback interface with the APIs of OpenAI, Anthropic and Google, for testing bulk runs without
//! cost. It has latency, limits and, on request, all errors that real providers make. It keeps exact
//! [statistics](SimStats) of what a provider would have billed. A seed and the prompt's text alone decide which prompt
//! meets which [`Trouble`], so a run can be predicted and repeated.
//!
//! One port serves all APIs; the path selects one:
//!
//! | API | base URL | calls |
//! |---|---|---|
//! | OpenAI and those like it | `http://HOST/v1` | `POST /chat/completions`, `/embeddings`, `/audio/speech` |
//! | Groq | `http://HOST/openai/v1` | `POST /chat/completions` |
//! | Anthropic | `http://HOST` | `POST /v1/messages` |
//! | Gemini | `http://HOST/v1beta` | `POST /models/NAME:generateContent`, `:batchEmbedContents` |
//!
//! The same addresses serve the files and batches of APIs that have them; [`BatchConfig`] configures them. Each request
//! of a batch gets the reply of a call, and its prompt is billed in the same [statistics](SimStats); [`BatchStats`] has
//! the numbers of batches.
//!
//! | API | calls for files | calls for batches |
//! |---|---|---|
//! | OpenAI, Groq | `POST /files`; `GET`, `DELETE /files/ID`; `GET /files/ID/content` | `POST`, `GET /batches`; `GET /batches/ID`; `POST /batches/ID/cancel` |
//! | xAI | as OpenAI | `POST`, `GET /batches`; `GET /batches/ID`; `GET /batches/ID/results`; `POST /batches/ID:cancel` |
//! | Anthropic | none | `POST`, `GET /v1/messages/batches`; `GET`, `DELETE ../ID`; `POST ../ID/cancel`; `GET ../ID/results` |
//! | Gemini | `POST /upload/v1beta/files`, twice; `GET`, `DELETE /files/ID`; `GET /download/v1beta/files/ID:download?alt=media` | `POST /models/NAME:batchGenerateContent`; `GET /batches`; `GET`, `DELETE /batches/ID`; `POST /batches/ID:cancel` |
//!
//! Batches contain only chat requests, from a file if the API has files.
//!
//! [`SimConfig::vendor`] selects one vendor's variant of OpenAI's API. The simulator rejects most of what the API
//! rejects: unknown fields, unknown roles, a key in the wrong header. It does not check the values of rare fields.
//! [`SimStats::malformed`] counts these requests, so a test of a client can require none. If the model may call tools
//! and the last message is from the user, it calls each of them once. If an answer must be JSON, it is an instance of
//! the schema. [`embedding`] returns the vector of a text, [`speech`] the audio.
//!
//! ```
//! use std::time::Duration;
//! use batchwright_simulate::{SimConfig, Simulator, Trouble};
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

mod anthropic;
mod batch;
mod call;
mod config;
mod dialect;
mod embed;
mod gate;
mod gemini;
mod http;
mod ledger;
mod limits;
mod listen;
mod openai;
mod problems;
mod prompt;
mod reply;
mod rules;
mod serve;
mod shape;
mod speech;
mod template;
mod trouble;
mod vendor;

#[cfg(test)]
mod dialects_tests;
#[cfg(test)]
mod ledger_tests;
#[cfg(test)]
mod limits_tests;
#[cfg(test)]
mod server_tests;
#[cfg(test)]
mod test_client;

/// The program in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

pub use config::{BatchConfig, BatchSeen, BatchStats, Recorder, SimConfig, SimPrice};
pub use embed::embedding;
pub use gate::{BatchPoint, Pause};
pub use ledger::SimStats;
pub use speech::speech;
pub use trouble::Trouble;
pub use vendor::Vendor;

use batch::Store;
use config::LONGEST;
use ledger::Ledger;
use listen::Listener;
use serve::Shared;

/// Interval of checks by a waiting thread.
const TICK: Duration = Duration::from_millis(1);

/// A running simulator; dropping it closes all connections and joins all of its threads.
///
/// In addition to the [calls](self) it answers `GET /v1/models`, `GET /health`, `GET /_sim/stats` with its [`SimStats`]
/// as JSON, and `GET /_sim/batches` with its [`BatchStats`].
#[derive(Debug)]
pub struct Simulator {
    shared: Arc<Shared>,
    listener: Listener,
}

impl Simulator {
    /// Starts listening. Fails with [`io::ErrorKind::InvalidInput`] on a setting that cannot be, and if the port
    /// is taken.
    pub fn start(config: SimConfig) -> io::Result<Simulator> {
        let invalid = |why| io::Error::new(io::ErrorKind::InvalidInput, why);
        config.check().map_err(invalid)?;
        let port = config.port;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|error| {
            let message = format!("cannot listen on 127.0.0.1:{port}: {error}");
            io::Error::new(error.kind(), message)
        })?;
        let shared = Arc::new(Shared {
            ledger: Mutex::new(Ledger::new(&config)),
            gate: Arc::default(),
            batches: Mutex::new(Store::new(&config.batches)),
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

    /// The base URL for clients of OpenAI's API: `http://127.0.0.1:PORT/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.addr())
    }

    /// The settings it was started with; their [`plan`](SimConfig::plan) shows which prompts fail.
    pub fn config(&self) -> &SimConfig {
        &self.shared.config
    }

    /// The counts at this moment.
    pub fn stats(&self) -> SimStats {
        self.shared.stats()
    }

    /// Waits until `ready` returns true for the counts, which it gets every millisecond; returns false if that does
    /// not happen before `timeout`. To wait for batches, use [`wait_for_batches`](Simulator::wait_for_batches).
    pub fn wait_until(&self, mut ready: impl FnMut(&SimStats) -> bool, timeout: Duration) -> bool {
        wait(|| ready(&self.stats()), timeout)
    }

    /// The counts of files and batches at this moment.
    pub fn batch_stats(&self) -> BatchStats {
        self.shared.batch_stats()
    }

    /// Waits until `ready` is true of the counts of batches; false if that does not happen before
    /// `timeout` is over.
    pub fn wait_for_batches(&self, ready: impl Fn(&BatchStats) -> bool, timeout: Duration) -> bool {
        wait(|| ready(&self.batch_stats()), timeout)
    }

    /// Holds the `nth` request, counted from 1 and from now on, that reaches `point`, until the pause is released or
    /// dropped, or the simulator stops. It has its effect even if its client has disconnected by then.
    pub fn pause_at(&self, point: BatchPoint, nth: u64) -> Pause {
        self.shared.gate.pause_at(point, nth)
    }

    /// Holds the outcome of every call from now on, including calls in progress: they are counted and stay in flight
    /// until [`release`](Simulator::release). Stalls are not held; they end by themselves.
    pub fn hold(&self) {
        self.shared.gate.hold();
    }

    /// Releases all held calls.
    pub fn release(&self) {
        self.shared.gate.release();
    }
}

/// Waits until `ready` returns true; false if it does not in time.
fn wait(mut ready: impl FnMut() -> bool, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout.min(LONGEST);
    while !ready() {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(TICK);
    }
    true
}
