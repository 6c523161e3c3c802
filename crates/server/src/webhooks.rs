//! The webhook of the server: it is told the end of each process and each batch of `/v1` that was created here, by a
//! message that is signed according to Standard Webhooks. Messages are in `server.db`, so they survive the server.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use batchwright::{Error, ErrorKind, ProcessId, Secret};
use hmac::{Hmac, Mac};
use log::{error, info, warn};
use rusqlite::{Connection, ToSql, params};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::Sha256;
use ureq::Agent;
use ureq::http::Uri;

use crate::app::App;
use crate::background::{Background, Wake};
use crate::problem::Problem;
use crate::records::{BatchRecord, BatchState, Records, Stored, new_id, now, warn_once};
use crate::shapes;

/// Bytes of a secret, according to Standard Webhooks.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// How often it looks while something is to be told, and otherwise.
const LOOK: Duration = Duration::from_millis(500);
const REST: Duration = Duration::from_secs(30);
/// Subjects that are checked for their end at once.
const AT_ONCE: usize = 500;
/// How long an attempt may take in all.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long after each attempt the next one comes, in seconds: 6 attempts within a day.
const AGAIN: [u64; 5] = [5, 60, 900, 7_200, 57_600];

/// Where messages go, and the secret that signs them.
#[derive(derive_more::Debug)]
pub(crate) struct Receiver {
    url: String,
    #[debug(skip)]
    secret: Vec<u8>,
    #[debug(skip)]
    agent: Agent,
}

impl Receiver {
    /// # Errors
    /// If the address is not one of HTTP, or the secret not one of Standard Webhooks.
    pub fn new(url: &str, secret: &Secret) -> Result<Self, Error> {
        let invalid = |why: String| Error::new(ErrorKind::Invalid, why);
        let uri: Option<Uri> = url.parse().ok();
        let is_http = |uri: &Uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some_and(|host| !host.is_empty())
        };
        if !uri.as_ref().is_some_and(is_http) {
            let why = "webhook: write an address that begins with https:// or http://";
            return Err(invalid(why.to_owned()));
        }
        let text = secret.expose().trim();
        let bytes = text
            .strip_prefix("whsec_")
            .map(|text| STANDARD.decode(text));
        let bytes = bytes.and_then(Result::ok);
        let bytes = bytes.filter(|bytes| SECRET_BYTES.contains(&bytes.len()));
        let secret = bytes.ok_or_else(|| {
            invalid(format!(
                "the secret of the webhook is whsec_ and the base64 of {} to {} random bytes, for example: echo \"whsec_$(openssl rand -base64 32)\"",
                SECRET_BYTES.start(),
                SECRET_BYTES.end()
            ))
        })?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // A redirect is no success.
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("batchwright/", env!("CARGO_PKG_VERSION")))
            .timeout_global(Some(PATIENCE))
            .build();
        Ok(Self {
            url: url.to_owned(),
            secret,
            agent: config.into(),
        })
    }

    fn send(&self, webhook: &Message) -> Result<(), String> {
        let timestamp = now();
        let (message, body) = (&*webhook.id, webhook.body.as_deref().unwrap_or_default());
        let sent = self
            .agent
            .post(&self.url)
            .header("content-type", "application/json")
            .header("webhook-id", message)
            .header("webhook-timestamp", timestamp.to_string())
            .header(
                "webhook-signature",
                signature(&self.secret, message, timestamp, body),
            )
            .send(body);
        let status = sent.map_err(|error| error.to_string())?.status();
        if status.is_success() {
            Ok(())
        } else {
            Err(format!("it was answered with {status}"))
        }
    }
}

/// What stands in `webhook-signature`, as Standard Webhooks has it.
fn signature(secret: &[u8], message: &str, timestamp: u64, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("a key of any length will do");
    for part in [message, ".", &timestamp.to_string(), ".", body] {
        mac.update(part.as_bytes());
    }
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

/// A message that waits for the end of its subject, or for its next attempt.
#[derive(Serialize, Deserialize)]
struct Message {
    /// The same for each attempt.
    id: String,
    /// The process, or the batch of /v1.
    subject: String,
    /// The same for each attempt; `None` until the subject has ended.
    body: Option<String>,
    attempts: usize,
    next_at: u64,
}

impl Stored for Message {
    const TABLE: &'static str = "webhooks";
}

impl Records {
    /// Has the end of a process or a batch told, if the server has a webhook. The thread that tells it waits
    /// until a transaction has ended.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn tell_end(&self, database: &Connection, subject: &str) -> Result<(), Error> {
        let Some(wake) = &self.webhook else {
            return Ok(());
        };
        let which = "record ->> 'body' IS NULL AND record ->> 'subject' = ?";
        if !Message::all(database, which, params![subject])?.is_empty() {
            return Ok(());
        }
        let message = Message {
            id: new_id("msg_"),
            subject: subject.to_owned(),
            body: None,
            attempts: 0,
            next_at: 0,
        };
        message.store(database)?;
        wake.wake();
        Ok(())
    }
}

/// Starts the thread that sends messages.
///
/// # Errors
/// When the system gives none.
pub(crate) fn start(app: Arc<App>, receiver: Receiver, wake: Arc<Wake>) -> io::Result<Background> {
    let stops = Arc::clone(&wake);
    Background::start("webhook", &wake, move || {
        let sender = Sender {
            app: &app,
            receiver,
        };
        let mut after = String::new();
        while !stops.is_stopped() {
            let any = sender.round(&mut after, &stops).unwrap_or_else(|problem| {
                warn!("the webhook is delayed: {}", problem.for_log());
                true
            });
            stops.wait(if any { LOOK } else { REST });
        }
    })
}

struct Sender<'a> {
    app: &'a App,
    receiver: Receiver,
}

impl Sender<'_> {
    /// Writes the messages of what has ended, and sends what is due. Returns whether any message is left.
    fn round(&self, after: &mut String, stops: &Wake) -> Result<bool, Problem> {
        // With many subjects, each takes its turn.
        let which =
            "record ->> 'body' IS NULL AND record ->> 'subject' > ? ORDER BY record ->> 'subject'";
        let waiting = self.messages(which, params![*after])?;
        after.clear();
        if let Some(last) = waiting.last().filter(|_| waiting.len() == AT_ONCE) {
            after.clone_from(&last.subject);
        }
        for mut webhook in waiting {
            let body = message(self.app, &webhook.subject).unwrap_or_else(|problem| {
                warn_once(problem.for_log());
                None
            });
            if let Some(body) = body {
                webhook.body = Some(body.to_string());
                webhook.store(&self.app.records.single())?;
            }
        }
        let which = "record ->> 'body' IS NOT NULL AND record ->> 'next_at' <= ? ORDER BY record ->> 'next_at'";
        let due = self.messages(which, params![now() as i64])?;
        for webhook in due {
            // The others would not be accepted either.
            if stops.is_stopped() || !self.deliver(webhook)? {
                break;
            }
        }
        Ok(!self.messages("1 LIMIT 1", &[])?.is_empty())
    }

    /// Sends a message. Returns whether it was accepted; otherwise it is sent again later, or given up.
    fn deliver(&self, mut webhook: Message) -> Result<bool, Problem> {
        let sent = self.receiver.send(&webhook);
        let subject = &webhook.subject;
        webhook.attempts += 1;
        let tries = webhook.attempts;
        match (&sent, AGAIN.get(tries - 1)) {
            (Err(why), Some(wait)) => {
                warn!("the webhook, end of {subject}, attempt {tries}: {why}");
                webhook.next_at = now() + wait;
                webhook.store(&self.app.records.single())?;
                return Ok(false);
            }
            (Err(why), None) => {
                error!("the webhook is not told the end of {subject} after {tries} attempts: {why}")
            }
            (Ok(()), _) => info!("the webhook was told the end of {subject}"),
        }
        Message::delete(&self.app.records.single(), &webhook.id)?;
        Ok(sent.is_ok())
    }

    fn messages(&self, which: &str, by: &[&dyn ToSql]) -> Result<Vec<Message>, Error> {
        Message::some(&self.app.records.single(), which, by, AT_ONCE)
    }
}

/// The message about the end of this, if it has ended.
fn message(app: &App, subject: &str) -> Result<Option<Value>, Problem> {
    if subject.starts_with("batch_") {
        let batch = BatchRecord::get(&app.records.single(), subject)?;
        let state = batch.map(|batch| batch.state).filter(|state| {
            use BatchState::{Cancelled, Completed, Expired, Failed};
            matches!(state, Cancelled | Completed | Expired | Failed)
        });
        return Ok(state.map(|state| {
            json!({
                "id": new_id("evt_"),
                "object": "event",
                "created_at": now(),
                "type": format!("batch.{}", state.as_str()),
                "data": {"id": subject},
            })
        }));
    }
    let id: ProcessId = subject.parse()?;
    let data = match app.queue.process(id)? {
        Some(process) if !process.is_finished() => return Ok(None),
        Some(process) => shapes::process(&process, None),
        // A client was quicker and has taken all its results.
        None => json!({"process_id": id, "state": "consumed"}),
    };
    let time = shapes::time(shapes::now());
    Ok(Some(
        json!({"type": "process.finished", "timestamp": time, "data": data}),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_has_an_address_and_a_secret_of_standard_webhooks() {
        let secret = |text: &str| Secret::new(text);
        let good = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        for url in ["https://example.com/hook?a=b", "http://[::1]:8443/"] {
            Receiver::new(url, &secret(good)).unwrap();
        }
        for url in ["ftp://example.com/", "https:///x", "/x", "example.com"] {
            let error = Receiver::new(url, &secret(good)).unwrap_err();
            assert!(error.message().contains("https://"), "{url}: {error}");
        }
        for wrong in ["", "whsec_", "whsec_c2hvcnQ=", &good[6..], "whsec_!"] {
            let error = Receiver::new("https://example.com/", &secret(wrong)).unwrap_err();
            assert!(error.message().contains("whsec_"), "{wrong}: {error}");
        }
    }
}
