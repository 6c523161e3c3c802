//! Files: those that OpenAI and its like take in a form, and the result files of all.

use std::sync::Arc;
use std::time::Duration;

use super::form;
use super::life::{Batch, Blob, Phase};
use super::results::Which;
use super::send::{Reply, Source};
use super::store::{File, Spoiled};
use super::{BatchPoint, Desk, Family, Outcome, Refusal, names, show};
use crate::prompt::Fault;

const FORM: [&str; 2] = ["purpose", "file"];
const LARGEST: usize = 512_000_000;

pub(super) fn file(desk: &Desk<'_>, id: &str) -> Outcome {
    desk.with(|inner, _| {
        let mut files = inner.files.iter_mut();
        let found = files.find(|file| file.id == id && file.family == desk.family);
        let file = found.ok_or_else(|| desk.no_file(id))?;
        file.looked_at = true;
        Ok(Reply::Json(show::file(desk, file)))
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
    let (name, range) = form.file.ok_or_else(|| missing("file"))?;
    if !name.ends_with(".jsonl") {
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
            blob: Arc::new(Blob { bytes: body, range }),
            looked_at: false,
        });
        show::file(desk, &inner.files[inner.files.len() - 1])
    });
    desk.pass(BatchPoint::UploadDone);
    Ok(Reply::Json(shown))
}

/// A result file of a batch.
struct ResultFile {
    id: String,
    which: Which,
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
    });
    let deleted = &batch.deleted_files;
    files.filter(|file| !deleted.contains(&file.id)).collect()
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
