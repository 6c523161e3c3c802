//! Files as OpenAI has them, and those that took them over: Groq, xAI and Mistral.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::form::{self, Query};
use super::life::{Batch, Blob};
use super::results::{Results, Which};
use super::send::{Reply, Source};
use super::store::{File, Inner, Spoiled};
use super::{BatchPoint, Desk, Family, Outcome, Refusal, names, show};
use crate::prompt::Fault;

const FORM: [&str; 4] = [
    "purpose",
    "file",
    "expires_after[anchor]",
    "expires_after[seconds]",
];
const LARGEST: usize = 512_000_000;

/// Serves what is below `/files`.
pub(super) fn serve(desk: &Desk<'_>, path: &[&str], body: Vec<u8>) -> Outcome {
    match (desk.method, path) {
        ("POST", ["upload"]) if desk.family == Family::Together => upload(desk, body),
        ("POST", []) if desk.family != Family::Together => upload(desk, body),
        ("GET", []) => list(desk),
        ("GET", [id]) => {
            desk.query("")?;
            desk.with(|inner, now| {
                let shown = show_all(desk, inner, now).into_iter();
                let mut found = shown.filter(|file| file["id"] == *id);
                let found = found
                    .next()
                    .ok_or_else(|| Refusal::missing("File object", id))?;
                let known = inner.files.iter_mut().find(|file| file.id == *id);
                known.into_iter().for_each(|file| file.looked_at = true);
                Ok(Reply::Json(found))
            })
        }
        ("GET", [id, "content"]) => {
            desk.query("")?;
            desk.with(|inner, now| content(desk, inner, id, now))
        }
        ("DELETE", [id]) => delete(desk, id),
        _ => Err(Refusal::Nowhere),
    }
}

fn upload(desk: &Desk<'_>, body: Vec<u8>) -> Outcome {
    desk.query("")?;
    let known: &[&str] = match desk.family {
        Family::Together => &["purpose", "file", "file_name", "file_type"],
        _ => &FORM,
    };
    let form = form::multipart(desk.address, &body, known)?;
    let missing = |name: &str| Fault::Missing(name.to_owned());
    let purpose = match form.get("purpose") {
        Some(purpose) => purpose,
        // xAI's files have no purpose of need.
        None if desk.family == Family::Xai => "",
        None => return Err(missing("purpose").into()),
    };
    let wanted = match desk.family {
        Family::Together => "batch-api",
        _ => "batch",
    };
    if desk.family == Family::Together && form.get("file_name").is_none() {
        return Err(missing("file_name").into());
    }
    if !(purpose == wanted || purpose.is_empty() && desk.family == Family::Xai) {
        let message = format!("'{purpose}' is not a purpose the simulator knows; try 'batch'.");
        return Err(Fault::invalid("purpose", "invalid_value", message).into());
    }
    let purpose = purpose.to_owned();
    let expires = expiry(&form)?;
    let (name, range) = form.file.ok_or_else(|| missing("file"))?;
    let suffixed = name.ends_with(".jsonl");
    if !suffixed {
        let message = "Invalid file: the name of a file for batches ends in '.jsonl'.";
        return Err(Fault::invalid("file", "invalid_file_format", message).into());
    }
    let most = desk.family.max_bytes(desk.batches()).min(LARGEST as u64);
    if range.len() as u64 > most {
        let message = format!("The file is larger than {most} bytes.");
        return Err(Refusal::bad(413, message));
    }
    if range.is_empty() {
        return Err(Fault::invalid("file", "invalid_file", "The file is empty.").into());
    }
    desk.pass(BatchPoint::UploadArrived);
    let shown = desk.with(|inner, now| {
        let id = names::file(desk.family, inner.fresh());
        inner.counts.files_uploaded += 1;
        inner.files.push(File {
            id,
            family: desk.family,
            name,
            purpose,
            created: now,
            expires,
            blob: Arc::new(Blob { bytes: body, range }),
            looked_at: false,
        });
        show::file(desk, &inner.files[inner.files.len() - 1])
    });
    desk.pass(BatchPoint::UploadDone);
    Ok(Reply::Json(shown))
}

/// The seconds after which the file is to expire.
fn expiry(form: &form::Form) -> Result<Option<u64>, Fault> {
    let (anchor, seconds) = ("expires_after[anchor]", "expires_after[seconds]");
    match (form.get(anchor), form.get(seconds)) {
        (None, None) => Ok(None),
        (Some("created_at"), Some(text)) => match text.parse() {
            Ok(seconds @ 3_600..=2_592_000) => Ok(Some(seconds)),
            _ => {
                let message = "Invalid 'expires_after[seconds]': expected 3600 to 2592000.";
                Err(Fault::invalid(seconds, "invalid_value", message))
            }
        },
        (None, Some(_)) => Err(Fault::Missing(anchor.to_owned())),
        (Some("created_at"), None) => Err(Fault::Missing(seconds.to_owned())),
        (Some(_), _) => {
            let message = "Invalid 'expires_after[anchor]': expected 'created_at'.";
            Err(Fault::invalid(anchor, "invalid_value", message))
        }
    }
}

/// The result files of a batch that there are: id, which results, end of the batch.
fn of_batch(
    desk: &Desk<'_>,
    batch: &Batch,
    now: Duration,
) -> Vec<(String, Which, &'static str, Duration)> {
    let Some(ended) = batch.ended(now, desk.batches()) else {
        return Vec::new();
    };
    if batch.plan.family != desk.family || !desk.is_kept(ended, now) {
        return Vec::new();
    }
    let kinds = [(Which::Answers, "output"), (Which::Errors, "error")];
    let there = kinds.into_iter().zip(batch.has_results());
    let files = there.filter(|(_, there)| *there).map(|((which, kind), _)| {
        (
            names::results(desk.family, &batch.id, kind),
            which,
            kind,
            ended,
        )
    });
    let deleted = &batch.deleted_files;
    files.filter(|(id, ..)| !deleted.contains(id)).collect()
}

/// Every file, the newest first.
fn show_all(desk: &Desk<'_>, inner: &Inner, now: Duration) -> Vec<Value> {
    let files = inner.files.iter().filter(|file| file.family == desk.family);
    let mut shown: Vec<_> = files
        .map(|file| (file.created, show::file(desk, file)))
        .collect();
    for batch in &inner.batches {
        for (id, which, kind, ended) in of_batch(desk, batch, now) {
            let size = batch.sizes[usize::from(which == Which::Errors)].get_or_init(|| {
                let created = desk.unix(batch.created);
                Results::new(batch, desk.config(), which, created).size(desk.config())
            });
            let shape = json!({"id": id, "object": "file", "bytes": size, "status": "processed",
                "created_at": desk.unix(ended), "purpose": "batch_output",
                "filename": format!("{}_{kind}.jsonl", batch.id)});
            shown.push((ended, shape));
        }
    }
    shown.sort_by_key(|(created, _)| std::cmp::Reverse(*created));
    shown.into_iter().map(|(_, shown)| shown).collect()
}

fn content(desk: &Desk<'_>, inner: &mut Inner, id: &str, now: Duration) -> Outcome {
    if let Some(file) = inner.file(id).filter(|file| file.family == desk.family) {
        let source = Source::File(Arc::clone(&file.blob));
        return Ok(Reply::Download(source, Spoiled::No));
    }
    let batches = inner.batches.iter().enumerate();
    let found = batches
        .flat_map(|(place, batch)| {
            let files = of_batch(desk, batch, now).into_iter();
            files.map(move |(file, which, ..)| (place, file, which))
        })
        .find(|(_, file, _)| file == id);
    match found {
        Some((place, _, which)) => Ok(desk.results(inner, place, which)),
        None => Err(Refusal::missing("File object", id)),
    }
}

fn delete(desk: &Desk<'_>, id: &str) -> Outcome {
    desk.query("")?;
    desk.pass(BatchPoint::DeleteArrived);
    let deleted = desk.with(|inner, now| {
        if inner
            .file(id)
            .is_some_and(|file| file.family == desk.family)
        {
            return inner.delete_file(id);
        }
        let mut batches = inner.batches.iter_mut();
        let owner = batches.find(|batch| {
            let files = of_batch(desk, batch, now);
            files.iter().any(|(file, ..)| file == id)
        });
        owner
            .map(|batch| batch.deleted_files.push(id.to_owned()))
            .is_some()
    });
    desk.pass(BatchPoint::DeleteDone);
    if !deleted {
        return Err(Refusal::missing("File object", id));
    }
    Ok(Reply::Json(
        json!({"id": id, "object": "file", "deleted": true}),
    ))
}

fn list(desk: &Desk<'_>) -> Outcome {
    if desk.family == Family::Mistral {
        let query = desk.query("files")?;
        let (page, size) = page(&query)?;
        let files = listed(desk, &query)?;
        let total = files.len();
        let shown: Vec<_> = files.into_iter().skip(page * size).take(size).collect();
        return Ok(Reply::Json(
            json!({"data": shown, "object": "list", "total": total}),
        ));
    }
    let query = desk.query("files")?;
    let limit = query.whole("limit", 1..=10_000, 10_000)?;
    let mut files = listed(desk, &query)?;
    match query.get("order") {
        None | Some("desc") => {}
        Some("asc") => files.reverse(),
        Some(_) => {
            let message = "Invalid 'order': expected 'asc' or 'desc'.";
            return Err(Fault::invalid("order", "invalid_value", message).into());
        }
    }
    if let Some(after) = query.get("after") {
        let place = files.iter().position(|file| file["id"] == after);
        let place = place.ok_or_else(|| Refusal::missing("File object", after))?;
        files.drain(..=place);
    }
    let more = files.len() > limit;
    files.truncate(limit);
    let id = |file: Option<&Value>| file.map_or(Value::Null, |file| file["id"].clone());
    Ok(Reply::Json(
        json!({"object": "list", "first_id": id(files.first()),
        "last_id": id(files.last()), "has_more": more, "data": files}),
    ))
}

fn listed(desk: &Desk<'_>, query: &Query) -> Result<Vec<Value>, Refusal> {
    let files = desk.with(|inner, now| show_all(desk, inner, now));
    let wanted = |file: &Value| match query.get("purpose") {
        Some(purpose) => file["purpose"] == purpose,
        None => true,
    };
    Ok(files.into_iter().filter(wanted).collect())
}

/// The number and the size of a page, as Mistral asks for it.
pub(super) fn page(query: &Query) -> Result<(usize, usize), Fault> {
    let page = query.whole("page", 0..=1_000_000, 0)?;
    Ok((page, query.whole("page_size", 1..=1_000, 100)?))
}
