//! Files: those that OpenAI and its like take in a form, and the result files of all.

use std::sync::Arc;
use std::time::Duration;

use memchr::memmem;
use serde_json::{Value, json};

use super::life::{Batch, Phase};
use super::results::{self, Which};
use super::store::{File, Session, Store};
use super::wire::{self, Query};
use super::{BatchPoint, Desk, Outcome, Reply};
use crate::dialect::Dialect;
use crate::problems::Problem;
use crate::rules::Fault;
use crate::{Vendor, gemini};

const LARGEST: u64 = 512_000_000;

pub(super) fn file(desk: &Desk<'_>, id: &str) -> Outcome {
    desk.with(|store, _| {
        let file = store
            .file(desk.dialect, id)
            .ok_or_else(|| desk.no_file(id))?;
        file.looked_at = true;
        Ok(Reply::Json(wire::file(desk, file), None))
    })
}

pub(super) fn upload(desk: &Desk<'_>, body: &[u8]) -> Outcome {
    let form = multipart(desk.header("content-type"), body)?;
    let purpose = match form.purpose {
        Some(purpose) => purpose,
        // xAI's files have no purpose of need.
        None if desk.dialect == Dialect::OpenAi(Some(Vendor::Xai)) => String::new(),
        None => return Err(Fault::missing("purpose").into()),
    };
    if !matches!(purpose.as_str(), "" | "batch") {
        let message = format!("'{purpose}' is not a purpose the simulator knows; try 'batch'.");
        return Err(Fault::invalid("purpose", message).into());
    }
    let (name, content) = form.file.ok_or_else(|| Fault::missing("file"))?;
    if !name.ends_with(".jsonl") || content.is_empty() {
        let message =
            "Invalid file: a file for batches is not empty, and its name ends in '.jsonl'.";
        return Err(Fault::invalid("file", message).into());
    }
    let most = desk.wire.max_bytes.min(LARGEST);
    if content.len() as u64 > most {
        let message = format!("The file is larger than {most} bytes.");
        return Err(Problem::bad(413, message));
    }
    desk.pass(BatchPoint::UploadArrived);
    let shown = desk.with(|store, now| {
        let file = File {
            id: desk.file_id(store.fresh()),
            dialect: desk.dialect,
            name,
            purpose,
            created: now,
            content: Arc::from(content),
            looked_at: false,
        };
        wire::file(desk, store.add(file))
    });
    desk.pass(BatchPoint::UploadDone);
    Ok(Reply::Json(shown, None))
}

/// Which results are in the file of this id, if it is one of the batch that is still there.
fn in_file(desk: &Desk<'_>, batch: &Batch, id: &str, now: Duration) -> Option<Which> {
    let ended = batch.ended(now, desk.batches())?;
    let is_gone = !desk.is_kept(ended, now) || batch.deleted_files.iter().any(|gone| gone == id);
    if !batch.is_of(desk.dialect) || is_gone {
        return None;
    }
    let [answers, errors] = batch.has_results();
    let files = match desk.dialect {
        Dialect::Gemini => {
            let has_ended = batch.phase(now, desk.batches()) == Phase::Ended;
            vec![(Which::All, "", has_ended)]
        }
        _ => vec![
            (Which::Answers, "output", answers),
            (Which::Errors, "error", errors),
        ],
    };
    let is_it = |kind: &str| desk.results_id(&batch.id, kind) == id;
    let mut files = files.into_iter();
    let found = files.find(|(_, kind, there)| *there && is_it(kind));
    found.map(|(which, ..)| which)
}

/// A result file as a download; input files are not given out.
pub(super) fn content(desk: &Desk<'_>, id: &str) -> Outcome {
    desk.with(|store, now| {
        let mut batches = store.batches.iter().enumerate();
        let found = batches.find_map(|(at, batch)| Some((at, in_file(desk, batch, id, now)?)));
        let (place, which) = found.ok_or_else(|| desk.no_file(id))?;
        let spoiled = store.next_download();
        Ok(results::download(
            desk,
            &store.batches[place],
            which,
            spoiled,
        ))
    })
}

pub(super) fn delete(desk: &Desk<'_>, id: &str) -> Outcome {
    desk.pass(BatchPoint::DeleteArrived);
    let deleted = desk.with(|store, now| {
        if store.delete_file(desk.dialect, id) {
            return true;
        }
        let mut batches = store.batches.iter_mut();
        let owner = batches.find(|batch| in_file(desk, batch, id, now).is_some());
        owner
            .map(|batch| batch.deleted_files.push(id.to_owned()))
            .is_some()
    });
    desk.pass(BatchPoint::DeleteDone);
    if !deleted {
        return Err(desk.no_file(id));
    }
    Desk::deleted(&desk.wire.deleted_file, id)
}

pub(super) fn upload_parts(desk: &Desk<'_>, query: &Query, body: &[u8]) -> Outcome {
    match query.get("upload_id") {
        None => start(desk, body),
        Some(id) => receive(desk, id, body),
    }
}

/// Rejects an upload whose header of this name has another value.
fn has(desk: &Desk<'_>, name: &str, value: &str) -> Result<(), Problem> {
    let name = format!("x-goog-upload-{name}");
    if desk.header(&name) == value {
        return Ok(());
    }
    let message = format!("The header {name} must be '{value}'.");
    Err(Problem::bad(400, message))
}

fn start(desk: &Desk<'_>, body: &[u8]) -> Outcome {
    let media = ("header-content-type", "application/jsonl");
    for (name, value) in [("protocol", "resumable"), ("command", "start"), media] {
        has(desk, name, value)?;
    }
    let size = desk.header("x-goog-upload-header-content-length").parse();
    let size: u64 =
        size.map_err(|_| Problem::bad(400, "The length of the upload is not a number."))?;
    if size > desk.wire.max_bytes {
        return Err(Problem::bad(413, "The file is too large."));
    }
    let root = gemini::read(body, "upload")?;
    let file = &root["file"];
    let name = file["name"].as_str();
    if name.is_some_and(|name| !is_name(name)) {
        let message = "* CreateFileRequest.file.name: must be files/ and up to 40 lower-case \
                       letters, digits and inner dashes\n";
        return Err(Fault::invalid("file.name", message).into());
    }
    let id = desk.with(|store, now| {
        let fresh = desk.file_id(store.fresh());
        let file = File {
            id: name.map_or(fresh, str::to_owned),
            dialect: Dialect::Gemini,
            name: file["displayName"].as_str().unwrap_or_default().to_owned(),
            purpose: String::new(),
            created: now,
            content: Arc::default(),
            looked_at: false,
        };
        is_free(store, &file.id)?;
        let id = format!("{:016x}", store.fresh());
        store.sessions.push(Session {
            id: id.clone(),
            size,
            file,
        });
        Ok::<_, Problem>(id)
    })?;
    let host = desk.header("host");
    let url = format!("http://{host}/upload/v1beta/files?upload_id={id}&upload_protocol=resumable");
    Ok(Reply::Json(Value::Null, Some(("x-goog-upload-url", url))))
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.strip_prefix("files/").is_some_and(|id| {
        let is_inner = !id.starts_with('-') && !id.ends_with('-');
        (1..=40).contains(&id.len()) && id.bytes().all(plain) && is_inner
    })
}

fn is_free(store: &mut Store, name: &str) -> Result<(), Problem> {
    match store.file(Dialect::Gemini, name) {
        Some(_) => Err(Problem::told(409, format!("File {name} already exists."))),
        None => Ok(()),
    }
}

fn receive(desk: &Desk<'_>, id: &str, body: &[u8]) -> Outcome {
    // It is received in one piece.
    has(desk, "command", "upload, finalize")?;
    has(desk, "offset", "0")?;
    desk.pass(BatchPoint::UploadArrived);
    let shown = desk.with(|store, now| {
        let place = store.sessions.iter().position(|session| session.id == id);
        let place = place.ok_or_else(|| Problem::told(404, "There is no such upload."))?;
        let Session { size, mut file, .. } = store.sessions.remove(place);
        if body.len() as u64 != size {
            let message = "The upload is not as long as was announced.";
            return Err(Problem::bad(400, message));
        }
        is_free(store, &file.id)?;
        (file.created, file.content) = (now, Arc::from(body));
        Ok(wire::file(desk, store.add(file)))
    })?;
    desk.pass(BatchPoint::UploadDone);
    let header = ("x-goog-upload-status", "final".to_owned());
    Ok(Reply::Json(json!({"file": shown}), Some(header)))
}

/// The parts of an upload.
#[derive(Debug, Default)]
struct Form<'b> {
    purpose: Option<String>,
    /// The name of the file, and its content.
    file: Option<(String, &'b [u8])>,
}

/// Parses a `multipart/form-data` body with this content type.
fn multipart<'b>(kind: &str, body: &'b [u8]) -> Result<Form<'b>, Problem> {
    let broken = || Problem::bad(400, "The body must be multipart/form-data with a boundary.");
    let kind = kind
        .strip_prefix("multipart/form-data")
        .ok_or_else(broken)?;
    let (_, boundary) = kind.split_once("boundary=").ok_or_else(broken)?;
    let boundary = boundary.split(';').next().unwrap_or_default();
    let limit = format!("\r\n--{}", boundary.trim_matches('"'));
    let mut at = limit.len() - 2;
    if !body.starts_with(&limit.as_bytes()[2..]) {
        return Err(broken());
    }
    let mut form = Form::default();
    while !body[at..].starts_with(b"--") {
        let head_end = memmem::find(&body[at..], b"\r\n\r\n").ok_or_else(broken)? + at;
        let start = head_end + 4;
        let end = memmem::find(&body[start..], limit.as_bytes()).ok_or_else(broken)? + start;
        let head = String::from_utf8_lossy(&body[at..head_end]);
        match (parameter(&head, "name"), parameter(&head, "filename")) {
            (Some("file"), Some(name)) => form.file = Some((name.to_owned(), &body[start..end])),
            (Some("purpose"), None) => {
                form.purpose = Some(String::from_utf8_lossy(&body[start..end]).into_owned());
            }
            (name, _) => return Err(Fault::unknown(name.unwrap_or_default()).into()),
        }
        at = end + limit.len();
    }
    Ok(form)
}

/// `x` of `; name="x"`, in the head of a part.
fn parameter<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut parts = head.split([';', '\r', '\n']).map(str::trim);
    parts.find_map(|part| {
        let value = part.strip_prefix(name)?.strip_prefix('=')?;
        Some(value.trim_matches('"'))
    })
}
