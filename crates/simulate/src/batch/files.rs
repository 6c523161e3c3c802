//! Files: those that OpenAI and its like take in a form, and the result files of all.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::form::{self, Query};
use super::life::{Batch, Blob, Phase};
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

pub(super) fn file(desk: &Desk<'_>, id: &str) -> Outcome {
    desk.with(|inner, now| {
        let mut shown = show_all(desk, inner, now).into_iter();
        let found = shown.find(|(known, _)| known == id);
        let known = inner.files.iter_mut().find(|file| file.id == id);
        known.into_iter().for_each(|file| file.looked_at = true);
        found
            .map(|(_, shown)| Reply::Json(shown))
            .ok_or_else(|| desk.no_file(id))
    })
}

pub(super) fn upload(desk: &Desk<'_>, body: Vec<u8>) -> Outcome {
    let form = form::multipart(desk.header("content-type"), &body, &FORM)?;
    let missing = |name: &str| Fault::Missing(name.to_owned());
    let purpose = match form.get("purpose") {
        Some(purpose) => purpose,
        // xAI's files have no purpose of need.
        None if desk.family == Family::Xai => "",
        None => return Err(missing("purpose").into()),
    };
    if !(purpose == "batch" || purpose.is_empty() && desk.family == Family::Xai) {
        let message = format!("'{purpose}' is not a purpose the simulator knows; try 'batch'.");
        return Err(Fault::invalid("purpose", message).into());
    }
    let purpose = purpose.to_owned();
    let expires = expiry(&form)?;
    let (name, range) = form.file.ok_or_else(|| missing("file"))?;
    let suffixed = name.ends_with(".jsonl");
    if !suffixed {
        let message = "Invalid file: the name of a file for batches ends in '.jsonl'.";
        return Err(Fault::invalid("file", message).into());
    }
    let most = desk.family.max_bytes(desk.batches()).min(LARGEST as u64);
    if range.len() as u64 > most {
        let message = format!("The file is larger than {most} bytes.");
        return Err(Refusal::bad(413, message));
    }
    if range.is_empty() {
        return Err(Fault::invalid("file", "The file is empty.").into());
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
                Err(Fault::invalid(seconds, message))
            }
        },
        (None, Some(_)) => Err(Fault::Missing(anchor.to_owned())),
        (Some("created_at"), None) => Err(Fault::Missing(seconds.to_owned())),
        (Some(_), _) => {
            let message = "Invalid 'expires_after[anchor]': expected 'created_at'.";
            Err(Fault::invalid(anchor, message))
        }
    }
}

/// A result file of a batch.
struct ResultFile {
    id: String,
    which: Which,
    kind: &'static str,
    created: Duration,
}

/// The result files of a batch that there are.
fn of_batch(desk: &Desk<'_>, batch: &Batch, now: Duration) -> Vec<ResultFile> {
    let Some(created) = batch.ended(now, desk.batches()) else {
        return Vec::new();
    };
    if batch.plan.family != desk.family || !desk.is_kept(created, now) {
        return Vec::new();
    }
    let [answers, errors] = batch.has_results();
    let kinds = match desk.family {
        Family::Gemini if batch.phase(now, desk.batches()) == Phase::Ended => {
            vec![(Which::All, "", true)]
        }
        Family::Gemini => Vec::new(),
        _ => vec![
            (Which::Answers, "output", answers),
            (Which::Errors, "error", errors),
        ],
    };
    let there = kinds.into_iter().filter(|(_, _, there)| *there);
    let files = there.map(|(which, kind, _)| ResultFile {
        id: names::results(desk.family, &batch.id, kind),
        which,
        kind,
        created,
    });
    let deleted = &batch.deleted_files;
    files.filter(|file| !deleted.contains(&file.id)).collect()
}

/// Every file with its id, the newest first.
fn show_all(desk: &Desk<'_>, inner: &Inner, now: Duration) -> Vec<(String, Value)> {
    let files = inner.files.iter().filter(|file| file.family == desk.family);
    let mut shown: Vec<_> = files
        .map(|file| (file.created, (file.id.clone(), show::file(desk, file))))
        .collect();
    // Google does not list its result files.
    let batches = inner.batches.iter();
    for batch in batches.filter(|_| desk.family != Family::Gemini) {
        for file in of_batch(desk, batch, now) {
            let errors = usize::from(file.which == Which::Errors);
            let size = batch.sizes[errors].get_or_init(|| {
                let created = desk.unix(batch.created);
                Results::new(batch, desk.config(), file.which, created).size(desk.config())
            });
            let value = json!({"id": file.id, "object": "file", "bytes": size,
                "status": "processed", "created_at": desk.unix(file.created),
                "purpose": "batch_output",
                "filename": format!("{}_{}.jsonl", batch.id, file.kind)});
            shown.push((file.created, (file.id, value)));
        }
    }
    shown.sort_by_key(|(created, _)| std::cmp::Reverse(*created));
    shown.into_iter().map(|(_, file)| file).collect()
}

/// A file as a download; Google gives out results only.
pub(super) fn content(desk: &Desk<'_>, id: &str) -> Outcome {
    desk.with(|inner, now| {
        let file = inner.file(id).filter(|file| file.family == desk.family);
        if let Some(file) = file.filter(|_| desk.family != Family::Gemini) {
            let source = Source::File(Arc::clone(&file.blob));
            return Ok(Reply::Download(source, Spoiled::No));
        }
        let mut batches = inner.batches.iter().enumerate();
        let found = batches.find_map(|(place, batch)| {
            let mut files = of_batch(desk, batch, now).into_iter();
            let file = files.find(|file| file.id == id)?;
            Some((place, file.which))
        });
        let (place, which) = found.ok_or_else(|| desk.no_file(id))?;
        Ok(desk.results(inner, place, which))
    })
}

pub(super) fn delete(desk: &Desk<'_>, id: &str) -> Outcome {
    desk.pass(BatchPoint::DeleteArrived);
    let deleted = desk.with(|inner, now| {
        let file = inner.file(id).filter(|file| file.family == desk.family);
        if file.is_some() {
            return inner.delete_file(id);
        }
        let mut batches = inner.batches.iter_mut();
        let owner = batches.find(|batch| {
            let mut files = of_batch(desk, batch, now).into_iter();
            files.any(|file| file.id == id)
        });
        owner
            .map(|batch| batch.deleted_files.push(id.to_owned()))
            .is_some()
    });
    desk.pass(BatchPoint::DeleteDone);
    if !deleted {
        return Err(desk.no_file(id));
    }
    Ok(desk.deleted(&desk.wire().deleted_file, id))
}

pub(super) fn list(desk: &Desk<'_>, query: &Query) -> Outcome {
    let mut files = desk.with(|inner, now| show_all(desk, inner, now));
    if let Some(purpose) = query.get("purpose") {
        files.retain(|(_, file)| file["purpose"] == purpose);
    }
    match query.get("order") {
        None | Some("desc") => {}
        Some("asc") => files.reverse(),
        Some(_) => {
            let message = "Invalid 'order': expected 'asc' or 'desc'.";
            return Err(Fault::invalid("order", message).into());
        }
    }
    let (ids, shown): (Vec<_>, Vec<_>) = files.into_iter().unzip();
    let paging = desk.wire().files.as_ref().ok_or(Refusal::Nowhere)?;
    let (range, facts) = paging.find(query, &ids, &desk.wire().file_word)?;
    Ok(paging.reply(facts, shown[range].to_vec()))
}
