//! Files as Google takes them: in two requests, under a name of the caller's choice.

use std::sync::Arc;

use serde_json::json;

use super::form::Query;
use super::life::Blob;
use super::send::Reply;
use super::store::{File, Inner, Session};
use super::{BatchPoint, Desk, Family, Outcome, Refusal, names, show};
use crate::http::find;
use crate::objects;
use crate::prompt::Fault;
use crate::tree::Spelling;

const STATUS: &str = "x-goog-upload-status";

pub(super) fn upload(desk: &Desk<'_>, query: &Query, body: Vec<u8>) -> Outcome {
    match query.get("upload_id") {
        None => start(desk, &body),
        Some(id) => receive(desk, id, body),
    }
}

fn wanted<'a>(desk: &Desk<'a>, name: &str) -> Result<&'a str, Refusal> {
    let value = find(desk.headers, name);
    value.ok_or_else(|| Refusal::bad(400, format!("The header {name} is missing.")))
}

fn start(desk: &Desk<'_>, body: &[u8]) -> Outcome {
    for (name, value) in [
        ("x-goog-upload-protocol", "resumable"),
        ("x-goog-upload-command", "start"),
    ] {
        if wanted(desk, name)? != value {
            return Err(Refusal::bad(
                400,
                format!("The header {name} must be '{value}'."),
            ));
        }
    }
    wanted(desk, "x-goog-upload-header-content-type")?;
    let size = wanted(desk, "x-goog-upload-header-content-length")?;
    let size: u64 = size
        .parse()
        .map_err(|_| Refusal::bad(400, "The length of the upload is not a number."))?;
    if size > desk.family.max_bytes(desk.batches()) {
        return Err(Refusal::bad(413, "The file is too large."));
    }
    let value = desk.json(body)?;
    let root = objects::request(&value, Spelling::Protobuf, "gemini", "upload")?;
    let file = root.object("file")?;
    let (mut name, mut display_name) = (None, String::new());
    if let Some(file) = &file {
        display_name = file.text("displayName")?.unwrap_or_default().to_owned();
        name = file.text("name")?;
        if name.is_some_and(|name| !is_name(name)) {
            let message = "* CreateFileRequest.file.name: must be files/ and up to 40 lower-case \
                           letters, digits and inner dashes\n";
            return Err(Fault::invalid("file.name", message).into());
        }
    }
    let id = desk.with(|inner, _| {
        let name = match name {
            Some(name) => name.to_owned(),
            None => names::file(Family::Gemini, inner.fresh()),
        };
        is_free(inner, &name)?;
        let id = format!("{:016x}", inner.fresh());
        inner.sessions.push(Session {
            id: id.clone(),
            name,
            display_name,
            size,
        });
        Ok::<_, Refusal>(id)
    })?;
    let host = desk.header("host");
    let url = format!("http://{host}/upload/v1beta/files?upload_id={id}&upload_protocol=resumable");
    Ok(Reply::Headed(("x-goog-upload-url", url), None))
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.strip_prefix("files/").is_some_and(|id| {
        (1..=40).contains(&id.len())
            && id.bytes().all(plain)
            && !id.starts_with('-')
            && !id.ends_with('-')
    })
}

fn is_free(inner: &Inner, name: &str) -> Result<(), Refusal> {
    match inner.file(name) {
        Some(_) => Err(Refusal::told(409, format!("File {name} already exists."))),
        None => Ok(()),
    }
}

fn receive(desk: &Desk<'_>, id: &str, body: Vec<u8>) -> Outcome {
    if wanted(desk, "x-goog-upload-command")? != "upload, finalize" {
        let message = "The simulator receives a file in one piece.";
        return Err(Refusal::bad(400, message));
    }
    wanted(desk, "x-goog-upload-offset")?;
    let gone = || Refusal::told(404, "There is no such upload.");
    desk.pass(BatchPoint::UploadArrived);
    let shown = desk.with(|inner, now| {
        let mut sessions = inner.sessions.iter_mut();
        let place = sessions
            .position(|session| session.id == id)
            .ok_or_else(gone)?;
        let session = inner.sessions.remove(place);
        if body.len() as u64 != session.size {
            return Err(Refusal::bad(
                400,
                "The upload is not as long as was announced.",
            ));
        }
        is_free(inner, &session.name)?;
        inner.counts.files_uploaded += 1;
        inner.files.push(File {
            id: session.name,
            family: Family::Gemini,
            name: session.display_name,
            purpose: String::new(),
            created: now,
            blob: Arc::new(Blob::whole(body)),
            looked_at: false,
        });
        let file = &inner.files[inner.files.len() - 1];
        Ok::<_, Refusal>(show::file(desk, file))
    })?;
    desk.pass(BatchPoint::UploadDone);
    let shown = json!({"file": shown});
    Ok(Reply::Headed((STATUS, "final".to_owned()), Some(shown)))
}
