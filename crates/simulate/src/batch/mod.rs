//! Files and batches of all APIs that have them. One store contains them and their progress; `rules/batches.json`
//! describes the format of each API, and the modules here reject invalid requests. This one handles those for batches.

mod files;
mod intake;
mod life;
mod results;
mod store;
mod wire;

#[cfg(test)]
mod anthropic_tests;
#[cfg(test)]
mod gemini_tests;
#[cfg(test)]
mod openai_tests;
#[cfg(test)]
mod test_kit;
#[cfg(test)]
mod xai_tests;

use std::io::{self, ErrorKind, Write};
use std::mem;
use std::time::Duration;

use serde_json::{Value, json};

pub(super) use store::Store;

use life::Batch;
use results::Which;
use store::Spoiled;
use wire::{Action, Query, TABLE, Wire};

use super::dialect::Dialect;
use super::gate::BatchPoint;
use super::http::Request;
use super::problems::Problem;
use super::reply::Head;
use super::serve::{Connection, Next, Shared, is_in_its_place};
use super::template::Facts;
use super::trouble::prompt_key;
use super::{BatchConfig, SimConfig};

/// Maximum size of bodies that are read; the limits of the APIs are checked afterwards.
pub(super) const LARGEST_BODY: usize = (2 << 30) + (1 << 20);

/// Whether a path is about files or batches, in whatever API.
pub(super) fn owns(path: &str) -> bool {
    let mut routes = TABLE.values().flat_map(|wire| &wire.routes);
    routes.any(|route| route.id(path).is_some())
}

/// The reply to a request.
#[derive(Debug)]
enum Reply {
    /// JSON, null for none, and one more header.
    Json(Value, Option<(&'static str, String)>),
    /// Results; their media type, if it is not that of JSON.
    Download(Option<&'static str>, Vec<u8>, Spoiled),
    /// The connection is closed without a reply.
    Nothing,
}

type Outcome = Result<Reply, Problem>;

/// One request, and the simulator that serves it.
struct Desk<'a> {
    shared: &'a Shared,
    dialect: Dialect,
    wire: &'static Wire,
    request: &'a Request,
}

impl Desk<'_> {
    fn config(&self) -> &SimConfig {
        &self.shared.config
    }

    fn batches(&self) -> &BatchConfig {
        &self.shared.config.batches
    }

    /// A header; empty if it is missing.
    fn header(&self, name: &str) -> &str {
        self.request.header(name).unwrap_or_default()
    }

    fn pass(&self, point: BatchPoint) {
        self.shared.gate.reach(point);
    }

    fn with<R>(&self, work: impl FnOnce(&mut Store, Duration) -> R) -> R {
        self.shared.with_batches(work)
    }

    fn file_id(&self, number: u64) -> String {
        format!("{}{number:016x}", self.wire.file_id)
    }

    /// The id of a result file of a batch; `kind` distinguishes its files.
    fn results_id(&self, batch: &str, kind: &str) -> String {
        match self.dialect {
            Dialect::Gemini => batch.replacen("batches/", "files/batch-", 1),
            _ => self.file_id(prompt_key(&format!("{batch}/{kind}"))),
        }
    }

    /// Milliseconds since the epoch.
    fn millis(&self, time: Duration) -> u64 {
        self.shared.epoch * 1_000 + time.as_millis() as u64
    }

    fn nowhere(&self) -> Problem {
        Problem::nowhere(&self.request.method, &self.request.path)
    }

    fn no_file(&self, id: &str) -> Problem {
        Problem::missing(&self.wire.file_word, id)
    }

    /// The answer once something has been deleted.
    fn deleted(template: &Value, id: &str) -> Outcome {
        let mut facts = Facts::default();
        facts.set("id", id);
        Ok(Reply::Json(facts.fill(template), None))
    }

    /// Whether the results of a batch that ended then are still there.
    fn is_kept(&self, ended: Duration, now: Duration) -> bool {
        let retention = self.batches().retention;
        retention.is_none_or(|retention| now < ended + retention)
    }

    fn show(&self, batch: &Batch, now: Duration) -> Value {
        wire::batch(self, batch, now, true)
    }
}

impl Connection<'_> {
    /// Answers a request for files or batches.
    pub(super) fn batch(&mut self, mut request: Request) -> Next {
        let shared = self.shared;
        let body = mem::take(&mut request.body);
        let dialect = if request.path.starts_with("/v1/messages/") {
            Dialect::Anthropic
        } else if request.path.starts_with("/v1/") {
            Dialect::openai(&request, &shared.config)
        } else {
            Dialect::Gemini
        };
        let wire = wire::wire(dialect).filter(|_| is_in_its_place(&request, &shared.config));
        let Some(wire) = wire else {
            return self.nowhere(&request);
        };
        let desk = Desk {
            shared,
            dialect,
            wire,
            request: &request,
        };
        let mut head = Head {
            of_batches: true,
            ..Head::of(dialect)
        };
        let admitted = dialect.admit(&request, &shared.config);
        match admitted.and_then(|()| serve(&desk, body)) {
            Ok(Reply::Nothing) => Next::Close,
            Ok(Reply::Download(media, bytes, spoiled)) => {
                head.media = media;
                head.close = self.close;
                match self.download(&head, &bytes, spoiled) {
                    Ok(()) if !self.close => Next::Keep,
                    _ => Next::Close,
                }
            }
            Ok(Reply::Json(value, header)) => {
                head.extra = header;
                if !value.is_null() {
                    self.write(&value);
                }
                self.reply(head)
            }
            Err(problem) => self.error(head, &problem),
        }
    }

    /// Sends a download, head and all. An error means that the connection is over.
    fn download(&mut self, head: &Head, bytes: &[u8], spoiled: Spoiled) -> io::Result<()> {
        head.write_for(&mut self.out, bytes.len());
        self.send()?;
        let (first, second) = bytes.split_at(bytes.len() / 2);
        let mut stream = self.stream;
        stream.write_all(first)?;
        self.shared.gate.reach(BatchPoint::DownloadHalf);
        if spoiled == Spoiled::Cut {
            return Err(ErrorKind::ConnectionAborted.into());
        }
        stream.write_all(second)
    }
}

/// Handles a request.
fn serve(desk: &Desk<'_>, body: Vec<u8>) -> Outcome {
    let (method, path) = (&desk.request.method, &desk.request.path);
    let routes = desk.wire.routes.iter();
    let mut routes = routes.filter(|route| route.method == *method);
    let found = routes.find_map(|route| Some((route, route.id(path)?)));
    let (route, id) = found.ok_or_else(|| desk.nowhere())?;
    let query = wire::query(&desk.request.query, &route.query)?;
    match route.action {
        Action::Upload => files::upload(desk, &body),
        Action::UploadParts => files::upload_parts(desk, &query, &body),
        Action::File => files::file(desk, id),
        Action::Content => files::content(desk, id),
        Action::DeleteFile => files::delete(desk, id),
        Action::Create => intake::create(desk, id, &body),
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
    desk.with(|store, now| {
        store.counts.statuses += 1;
        let batch = store.batch(desk.dialect, id)?;
        Ok(Reply::Json(desk.show(batch, now), None))
    })
}

/// Cancels a batch that is not over.
fn cancel(desk: &Desk<'_>, id: &str) -> Outcome {
    desk.pass(BatchPoint::CancelArrived);
    let told = desk.with(|store, now| {
        store.counts.cancels += 1;
        let batch = store.batch(desk.dialect, id)?;
        let phase = batch.phase(now, desk.batches());
        if phase.is_over() {
            let message = format!("Cannot cancel a batch with status '{}'.", phase.name());
            return Err(Problem::told(400, message));
        }
        batch.cancelled.get_or_insert(now);
        Ok(match desk.dialect {
            Dialect::Gemini => json!({}),
            _ => desk.show(batch, now),
        })
    })?;
    desk.pass(BatchPoint::CancelDone);
    Ok(Reply::Json(told, None))
}

fn list(desk: &Desk<'_>, query: &Query) -> Outcome {
    desk.pass(BatchPoint::ListArrived);
    desk.with(|store, now| {
        store.counts.lists += 1;
        let batches = store.listed(desk.dialect, now, desk.batches());
        let paging = &desk.wire.batches;
        let ids: Vec<_> = batches.iter().map(|batch| batch.id.clone()).collect();
        let (range, mut facts) = paging.find(query, &ids)?;
        let full = desk.dialect != Dialect::Gemini;
        let shown = batches[range].iter();
        let shown: Vec<_> = shown
            .map(|batch| wire::batch(desk, batch, now, full))
            .collect();
        facts.set("data", shown);
        Ok(Reply::Json(facts.fill(&paging.reply), None))
    })
}

fn delete(desk: &Desk<'_>, id: &str) -> Outcome {
    desk.pass(BatchPoint::DeleteArrived);
    desk.with(|store, now: Duration| {
        let batch = store.batch(desk.dialect, id)?;
        let has_ended = batch.ended(now, desk.batches()).is_some();
        if desk.dialect == Dialect::Anthropic && !has_ended {
            let message = format!("Batch {id} has not ended; cancel it first.");
            return Err(Problem::bad(400, message));
        }
        batch.deleted = true;
        Ok(())
    })?;
    desk.pass(BatchPoint::DeleteDone);
    Desk::deleted(&desk.wire.deleted_batch, id)
}

/// The results of a batch that has a download of its own.
fn results(desk: &Desk<'_>, id: &str) -> Outcome {
    desk.with(|store, now| {
        let ended = store.batch(desk.dialect, id)?.ended(now, desk.batches());
        let Some(ended) = ended else {
            let message = format!("Batch {id} has no available results.");
            return Err(Problem::bad(404, message));
        };
        if !desk.is_kept(ended, now) {
            let message = format!("The results of batch {id} are gone.");
            return Err(Problem::told(404, message));
        }
        let spoiled = store.next_download();
        let batch = store.batch(desk.dialect, id)?;
        Ok(results::download(desk, batch, Which::All, spoiled))
    })
}

/// A page of a batch's results.
fn result_page(desk: &Desk<'_>, id: &str, query: &Query) -> Outcome {
    desk.with(|store, now| {
        let spoiled = store.next_download();
        let batch = store.batch(desk.dialect, id)?;
        let ended = batch.ended(now, desk.batches());
        // Clients see from the counts that it is over, some time before its end.
        let ended = ended.or_else(|| (batch.waiting() == 0).then_some(now));
        if ended.is_some_and(|ended| !desk.is_kept(ended, now)) {
            return Err(Problem::missing("batch result", id));
        }
        let paging = desk.wire.parts.as_ref();
        let paging = paging.ok_or_else(|| desk.nowhere())?;
        let order = results::order(desk, batch, Which::All);
        let places: Vec<_> = (0..order.len()).map(|place| place.to_string()).collect();
        let (mut range, mut facts) = paging.find(query, &places)?;
        if spoiled == Spoiled::Short {
            range.end = range.start + range.len() * 2 / 3;
        }
        let lines = range.map(|nth| results::line(desk, batch, nth, order[nth]));
        facts.set("data", lines.collect::<Value>());
        let page = facts.fill(&paging.reply).to_string();
        Ok(Reply::Download(None, page.into_bytes(), spoiled))
    })
}
