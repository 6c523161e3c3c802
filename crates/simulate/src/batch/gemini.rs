//! Files and batches as Google has them: a file comes in two requests under a name of the caller's
//! choice, and a batch is an operation that is done some day.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::form::{self, Query, header};
use super::intake::hours;
use super::life::{Blob, Phase, Plan};
use super::results::Which;
use super::send::Reply;
use super::store::{File, Inner, Session};
use super::{BatchPoint, Desk, Family, Outcome, Refusal, names, openai, show};
use crate::objects;
use crate::prompt::Fault;
use crate::tree::Spelling;

const STATUS: &str = "x-goog-upload-status";

pub(super) fn serve(desk: &Desk<'_>, body: Vec<u8>) -> Outcome {
    let path = desk.address.path.as_str();
    if path == "/upload/v1beta/files" {
        return match desk.method {
            "POST" => upload(desk, body),
            _ => Err(Refusal::Nowhere),
        };
    }
    if let Some(file) = path.strip_prefix("/download/v1beta/") {
        return match (desk.method, file.strip_suffix(":download")) {
            ("GET", Some(file)) => download(desk, file),
            _ => Err(Refusal::Nowhere),
        };
    }
    let path = path.strip_prefix("/v1beta/").unwrap_or_default();
    let model = path.strip_prefix("models/");
    if let Some(model) = model.and_then(|path| path.strip_suffix(":batchGenerateContent")) {
        return match desk.method {
            "POST" => create(desk, model, &body),
            _ => Err(Refusal::Nowhere),
        };
    }
    if !["batches", "files"].contains(&path) {
        desk.query("")?;
    }
    match (desk.method, path.split_once('/')) {
        ("GET", None) if path == "files" => list_files(desk),
        ("GET", None) if path == "batches" => list(desk),
        ("GET", Some(("files", _))) => {
            let file = desk.with(|inner, _| inner.file(path).map(|file| show::file(desk, file)));
            file.map(Reply::Json)
                .ok_or_else(|| Refusal::missing("file", path))
        }
        ("DELETE", Some(("files", _))) => delete_file(desk, path),
        ("GET", Some(("batches", _))) => {
            desk.status(path, |batch, now| show::batch(desk, batch, now, true))
        }
        ("DELETE", Some(("batches", _))) => delete(desk, path),
        ("POST", Some(("batches", _))) => match path.strip_suffix(":cancel") {
            Some(id) => desk.cancel(id, |_, _| json!({})),
            None => Err(Refusal::Nowhere),
        },
        _ => Err(Refusal::Nowhere),
    }
}

fn upload(desk: &Desk<'_>, body: Vec<u8>) -> Outcome {
    let query = desk.query("upload")?;
    match query.get("upload_id") {
        None => start(desk, &body),
        Some(id) => receive(desk, id, body),
    }
}

fn wanted<'a>(desk: &Desk<'a>, name: &str) -> Result<&'a str, Refusal> {
    let value = header(desk.address, name);
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
            return Err(Fault::invalid("file.name", "", message).into());
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
            bytes: Vec::new(),
        });
        Ok::<_, Refusal>(id)
    })?;
    let host = form::header(desk.address, "host").unwrap_or_default();
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
    let command = wanted(desk, "x-goog-upload-command")?;
    let last = match command {
        "upload" => false,
        "upload, finalize" => true,
        _ => {
            return Err(Refusal::bad(
                400,
                "The upload's command is not one of those known.",
            ));
        }
    };
    let offset = wanted(desk, "x-goog-upload-offset")?.parse::<u64>().ok();
    let gone = || Refusal::told(404, "There is no such upload.");
    if last {
        desk.pass(BatchPoint::UploadArrived);
    }
    let shown = desk.with(|inner, now| {
        let mut sessions = inner.sessions.iter_mut();
        let place = sessions
            .position(|session| session.id == id)
            .ok_or_else(gone)?;
        let session = &mut inner.sessions[place];
        if offset != Some(session.bytes.len() as u64) {
            return Err(Refusal::bad(400, "The upload goes on at another offset."));
        }
        if session.bytes.is_empty() {
            session.bytes = body;
        } else {
            session.bytes.extend_from_slice(&body);
        }
        if !last {
            return Ok(None);
        }
        let session = inner.sessions.remove(place);
        if session.bytes.len() as u64 != session.size {
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
            expires: None,
            blob: Arc::new(Blob::whole(session.bytes)),
            looked_at: false,
        });
        Ok(inner.files.last().map(|file| show::file(desk, file)))
    })?;
    let Some(shown) = shown else {
        return Ok(Reply::Headed((STATUS, "active".to_owned()), None));
    };
    desk.pass(BatchPoint::UploadDone);
    let shown = json!({"file": shown});
    Ok(Reply::Headed((STATUS, "final".to_owned()), Some(shown)))
}

/// Where a page begins and ends among so many things, and what asks for the next one.
fn page(query: &Query, most: usize, all: usize) -> Result<(usize, usize, Option<String>), Fault> {
    let size = query.whole("pageSize", 1..=most, most.min(50))?;
    let start = match query.get("pageToken") {
        None => 0,
        Some(token) => token
            .strip_prefix("from-")
            .and_then(|text| text.parse().ok())
            .filter(|start| *start <= all)
            .ok_or_else(|| Fault::invalid("pageToken", "", "The page token is invalid."))?,
    };
    let end = all.min(start + size);
    Ok((start, end, (end < all).then(|| format!("from-{end}"))))
}

/// An object with a list and a token, either of which is left out if there is none.
fn paged(name: &str, list: Vec<Value>, next: Option<String>) -> Reply {
    let mut shown = Map::new();
    if !list.is_empty() {
        shown.insert(name.to_owned(), list.into());
    }
    if let Some(next) = next {
        shown.insert("nextPageToken".to_owned(), next.into());
    }
    Reply::Json(shown.into())
}

fn list_files(desk: &Desk<'_>) -> Outcome {
    let query = desk.query("files")?;
    desk.with(|inner, _| {
        let files = inner.files.iter().rev();
        let files: Vec<_> = files.filter(|file| file.family == Family::Gemini).collect();
        let (start, end, next) = page(&query, 100, files.len())?;
        let shown = files[start..end].iter().map(|file| show::file(desk, file));
        Ok(paged("files", shown.collect(), next))
    })
}

/// The batch whose result file this is, if the file is still there.
fn owner(desk: &Desk<'_>, inner: &Inner, file: &str, now: Duration) -> Option<usize> {
    let mut batches = inner.batches.iter();
    batches.position(|batch| {
        let phase = batch.phase(now, desk.batches());
        let ended = batch.ended(now, desk.batches());
        batch.plan.family == Family::Gemini
            && phase == Phase::Ended
            && names::results(Family::Gemini, &batch.id, "") == file
            && ended.is_some_and(|ended| desk.is_kept(ended, now))
            && batch.deleted_files.is_empty()
    })
}

fn delete_file(desk: &Desk<'_>, name: &str) -> Outcome {
    desk.pass(BatchPoint::DeleteArrived);
    let deleted = desk.with(|inner, now| match owner(desk, inner, name, now) {
        Some(place) => {
            inner.batches[place].deleted_files.push(name.to_owned());
            true
        }
        None => inner.delete_file(name),
    });
    desk.pass(BatchPoint::DeleteDone);
    if !deleted {
        return Err(Refusal::missing("file", name));
    }
    Ok(Reply::Json(json!({})))
}

fn download(desk: &Desk<'_>, file: &str) -> Outcome {
    let query = desk.query("download")?;
    if query.get("alt") != Some("media") {
        return Err(Refusal::bad(400, "A download is asked for with alt=media."));
    }
    desk.with(|inner, now| {
        let place = owner(desk, inner, file, now);
        let place = place.ok_or_else(|| Refusal::missing("file", file))?;
        Ok(desk.results(inner, place, Which::All))
    })
}

fn create(desk: &Desk<'_>, model: &str, body: &[u8]) -> Outcome {
    desk.with(|inner, _| inner.counts.creates += 1);
    desk.pass(BatchPoint::CreateArrived);
    desk.query("")?;
    let value = desk.json(body)?;
    let root = objects::request(&value, Spelling::Protobuf, "gemini", "create")?;
    let batch = root.object("batch")?.ok_or_else(|| root.missing("batch"))?;
    let name = batch.text("displayName")?.unwrap_or_default();
    let config = batch
        .object("inputConfig")?
        .ok_or_else(|| batch.missing("inputConfig"))?;
    let input = config.text("fileName")?.unwrap_or_default();
    if !desk.config().knows_model(model) {
        return Err(Refusal::missing("model", model));
    }
    if !desk.with(|inner, _| inner.file(input).is_some()) {
        return Err(Refusal::missing("file", input));
    }
    let read = openai::read(desk, input, model);
    let plan = Plan {
        family: desk.family,
        version: desk.version,
        label: name.into(),
        model: model.to_owned(),
        endpoint: String::new(),
        window: hours(48),
        input: Some(input.to_owned()),
        sealed: true,
        requests: read.requests,
        failures: read.failures,
        tokens: read.tokens,
    };
    desk.create(plan, |batch, now| show::batch(desk, batch, now, true))
}

fn list(desk: &Desk<'_>) -> Outcome {
    desk.pass(BatchPoint::ListArrived);
    let query = desk.query("batches")?;
    desk.with(|inner, now| {
        inner.counts.lists += 1;
        let batches = inner.listed(desk.family, now, desk.batches());
        let (start, end, next) = page(&query, 100, batches.len())?;
        let shown = batches[start..end].iter();
        let shown = shown.map(|batch| show::batch(desk, batch, now, false));
        Ok(paged("operations", shown.collect(), next))
    })
}

fn delete(desk: &Desk<'_>, id: &str) -> Outcome {
    desk.pass(BatchPoint::DeleteArrived);
    desk.with(|inner, _| {
        let place = inner.batch(desk.family, id);
        let place = place.ok_or_else(|| Refusal::missing("batch", id))?;
        inner.batches[place].deleted = true;
        Ok::<_, Refusal>(())
    })?;
    desk.pass(BatchPoint::DeleteDone);
    Ok(Reply::Json(json!({})))
}
