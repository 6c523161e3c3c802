//! Files as Google takes them: in two requests, under a name of the caller's choice.

use std::sync::Arc;

use serde_json::json;

use super::form::Query;
use super::life::Blob;
use super::store::{File, Inner, Session};
use super::{BatchPoint, Desk, Family, Outcome, Refusal, Reply, show};
use crate::fault::Fault;
use crate::gemini;

pub(super) fn upload(desk: &Desk<'_>, query: &Query, body: Vec<u8>) -> Outcome {
    match query.get("upload_id") {
        None => start(desk, &body),
        Some(id) => receive(desk, id, body),
    }
}

fn has(desk: &Desk<'_>, name: &str, value: &str) -> Result<(), Refusal> {
    if desk.header(name) == value {
        Ok(())
    } else {
        Err(Refusal::bad(
            400,
            format!("The header {name} must be '{value}'."),
        ))
    }
}

fn start(desk: &Desk<'_>, body: &[u8]) -> Outcome {
    has(desk, "x-goog-upload-protocol", "resumable")?;
    has(desk, "x-goog-upload-command", "start")?;
    has(
        desk,
        "x-goog-upload-header-content-type",
        "application/jsonl",
    )?;
    let size = desk.header("x-goog-upload-header-content-length").parse();
    let size: u64 =
        size.map_err(|_| Refusal::bad(400, "The length of the upload is not a number."))?;
    if size > desk.wire().max_bytes {
        return Err(Refusal::bad(413, "The file is too large."));
    }
    let root = gemini::read(body, "upload")?;
    let file = &root["file"];
    let name = file["name"].as_str();
    if name.is_some_and(|name| !is_name(name)) {
        let message = "* CreateFileRequest.file.name: must be files/ and up to 40 lower-case \
                       letters, digits and inner dashes\n";
        return Err(Fault::invalid("file.name", message).into());
    }
    let id = desk.with(|inner, _| {
        let fresh = Family::Gemini.file_id(inner.fresh());
        let session = Session {
            id: format!("{:016x}", inner.fresh()),
            name: name.map_or(fresh, str::to_owned),
            display_name: file["displayName"].as_str().unwrap_or_default().to_owned(),
            size,
        };
        is_free(inner, &session.name)?;
        let id = session.id.clone();
        inner.sessions.push(session);
        Ok::<_, Refusal>(id)
    })?;
    let host = desk.header("host");
    let url = format!("http://{host}/upload/v1beta/files?upload_id={id}&upload_protocol=resumable");
    Ok(Reply::Headed(("x-goog-upload-url", url), None))
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.strip_prefix("files/").is_some_and(|id| {
        let is_inner = !id.starts_with('-') && !id.ends_with('-');
        (1..=40).contains(&id.len()) && id.bytes().all(plain) && is_inner
    })
}

fn is_free(inner: &mut Inner, name: &str) -> Result<(), Refusal> {
    match inner.file(Family::Gemini, name) {
        Some(_) => Err(Refusal::told(409, format!("File {name} already exists."))),
        None => Ok(()),
    }
}

fn receive(desk: &Desk<'_>, id: &str, body: Vec<u8>) -> Outcome {
    // It is received in one piece.
    has(desk, "x-goog-upload-command", "upload, finalize")?;
    has(desk, "x-goog-upload-offset", "0")?;
    desk.pass(BatchPoint::UploadArrived);
    let shown = desk.with(|inner, now| {
        let place = inner.sessions.iter().position(|session| session.id == id);
        let place = place.ok_or_else(|| Refusal::told(404, "There is no such upload."))?;
        let session = inner.sessions.remove(place);
        if body.len() as u64 != session.size {
            let message = "The upload is not as long as was announced.";
            return Err(Refusal::bad(400, message));
        }
        is_free(inner, &session.name)?;
        let file = File {
            id: session.name,
            family: Family::Gemini,
            name: session.display_name,
            purpose: String::new(),
            created: now,
            blob: Arc::new(Blob::whole(body)),
            looked_at: false,
        };
        Ok(show::file(desk, inner.add(file)))
    })?;
    desk.pass(BatchPoint::UploadDone);
    let header = ("x-goog-upload-status", "final".to_owned());
    Ok(Reply::Headed(header, Some(json!({"file": shown}))))
}
