//! Standard error: lines for people and log events, as text or as one JSON object per line.

use std::io::Write;
use std::sync::OnceLock;
use std::time::SystemTime;

use console::Term;
use log::kv::{self, VisitSource, VisitValue};
use log::{Level, LevelFilter, Record};
use serde_json::{Map, Value};

use super::args::shared::{LogFormat, LogLevel, SayArgs};
use super::args::variables;
use super::sanitize::harmless;
use super::{stderr, wrap};

static FORMAT: OnceLock<LogFormat> = OnceLock::new();

impl SayArgs {
    /// Starts the log at the requested level. `RUST_LOG` overrides `-v` and `-q`, and `--log-level` overrides all.
    pub fn start_log(&self) {
        let _ = FORMAT.set(self.log_format);
        let level = match (self.quiet, self.verbose) {
            (true, _) => "error",
            (_, 0) => "warn",
            (_, 1) => INFO,
            _ => DEBUG,
        };
        let mut builder = env_logger::Builder::new();
        match self.log_level {
            Some(level) => builder.parse_filters(match level {
                LogLevel::Error => "error",
                LogLevel::Warn => "warn",
                LogLevel::Info => INFO,
                LogLevel::Debug => DEBUG,
            }),
            None => builder.parse_env(env_logger::Env::default().default_filter_or(level)),
        };
        // A second start (in tests) fails and does no harm.
        let _ = builder
            .target(env_logger::Target::Pipe(Box::new(stderr::Log)))
            .format(|out, record| {
                if is_json() {
                    out.write_all(&event(record))
                } else {
                    let level = record.level().as_str().to_lowercase();
                    let text = record.args().to_string();
                    let text = format!("batchwright: {} {level}: {}", now(), harmless(&text));
                    writeln!(out, "{}", fitted(text))
                }
            })
            // It prints all transferred bytes, including keys, so RUST_LOG cannot enable it.
            .filter_module("ureq_proto::util", LevelFilter::Off)
            .try_init();
        for name in variables::unknown() {
            log::warn!("{}", variables::warning(&name));
        }
    }
}

const INFO: &str = "batchwright=info,warn";
const DEBUG: &str = "batchwright=debug,info";

/// Whether standard error is read by a program.
pub fn is_json() -> bool {
    FORMAT.get() == Some(&LogFormat::Json)
}

/// Writes a line for people, above the bar if there is one. A closed standard error is ignored.
pub fn line(level: Level, text: &str) {
    if is_json() {
        return stderr::write(object(level, "batchwright", text, Map::new()));
    }
    let text = match level {
        Level::Error => format!("batchwright: error: {}", harmless(text)),
        _ => format!("batchwright: {}", harmless(text)),
    };
    stderr::write((fitted(text) + "\n").into_bytes());
}

/// The text, broken between words if standard error is a terminal.
fn fitted(text: String) -> String {
    match Term::stderr().size_checked() {
        Some((_, columns)) => wrap::fitted(&text, columns.into()),
        None => text,
    }
}

fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

fn event(record: &Record<'_>) -> Vec<u8> {
    let mut fields = Fields(Map::new());
    // It never reports an error.
    let _ = record.key_values().visit(&mut fields);
    let text = record.args().to_string();
    object(record.level(), record.target(), &text, fields.0)
}

/// One event on one line. JSON escapes what could control a terminal, except characters that JSON does not treat as
/// control characters.
fn object(level: Level, target: &str, message: &str, fields: Map<String, Value>) -> Vec<u8> {
    let mut object = Map::new();
    for (name, value) in [
        ("timestamp", now()),
        ("level", level.as_str().to_lowercase()),
        ("target", target.to_owned()),
        ("message", harmless(message)),
    ] {
        object.insert(name.to_owned(), value.into());
    }
    object.extend(fields);
    let mut line = Value::Object(object).to_string().into_bytes();
    line.push(b'\n');
    line
}

/// The fields of an event, without empty ones.
struct Fields(Map<String, Value>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: kv::Key<'kvs>, value: kv::Value<'kvs>) -> Result<(), kv::Error> {
        let mut json = AsJson(Value::Null);
        value.visit(&mut json)?;
        if !json.0.is_null() {
            self.0.insert(key.to_string(), json.0);
        }
        Ok(())
    }
}

struct AsJson(Value);

impl VisitValue<'_> for AsJson {
    fn visit_any(&mut self, value: kv::Value<'_>) -> Result<(), kv::Error> {
        self.0 = harmless(&value.to_string()).into();
        Ok(())
    }
    fn visit_null(&mut self) -> Result<(), kv::Error> {
        self.0 = Value::Null;
        Ok(())
    }
    fn visit_u64(&mut self, value: u64) -> Result<(), kv::Error> {
        self.0 = value.into();
        Ok(())
    }
    fn visit_i64(&mut self, value: i64) -> Result<(), kv::Error> {
        self.0 = value.into();
        Ok(())
    }
    fn visit_f64(&mut self, value: f64) -> Result<(), kv::Error> {
        self.0 = value.into();
        Ok(())
    }
    fn visit_bool(&mut self, value: bool) -> Result<(), kv::Error> {
        self.0 = value.into();
        Ok(())
    }
}
