//! Webhooks: whoever asked for it is told of the end of a process, signed as Standard Webhooks has it, again and again
//! until it is taken. What is to be told is in `server.db`, so that it outlives the server.

mod delivery;
mod signature;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use batchwright::ProcessId;
use serde::Deserialize;
use serde_json::{Value, json};
use ureq::http::Uri;

use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::records::files::{new_id, now};
use crate::records::webhooks::{Webhook, WebhookState};
use crate::router::Route;
use crate::tokens::Access::{Change, Own};
use batchwright::unstable::is_public_address;

pub(crate) use delivery::Deliveries;

/// What is answered here.
pub(crate) const ROUTES: &[Route] = &[
    Route::put("/api/v1/processes/{process_id}/webhook", Change, put),
    Route::get("/api/v1/processes/{process_id}/webhook", Own, get),
    Route::delete("/api/v1/processes/{process_id}/webhook", Change, delete),
];

/// Longest address.
const LONGEST: usize = 2048;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    url: String,
}

/// `PUT …/webhook`: takes the place of the one that was there, with another secret.
fn put(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let process: ProcessId = call.param("process_id")?;
    let asked: Asked = call.json()?;
    check(&asked.url, app.private_webhooks)
        .map_err(|why| Problem::invalid(format!("url: {why}")).param("url"))?;
    if app.queue.process(process)?.is_none() {
        let why = format!("the process {process} does not exist, or all its results were fetched");
        return Err(Problem::not_found(why));
    }
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|error| {
        Problem::new(
            500,
            "internal_error",
            format!("no secret can be made: {error}"),
        )
    })?;
    let webhook = Webhook {
        process,
        url: asked.url,
        secret: secret.to_vec(),
        message: new_id("msg_"),
        body: None,
        state: WebhookState::Waiting,
        attempts: 0,
        next_at: 0,
        error: None,
    };
    webhook.put(&mut app.records.single())?;
    app.webhooks.wake();
    let shown = json!({"url": webhook.url, "secret": format!("whsec_{}", STANDARD.encode(secret))});
    Ok(Response::json(201, &shown))
}

/// `GET …/webhook`: how far it has come. Its secret is told once, by the request that made it.
fn get(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let process = call.param("process_id")?;
    let found = Webhook::get(&mut app.records.single(), process)?;
    let webhook = found.ok_or_else(|| none(process))?;
    Ok(Response::json(200, &shown(&webhook)))
}

/// `DELETE …/webhook`: nobody is told.
fn delete(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let process = call.param("process_id")?;
    if Webhook::delete(&mut app.records.single(), process)? {
        Ok(Response::empty(204))
    } else {
        Err(none(process))
    }
}

fn none(process: ProcessId) -> Problem {
    Problem::not_found(format!("process {process} has no webhook"))
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
