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
use serde_json::{Value, json};
use sha2::Sha256;
use ureq::Agent;
use ureq::http::Uri;

use crate::app::App;
use crate::background::{Background, Wake};
use crate::problem::Problem;
use crate::records::batches::{BatchRecord, BatchState};
use crate::records::files::{new_id, now};
use crate::records::webhooks::Webhook;
use crate::shapes;

/// Bytes of a secret, according to Standard Webhooks.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// How often it looks while something is to be told, and otherwise.
const LOOK: Duration = Duration::from_millis(500);
const REST: Duration = Duration::from_secs(30);
/// Subjects that are checked for their end at once, and messages that are sent at once.
const AT_ONCE: usize = 500;
/// How long an attempt may take in all.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long after each attempt the next one comes, in seconds: 6 attempts within a day.
const AGAIN: [i64; 5] = [5, 60, 900, 7_200, 57_600];

/// Where messages go, and the secret that signs them.
#[derive(derive_more::Debug)]
pub(crate) struct Receiver {
    url: String,
    #[debug(skip)]
    secret: Vec<u8>,
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
        Ok(Self {
            url: url.to_owned(),
            secret,
        })
    }

    fn send(&self, agent: &Agent, webhook: &Webhook) -> Result<(), String> {
        let timestamp = now();
        let (message, body) = (&*webhook.message, &*webhook.body);
        let sent = agent
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

/// Tells until it is dropped.
pub(crate) struct Deliveries {
    wake: Arc<Wake>,
    agent: Option<Agent>,
    _thread: Background,
}

impl Deliveries {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn start(app: Arc<App>, receiver: Receiver, wake: Arc<Wake>) -> io::Result<Self> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // A redirect is no success.
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("batchwright/", env!("CARGO_PKG_VERSION")))
            .timeout_global(Some(PATIENCE))
            .build();
        let agent: Agent = config.into();
        let sender = Sender {
            app,
            receiver,
            agent: agent.clone(),
            wake: Arc::clone(&wake),
        };
        Ok(Self {
            _thread: Background::start("webhook", &wake, move || sender.run())?,
            wake,
            agent: Some(agent),
        })
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        self.wake.stop();
        if let Some(agent) = self.agent.take() {
            agent.shutdown();
        }
    }
}

struct Sender {
    app: Arc<App>,
    receiver: Receiver,
    agent: Agent,
    wake: Arc<Wake>,
}

impl Sender {
    fn run(&self) {
        let mut after = String::new();
        while !self.wake.is_stopped() {
            let looked = self.find_ended(&mut after).and_then(|()| self.send_due());
            let any = looked.and_then(|()| Ok(Webhook::any(&self.app.records.single())?));
            let any = any.unwrap_or_else(|problem| {
                warn!("the webhook is delayed: {}", problem.for_log());
                true
            });
            self.wake.wait(if any { LOOK } else { REST });
        }
    }

    /// Writes the messages of what has ended. With many subjects, each takes its turn.
    fn find_ended(&self, after: &mut String) -> Result<(), Problem> {
        let waiting = Webhook::waiting(&self.app.records.single(), after, AT_ONCE)?;
        after.clear();
        if let Some(last) = waiting.last().filter(|_| waiting.len() == AT_ONCE) {
            after.clone_from(&last.subject);
        }
        for mut webhook in waiting {
            if self.wake.is_stopped() {
                break;
            }
            if let Some(body) = message(&self.app, &webhook.subject)? {
                webhook.body = body.to_string();
                webhook.update(&self.app.records.single(), 0)?;
            }
        }
        Ok(())
    }

    /// Sends what is due, up to the first message that is not accepted: the others would not be either.
    fn send_due(&self) -> Result<(), Problem> {
        let records = &self.app.records;
        let longest = AGAIN.iter().max().copied().unwrap_or_default();
        let now = seconds();
        let due = Webhook::due(&records.single(), now, now + longest, AT_ONCE)?;
        for mut webhook in due {
            let sent = self.receiver.send(&self.agent, &webhook);
            if self.wake.is_stopped() && sent.is_err() {
                // It was cut off by the server's own end.
                break;
            }
            let subject = &webhook.subject;
            let Err(why) = sent else {
                info!("the webhook was told the end of {subject}");
                webhook.delete(&records.single())?;
                continue;
            };
            webhook.attempts += 1;
            let tries = webhook.attempts as usize;
            match AGAIN.get(tries - 1) {
                Some(wait) => {
                    warn!("the webhook, end of {subject}, attempt {tries}: {why}");
                    webhook.update(&records.single(), seconds() + wait)?;
                }
                None => {
                    error!(
                        "the webhook is not told the end of {subject} after {tries} attempts: {why}"
                    );
                    webhook.delete(&records.single())?;
                }
            }
            break;
        }
        Ok(())
    }
}

fn seconds() -> i64 {
    i64::try_from(now()).unwrap_or(i64::MAX)
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
    let time = shapes::time::text(shapes::now());
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
