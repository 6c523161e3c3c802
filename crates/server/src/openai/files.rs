//! `/v1/files`: uploads, which are streamed to the disk, and what is to be fetched.

use std::io;

use batchwright::ProcessId;
use serde_json::{Value, json};

use super::multipart::Multipart;
use super::storage::NewFile;
use crate::api::once;
use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::records::{FileRecord, Stored as _, id_of};

/// How long files of batches are kept where nobody says anything else, as at OpenAI: 30 days.
pub(super) const KEPT_SECONDS: u64 = 30 * 24 * 3600;
/// What may be said instead.
const KEPT_RANGE: std::ops::RangeInclusive<u64> = 3600..=KEPT_SECONDS;
/// Longest name of a file, in characters.
const LONGEST_NAME: usize = 512;
/// Most files of one page.
const MOST: usize = 10_000;

/// A file as OpenAI describes one.
fn described(file: &FileRecord) -> Value {
    json!({
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": null,
    })
}

/// `POST /v1/files`: an upload is stored as a file with a new id, or with that of its key.
pub(super) fn create(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let key = once::named(app, call)?;
    let storage = &app.storage;
    let length = call.head.header("content-length");
    let length = length.and_then(|length| length.parse().ok());
    storage.check(length.unwrap_or(0))?;
    let kind = call.head.header("content-type").unwrap_or_default();
    let mut form = Multipart::new(kind, &mut *call.body)?;
    let (mut file, mut purpose, mut anchor, mut seconds) = (None, None, None, None);
    while let Some(part) = form.next_part()? {
        match part.name.as_str() {
            "file" if file.is_some() => {
                return Err(Problem::invalid("one file at a time").param("file"));
            }
            "file" => {
                check_name(part.filename.as_deref())?;
                let mut new = storage.create()?;
                io::copy(&mut form, &mut new)?;
                file = Some((new, part.filename));
            }
            "purpose" => purpose = Some(form.text(100)?),
            "expires_after[anchor]" => anchor = Some(form.text(100)?),
            "expires_after[seconds]" => seconds = Some(form.text(100)?),
            _ => {}
        }
    }
    let missing = |name: &str| Problem::invalid(format!("the form has no {name}")).param(name);
    let (new, filename) = file.ok_or_else(|| missing("file"))?;
    let purpose = purpose.ok_or_else(|| missing("purpose"))?;
    let kept = if anchor.is_some() || seconds.is_some() {
        let seconds = seconds.and_then(|seconds| seconds.parse().ok());
        Some(kept(anchor.as_deref(), seconds, "expires_after")?)
    } else {
        (purpose == "batch").then_some(KEPT_SECONDS)
    };
    let id = id_of("file-", key.unwrap_or_else(ProcessId::new));
    let filename = filename.unwrap_or_else(|| id.clone());
    let request = once::hash(&[
        filename.as_bytes(),
        purpose.as_bytes(),
        &kept.unwrap_or_default().to_le_bytes(),
        &new.hash(),
    ]);
    let (_, created_at) = app.time();
    let record = FileRecord {
        id,
        purpose,
        filename,
        bytes: new.synced()?,
        created_at,
        expires_at: kept.map(|kept| created_at + kept),
        request: Some(request),
    };
    match taken(app, &record, new)? {
        Some(known) if known.request != record.request => Err(once::another()),
        known => {
            let response = Response::json(200, &described(known.as_ref().unwrap_or(&record)));
            Ok(once::replayed(response, known.is_some()))
        }
    }
}

/// Takes the id, which may be that of a key, for one file of those that are uploaded at once, or returns whose it is.
fn taken(app: &App, record: &FileRecord, new: NewFile<'_>) -> Result<Option<FileRecord>, Problem> {
    let mut is_kept = false;
    // Until the file is gone if its record could not be stored: the next one with the key may have its name then.
    let _alone = app.records.single();
    let taken = app.records.transaction(|database| -> Result<_, Problem> {
        if let Some(known) = FileRecord::get(database, &record.id)? {
            return Ok(Some(known));
        }
        new.keep(&record.id)?;
        is_kept = true;
        record.store(database)?;
        Ok(None)
    });
    if taken.is_err() && is_kept {
        let _ = app.storage.remove(&record.id);
    }
    taken
}

/// Names are shown, in lists, pages and terminals.
fn check_name(name: Option<&str>) -> Result<(), Problem> {
    let name = name.unwrap_or_default();
    if name.chars().any(char::is_control) || name.chars().count() > LONGEST_NAME {
        let why = format!(
            "the file's name may have at most {LONGEST_NAME} characters and no control characters"
        );
        return Err(Problem::invalid(why).param("file"));
    }
    Ok(())
}

/// For how many seconds a file is to be kept, after a check.
pub(super) fn kept(
    anchor: Option<&str>,
    seconds: Option<u64>,
    param: &'static str,
) -> Result<u64, Problem> {
    let seconds = seconds.filter(|seconds| KEPT_RANGE.contains(seconds));
    let seconds = seconds.filter(|_| anchor == Some("created_at"));
    seconds.ok_or_else(|| {
        let (least, most) = (KEPT_RANGE.start(), KEPT_RANGE.end());
        let why =
            format!("{param} needs the anchor created_at, and seconds from {least} to {most}");
        Problem::invalid(why).param(param)
    })
}

/// `GET /v1/files`: newest first unless `order=asc`.
pub(super) fn list(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let limit = call.limit(MOST, MOST)?;
    let after: Option<String> = call.query("after")?;
    let purpose: Option<String> = call.query("purpose")?;
    let ascending = call.is_ascending()?;
    let database = app.records.single();
    if let Some(after) = &after
        && FileRecord::get(&database, after)?.is_none()
    {
        return Err(no_such(after).param("after"));
    }
    let (purpose, after) = (purpose.as_deref(), after.as_deref());
    let files = FileRecord::list(&database, purpose, after, ascending, limit + 1)?;
    Ok(page(files.iter().map(described).collect(), limit))
}

/// A page of what was asked for one item more than it may hold.
pub(super) fn page(mut data: Vec<Value>, limit: usize) -> Response {
    let has_more = data.len() > limit;
    data.truncate(limit);
    let id = |item: Option<&Value>| item.map(|item| item["id"].clone());
    let page = json!({
        "object": "list",
        "first_id": id(data.first()),
        "last_id": id(data.last()),
        "has_more": has_more,
        "data": data,
    });
    Response::json(200, &page)
}

/// `GET /v1/files/{id}`.
pub(super) fn get(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    Ok(Response::json(200, &described(&found(app, call)?)))
}

/// `DELETE /v1/files/{id}`.
pub(super) fn delete(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let file = found(app, call)?;
    let id = &file.id;
    if app.reads(id)? {
        let why = format!("{id} is being read by a batch; delete it when that is in progress");
        return Err(Problem::conflict(why));
    }
    // What is listed can be deleted again, what is not would lie there for good.
    app.storage.remove(id)?;
    FileRecord::delete(&app.records.single(), id)?;
    app.batches.wake();
    let deleted = json!({"id": id, "object": "file", "deleted": true});
    Ok(Response::json(200, &deleted))
}

/// `GET /v1/files/{id}/content`.
pub(super) fn content(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let record = found(app, call)?;
    let (file, length) = app.storage.read(&record)?;
    let name = format!("attachment; filename=\"{}\"", record.id);
    Ok(Response::file(file, length).header("content-disposition", name))
}

fn found(app: &App, call: &Call<'_>) -> Result<FileRecord, Problem> {
    let id: String = call.param("file_id")?;
    FileRecord::get(&app.records.single(), &id)?.ok_or_else(|| no_such(&id))
}

fn no_such(id: &str) -> Problem {
    Problem::not_found(format!("No such File object: {id}")).param("id")
}
