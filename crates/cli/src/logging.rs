//! The log, which goes to standard error beside the lines for people.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use log::LevelFilter;

use super::args::shared::SayArgs;
use super::sanitize::harmless;
use super::stderr;

static QUIET: AtomicBool = AtomicBool::new(false);
static JSON: AtomicBool = AtomicBool::new(false);

/// Whether only errors are printed.
pub fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Whether the result, or the error, is printed as JSON.
pub fn is_json() -> bool {
    JSON.load(Ordering::Relaxed)
}

impl SayArgs {
    /// Starts the log at the requested level. `RUST_LOG` overrides `-q`, and `--log-level` overrides both.
    pub fn start_log(&self) {
        QUIET.store(self.quiet, Ordering::Relaxed);
        JSON.store(self.json, Ordering::Relaxed);
        let level = if self.quiet { "error" } else { "warn" };
        let mut builder = env_logger::Builder::new();
        match self.log_level {
            Some(filter) => builder.parse_filters(filter),
            None => builder.parse_env(env_logger::Env::default().default_filter_or(level)),
        };
        // A second start (in tests) fails and does no harm.
        let _ = builder
            .target(env_logger::Target::Pipe(Box::new(stderr::Log)))
            .format(|out, record| {
                let level = record.level().as_str().to_lowercase();
                let text = harmless(&record.args().to_string());
                let now = humantime::format_rfc3339_millis(SystemTime::now());
                writeln!(out, "batchwright: {now} {level}: {text}")
            })
            // It prints all transferred bytes, including keys, so RUST_LOG cannot enable it.
            .filter_module("ureq_proto::util", LevelFilter::Off)
            .try_init();
    }
}
