//! Files and batches of all APIs that have them. One store contains them and their progress; `rules/batches.json`
//! describes the format of each API, and the modules here reject invalid requests. This one handles those for batches.

mod config;
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
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

pub use config::BatchConfig;
pub use config::{BatchSeen, BatchStats};
pub(super) use store::Store;

use life::Batch;
use results::{Results, Which};
use store::{Inner, Spoiled};
use wire::{Action, Query, TABLE, Wire};

use super::dialect::Dialect;
use super::gate::BatchPoint;
use super::http::Request;
use super::prompt::Problem;
use super::reply::Head;
use super::rules::Fault;
use super::serve::{Connection, Next, Shared, is_in_its_place};
use super::template::Facts;
use super::trouble::prompt_key;
use super::{SimConfig, Vendor};

/// Maximum size of bodies that are read; the limits of the APIs are checked afterwards.
pub(super) const LARGEST_BODY: usize = (2 << 30) + (1 << 20);

/// Whether a path is about files or batches, in whatever API.
pub(super) fn owns(path: &str) -> bool {
    let mut routes = TABLE.values().flat_map(|wire| &wire.routes);
    routes.any(|route| route.id(path).is_some())
}

/// The APIs that have batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
enum Family {
    OpenAi,
    Azure,
    Groq,
    Xai,
    Anthropic,
    Gemini,
}

impl Family {
    fn of(request: &Request, config: &SimConfig) -> Option<Family> {
        if request.path.starts_with("/v1/messages/") {
            return Some(Family::Anthropic);
        }
        if !request.path.starts_with("/v1/") {
            return Some(Family::Gemini);
        }
        match Dialect::openai(request, config) {
            Dialect::OpenAi(None | Some(Vendor::OpenAi | Vendor::DeepInfra)) => {
                Some(Family::OpenAi)
            }
            Dialect::OpenAi(Some(Vendor::Azure)) => Some(Family::Azure),
            Dialect::OpenAi(Some(Vendor::Groq)) => Some(Family::Groq),
            Dialect::OpenAi(Some(Vendor::Xai)) => Some(Family::Xai),
            _ => None,
        }
    }

    fn dialect(self, config: &SimConfig) -> Dialect {
        match self {
            Family::OpenAi | Family::Azure => Dialect::OpenAi(config.vendor),
            Family::Groq => Dialect::OpenAi(Some(Vendor::Groq)),
            Family::Xai => Dialect::OpenAi(Some(Vendor::Xai)),
            Family::Anthropic => Dialect::Anthropic,
            Family::Gemini => Dialect::Gemini,
        }
    }

    /// How it shows batches.
    fn wire(self) -> &'static Wire {
        let name: &str = self.into();
        &TABLE[name]
    }

    fn file_id(self, number: u64) -> String {
        format!("{}{number:016x}", self.wire().file_id)
    }

    /// The id of a result file of a batch; `kind` distinguishes its files.
    fn results_id(self, batch: &str, kind: &str) -> String {
        match self {
            Family::Gemini => batch.replacen("batches/", "files/batch-", 1),
            _ => self.file_id(prompt_key(&format!("{batch}/{kind}"))),
        }
    }
}

/// Why a request fails.
#[derive(Debug)]
enum Refusal {
    Problem(Problem),
    /// There is no such call.
    Nowhere,
}

impl Refusal {
    /// Something a correct client does not send.
    fn bad(status: u16, message: impl Into<String>) -> Refusal {
        Refusal::Problem(Problem {
            malformed: true,
            ..Problem::of_batches(status, message)
        })
    }

    /// Something that can happen to anyone.
    fn told(status: u16, message: impl Into<String>) -> Refusal {
        Refusal::Problem(Problem::of_batches(status, message))
    }

    fn missing(what: &str, id: &str) -> Refusal {
        Refusal::told(404, format!("No such {what}: '{id}'."))
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Refusal {
        Refusal::Problem(fault.into())
    }
}

/// The reply to a request.
#[derive(Debug)]
enum Reply {
    Json(Value),
    /// A header, and JSON if there is any.
    Headed((&'static str, String), Option<Value>),
    /// Results, and their media type.
    Download(&'static str, Vec<u8>, Spoiled),
    /// The connection is closed without a reply.
    Nothing,
}

type Outcome = Result<Reply, Refusal>;

/// One request, and the simulator that serves it.
struct Desk<'a> {
    shared: &'a Shared,
    family: Family,
    dialect: Dialect,
    request: &'a Request,
}

impl Desk<'_> {
    fn config(&self) -> &SimConfig {
        &self.shared.config
    }

    fn batches(&self) -> &BatchConfig {
        &self.shared.config.batches
    }

    fn wire(&self) -> &'static Wire {
        self.family.wire()
    }

    /// A header; empty if it is missing.
    fn header(&self, name: &str) -> &str {
        self.request.header(name).unwrap_or_default()
    }

    fn pass(&self, point: BatchPoint) {
        self.shared.gate.reach(point);
    }

    fn with<R>(&self, work: impl FnOnce(&mut Inner, Duration) -> R) -> R {
        self.shared.batches.with(self.shared, work)
    }

    /// Milliseconds since the epoch.
    fn millis(&self, time: Duration) -> u64 {
        self.shared.epoch * 1_000 + time.as_millis() as u64
    }

    fn no_file(&self, id: &str) -> Refusal {
        Refusal::missing(&self.wire().file_word, id)
    }

    /// The answer once something has been deleted.
    fn deleted(template: &Value, id: &str) -> Outcome {
        let mut facts = Facts::default();
        facts.set("id", id);
        Ok(Reply::Json(facts.fill(template)))
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
        let family = Family::of(&request, &shared.config);
        let Some(family) = family.filter(|_| is_in_its_place(&request, &shared.config)) else {
            return self.nowhere(&request);
        };
        let desk = Desk {
            shared,
            family,
            dialect: family.dialect(&shared.config),
            request: &request,
        };
        let admitted = desk.dialect.admit(&request, &shared.config);
        let mut head = Head {
            dialect: desk.dialect,
            of_batches: true,
            close: request.close,
            ..Head::status(200)
        };
        let outcome = admitted.map_err(Refusal::Problem);
        let (bytes, spoiled) = match outcome.and_then(|()| serve(&desk, body)) {
            Ok(Reply::Nothing) => return Next::Close,
            Err(Refusal::Nowhere) => return self.nowhere(&request),
            Ok(Reply::Download(media, bytes, spoiled)) => {
                head.media = Some(media);
                (bytes, spoiled)
            }
            Ok(Reply::Json(value)) => {
                let _ = serde_json::to_writer(&mut self.body, &value);
                return self.reply(&request, head);
            }
            Ok(Reply::Headed(header, value)) => {
                if let Some(value) = value {
                    let _ = serde_json::to_writer(&mut self.body, &value);
                }
                head.extra = Some(header);
                return self.reply(&request, head);
            }
            Err(Refusal::Problem(problem)) => return self.error(&request, head, &problem),
        };
        match download(shared, self.stream, &head, &bytes, spoiled) {
            Ok(()) if !request.close => Next::Keep,
            _ => Next::Close,
        }
    }
}

/// Handles a request.
fn serve(desk: &Desk<'_>, body: Vec<u8>) -> Outcome {
    let (method, path) = (&desk.request.method, &desk.request.path);
    let routes = desk.wire().routes.iter();
    let mut routes = routes.filter(|route| route.method == *method);
    let found = routes.find_map(|route| Some((route, route.id(path)?)));
    let (route, id) = found.ok_or(Refusal::Nowhere)?;
    let query = Query::read(&desk.request.query, &route.query)?;
    match route.action {
        Action::Upload => files::upload(desk, body),
        Action::UploadParts => files::upload_parts(desk, &query, body),
        Action::File => files::file(desk, id),
        Action::Content => files::content(desk, id),
        Action::DeleteFile => files::delete(desk, id),
        Action::Create if desk.family == Family::Anthropic => intake::inline(desk, body),
        Action::Create => intake::from_file(desk, id, &body),
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
    desk.with(|inner, now| {
        inner.counts.statuses += 1;
        let batch = inner.batch(desk.family, id)?;
        Ok(Reply::Json(desk.show(batch, now)))
    })
}

/// Cancels a batch that is not over.
fn cancel(desk: &Desk<'_>, id: &str) -> Outcome {
    desk.pass(BatchPoint::CancelArrived);
    let told = desk.with(|inner, now| {
        inner.counts.cancels += 1;
        let batch = inner.batch(desk.family, id)?;
        let phase = batch.phase(now, desk.batches());
        if phase.is_over() {
            let message = format!("Cannot cancel a batch with status '{}'.", phase.name());
            return Err(Refusal::told(400, message));
        }
        batch.cancelled.get_or_insert(now);
        Ok(match desk.family {
            Family::Gemini => json!({}),
            _ => desk.show(batch, now),
        })
    })?;
    desk.pass(BatchPoint::CancelDone);
    Ok(Reply::Json(told))
}

fn list(desk: &Desk<'_>, query: &Query) -> Outcome {
    desk.pass(BatchPoint::ListArrived);
    desk.with(|inner, now| {
        inner.counts.lists += 1;
        let batches = inner.listed(desk.family, now, desk.batches());
        let paging = &desk.wire().batches;
        let ids: Vec<_> = batches.iter().map(|batch| batch.id.clone()).collect();
        let (range, mut facts) = paging.find(query, &ids)?;
        let full = desk.family != Family::Gemini;
        let shown = batches[range].iter();
        let shown: Vec<_> = shown
            .map(|batch| wire::batch(desk, batch, now, full))
            .collect();
        facts.set("data", shown);
        Ok(Reply::Json(facts.fill(&paging.reply)))
    })
}

fn delete(desk: &Desk<'_>, id: &str) -> Outcome {
    desk.pass(BatchPoint::DeleteArrived);
    desk.with(|inner, now: Duration| {
        let batch = inner.batch(desk.family, id)?;
        let has_ended = batch.ended(now, desk.batches()).is_some();
        if desk.family == Family::Anthropic && !has_ended {
            let message = format!("Batch {id} has not ended; cancel it first.");
            return Err(Refusal::bad(400, message));
        }
        batch.deleted = true;
        Ok(())
    })?;
    desk.pass(BatchPoint::DeleteDone);
    Desk::deleted(&desk.wire().deleted_batch, id)
}

/// The results of a batch that has a download of its own.
fn results(desk: &Desk<'_>, id: &str) -> Outcome {
    desk.with(
        |inner, now| match inner.batch(desk.family, id)?.ended(now, desk.batches()) {
            None => {
                let message = format!("Batch {id} has no available results.");
                Err(Refusal::bad(404, message))
            }
            Some(ended) if !desk.is_kept(ended, now) => {
                let message = format!("The results of batch {id} are gone.");
                Err(Refusal::told(404, message))
            }
            Some(_) => {
                let spoiled = inner.next_download();
                let batch = inner.batch(desk.family, id)?;
                Ok(files::download(desk, batch, Which::All, spoiled))
            }
        },
    )
}

/// A page of a batch's results.
fn result_page(desk: &Desk<'_>, id: &str, query: &Query) -> Outcome {
    desk.with(|inner, now| {
        let spoiled = inner.next_download();
        let batch = inner.batch(desk.family, id)?;
        let ended = batch.ended(now, desk.batches());
        if ended.is_some_and(|ended| !desk.is_kept(ended, now)) {
            return Err(Refusal::missing("batch result", id));
        }
        let results = Results::new(batch, desk, Which::All);
        let paging = desk.wire().parts.as_ref().ok_or(Refusal::Nowhere)?;
        let places: Vec<_> = (0..results.len()).map(|place| place.to_string()).collect();
        let (mut range, mut facts) = paging.find(query, &places)?;
        if spoiled == Spoiled::Short {
            range.end = range.start + range.len() * 2 / 3;
        }
        // Each result is JSON already, and is put in the place of its number.
        facts.set("data", range.clone().collect::<Vec<_>>());
        let page = facts.fill(&paging.reply).to_string();
        let (before, rest) = page.split_once('[').unwrap_or_default();
        let (_, behind) = rest.split_once(']').unwrap_or_default();
        let lines: Vec<_> = range.map(|line| results.line(line)).collect();
        let page = [
            before.as_bytes(),
            b"[",
            &lines.join(&b','),
            b"]",
            behind.as_bytes(),
        ];
        Ok(Reply::Download("application/json", page.concat(), spoiled))
    })
}

/// Sends a download, head and all. An error means that the connection is over.
fn download(
    shared: &Shared,
    mut stream: &TcpStream,
    head: &Head,
    bytes: &[u8],
    spoiled: Spoiled,
) -> io::Result<()> {
    let mut out = Vec::new();
    head.write_for(&mut out, bytes.len());
    stream.write_all(&out)?;
    let (first, second) = bytes.split_at(bytes.len() / 2);
    stream.write_all(first)?;
    shared.gate.reach(BatchPoint::DownloadHalf);
    if spoiled == Spoiled::Cut {
        return Err(ErrorKind::ConnectionAborted.into());
    }
    stream.write_all(second)
}
