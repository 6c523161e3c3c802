//! The thread that finds what has ended, and the threads that send its messages: at most one per receiver, so that a slow
//! receiver delays only its own messages.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use batchwright::unstable::PublicResolver;
use log::{info, warn};
use parking_lot::Mutex;
use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::Uri;
use ureq::unversioned::transport::DefaultConnector;

use super::senders::Senders;
use super::signature::signature;
use crate::app::App;
use crate::background::{Background, Wake};
use crate::problem::Problem;
use crate::records::batches::{BatchRecord, BatchState};
use crate::records::files::{new_id, now};
use crate::records::settled;
use crate::records::webhooks::{Subject, Webhook, WebhookState};
use crate::shapes::{self, ShownJob};

/// What one server at a time does: a lock in the data folder.
const ROLE: &str = "webhooks.lock";
/// How often it looks while something is to be told, and otherwise.
const LOOK: Duration = Duration::from_millis(500);
const REST: Duration = Duration::from_secs(30);
/// Subjects that are checked for their end at once; with more of them, each takes its turn.
const LOOKED_AT: usize = 500;
/// How long an attempt may take in all.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long after each try the next one comes, in seconds: 2 days in all.
const AGAIN: [i64; 9] = [2, 30, 120, 600, 3_600, 10_800, 28_800, 57_600, 86_400];

/// The longest wait for an attempt, in seconds. A receiver may ask for as much.
const LONGEST_WAIT: i64 = 86_400;

/// How long it can be seen what became of one, in seconds: 30 days.
const KEPT: i64 = 30 * 86_400;
/// How often old ones are looked for.
const CLEAN: Duration = Duration::from_secs(3_600);

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
    pub fn start(app: Arc<App>) -> io::Result<Self> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // A redirect could lead anywhere.
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("batchwright/", env!("CARGO_PKG_VERSION")))
            .timeout_global(Some(PATIENCE))
            .build();
        let resolver = PublicResolver::new(app.private_webhooks);
        let agent = Agent::with_parts(config, DefaultConnector::default(), resolver);
        let (wake, sender) = (Arc::clone(&app.webhooks), agent.clone());
        Ok(Self {
            _thread: Background::start("webhooks", &wake, move || run(&app, &sender))?,
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

fn run(app: &App, agent: &Agent) {
    let busy = Mutex::new(Senders::default());
    let mut clean_at = Instant::now();
    let mut look_at = Instant::now();
    let mut after = String::new();
    let mut waits = false;
    // The scope ends when all messages in flight have ended.
    thread::scope(|scope| {
        while waits_to_be_alone(app) {
            if Instant::now() >= clean_at {
                clean_at = Instant::now() + CLEAN;
                let before = i64::try_from(settled::seconds()).unwrap_or(0) - KEPT;
                let cleaned = Webhook::forget_ended(&mut app.records.single(), before);
                if let Err(error) = cleaned {
                    warn!("old webhooks stay: {error}");
                }
            }
            let looks = Instant::now() >= look_at;
            if looks {
                look_at = Instant::now() + LOOK;
                waits = find_ended(app, &mut after);
            }
            let due = Webhook::due(&mut app.records.single()).unwrap_or_else(|error| {
                warn!("webhooks cannot be read: {error}");
                Vec::new()
            });
            let now = seconds();
            for webhook in due.iter().filter(|webhook| is_due(webhook.next_at, now)) {
                let receiver = receiver(&webhook.url);
                if app.webhooks.is_stopped() {
                    break;
                }
                if !busy.lock().start(&receiver, Instant::now()) {
                    continue;
                }
                let (busy, subject, sent_to) = (&busy, webhook.subject.clone(), receiver.clone());
                let send = move || {
                    let delivered = deliver(app, agent, &subject);
                    let accepted = delivered.as_ref().ok().copied().flatten();
                    busy.lock().end(&sent_to, accepted);
                    match delivered {
                        Ok(_) => app.webhooks.wake(),
                        // The message is sent again at the next look, and not at once.
                        Err(problem) => {
                            warn!("the webhook of {subject} is delayed: {}", problem.for_log());
                        }
                    }
                };
                let thread = thread::Builder::new().name("webhook".to_owned());
                if let Err(error) = thread.spawn_scoped(scope, send) {
                    warn!("webhooks wait for a thread: {error}");
                    busy.lock().end(&receiver, None);
                    break;
                }
            }
            // Only the server that received the request wakes its thread.
            let is_woken = !app.records.is_shared();
            let rests = looks && !waits && due.is_empty() && is_woken;
            app.webhooks.wait(if rests { REST } else { LOOK });
        }
    });
}

/// Whether an attempt that was planned for this time is due. A time beyond the longest wait was planned while the clock was
/// ahead, and would postpone the message by that error.
fn is_due(next_at: i64, now: i64) -> bool {
    next_at <= now || next_at > now + LONGEST_WAIT
}

/// The host and port of an address, in one spelling.
fn receiver(url: &str) -> String {
    let uri: Option<Uri> = url.parse().ok();
    let authority = uri.as_ref().and_then(Uri::authority);
    authority.map_or_else(String::new, |host| host.as_str().to_ascii_lowercase())
}

/// Writes the messages of what has ended. Returns whether anything has not.
fn find_ended(app: &App, after: &mut String) -> bool {
    let most = i64::try_from(LOOKED_AT).unwrap_or(i64::MAX);
    let found = Webhook::waiting(&mut app.records.single(), after, most);
    let (waiting, last) = found.unwrap_or_else(|error| {
        warn!("webhooks cannot be read: {error}");
        (Vec::new(), None)
    });
    let is_first = after.is_empty();
    // The next look begins at the first one again when this one has reached the last one.
    *after = last.unwrap_or_default();
    let any = !waiting.is_empty() || !is_first;
    for mut webhook in waiting {
        if app.webhooks.is_stopped() {
            break;
        }
        let written = message(app, &webhook.subject).and_then(|body| {
            if let Some(body) = body {
                webhook.body = Some(body.to_string());
                webhook.state = WebhookState::Due;
                webhook.update(&mut app.records.single())?;
            }
            Ok(())
        });
        if let Err(problem) = written {
            let why = problem.for_log();
            warn!("the webhook of {} is delayed: {why}", webhook.subject);
        }
    }
    any
}

/// Waits until no other server sends: each message would come twice. False once this one is to end.
fn waits_to_be_alone(app: &App) -> bool {
    while !app.webhooks.is_stopped() {
        match app.records.has_role(ROLE) {
            Ok(true) => return true,
            Ok(false) => {}
            Err(error) => warn!("webhooks wait: {error}"),
        }
        // An earlier process of the server may still be stopping.
        app.webhooks.wait(LOOK);
    }
    app.records.leave_role(ROLE);
    false
}

/// The message about the end of this, if it has ended.
pub(super) fn message(app: &App, subject: &Subject) -> Result<Option<Value>, Problem> {
    let (kind, data) = match subject {
        Subject::Process(id) => (
            "process.finished",
            match app.queue.process(*id)? {
                Some(process) if !process.is_finished() => return Ok(None),
                Some(process) => shapes::process(&process, None, None),
                // A client was quicker and has taken all its results.
                None => json!({"process_id": id, "state": "consumed"}),
            },
        ),
        Subject::Job(id) => (
            "job.finished",
            match app.queue.job(*id)? {
                Some(job) if !job.status.is_final() => return Ok(None),
                Some(job) => ShownJob::of(&job).without_result(),
                None => json!({"job_id": id, "status": "consumed"}),
            },
        ),
        Subject::Former(_) => return Ok(None),
        Subject::Batch(id) => {
            let batch = BatchRecord::get(&mut app.records.single(), id)?;
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
                    "data": {"id": id},
                })
            }));
        }
    };
    let time = shapes::time::text(shapes::now());
    let message = json!({"type": kind, "timestamp": time, "data": data});
    Ok(Some(message))
}

/// Sends the message of a webhook once, and records the outcome. Returns whether the receiver accepted it; `None` if it was
/// not sent.
fn deliver(app: &App, agent: &Agent, subject: &Subject) -> Result<Option<bool>, Problem> {
    let known = Webhook::get(&mut app.records.single(), subject)?;
    let is_due = |webhook: &Webhook| {
        webhook.state == WebhookState::Due && is_due(webhook.next_at, seconds())
    };
    let Some(mut webhook) = known.filter(is_due) else {
        return Ok(None);
    };
    if !app.records.has_role(ROLE)? {
        return Ok(None);
    }
    let sent = send(agent, &webhook);
    if app.webhooks.is_stopped() && sent.is_err() {
        // It was cut off by the server's own end.
        return Ok(None);
    }
    let is_accepted = sent.is_ok();
    after(&mut webhook, sent);
    webhook.update(&mut app.records.single())?;
    Ok(Some(is_accepted))
}

/// What a try leads to.
fn after(webhook: &mut Webhook, sent: Result<(), Refused>) {
    webhook.attempts += 1;
    let subject = &webhook.subject;
    match sent {
        Ok(()) => {
            info!("the webhook of {subject} was delivered");
            webhook.state = WebhookState::Delivered;
            webhook.next_at = seconds();
            webhook.error = None;
        }
        Err(refused) => {
            let tries = webhook.attempts as usize;
            let again = AGAIN.get(tries - 1).filter(|_| !refused.for_good);
            match again {
                Some(wait) => webhook.next_at = seconds() + wait.max(&refused.wait),
                None => {
                    webhook.state = WebhookState::GivenUp;
                    webhook.next_at = seconds();
                }
            }
            warn!("the webhook of {subject}, try {tries}: {}", refused.why);
            webhook.error = Some(refused.why);
        }
    }
}

fn seconds() -> i64 {
    i64::try_from(now()).unwrap_or(i64::MAX)
}

/// Why a message was not taken.
struct Refused {
    why: String,
    /// Seconds that are to be waited at least.
    wait: i64,
    for_good: bool,
}

fn send(agent: &Agent, webhook: &Webhook) -> Result<(), Refused> {
    let body = webhook.body.as_deref().unwrap_or_default();
    let timestamp = now();
    let sent = agent
        .post(&webhook.url)
        .header("content-type", "application/json")
        .header("webhook-id", &webhook.message)
        .header("webhook-timestamp", timestamp.to_string())
        .header(
            "webhook-signature",
            signature(&webhook.secret, &webhook.message, timestamp, body),
        )
        .send(body);
    let answer = sent.map_err(|error| Refused {
        why: error.to_string(),
        wait: 0,
        for_good: false,
    })?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let wait = answer.headers().get("retry-after");
    let wait = wait.and_then(|wait| wait.to_str().ok()?.parse().ok());
    Err(Refused {
        why: format!("it was answered with {status}"),
        wait: wait.map_or(0, |wait: i64| wait.clamp(0, LONGEST_WAIT)),
        // Gone: nobody wants to be told any more.
        for_good: status.as_u16() == 410,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use batchwright::ProcessId;

    #[test]
    fn an_attempt_planned_by_a_clock_that_was_ahead_is_not_postponed() {
        let now = seconds();
        assert!(is_due(now, now) && !is_due(now + 1, now));
        assert!(!is_due(now + AGAIN[AGAIN.len() - 1], now));
        assert!(is_due(now + 400 * 86_400, now));
    }

    #[test]
    fn a_message_is_tried_ever_more_rarely_and_given_up_in_the_end() {
        let mut webhook = Webhook {
            subject: Subject::Process(ProcessId::new()),
            url: String::new(),
            secret: Vec::new(),
            message: String::new(),
            body: None,
            state: WebhookState::Due,
            attempts: 0,
            next_at: 0,
            error: None,
        };
        let refused = |wait, for_good| {
            Err(Refused {
                why: "no".to_owned(),
                wait,
                for_good,
            })
        };
        for wait in AGAIN {
            after(&mut webhook, refused(0, false));
            let until = webhook.next_at - seconds();
            assert!((wait - 2..=wait).contains(&until), "{until} for {wait}");
            assert_eq!(webhook.state, WebhookState::Due);
        }
        let mut once_more = webhook.clone();
        after(&mut webhook, refused(0, false));
        assert_eq!(webhook.state, WebhookState::GivenUp);
        assert!(webhook.next_at <= seconds(), "when it ended");
        after(&mut once_more, Ok(()));
        assert_eq!(
            (once_more.state, once_more.error),
            (WebhookState::Delivered, None)
        );

        webhook.attempts = 0;
        webhook.state = WebhookState::Due;
        after(&mut webhook, refused(1_000, false));
        assert!(webhook.next_at - seconds() > 900);
        after(&mut webhook, refused(0, true));
        assert_eq!(webhook.state, WebhookState::GivenUp);
    }
}
