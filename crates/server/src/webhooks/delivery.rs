//! The thread that tells: it looks which processes have ended, sends, and writes down what came of it.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use batchwright::unstable::PublicResolver;
use log::{info, warn};
use serde_json::json;
use ureq::Agent;
use ureq::unversioned::transport::DefaultConnector;

use super::signature::signature;
use crate::app::App;
use crate::background::{Background, Wake};
use crate::problem::Problem;
use crate::records::files::now;
use crate::records::webhooks::{Webhook, WebhookState};
use crate::shapes;

/// What one server at a time does: a lock in the data folder.
const ROLE: &str = "webhooks.lock";
/// How often it looks while something is to be told, and otherwise.
const LOOK: Duration = Duration::from_millis(500);
const REST: Duration = Duration::from_secs(30);
/// How long a try may take in all: the others wait meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long after each try the next one comes, in seconds: 2 days in all.
const AGAIN: [i64; 9] = [2, 30, 120, 600, 3_600, 10_800, 28_800, 57_600, 86_400];

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
    let stopped = || app.webhooks.is_stopped();
    let mut clean_at = Instant::now();
    while waits_to_be_alone(app) {
        if Instant::now() >= clean_at {
            clean_at = Instant::now() + CLEAN;
            let cleaned = Webhook::forget_ended(&mut app.records.single(), seconds() - KEPT);
            if let Err(error) = cleaned {
                warn!("old webhooks stay: {error}");
            }
        }
        let open = Webhook::open(&mut app.records.single());
        let open = open.unwrap_or_else(|error| {
            warn!("webhooks cannot be read: {error}");
            Vec::new()
        });
        for webhook in &open {
            if stopped() {
                break;
            }
            if let Err(problem) = bring_on(app, agent, webhook.clone()) {
                warn!(
                    "the webhook of process {} is delayed: {problem}",
                    webhook.process
                );
            }
        }
        // Only the server that received the request wakes its thread.
        let is_woken = !app.records.is_shared();
        let rest = if open.is_empty() && is_woken {
            REST
        } else {
            LOOK
        };
        app.webhooks.wait(rest);
    }
}

/// Waits until no other server sends: each message would come twice. False once this one is to end.
fn waits_to_be_alone(app: &App) -> bool {
    while !app.webhooks.is_stopped() {
        match app.records.has_role(ROLE) {
            Ok(true) => return true,
            Ok(false) => {}
            Err(error) => warn!("webhooks wait: {error}"),
        }
        let shared = app.records.is_shared();
        app.webhooks.wait(if shared { LOOK } else { REST });
    }
    app.records.leave_role(ROLE);
    false
}

fn bring_on(app: &App, agent: &Agent, mut webhook: Webhook) -> Result<(), Problem> {
    if webhook.state == WebhookState::Waiting {
        let data = match app.queue.process(webhook.process)? {
            Some(process) if !process.is_finished() => return Ok(()),
            Some(process) => shapes::process(&process, None),
            // Somebody was quicker and has taken all its results.
            None => json!({"process_id": webhook.process, "state": "consumed"}),
        };
        let told = json!({
            "type": "process.finished",
            "timestamp": shapes::time::text(shapes::now()),
            "data": data,
        });
        webhook.body = Some(told.to_string());
        webhook.state = WebhookState::Due;
        webhook.update(&mut app.records.single())?;
    }
    if webhook.next_at > seconds() {
        return Ok(());
    }
    // It was listed before the tries of the others, which take their time.
    let known = Webhook::get(&mut app.records.single(), webhook.process)?;
    if known
        .is_none_or(|known| known.message != webhook.message || known.state != WebhookState::Due)
    {
        return Ok(());
    }
    if !app.records.has_role(ROLE)? {
        return Ok(());
    }
    let sent = send(agent, &webhook);
    if app.webhooks.is_stopped() && sent.is_err() {
        // It was cut off by the server's own end.
        return Ok(());
    }
    after(&mut webhook, sent);
    webhook.update(&mut app.records.single())?;
    Ok(())
}

/// What a try leads to.
fn after(webhook: &mut Webhook, sent: Result<(), Refused>) {
    webhook.attempts += 1;
    let process = webhook.process;
    match sent {
        Ok(()) => {
            info!("the webhook of process {process} was delivered");
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
            warn!(
                "the webhook of process {process}, try {tries}: {}",
                refused.why
            );
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
        wait: wait.map_or(0, |wait: i64| wait.clamp(0, 86_400)),
        // Gone: nobody wants to be told any more.
        for_good: status.as_u16() == 410,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use batchwright::ProcessId;

    #[test]
    fn a_message_is_tried_ever_more_rarely_and_given_up_in_the_end() {
        let mut webhook = Webhook {
            process: ProcessId::new(),
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
