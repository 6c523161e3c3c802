//! Webhooks: a program is notified of the end of a process, a job or a batch of `/v1`, by a message that is signed
//! according to Standard Webhooks and sent until it is accepted. Messages are in `server.db`, so they survive the server.

mod delivery;
mod senders;
mod signature;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use batchwright::ProcessId;
use batchwright::unstable::is_public_address;
use serde::Deserialize;
use serde_json::{Value, json};
use ureq::http::Uri;

use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::records::batches::BatchRecord;
use crate::records::files::{new_id, now};
use crate::records::webhooks::{Subject, Webhook, WebhookState};
use crate::router::Route;
use crate::tokens::Access::{Operate, Read};

pub(crate) use delivery::Deliveries;

/// The routes of this module. Those of batches are among the routes of `/v1`.
pub(crate) const ROUTES: &[Route] = &[
    Route::put("/api/v1/processes/{process_id}/webhook", Operate, put),
    Route::get("/api/v1/processes/{process_id}/webhook", Read, get),
    Route::delete("/api/v1/processes/{process_id}/webhook", Operate, delete),
    Route::post(
        "/api/v1/processes/{process_id}/webhook/resend",
        Operate,
        resend,
    ),
    Route::put("/api/v1/jobs/{job_id}/webhook", Operate, put),
    Route::get("/api/v1/jobs/{job_id}/webhook", Read, get),
    Route::delete("/api/v1/jobs/{job_id}/webhook", Operate, delete),
    Route::post("/api/v1/jobs/{job_id}/webhook/resend", Operate, resend),
];

/// The headers that name a webhook in a request that creates a process, a job or a batch. Unlike a query, headers are in
/// no access log.
const URL: &str = "x-batchwright-webhook";
const SECRET: &str = "x-batchwright-webhook-secret";
/// Longest address.
const LONGEST: usize = 2048;
/// Bytes of a secret, according to Standard Webhooks.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Where messages go, and the secret that signs them.
#[derive(Clone)]
pub(crate) struct Receiver {
    url: String,
    secret: Vec<u8>,
}

impl Receiver {
    /// Checks both; the names are those of the fields in which they came.
    fn new(
        app: &App,
        call: &Call<'_>,
        url: (&str, String),
        secret: (&str, Vec<u8>),
    ) -> Result<Self, Problem> {
        let invalid =
            |field: &str, why: String| Problem::invalid(format!("{field}: {why}")).param(field);
        check(&url.1, app.private_webhooks).map_err(|why| invalid(url.0, why))?;
        if !SECRET_BYTES.contains(&secret.1.len()) {
            let why = "write whsec_ and the base64 of 24 to 64 random bytes";
            return Err(invalid(secret.0, why.to_owned()));
        }
        Ok(Self {
            url: url.1,
            secret: secret.1,
        })
    }

    /// The receiver that the headers of a request name.
    ///
    /// # Errors
    /// When the address or the secret is invalid, or one of the two is missing.
    pub fn of(app: &App, call: &Call<'_>) -> Result<Option<Self>, Problem> {
        let (url, secret) = (call.head.header(URL), call.head.header(SECRET));
        let missing = match (url, secret) {
            (None, None) => return Ok(None),
            (None, Some(_)) => URL,
            (Some(_), None) => SECRET,
            (Some(url), Some(secret)) => {
                let (url, secret) = ((URL, url.to_owned()), (SECRET, decoded(secret)));
                let receiver = Self::new(app, call, url, secret)?;
                return Ok(Some(receiver));
            }
        };
        let why = format!("{missing}: a webhook needs its address and the secret of its receiver");
        Err(Problem::invalid(why).param(missing))
    }

    /// Its webhook for the end of this.
    pub fn webhook(&self, subject: Subject) -> Webhook {
        Webhook {
            subject,
            url: self.url.clone(),
            secret: self.secret.clone(),
            message: new_id("msg_"),
            body: None,
            state: WebhookState::Waiting,
            attempts: 0,
            next_at: 0,
            error: None,
        }
    }

    /// Records its webhook for the end of what was created, also if the request is repeated.
    ///
    /// # Errors
    /// When that cannot be written: the client repeats the request.
    pub fn attach(&self, app: &App, subject: Subject) -> Result<(), Problem> {
        self.webhook(subject).add(&mut app.records.single())?;
        app.webhooks.wake();
        Ok(())
    }
}

/// The bytes of a secret; none if it is invalid.
fn decoded(secret: &str) -> Vec<u8> {
    let bytes = secret
        .strip_prefix("whsec_")
        .map(|text| STANDARD.decode(text));
    bytes.and_then(Result::ok).unwrap_or_default()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    url: String,
    secret: Option<String>,
}

/// What the path of a request names.
fn subject(call: &Call<'_>) -> Result<Subject, Problem> {
    let is_named = |name| call.params.iter().any(|(known, _)| *known == name);
    Ok(if is_named("job_id") {
        Subject::Job(call.param("job_id")?)
    } else if is_named("batch_id") {
        Subject::Batch(call.param("batch_id")?)
    } else {
        Subject::Process(call.param("process_id")?)
    })
}

/// `PUT …/webhook`: replaces an earlier one. Without a secret, one is made, which only this reply contains.
pub(crate) fn put(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let subject = subject(call)?;
    let asked: Asked = call.json()?;
    let mut shown = json!({"url": asked.url});
    let secret = match &asked.secret {
        Some(secret) => decoded(secret),
        None => {
            let mut secret = vec![0; 32];
            getrandom::fill(&mut secret).map_err(|error| {
                let why = format!("no secret can be made: {error}");
                Problem::new(500, "internal_error", why)
            })?;
            shown["secret"] = json!(format!("whsec_{}", STANDARD.encode(&secret)));
            secret
        }
    };
    let receiver = Receiver::new(app, call, ("url", asked.url), ("secret", secret))?;
    let is_there = match &subject {
        Subject::Process(id) => app.queue.process(*id)?.is_some(),
        Subject::Job(id) => app.queue.job(*id)?.is_some(),
        Subject::Batch(id) => BatchRecord::get(&mut app.records.single(), id)?.is_some(),
        Subject::Former(_) => false,
    };
    if !is_there {
        let why = format!("{subject} does not exist, or its results were fetched");
        return Err(Problem::not_found(why));
    }
    receiver.webhook(subject).put(&mut app.records.single())?;
    app.webhooks.wake();
    Ok(Response::json(201, &shown))
}

/// Frees the id of a deleted process for a new one. The two may have different owners: neither gets the webhook of the
/// other, its address or messages that its secret signs. To be called when all else allows the new process.
pub(crate) fn free_id(app: &App, process: ProcessId) -> Result<(), Problem> {
    let subject = Subject::Process(process);
    let former = Webhook::get(&mut app.records.single(), &subject)?;
    // Checked after the webhook was read: the process of a newer one exists.
    if app.queue.process(process)?.is_some() {
        return Ok(());
    }
    let Some(former) = former else {
        return Ok(());
    };
    let body = match &former.body {
        Some(body) => body.clone(),
        None => delivery::message(app, &subject)?
            .unwrap_or_default()
            .to_string(),
    };
    former.set_aside(&body, &mut app.records.single())?;
    app.webhooks.wake();
    Ok(())
}

fn find(app: &App, subject: &Subject) -> Result<Webhook, Problem> {
    let found = Webhook::get(&mut app.records.single(), subject)?;
    found.ok_or_else(|| none(subject))
}

/// `GET …/webhook`: how far it has come, without its secret.
pub(crate) fn get(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let webhook = find(app, &subject(call)?)?;
    Ok(Response::json(200, &shown(&webhook)))
}

/// `DELETE …/webhook`: sends nothing more.
pub(crate) fn delete(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let subject = subject(call)?;
    if Webhook::delete(&mut app.records.single(), &subject)? {
        Ok(Response::empty(204))
    } else {
        Err(none(&subject))
    }
}

/// `POST …/webhook/resend`: sends the message again, whether or not it was accepted.
pub(crate) fn resend(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let subject = subject(call)?;
    if !Webhook::send_again(&mut app.records.single(), &subject)? {
        find(app, &subject)?;
        let why = format!("{subject} has not ended, so there is no message to send");
        return Err(Problem::conflict(why));
    }
    app.webhooks.wake();
    let webhook = find(app, &subject)?;
    Ok(Response::json(202, &shown(&webhook)))
}

fn none(subject: &Subject) -> Problem {
    Problem::not_found(format!("{subject} has no webhook"))
}

fn shown(webhook: &Webhook) -> Value {
    let next = i64::try_from(now()).map_or(0, |now| (webhook.next_at - now).max(0));
    let is_due = webhook.state == WebhookState::Due;
    json!({
        "url": webhook.url,
        "state": webhook.state.as_str(),
        "attempts": webhook.attempts,
        "next_in_seconds": is_due.then_some(next),
        "error": webhook.error,
    })
}

/// Why nothing can be sent there.
fn check(url: &str, private: bool) -> Result<(), String> {
    let uri: Uri = url.parse().map_err(|_| "that is no address".to_owned())?;
    let host = uri.host().unwrap_or_default();
    if url.len() > LONGEST || host.is_empty() {
        return Err(format!(
            "write an address with a host, of at most {LONGEST} characters"
        ));
    }
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if private => {}
        _ if private => {
            return Err("write an address that begins with https:// or http://".to_owned());
        }
        _ => {
            return Err("write an address that begins with https://".to_owned());
        }
    }
    if uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return Err("an address with a password in it is not kept".to_owned());
    }
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse();
    if !private && literal.is_ok_and(|address| !is_public_address(address)) {
        return Err(format!(
            "{host} is not a public address, and this server sends only to public ones"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_places_are_sent_to_unless_the_server_allows_others() {
        assert_eq!(check("https://example.com/hook?a=b", false), Ok(()));
        assert_eq!(check("https://[2606:4700::1111]:8443/", false), Ok(()));
        for url in [
            "http://example.com/",
            "ftp://example.com/",
            "https:///x",
            "/x",
            "https://user:pass@example.com/",
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://169.254.169.254/latest",
        ] {
            assert!(check(url, false).is_err(), "{url}");
        }
        assert_eq!(check("http://127.0.0.1:80/", true), Ok(()));
        assert!(check("ftp://127.0.0.1/", true).is_err());
        assert!(
            check(
                &format!("https://example.com/{}", "x".repeat(LONGEST)),
                true
            )
            .is_err()
        );
    }
}
