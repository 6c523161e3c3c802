//! `/v1/uploads`: files that come in parts.

use std::io::{self, Read};

use batchwright::ProcessId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::batches::{kept, required};
use super::files::{self, KEPT_SECONDS, check_name, check_purpose};
use super::responses::remove;
use crate::api::once;
use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::records::files::{FileRecord, id_of, new_id, now};
use crate::records::objects::{ObjectKind, ObjectRecord};
use crate::records::{Hash, hash};

/// How long an upload may take, in seconds, as at OpenAI: 1 hour.
const OPEN_SECONDS: u64 = 3600;
/// Most bytes of a part, as at OpenAI.
const MOST: u64 = 64 << 20;

/// An upload as it is stored.
#[derive(Serialize, Deserialize)]
struct Upload {
    status: Status,
    bytes: u64,
    created_at: u64,
    filename: String,
    purpose: String,
    /// How long the file is kept, in seconds.
    kept: Option<u64>,
    /// The file of a completed upload.
    file: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Pending,
    Completed,
    Cancelled,
}

/// A part as it is stored, without its bytes.
#[derive(Serialize, Deserialize)]
struct Part {
    bytes: u64,
}

/// `POST /v1/uploads`.
pub(super) fn create(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let key = once::key(call)?;
    once::made(app, key, |id, check| {
        let body: Map<String, Value> = call.json()?;
        check(hash(&[Value::Object(body.clone()).to_string().as_bytes()]))?;
        match id {
            Some(id) => begin(app, body, id_of("upload_", id)),
            None => Ok(Value::Null),
        }
    })
}

/// Records an upload with this id.
fn begin(app: &App, mut body: Map<String, Value>, id: String) -> Result<Value, Problem> {
    let filename = required(&mut body, "filename")?;
    check_name(Some(&filename), "filename")?;
    let purpose = required(&mut body, "purpose")?;
    check_purpose(&purpose)?;
    // Files have no type here; clients must send it, as at OpenAI.
    required(&mut body, "mime_type")?;
    let Some(bytes) = body.get("bytes").and_then(Value::as_u64) else {
        let why = "bytes is the length of the file";
        return Err(Problem::invalid(why).param("bytes"));
    };
    let after = body
        .remove("expires_after")
        .filter(|value| !value.is_null());
    let after = after
        .map(|given| kept(given, "expires_after"))
        .transpose()?;
    app.openai.storage.check(bytes)?;
    let created_at = now();
    let upload = Upload {
        status: Status::Pending,
        bytes,
        created_at,
        kept: after.or((purpose == "batch").then_some(KEPT_SECONDS)),
        filename,
        purpose,
        file: None,
    };
    let expires_at = created_at + OPEN_SECONDS;
    let mut record = ObjectRecord::new(ObjectKind::Upload, id, expires_at);
    record.set(&upload);
    record.insert(&mut app.records.single())?;
    Ok(described(&record, &upload, None))
}

fn described(record: &ObjectRecord, upload: &Upload, file: Option<&FileRecord>) -> Value {
    json!({
        "id": record.id,
        "object": "upload",
        "bytes": upload.bytes,
        "created_at": upload.created_at,
        "expires_at": record.expires_at,
        "filename": upload.filename,
        "purpose": upload.purpose,
        "status": upload.status,
        "file": file.map(files::described),
    })
}

/// `POST /v1/uploads/{id}/parts`.
pub(super) fn add_part(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let (record, upload) = found(app, call)?;
    let key = once::key(call)?;
    once::made(app, key, |id, check| {
        let known = match id.filter(|_| key.is_some()) {
            Some(id) => {
                let id = id_of("part_", id);
                ObjectRecord::get(&mut app.records.single(), ObjectKind::Part, &id)?
            }
            None => None,
        };
        // An earlier request with the key stored the part: this one is only compared with it.
        let id = id.filter(|_| known.is_none());
        if id.is_some() {
            refuse_ended(&upload)?;
        }
        let stored = store_part(app, call, &record, id, check)?;
        let id = known.map(|known| known.id).or(stored);
        Ok(json!({
            "id": id, "object": "upload.part", "created_at": now(), "upload_id": record.id,
        }))
    })
}

/// Reads a part and stores it with this id, if there is one. `check` gets the hash of its bytes.
fn store_part(
    app: &App,
    call: &mut Call<'_>,
    record: &ObjectRecord,
    id: Option<ProcessId>,
    check: &dyn Fn(Hash) -> Result<(), Problem>,
) -> Result<Option<String>, Problem> {
    let storage = &app.openai.storage;
    let mut form = files::form(app, call, id.is_some())?;
    let mut data = None;
    while let Some(part) = form.next_part()? {
        match part.name.as_str() {
            "data" if data.is_some() => {
                return Err(Problem::invalid("one part at a time").param("data"));
            }
            "data" => {
                let new = id.map(|id| storage.create(id_of("part_", id)));
                let (mut new, mut content) = (new.transpose()?, Sha256::new());
                let mut most = form.by_ref().take(MOST + 1);
                files::copy(&mut most, new.as_mut(), Some(&mut content))?;
                if most.limit() == 0 {
                    return Err(Problem::too_large(MOST).param("data"));
                }
                data = Some((new, content));
            }
            _ => {}
        }
    }
    let (new, content) =
        data.ok_or_else(|| Problem::invalid("the form has no data").param("data"))?;
    check(content.finalize().into())?;
    let Some(new) = new else { return Ok(None) };
    let (id, bytes) = new.keep()?;
    let mut part = ObjectRecord::new(ObjectKind::Part, id, record.expires_at);
    part.parent = Some(record.id.clone());
    part.set(&Part { bytes });
    let added = app.records.transaction(|database| {
        let upload = ObjectRecord::get(database, ObjectKind::Upload, &record.id)?;
        let upload = upload.ok_or_else(|| no_such(&record.id))?;
        refuse_ended(&upload.read()?)?;
        part.insert(database)?;
        Ok(())
    });
    if let Err(problem) = added {
        let _ = storage.remove(&part.id);
        return Err(problem);
    }
    Ok(Some(part.id))
}

/// `POST /v1/uploads/{id}/complete`: a repeated request gets the same file.
pub(super) fn complete(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let (record, upload) = found(app, call)?;
    let mut body: Map<String, Value> = call.json()?;
    if body.get("md5").is_some_and(|md5| !md5.is_null()) {
        let why = "md5 is not supported: the length of the file is checked";
        return Err(Problem::invalid(why).param("md5"));
    }
    let ids: Option<Vec<String>> = body
        .remove("part_ids")
        .and_then(|ids| serde_json::from_value(ids).ok());
    let ids = ids.ok_or_else(|| Problem::invalid("part_ids is a list of ids").param("part_ids"))?;
    if upload.file.is_some() {
        return completed(app, &record, &upload);
    }
    refuse_ended(&upload)?;
    join_parts(app, &record, &upload, &ids).or_else(|problem| {
        // Another request may have completed it meanwhile.
        let (record, upload) = found(app, call)?;
        match upload.file {
            Some(_) => completed(app, &record, &upload),
            None => Err(problem),
        }
    })
}

/// A completed upload with its file.
fn completed(app: &App, record: &ObjectRecord, upload: &Upload) -> Result<Response, Problem> {
    let file = upload.file.as_deref().unwrap_or_default();
    let file = FileRecord::get(&mut app.records.single(), file)?;
    Ok(Response::json(
        200,
        &described(record, upload, file.as_ref()),
    ))
}

/// Makes the file of an upload.
fn join_parts(
    app: &App,
    record: &ObjectRecord,
    upload: &Upload,
    ids: &[String],
) -> Result<Response, Problem> {
    let parts = ObjectRecord::parts(&mut app.records.single(), &record.id)?;
    let (id, bytes) = joined(app, &parts, ids, upload.bytes)?;
    let created_at = now();
    let file = FileRecord {
        id,
        purpose: upload.purpose.clone(),
        filename: upload.filename.clone(),
        bytes,
        created_at,
        expires_at: upload.kept.map(|kept| created_at + kept),
    };
    let ended = app.records.transaction(|database| {
        let found = ObjectRecord::get(database, ObjectKind::Upload, &record.id)?;
        let mut found = found.ok_or_else(|| no_such(&record.id))?;
        let mut upload: Upload = found.read()?;
        // The reply to the commit of this transaction was lost.
        if upload.file.as_deref() == Some(&*file.id) {
            return Ok((found, upload));
        }
        refuse_ended(&upload)?;
        upload.status = Status::Completed;
        upload.file = Some(file.id.clone());
        found.set(&upload);
        found.update(database)?;
        file.insert(database)?;
        Ok::<_, Problem>((found, upload))
    });
    let (record, upload) = ended.inspect_err(|_| {
        let _ = app.openai.storage.remove(&file.id);
    })?;
    // After a crash they expire.
    for part in &parts {
        remove(app, part)?;
    }
    Ok(Response::json(
        200,
        &described(&record, &upload, Some(&file)),
    ))
}

/// Joins the named parts of an upload into a file. Returns its id and its length.
fn joined(
    app: &App,
    parts: &[ObjectRecord],
    ids: &[String],
    expected: u64,
) -> Result<(String, u64), Problem> {
    let refused = |why: String| Problem::invalid(why).param("part_ids");
    let mut sum = 0;
    for id in ids {
        let part = parts.iter().find(|part| part.id == *id);
        let part = part.ok_or_else(|| refused(format!("the upload has no part {id}")))?;
        sum += part.read::<Part>()?.bytes;
    }
    if sum != expected {
        let why = format!("the parts have {sum} bytes, but the upload was created for {expected}");
        return Err(refused(why));
    }
    let storage = &app.openai.storage;
    storage.check(sum)?;
    let mut file = storage.create(new_id("file-"))?;
    for id in ids {
        let (mut part, _) = storage.read(id)?;
        io::copy(&mut part, &mut file)?;
    }
    Ok(file.keep()?)
}

/// `POST /v1/uploads/{id}/cancel`: a repeated request gets the same answer.
pub(super) fn cancel(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let (record, _) = found(app, call)?;
    let (record, upload) = app.records.transaction(|database| {
        let found = ObjectRecord::get(database, ObjectKind::Upload, &record.id)?;
        let mut found = found.ok_or_else(|| no_such(&record.id))?;
        let mut upload: Upload = found.read()?;
        if upload.status != Status::Cancelled {
            refuse_ended(&upload)?;
        }
        upload.status = Status::Cancelled;
        found.set(&upload);
        found.update(database)?;
        Ok::<_, Problem>((found, upload))
    })?;
    for part in ObjectRecord::parts(&mut app.records.single(), &record.id)? {
        remove(app, &part)?;
    }
    Ok(Response::json(200, &described(&record, &upload, None)))
}

fn refuse_ended(upload: &Upload) -> Result<(), Problem> {
    match upload.status {
        Status::Pending => Ok(()),
        Status::Completed => Err(Problem::invalid("the upload is completed")),
        Status::Cancelled => Err(Problem::invalid("the upload was cancelled")),
    }
}

fn found(app: &App, call: &Call<'_>) -> Result<(ObjectRecord, Upload), Problem> {
    let id: String = call.param("upload_id")?;
    let record = ObjectRecord::get(&mut app.records.single(), ObjectKind::Upload, &id)?;
    let record = record.filter(|record| record.expires_at > now());
    let record = record.ok_or_else(|| no_such(&id))?;
    let upload = record.read()?;
    Ok((record, upload))
}

fn no_such(id: &str) -> Problem {
    Problem::not_found(format!("No such Upload object: {id}")).param("upload_id")
}
