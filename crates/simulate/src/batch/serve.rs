//! Handles requests about batches; `rules/batches.json` has the routes and lists of each API.

use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use super::form::Query;
use super::results::{Results, Which};
use super::store::Spoiled;
use super::wire::Action;
use super::{BatchPoint, Desk, Family, Outcome, Refusal, Reply, files, intake, wire};
use crate::reply::Head;
use crate::serve::Shared;

/// Handles a request.
pub(super) fn serve(desk: &Desk<'_>, body: Vec<u8>) -> Outcome {
    let (method, path) = (&desk.request.method, &desk.request.path);
    let routes = desk.wire().routes.iter();
    let mut routes = routes.filter(|route| route.method == *method);
    let found = routes.find_map(|route| Some((route, route.id(path)?)));
    let (route, id) = found.ok_or(Refusal::Nowhere)?;
    let query = Query::read(&desk.request.query, &route.query)?;
    match route.action {
        Action::Upload => files::upload(desk, body),
        Action::UploadParts => files::upload_parts(desk, &query, body),
        Action::File => files::file(desk, id),
        Action::Content => files::content(desk, id),
        Action::DeleteFile => files::delete(desk, id),
        Action::Create if desk.family == Family::Anthropic => intake::inline(desk, body),
        Action::Create => intake::from_file(desk, id, &body),
        Action::List => list(desk, &query),
        Action::Status => status(desk, id),
        Action::Cancel => cancel(desk, id),
        Action::Delete => delete(desk, id),
        Action::Results => results(desk, id),
        Action::ResultPage => result_page(desk, id, &query),
    }
}

fn status(desk: &Desk<'_>, id: &str) -> Outcome {
    desk.pass(BatchPoint::StatusArrived);
    desk.with(|inner, now| {
        inner.counts.statuses += 1;
        let batch = inner.batch(desk.family, id)?;
        Ok(Reply::Json(desk.show(batch, now)))
    })
}

/// Cancels a batch that is not over.
fn cancel(desk: &Desk<'_>, id: &str) -> Outcome {
    desk.pass(BatchPoint::CancelArrived);
    let told = desk.with(|inner, now| {
        inner.counts.cancels += 1;
        let batch = inner.batch(desk.family, id)?;
        let phase = batch.phase(now, desk.batches());
        if phase.is_over() {
            let message = format!("Cannot cancel a batch with status '{}'.", phase.name());
            return Err(Refusal::told(400, message));
        }
        batch.cancelled.get_or_insert(now);
        Ok(match desk.family {
            Family::Gemini => json!({}),
            _ => desk.show(batch, now),
        })
    })?;
    desk.pass(BatchPoint::CancelDone);
    Ok(Reply::Json(told))
}

fn list(desk: &Desk<'_>, query: &Query) -> Outcome {
    desk.pass(BatchPoint::ListArrived);
    desk.with(|inner, now| {
        inner.counts.lists += 1;
        let batches = inner.listed(desk.family, now, desk.batches());
        let paging = &desk.wire().batches;
        let ids: Vec<_> = batches.iter().map(|batch| batch.id.clone()).collect();
        let (range, mut facts) = paging.find(query, &ids)?;
        let full = desk.family != Family::Gemini;
        let shown = batches[range].iter();
        let shown: Vec<_> = shown
            .map(|batch| wire::batch(desk, batch, now, full))
            .collect();
        facts.set("data", shown);
        Ok(Reply::Json(facts.fill(&paging.reply)))
    })
}

fn delete(desk: &Desk<'_>, id: &str) -> Outcome {
    desk.pass(BatchPoint::DeleteArrived);
    desk.with(|inner, now: Duration| {
        let batch = inner.batch(desk.family, id)?;
        let has_ended = batch.ended(now, desk.batches()).is_some();
        if desk.family == Family::Anthropic && !has_ended {
            let message = format!("Batch {id} has not ended; cancel it first.");
            return Err(Refusal::bad(400, message));
        }
        batch.deleted = true;
        Ok(())
    })?;
    desk.pass(BatchPoint::DeleteDone);
    Desk::deleted(&desk.wire().deleted_batch, id)
}

/// The results of a batch that has a download of its own.
fn results(desk: &Desk<'_>, id: &str) -> Outcome {
    desk.with(
        |inner, now| match inner.batch(desk.family, id)?.ended(now, desk.batches()) {
            None => {
                let message = format!("Batch {id} has no available results.");
                Err(Refusal::bad(404, message))
            }
            Some(ended) if !desk.is_kept(ended, now) => {
                let message = format!("The results of batch {id} are gone.");
                Err(Refusal::told(404, message))
            }
            Some(_) => {
                let spoiled = inner.next_download();
                let batch = inner.batch(desk.family, id)?;
                Ok(files::download(desk, batch, Which::All, spoiled))
            }
        },
    )
}

/// A page of a batch's results.
fn result_page(desk: &Desk<'_>, id: &str, query: &Query) -> Outcome {
    desk.with(|inner, now| {
        let spoiled = inner.next_download();
        let batch = inner.batch(desk.family, id)?;
        let ended = batch.ended(now, desk.batches());
        if ended.is_some_and(|ended| !desk.is_kept(ended, now)) {
            return Err(Refusal::missing("batch result", id));
        }
        let results = Results::new(batch, desk, Which::All);
        let paging = desk.wire().parts.as_ref().ok_or(Refusal::Nowhere)?;
        let places: Vec<_> = (0..results.len()).map(|place| place.to_string()).collect();
        let (mut range, mut facts) = paging.find(query, &places)?;
        if spoiled == Spoiled::Short {
            range.end = range.start + range.len() * 2 / 3;
        }
        // Each result is JSON already, and is put in the place of its number.
        facts.set("data", range.clone().collect::<Vec<_>>());
        let page = facts.fill(&paging.reply).to_string();
        let (before, rest) = page.split_once('[').unwrap_or_default();
        let (_, behind) = rest.split_once(']').unwrap_or_default();
        let lines: Vec<_> = range.map(|line| results.line(line)).collect();
        let page = [
            before.as_bytes(),
            b"[",
            &lines.join(&b','),
            b"]",
            behind.as_bytes(),
        ];
        Ok(Reply::Download("application/json", page.concat(), spoiled))
    })
}

/// Sends a download, head and all. An error means that the connection is over.
pub(super) fn download(
    shared: &Shared,
    mut stream: &TcpStream,
    head: &Head,
    bytes: &[u8],
    spoiled: Spoiled,
) -> io::Result<()> {
    let mut out = Vec::new();
    head.write_for(&mut out, bytes.len());
    stream.write_all(&out)?;
    let (first, second) = bytes.split_at(bytes.len() / 2);
    stream.write_all(first)?;
    shared.gate.reach(BatchPoint::DownloadHalf);
    if spoiled == Spoiled::Cut {
        return Err(ErrorKind::ConnectionAborted.into());
    }
    stream.write_all(second)
}
